//! End-to-end tests: the real image in QEMU, driven by real clients over the network.
//!
//! This crate is the framework; the cases are the files of `tests/`, named for what they show. A case asks for
//! [`target::shared`], which boots one node per test binary, and drives it with [`docker::Docker`]. Nothing of what
//! we ship is replaced or imitated: what isn't ours (docker's CLI, a registry, the images' programs) is the
//! distribution's.
//!
//! Waiting is by what is seen, never by time: each wait has a deadline, so generous that passing it means "hung".

pub mod archive;
pub mod docker;
pub mod faults;
pub mod images;
pub mod layer;
pub mod node;
pub mod packages;
pub mod process;
pub mod registry;
pub mod target;
pub mod terminal;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `name` in Hearth's folder of the user's cache, made if it's missing.
pub fn cache_folder(name: &str) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache")?;
    let folder = base.join("hearth").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
