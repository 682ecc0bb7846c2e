//! Where `hearth.toml` may come from. The first source that has one counts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::host::late;

/// QEMU's firmware configuration device.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.hearth/hearth.toml/raw";
/// Label of a FAT file system with the file on it, padded as FAT pads it.
const FAT_LABEL: &[u8; 11] = b"HEARTH     ";
/// Where FAT12/16 and FAT32 keep their label (Microsoft's FAT specification, section 3).
const FAT_LABEL_OFFSETS: [usize; 2] = [43, 71];
/// Longest configuration, bytes: certificates are a few thousand.
const CONFIG_MAX: u64 = 1 << 20;

/// A configuration and where it was found.
#[derive(Debug)]
pub struct Found {
    /// For the console.
    pub source: String,
    /// The file.
    pub text: String,
}

/// A place that may hold a configuration. The kernel's command line (for PXE) will be a third one.
trait Source {
    /// For the console.
    fn name(&self) -> String;
    /// The file, or none where there is no such place or no such file.
    fn read(&self) -> io::Result<Option<String>>;
}

struct FwCfg;

impl Source for FwCfg {
    fn name(&self) -> String {
        "QEMU's fw_cfg".to_owned()
    }

    fn read(&self) -> io::Result<Option<String>> {
        read_bounded(Path::new(FW_CFG))
    }
}

/// A FAT partition, or a whole disk without partitions, that is labelled HEARTH.
struct Labelled;

impl Source for Labelled {
    fn name(&self) -> String {
        "the disk labelled HEARTH".to_owned()
    }

    fn read(&self) -> io::Result<Option<String>> {
        let Some(device) = late::find(find_labelled) else {
            return Ok(None);
        };
        let place = "/run/hearth/medium";
        fs::create_dir_all(place)?;
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(&device, place, c"vfat", flags, None)?;
        let text = read_bounded(&Path::new(place).join("hearth.toml"));
        unmount(place, UnmountFlags::empty())?;
        let _ = fs::remove_dir(place);
        text
    }
}

/// Asks all sources in turn. An error is one that keeps a configuration from being read where there seems to be one.
pub fn read() -> Result<Option<Found>, String> {
    let sources: [&dyn Source; 2] = [&FwCfg, &Labelled];
    for source in sources {
        match source.read() {
            Ok(None) => {}
            Ok(Some(text)) => {
                return Ok(Some(Found {
                    source: source.name(),
                    text,
                }));
            }
            Err(error) => {
                return Err(format!(
                    "reading hearth.toml from {}: {error}",
                    source.name()
                ));
            }
        }
    }
    Ok(None)
}

fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    use std::io::Read;
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut bytes = Vec::new();
    file.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {CONFIG_MAX} bytes"
        )));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| io::Error::other("it is not UTF-8 text"))
}

fn find_labelled() -> Option<PathBuf> {
    let mut names: Vec<_> = fs::read_dir("/sys/class/block")
        .ok()?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| Path::new("/dev").join(name))
        .find(|device| {
            let mut sector = [0; 512];
            File::open(device)
                .and_then(|file| file.read_exact_at(&mut sector, 0))
                .is_ok()
                && is_labelled_fat(&sector)
        })
}

/// Whether a boot sector is that of a FAT file system with our label.
fn is_labelled_fat(sector: &[u8; 512]) -> bool {
    sector.ends_with(&[0x55, 0xaa])
        && FAT_LABEL_OFFSETS
            .iter()
            .any(|&at| &sector[at..at + 11] == FAT_LABEL && sector[at + 11..].starts_with(b"FAT"))
}

/// A medium that the file may be on.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// The first sector of a medium.
    pub fn boot_sector(bytes: &[u8]) {
        let mut sector = [0; 512];
        let length = bytes.len().min(sector.len());
        sector[..length].copy_from_slice(&bytes[..length]);
        super::is_labelled_fat(&sector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_sector_is_known_by_label_kind_and_signature() {
        let mut sector = [0; 512];
        sector[71..82].copy_from_slice(FAT_LABEL);
        sector[82..90].copy_from_slice(b"FAT32   ");
        assert!(
            !is_labelled_fat(&sector),
            "without its signature it is none"
        );
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(is_labelled_fat(&sector));
        sector[71] = b'X';
        assert!(!is_labelled_fat(&sector));
    }
}
