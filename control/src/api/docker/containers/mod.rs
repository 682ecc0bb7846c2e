//! `/containers/…`.

mod as_asked;
mod attach;
mod create;
mod describe;
mod health;
mod host_options;
mod inspect;
mod lifecycle;
mod list;
mod logging;
mod logs;
mod mounts;
mod ports;
mod processes;
mod prune;
mod resources;
mod size;
mod spec;
mod unsupported;
mod wait;

pub use attach::{attach, resize};
pub use create::create;
#[cfg(feature = "fuzzing")]
pub use create::understand;
pub use describe::{refuse_between_runs, refuse_paused};
pub use inspect::inspect;
pub use lifecycle::{kill, pause, remove, rename, restart, start, stop};
pub use list::list;
pub use logs::logs;
pub use processes::top;
pub use prune::prune;
pub use wait::wait;

pub(super) use attach::terminal_size;
pub(super) use list::summaries;
