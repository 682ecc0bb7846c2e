//! The two kernels: from the distribution's `linux-source-6.12` and the fragments in `kernel-config/`, kept in the user's
//! cache under a hash of everything that goes into them.

mod fragments;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

pub use fragments::Fragments;

use crate::{paths, process};

/// The distribution's package that holds the source.
pub const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// How a kernel is built, as far as the source and the configuration don't say. Part of the cache's key: change it when
/// the building below changes.
const RECIPE: &str = "allnoconfig with the fragments; host: bzImage; guest: vmlinux, stripped; 1";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Runs on the machine, with KVM.
    Host,
    /// Runs in each microVM.
    Guest,
}

/// The source package's archive, and the version that tells it from others.
#[derive(Debug, Clone)]
pub struct Source {
    /// Such as `/usr/src/linux-source-6.12.tar.xz`.
    pub archive: PathBuf,
    /// The Debian package's version.
    pub version: String,
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub struct Built {
    /// `bzImage` or `vmlinux`.
    pub file: PathBuf,
    /// The configuration that it was built with, complete.
    pub config: PathBuf,
}

impl Kernel {
    /// Its folder under `kernel-config/`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Host => "host",
            Kernel::Guest => "guest",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Kernel::Host => "bzImage",
            Kernel::Guest => "vmlinux",
        }
    }

    fn output(self) -> &'static str {
        match self {
            Kernel::Host => "arch/x86/boot/bzImage",
            Kernel::Guest => "vmlinux",
        }
    }

    /// This kernel's fragments, as they are in the checkout.
    pub fn fragments(self) -> Result<Fragments> {
        Fragments::read(&paths::project().join("kernel-config").join(self.name()))
    }

    /// Where in the cache this kernel is, whether built yet or not.
    pub fn cached(self, source: &Source) -> Result<Built> {
        let mut key = Sha256::new();
        for part in [
            &source.version,
            self.fragments()?.text(),
            RECIPE,
            self.name(),
        ] {
            key.update(part.len().to_le_bytes());
            key.update(part);
        }
        let dir = paths::cache()?
            .join("kernels")
            .join(hex::encode(key.finalize()));
        Ok(Built {
            file: dir.join(self.target()),
            config: dir.join("config"),
        })
    }

    /// The kernel from the cache, built first if it isn't there.
    pub fn build(self, source: &Source) -> Result<Built> {
        let built = self.cached(source)?;
        if built.file.exists() {
            return Ok(built);
        }
        let tree = unpacked(source)?;
        let fragments = self.fragments()?;
        let out = paths::cache()?.join("kernel-build").join(self.name());
        fs::create_dir_all(&out)?;
        let merged = out.join("fragments.config");
        fs::write(&merged, fragments.text())?;

        let log = out.join("build.log");
        let mut configure = make(&tree, &out);
        process::run_logged(
            configure
                .arg("allnoconfig")
                .env("KCONFIG_ALLCONFIG", &merged),
            &log,
        )?;
        let config = fs::read_to_string(out.join(".config"))?;
        fragments.check(&config).with_context(|| {
            format!("kernel-config/{} asks for what it can't have", self.name())
        })?;

        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut compile = make(&tree, &out);
        compile.arg(format!("-j{jobs}")).arg(self.target());
        process::run_long(&format!("{} kernel", self.name()), &mut compile, &log)?;

        // The last step is a rename, so that a build cut short never looks like a kernel.
        let dir = built
            .file
            .parent()
            .expect("a kernel's file is in its directory");
        fs::create_dir_all(dir)?;
        let fresh = dir.join("fresh");
        match self {
            Kernel::Host => {
                fs::copy(out.join(self.output()), &fresh)?;
            }
            Kernel::Guest => {
                process::capture(
                    Command::new("strip")
                        .arg("-o")
                        .arg(&fresh)
                        .arg(out.join(self.output())),
                )?;
            }
        }
        fs::write(&built.config, config)?;
        fs::rename(&fresh, &built.file)?;
        fs::remove_dir_all(&out)?;
        Ok(built)
    }
}

/// Builds both, and gives back the disk space of the source once they are there.
pub fn build_both(source: &Source) -> Result<(Built, Built)> {
    let guest = Kernel::Guest.build(source)?;
    let host = Kernel::Host.build(source)?;
    let sources = paths::cache()?.join("kernel-source");
    if sources.exists() {
        fs::remove_dir_all(&sources)?;
    }
    Ok((host, guest))
}

/// The release a built kernel calls itself by, such as `6.12.117`.
pub fn release(built: &Built) -> Result<String> {
    let config = fs::read_to_string(&built.config)?;
    config
        .lines()
        .find_map(|line| line.strip_prefix("# Linux/x86 ")?.split(' ').next())
        .map(str::to_owned)
        .with_context(|| {
            format!(
                "{} doesn't name its release: delete it",
                built.config.display()
            )
        })
}

fn make(tree: &Path, out: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(tree)
        .arg(format!("O={}", out.display()))
        // The same file from the same input, whoever builds it and when.
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "hearth")
        .env("KBUILD_BUILD_HOST", "hearth")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LC_ALL", "C");
    // Make would take the flags of a make that calls us for its own.
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS"] {
        command.env_remove(inherited);
    }
    command
}

/// The source tree, unpacked in the cache.
fn unpacked(source: &Source) -> Result<PathBuf> {
    let dir = paths::cache()?.join("kernel-source");
    let tree = dir.join(&source.version);
    if tree.join("Makefile").exists() {
        return Ok(tree);
    }
    eprintln!("    unpacking {}", source.archive.display());
    let fresh = dir.join("fresh");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    process::capture(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(&source.archive)
            .arg("--directory")
            .arg(&fresh)
            .env("XZ_DEFAULTS", "--threads=0"),
    )?;
    if !fresh.join("Makefile").exists() {
        bail!(
            "{} holds no kernel source: reinstall {SOURCE_PACKAGE}",
            source.archive.display()
        );
    }
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::rename(&fresh, &tree)?;
    Ok(tree)
}
