//! A container's /dev.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use hearth_guest_protocol::Error;
use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};
use rustix::process::umask;

use crate::system;

/// What every container has: name, major and minor number (Documentation/admin-guide/devices.txt; which ones: OCI runtime specification,
/// config-linux.md, "Default Devices").
const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// The same specification, runtime-linux.md, "Dev symbolic links"; `ptmx` is a default device, and `core` docker's.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// A device node of the microVM.
pub struct Node {
    path: PathBuf,
    kind: FileType,
    device: Dev,
}

/// All device nodes of the microVM, for a privileged container. Called before the root is changed.
pub fn all() -> Vec<Node> {
    let mut nodes = Vec::new();
    collect(Path::new("/dev"), &mut nodes);
    nodes
}

fn collect(directory: &Path, nodes: &mut Vec<Node>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else {
            continue;
        };
        let kind = found.file_type();
        if kind.is_dir() {
            collect(&entry.path(), nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_char_device() {
                FileType::CharacterDevice
            } else {
                FileType::BlockDevice
            };
            nodes.push(Node {
                path: entry.path(),
                kind,
                device: found.rdev(),
            });
        }
    }
}

/// Fills an empty /dev.
pub fn make(extra: &[Node]) -> Result<(), Error> {
    let mask = umask(Mode::empty());
    let made = make_all(extra);
    umask(mask);
    made
}

fn make_all(extra: &[Node]) -> Result<(), Error> {
    for (name, major, minor) in STANDARD {
        mknodat(
            CWD,
            format!("/dev/{name}"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .map_err(system(format!("making /dev/{name}")))?;
    }
    for (name, target) in LINKS {
        symlink(target, format!("/dev/{name}")).map_err(system(format!("making /dev/{name}")))?;
    }
    for node in extra {
        if let Some(parent) = node.path.parent() {
            let _ = fs::create_dir_all(parent);
        }
        // The standard ones are there already; of the others none is worth failing for.
        let _ = mknodat(
            CWD,
            &node.path,
            node.kind,
            Mode::from_raw_mode(0o660),
            node.device,
        );
    }
    Ok(())
}
