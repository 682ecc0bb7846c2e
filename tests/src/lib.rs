//! End-to-end tests: the real image in QEMU, driven by real clients over the network.
//!
//! This crate is the framework; the cases are the files of `tests/`, named for what they show. A case asks for
//! [`target::shared`], which boots one node per test binary, or, if it needs no virtual machine, for [`target::plain`], where
//! nothing is booted, or, if it needs several nodes, for [`cluster::exclusive`]; and drives it with [`docker::Docker`]. Nothing else of what we ship is replaced or imitated: what isn't
//! ours (docker's CLI, a registry, the images' programs) is the distribution's.
//!
//! Waiting is by what is seen, never by time: each wait has a deadline, so generous that passing it means "hung".

pub mod api;
pub mod archive;
pub mod capture;
pub mod cluster;
pub mod console;
pub mod debian;
pub mod docker;
pub mod faults;
pub mod images;
pub mod intel;
pub mod layer;
pub mod native;
pub mod node;
pub mod packages;
pub mod process;
pub mod registry;
pub mod relay;
pub mod side;
pub mod stick;
pub mod target;
pub mod terminal;
pub mod wire;

use std::path::PathBuf;
use std::sync::OnceLock;

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

/// A folder of this run of this test binary, under `target/e2e`: nodes' disks and consoles, registries' stores. What earlier
/// runs left is removed, so that the last run's consoles can be read.
pub fn work_folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            make_work_folder()
                .unwrap_or_else(|error| panic!("can't make a folder to work in: {error:#}"))
        })
        .clone()
}

fn make_work_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let program = program
        .file_name()
        .context("a program has a name")?
        .to_string_lossy();
    // Without the hash that cargo adds.
    let name = program
        .rsplit_once('-')
        .map_or(program.as_ref(), |(name, _)| name);
    let base = xtask::paths::project().join("target/e2e");
    std::fs::create_dir_all(&base)?;
    for entry in base.read_dir()? {
        let entry = entry?;
        let left = entry.file_name().to_string_lossy().into_owned();
        let Some((left_name, pid)) = left.rsplit_once('-') else {
            continue;
        };
        if left_name == name && !std::path::Path::new("/proc").join(pid).exists() {
            std::fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    let folder = base.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
