//! Where a node keeps what must outlive it: a data disk, mounted at /data.
//!
//! A disk is taken if it is ours (btrfs, labelled `hearth-data`) or if it is blank: a whole disk, not removable and not on
//! USB, with nothing but zeros in its first and last MiB. Anything else is somebody's and is not written to. Of several that are ours the
//! first by name counts; of blank ones too. Without any, data is in RAM, and that is said plainly.
//!
//! Disks on USB and cards come late and are waited for, unless one of ours is there.

mod btrfs;
mod disks;
mod format;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::{groups, late};
use crate::kmsg;
use disks::{Content, Device};

/// Where data is mounted.
pub const DATA: &str = "/data";
/// The template of an empty data disk.
const TEMPLATE: &str = "/usr/lib/hearth/templates/data.btrfs.template";
/// noatime: nobody asks when a layer was last read. Nothing is compressed: images mostly are already, and what a container writes
/// goes through the microVM's page cache. Freed space is told to the disk in the background.
const MOUNT_OPTIONS: &std::ffi::CStr = c"discard=async";
/// Share of RAM that data may use where there is no disk.
const RAM_OPTIONS: &std::ffi::CStr = c"mode=0755,size=50%";
/// `BTRFS_IOC_RESIZE`: `_IOW(0x94, 3, struct btrfs_ioctl_vol_args)`, `linux/btrfs.h`.
const BTRFS_IOC_RESIZE: libc::c_ulong = 0x5000_9403;

/// What came of it.
#[derive(Debug)]
pub struct Storage {
    /// Where data is.
    pub kind: Kind,
    /// What the owner should know, one line each.
    pub remarks: Vec<String>,
}

/// Where data is.
#[derive(Debug)]
pub enum Kind {
    /// On this device.
    Disk {
        /// `/dev/vda`.
        device: PathBuf,
        /// Bytes.
        size_bytes: u64,
    },
    /// In RAM.
    Ram {
        /// Why.
        reason: String,
    },
}

/// Chooses, formats if blank, mounts and grows a data disk; else mounts RAM. Takes as long as disks take.
pub fn set_up() -> Storage {
    // A blank disk must not be taken for want of ours, which only comes later.
    let (mut devices, mut remarks) = (Vec::new(), Vec::new());
    late::find_until_quiet(|| {
        (devices, remarks) = disks::scan();
        devices.iter().any(is_ours).then_some(())
    });
    let _ = fs::create_dir_all(DATA);
    let reason = match choose(&devices, &mut remarks) {
        Some(device) => match take(device, &mut remarks) {
            Ok(()) => {
                let kind = Kind::Disk {
                    device: device.path.clone(),
                    size_bytes: device.size_bytes,
                };
                return Storage { kind, remarks };
            }
            Err(error) => format!("{}: {error}", device.path.display()),
        },
        None => refusal(&devices),
    };
    if let Err(errno) = mount(
        c"data",
        DATA,
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        RAM_OPTIONS,
    ) {
        remarks.push(format!(
            "mounting RAM at {DATA}: {errno}; data goes to the root file system"
        ));
    }
    Storage {
        kind: Kind::Ram { reason },
        remarks,
    }
}

fn is_ours(device: &Device) -> bool {
    matches!(device.content, Content::Ours { .. })
}

fn choose<'a>(devices: &'a [Device], remarks: &mut Vec<String>) -> Option<&'a Device> {
    let ours: Vec<&Device> = devices.iter().filter(|device| is_ours(device)).collect();
    if let [first, others @ ..] = ours.as_slice() {
        for other in others {
            remarks.push(format!(
                "{} is a data disk too; {} is used. Remove the one that isn't meant.",
                other.path.display(),
                first.path.display()
            ));
        }
        return Some(first);
    }
    devices
        .iter()
        .find(|device| device.content == Content::Blank)
}

fn refusal(devices: &[Device]) -> String {
    let foreign: Vec<String> = devices
        .iter()
        .filter(|device| device.content == Content::Foreign)
        .map(|device| device.path.display().to_string())
        .collect();
    if foreign.is_empty() {
        return "there is no data disk; attach a blank one of at least 1 GiB".to_owned();
    }
    format!(
        "{} not blank and not ours, so not touched; to give one to Hearth, erase it (blkdiscard, or zeros over its first and last MiB)",
        match foreign.as_slice() {
            [one] => format!("{one} is"),
            several => format!("{} are", several.join(", ")),
        }
    )
}

fn take(device: &Device, remarks: &mut Vec<String>) -> Result<(), String> {
    let mut file_system_bytes = 0;
    match device.content {
        Content::Ours {
            file_system_bytes: bytes,
        } => file_system_bytes = bytes,
        Content::Foreign => return Err("somebody's".to_owned()),
        Content::Blank => {
            let disk = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&device.path)
                .map_err(|e| format!("opening it for writing: {e}"))?;
            let template = File::open(TEMPLATE)
                .map_err(|e| format!("{TEMPLATE}: {e}; the image is damaged"))?;
            format::format(&disk, template).map_err(|e| e.to_string())?;
            remarks.push(format!(
                "{} was blank and is the data disk now",
                device.path.display()
            ));
        }
    }
    mount(
        &device.path,
        DATA,
        c"btrfs",
        MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV,
        MOUNT_OPTIONS,
    )
    .map_err(|errno| format!("mounting it: {errno}; the kernel's log says more"))?;
    if let Err(error) = groups::share_disk(&device.path) {
        kmsg::log(&format!("init: sharing the data disk by weight: {error}"));
    }
    if file_system_bytes < device.size_bytes
        && let Err(error) = grow(Path::new(DATA))
    {
        remarks.push(format!(
            "{} can't be used in its full size: {error}",
            device.path.display()
        ));
    }
    Ok(())
}

/// Lets the file system use its whole device.
fn grow(place: &Path) -> io::Result<()> {
    /// `struct btrfs_ioctl_vol_args`.
    #[repr(C)]
    struct VolumeArguments {
        fd: i64,
        name: [u8; 4088],
    }
    let mut arguments = VolumeArguments {
        fd: 0,
        name: [0; 4088],
    };
    arguments.name[..3].copy_from_slice(b"max");
    let directory = File::open(place)?;
    // SAFETY: the request reads a btrfs_ioctl_vol_args with a string that ends in zero, which is what `arguments` is.
    if unsafe {
        libc::ioctl(
            directory.as_raw_fd(),
            BTRFS_IOC_RESIZE,
            &raw const arguments,
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, content: Content) -> Device {
        Device {
            path: path.into(),
            size_bytes: 1 << 30,
            content,
        }
    }

    #[test]
    fn ours_goes_before_blank_and_foreign_is_never_chosen() {
        let mut remarks = Vec::new();
        let foreign = device("/dev/sda", Content::Foreign);
        let blank = device("/dev/sdb", Content::Blank);
        let ours = device(
            "/dev/sdc",
            Content::Ours {
                file_system_bytes: 1,
            },
        );
        let second = device(
            "/dev/sdd",
            Content::Ours {
                file_system_bytes: 1,
            },
        );
        let mut pick =
            |devices: &[Device]| choose(devices, &mut remarks).map(|device| device.path.clone());
        assert_eq!(pick(std::slice::from_ref(&foreign)), None);
        assert_eq!(
            pick(&[foreign.clone(), blank.clone()]),
            Some(blank.path.clone())
        );
        assert_eq!(
            pick(&[foreign.clone(), blank, ours.clone(), second]),
            Some(ours.path)
        );
        assert_eq!(remarks.len(), 1);
        assert!(refusal(&[foreign]).starts_with("/dev/sda is not blank"));
    }
}
