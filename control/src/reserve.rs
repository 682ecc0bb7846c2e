//! Room on the data disk that containers and images can't take, so that commits go on when it is full.
//!
//! On btrfs the replicated state is in a subvolume of its own, and everything beside it shares a quota that is smaller than the disk:
//! whoever writes more gets EDQUOT, as he would get ENOSPC a little later. (A file to be deleted in need would do once; statvfs before each
//! pull says nothing of layers that are sparse.) In RAM it is a tmpfs of its own.
//!
//! The quotas are btrfs' simple ones: what counts is who has allocated an extent, so that clones of the layers' template cost nothing, and
//! nobody has to find out who shares what (`fs/btrfs/qgroup.c`, since Linux 6.7). Structures and numbers are `linux/btrfs.h`'s.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

/// The part of a disk that is kept. btrfs gives out space in pieces of a tenth of a disk, those for metadata up to 256 MiB on small disks
/// and 1 GiB on large ones, and twice: one of them must be left, or nothing can be written whatever is free in the others
/// (`fs/btrfs/volumes.c`, `init_alloc_chunk_ctl_policy_regular`).
const KEPT_PART: u64 = 8;
/// At most this much, bytes: two pieces of the largest, and as much again.
const KEPT_MAX: u64 = 4 << 30;
/// At least this much, bytes, or a quarter of a small disk: two pieces on one of 5 GiB or less.
const KEPT_MIN: u64 = 512 << 20;
/// What state may take of a node's RAM.
const RAM_OPTIONS: &std::ffi::CStr = c"mode=0700,size=64m";
/// `BTRFS_SUPER_MAGIC`.
const BTRFS: u64 = 0x9123_683e;
/// `TMPFS_MAGIC`.
const TMPFS: u64 = 0x0102_1994;
/// A subvolume's root has this inode number (`BTRFS_FIRST_FREE_OBJECTID`).
const SUBVOLUME_ROOT: u64 = 256;
/// The quota of what is in no subvolume (`BTRFS_FS_TREE_OBJECTID`).
const OUTSIDE: u64 = 5;
/// `BTRFS_IOC_SUBVOL_CREATE`: `_IOW(0x94, 14, struct btrfs_ioctl_vol_args)`.
const SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
/// `BTRFS_IOC_QUOTA_CTL`: `_IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)`.
const QUOTA_CTL: libc::c_ulong = 0xc010_9428;
/// `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA`.
const ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_IOC_QGROUP_LIMIT`: `_IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)`.
const QGROUP_LIMIT: libc::c_ulong = 0x8030_942b;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const MAX_REFERENCED: u64 = 1;

/// Keeps room for what will be in `state`, a directory right below `data`, where data's file system is mounted. Called at each start,
/// before anything else is written there.
pub fn keep(data: &Path, state: &Path) -> io::Result<()> {
    let volume = rustix::fs::statfs(data)?;
    match volume.f_type as u64 {
        BTRFS => {
            let directory = File::open(data)?;
            if !state.exists() {
                create_subvolume(&directory, state)?;
            } else if fs::metadata(state)?.ino() != SUBVOLUME_ROOT {
                return Err(io::Error::other(format!(
                    "{} is no subvolume",
                    state.display()
                )));
            }
            let total = volume.f_blocks.saturating_mul(volume.f_bsize as u64);
            limit(&directory, total - kept(total))
        }
        TMPFS => {
            fs::create_dir_all(state)?;
            if fs::metadata(state)?.dev() != fs::metadata(data)?.dev() {
                return Ok(());
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            Ok(mount("state", state, "tmpfs", flags, RAM_OPTIONS)?)
        }
        other => Err(io::Error::other(format!(
            "{}: a file system of kind {other:#x}",
            data.display()
        ))),
    }
}

fn kept(total: u64) -> u64 {
    (total / KEPT_PART)
        .max(KEPT_MIN.min(total / 4))
        .min(KEPT_MAX)
}

fn create_subvolume(directory: &File, path: &Path) -> io::Result<()> {
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
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    arguments.name[..name.len()].copy_from_slice(name);
    // SAFETY: the request reads a btrfs_ioctl_vol_args with a string that ends in zero: a name has 255 bytes at most.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), SUBVOL_CREATE, &raw const arguments) })?;
    // It may become someone's only copy of a commit: its name has to be on the disk as well.
    directory.sync_all()
}

/// Of everything that is in no subvolume. Written anew at each start, for the disk may have grown.
fn limit(directory: &File, bytes: u64) -> io::Result<()> {
    /// `struct btrfs_ioctl_quota_ctl_args`.
    #[repr(C)]
    struct QuotaControl {
        command: u64,
        status: u64,
    }
    /// `struct btrfs_ioctl_qgroup_limit_args`.
    #[repr(C)]
    #[derive(Default)]
    struct QgroupLimit {
        qgroup: u64,
        flags: u64,
        max_referenced: u64,
        max_exclusive: u64,
        reserved: [u64; 2],
    }
    let mut enable = QuotaControl {
        command: ENABLE_SIMPLE,
        status: 0,
    };
    let limit = QgroupLimit {
        qgroup: OUTSIDE,
        flags: MAX_REFERENCED,
        max_referenced: bytes,
        ..QgroupLimit::default()
    };
    // SAFETY: the request reads and writes a btrfs_ioctl_quota_ctl_args. Enabled already: nothing happens.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), QUOTA_CTL, &raw mut enable) })?;
    // SAFETY: the request reads a btrfs_ioctl_qgroup_limit_args.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), QGROUP_LIMIT, &raw const limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::Command;

    /// A file system on a file, mounted until this goes.
    struct Volume {
        _dir: tempfile::TempDir,
        place: PathBuf,
    }

    impl Volume {
        /// None: this machine doesn't let us.
        fn mount(size_mib: u64) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let (image, place) = (dir.path().join("image"), dir.path().join("data"));
            File::create(&image)
                .unwrap()
                .set_len(size_mib << 20)
                .unwrap();
            fs::create_dir(&place).unwrap();
            let run = |program: &str, arguments: &[&Path]| {
                let done = Command::new(program).args(arguments).output();
                done.is_ok_and(|output| output.status.success())
            };
            let mounted = run("mkfs.btrfs", &["--quiet".as_ref(), &image])
                && run("mount", &["-oloop".as_ref(), &image, &place]);
            mounted.then_some(Self { _dir: dir, place })
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.place).status();
        }
    }

    /// Writes until the disk has no more room; returns how much fitted.
    fn fill(path: &Path) -> u64 {
        let mut file = File::create(path).unwrap();
        let piece = vec![0x5a; 1 << 20];
        let mut written = 0;
        loop {
            match file.write_all(&piece).and_then(|()| file.sync_data()) {
                Ok(()) => written += piece.len() as u64,
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(
                            kind,
                            io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull
                        ),
                        "{error}"
                    );
                    return written;
                }
            }
        }
    }

    #[test]
    fn a_small_disk_keeps_more_of_it_than_a_large_one() {
        let gib = |gib: u64| kept(gib << 30) >> 20;
        assert_eq!(
            [gib(1), gib(2), gib(4), gib(16), gib(1000)],
            [256, 512, 512, 2048, 4096]
        );
    }

    #[test]
    fn state_is_written_when_everything_else_has_filled_the_disk() {
        let Some(volume) = Volume::mount(1024) else {
            eprintln!("skipped: btrfs can't be made or mounted here");
            return;
        };
        let (state, layers) = (volume.place.join("raft"), volume.place.join("containers"));
        keep(&volume.place, &state).unwrap();
        fs::create_dir(&layers).unwrap();
        let written = fill(&layers.join("hog"));
        assert!(written > 512 << 20, "only {written} bytes fitted");
        for round in 0..4 {
            // As after restarts of control, and commits between them.
            keep(&volume.place, &state).unwrap();
            let mut log = File::create(state.join(format!("log-{round}"))).unwrap();
            log.write_all(&[1; 4 << 20]).unwrap();
            log.sync_all().unwrap();
        }
        // What fills the disk can be removed, and there is room again.
        fs::remove_file(layers.join("hog")).unwrap();
        rustix::fs::syncfs(File::open(&volume.place).unwrap()).unwrap();
        fs::write(layers.join("new"), vec![1; 4 << 20]).unwrap();
    }

    #[test]
    fn a_directory_that_is_no_subvolume_is_not_taken_for_room_kept() {
        let Some(volume) = Volume::mount(256) else {
            eprintln!("skipped: btrfs can't be made or mounted here");
            return;
        };
        let state = volume.place.join("raft");
        fs::create_dir(&state).unwrap();
        assert!(keep(&volume.place, &state).is_err());
    }
}
