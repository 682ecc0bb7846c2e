//! `/images/…`. Names are the replicated state's, bytes the node's store's: an image that a tenant hasn't pulled or loaded is not
//! there for it, whatever the store holds.

mod list;
mod load;
mod lookup;
mod progress;
mod pull;
mod remove;
mod show;
mod tag;

pub use list::{list, summaries};
pub use load::load;
pub use lookup::{find, from_store, resolve};
pub use pull::{check_platform, pull};
#[cfg(feature = "fuzzing")]
pub use pull::{read_credentials, understand};
pub use remove::{prune, remove};
pub use show::{history, inspect};
pub use tag::tag;
