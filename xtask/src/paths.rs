//! Where things are: the checkout, what is built in it, and what outlives it in the user's cache.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout's root.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest's directory is a folder of the checkout")
}

/// Where the image is put together; thrown away freely.
pub fn build() -> PathBuf {
    project().join("target/image")
}

/// What outlives a checkout: kernels, unpacked packages, the trial's identity and disk. `$XDG_CACHE_HOME/hearth`, else
/// `~/.cache/hearth`.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => Path::new(&env::var_os("HOME").context("HOME isn't set: set it, or XDG_CACHE_HOME")?)
            .join(".cache"),
    };
    Ok(base.join("hearth"))
}
