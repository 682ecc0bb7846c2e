//! Which disks there are, and what is on them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::btrfs::{self, SuperBlock};
use super::format;

/// What is looked at to call a disk blank, at its start and at its end: partition tables, boot sectors, super blocks and RAID
/// and volume labels of every common kind lie there.
const EDGE_BYTES: u64 = 1 << 20;
/// Disks smaller than this are not taken, bytes: they could hold the file system, and no image.
pub const SIZE_MIN: u64 = 1 << 30;
/// The kernel's sectors in sysfs, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
/// Names of block devices that are no disks.
const NOT_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `/dev/vda`.
    pub path: PathBuf,
    /// Bytes.
    pub size_bytes: u64,
    /// What is on it.
    pub content: Content,
}

/// What is on a device, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Our file system, of so many bytes.
    Ours {
        /// Bytes.
        file_system_bytes: u64,
    },
    /// Nothing, or what an interrupted formatting by us has left.
    Blank,
    /// Somebody's.
    Foreign,
}

/// All devices, in the order of their names. Of those that can't be read the second list tells.
pub fn scan() -> (Vec<Device>, Vec<String>) {
    let mut names: Vec<String> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    // By length first, so that sdaa comes after sdb.
    names.sort_by_key(|name| (name.len(), name.clone()));
    let (mut devices, mut troubles) = (Vec::new(), Vec::new());
    for name in names {
        match examine(&name) {
            Ok(device) => devices.extend(device),
            Err(error) => troubles.push(format!("/dev/{name} can't be read: {error}")),
        }
    }
    (devices, troubles)
}

fn examine(name: &str) -> io::Result<Option<Device>> {
    let sysfs = Path::new("/sys/class/block").join(name);
    let number = |file: &str| {
        fs::read_to_string(sysfs.join(file))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let size_bytes = number("size").unwrap_or(0) * SECTOR_BYTES;
    if size_bytes < SIZE_MIN || number("ro") == Some(1) {
        return Ok(None);
    }
    let partition = sysfs.join("partition").exists();
    let path = Path::new("/dev").join(name);
    let file = File::open(&path)?;
    let mut content = classify(&file, size_bytes)?;
    // A partition was made for something, and a stick that is plugged in was not meant for us.
    if content == Content::Blank && (partition || is_removable(&sysfs)) {
        content = Content::Foreign;
    }
    Ok(Some(Device {
        path,
        size_bytes,
        content,
    }))
}

fn is_removable(sysfs: &Path) -> bool {
    let flagged = fs::read_to_string(sysfs.join("removable")).is_ok_and(|text| text.trim() == "1");
    let place = fs::canonicalize(sysfs).unwrap_or_default();
    flagged
        || place
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("usb"))
}

/// Looks at a device's bytes.
pub fn classify(file: &File, size_bytes: u64) -> io::Result<Content> {
    if format::was_interrupted(file)? {
        return Ok(Content::Blank);
    }
    let mut bytes = [0; btrfs::LEN];
    file.read_exact_at(&mut bytes, btrfs::OFFSETS[0])?;
    if let Some(block) = SuperBlock::parse(&bytes) {
        return Ok(match block.is_ours() {
            true => Content::Ours {
                file_system_bytes: block.size_bytes(),
            },
            false => Content::Foreign,
        });
    }
    let blank = is_zero(file, 0)? && is_zero(file, size_bytes - EDGE_BYTES)?;
    Ok(if blank {
        Content::Blank
    } else {
        Content::Foreign
    })
}

fn is_zero(file: &File, from: u64) -> io::Result<bool> {
    let mut bytes = vec![0; EDGE_BYTES as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}
