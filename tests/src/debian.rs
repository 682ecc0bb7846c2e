//! The distribution's own docker CLI, which many users have: several years older than docker's.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::packages;

/// The packages that have it: Debian 13 and newer, and before.
const PACKAGES: [&str; 2] = ["docker-cli", "docker.io"];

/// The path of the distribution's `docker`, unpacked into the user's cache and not installed.
pub fn docker_cli() -> &'static PathBuf {
    static CLI: OnceLock<PathBuf> = OnceLock::new();
    CLI.get_or_init(|| {
        unpacked()
            .unwrap_or_else(|error| panic!("can't get the distribution's docker CLI: {error:#}"))
    })
}

fn unpacked() -> Result<PathBuf> {
    let found = PACKAGES
        .iter()
        .find_map(|name| Some((name, packages::resolve(name).ok()?)))
        .context("apt-get knows neither docker-cli nor docker.io; if its lists are missing, run `apt-get update`")?;
    let (name, resolved) = found;
    let package = resolved
        .into_iter()
        .find(|package| package.name == *name)
        .context("apt-get resolves a package to itself and others")?;
    let cache = crate::cache_folder("docker-cli")?;
    let folder = cache.join(&package.version);
    let cli = folder.join("usr/bin/docker");
    if !cli.exists() {
        let scratch = tempfile::tempdir_in(&cache)?;
        let root = scratch.path().join("root");
        packages::unpack(&[package], &scratch.path().join("debs"), &root)?;
        if let Err(error) = fs::rename(&root, &folder)
            && !cli.exists()
        {
            return Err(error).with_context(|| format!("renaming to {}", folder.display()));
        }
    }
    Ok(cli)
}
