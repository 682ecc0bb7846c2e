//! OCI images: from a registry or an archive to a read-only file system that a microVM can boot.
//!
//! ```no_run
//! # async fn example() -> Result<(), hearth_image::Error> {
//! use hearth_image::{Credentials, Store, StoreOptions};
//! let store = Store::open("/data/images".as_ref(), StoreOptions::default()).await?;
//! let pulled = store
//!     .pull(&"busybox".parse()?, &Credentials::Anonymous, &Default::default(), &mut |event| println!("{event}"))
//!     .await?;
//! println!("{}", store.root_file(&pulled.id).display());
//! # Ok(())
//! # }
//! ```
//!
//! What happens to an image on its way:
//!
//! ```text
//! registry  (pull)  ─┐ layers, verified,   ┌ compression → tar → tree   names and attributes, merged in memory
//!                    ├─────────────────────┤ unpack
//! archive   (load)  ─┘ lowest first        └ erofs                      contents, written where they will stay
//!                                            store                      lists it when everything is on the disk
//! ```
//!
//! This crate knows nothing of VMs, clusters or names: an image is its config's digest here, and who calls it what
//! is the caller's state. It never unpacks a stranger's files onto the host's file system: layers are merged in
//! memory as metadata, and contents go from the layer's bytes straight into the image file.

mod archive;
mod compression;
mod config;
mod credentials;
mod digest;
mod erofs;
mod error;
mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod go_json;
mod image;
mod pieces;
mod progress;
mod reference;
mod registry;
mod store;
mod tar;
mod tree;
mod unpack;

pub use config::{History, ImageConfig, RootFs, RunConfig};
pub use credentials::Credentials;
pub use digest::{Digest, ImageId};
pub use error::Error;
pub use exchange::{
    CHUNK_BYTES, CONTENTS_BYTES, Chunks, Contents, Part, Source, SourceError, description::describe,
};
pub use image::{Image, Loaded, Pulled, Removed};
pub use progress::{LayerState, Progress};
pub use reference::ImageRef;
pub use store::{Import, Store, StoreOptions};
