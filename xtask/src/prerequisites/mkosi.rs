//! mkosi 24 or later, with the ukify and the EFI stub of a systemd that goes with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Origin};
use crate::process;

/// The first version that writes unified kernel images the way our configuration asks.
const OLDEST: u32 = 24;

/// What the packages unpacked in the cache are called there.
const SET: &str = "mkosi";

/// Directories that mkosi and what it starts look for programs in. The user's own `PATH` may name a Python that lacks the
/// distribution's modules.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A mkosi that can be run.
#[derive(Debug, Clone)]
pub struct Mkosi {
    program: PathBuf,
    /// Root of the unpacked packages, if it isn't the machine's own mkosi.
    root: Option<PathBuf>,
    /// The first number of its version.
    pub version: u32,
    /// systemd's EFI stub, which becomes the head of the image.
    pub stub: PathBuf,
}

impl Mkosi {
    /// The machine's own, if it is new enough and has what it needs beside it, or the one unpacked before.
    pub fn find() -> Result<Option<Self>> {
        if let Some(own) = Self::own() {
            return Ok(Some(own));
        }
        apt::unpacked(SET)?.map(Self::at).transpose()
    }

    fn own() -> Option<Self> {
        let program = process::find("mkosi")?;
        let version = version(Command::new(&program).arg("--version"))
            .filter(|version| *version >= OLDEST)?;
        let stub = stub(Path::new("/"))?;
        ukify(Path::new("/")).map(|_| Self {
            program,
            root: None,
            version,
            stub,
        })
    }

    /// The packages that bring it, if this release's is new enough.
    pub fn packages() -> &'static [&'static str] {
        let new_enough =
            apt::candidate("mkosi").is_some_and(|candidate| major(&candidate) >= Some(OLDEST));
        if new_enough {
            &["mkosi", "systemd-ukify", "systemd-boot-efi"]
        } else {
            &[]
        }
    }

    /// From the backports, unpacked in the cache: its systemd would otherwise replace the machine's.
    pub fn unpack() -> Result<Self> {
        let packages = ["mkosi", "systemd", "systemd-boot-efi"];
        let root = apt::unpack(SET, Origin::Backports, &packages).context(
            "mkosi 24 or later is in no release or backports that this machine's apt knows",
        )?;
        Self::at(root)
    }

    fn at(root: PathBuf) -> Result<Self> {
        let stub =
            stub(&root).with_context(|| format!("no EFI stub in {}: delete it", root.display()))?;
        let mut mkosi = Self {
            program: root.join("usr/bin/mkosi"),
            root: Some(root),
            version: 0,
            stub,
        };
        mkosi.version = version(mkosi.command().arg("--version")).with_context(|| {
            format!(
                "{} doesn't run: delete the folder to fetch it anew",
                mkosi.program.display()
            )
        })?;
        Ok(mkosi)
    }

    /// A command that runs it, with what it needs of its own packages.
    pub fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&self.program).env("PATH", SYSTEM_PATH);
        if let Some(root) = &self.root {
            command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
            if let Some(dir) = ukify(root).as_deref().and_then(Path::parent) {
                command.arg(format!("--extra-search-path={}", dir.display()));
            }
        }
        command
    }
}

fn ukify(root: &Path) -> Option<PathBuf> {
    [
        "usr/bin/ukify",
        "usr/lib/systemd/ukify",
        "lib/systemd/ukify",
    ]
    .map(|file| root.join(file))
    .into_iter()
    .find(|file| file.exists())
}

fn stub(root: &Path) -> Option<PathBuf> {
    Some(root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")).filter(|file| file.exists())
}

/// From `mkosi 24.3`.
fn version(command: &mut Command) -> Option<u32> {
    major(
        process::capture(command)
            .ok()?
            .trim()
            .strip_prefix("mkosi ")?,
    )
}

fn major(version: &str) -> Option<u32> {
    version.split(['.', '-', '~']).next()?.parse().ok()
}
