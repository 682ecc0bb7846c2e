//! A writable layer whose disk is larger than its file system: the file system grows to fill it.
//!
//! The host makes the disk larger than its template where a user asks for more. Offsets are those of `struct ext4_super_block`
//! (Documentation/filesystems/ext4/super.rst).

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

/// Where the superblock begins, bytes.
const SUPERBLOCK: u64 = 1024;
/// How much of it is read: up to the last field of interest.
const SUPERBLOCK_LEN: usize = 0x154;
/// `INCOMPAT_64BIT`: block counts have an upper half.
const WIDE: u32 = 0x80;
/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)` of linux/ext4.h.
const RESIZE: libc::c_ulong = 0x4008_6610;

/// Grows the ext4 that is mounted from `device` at `place` to the size of the device. Costs a read of the superblock, which the kernel
/// has in memory, where there is nothing to grow.
pub fn fill_device(device: &Path, place: &Path) -> io::Result<()> {
    let mut file = File::open(device)?;
    let mut superblock = [0; SUPERBLOCK_LEN];
    file.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let size = Size::parse(&superblock);
    let blocks = file.seek(SeekFrom::End(0))? >> size.block_bits;
    if blocks <= size.blocks {
        return Ok(());
    }
    // New inode tables are holes of a sparse file, and need not be cleared. The kernel leaves them alone while it means to clear them later;
    // so it is told that it will, and then that it won't.
    mount_remount(place, MountFlags::empty(), c"init_itable")?;
    // SAFETY: RESIZE_FS reads one u64.
    let grown = unsafe { libc::ioctl(File::open(place)?.as_raw_fd(), RESIZE, &raw const blocks) };
    let grown = if grown < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    mount_remount(place, MountFlags::empty(), c"noinit_itable")?;
    grown
}

/// How large a file system is.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    /// Blocks of two to the power of this many bytes.
    block_bits: u32,
    /// So many of them.
    blocks: u64,
}

impl Size {
    fn parse(superblock: &[u8; SUPERBLOCK_LEN]) -> Self {
        let word = |at: usize| {
            let bytes = [0, 1, 2, 3].map(|byte| superblock[at + byte]);
            u32::from_le_bytes(bytes)
        };
        let upper = if word(0x60) & WIDE != 0 {
            word(0x150)
        } else {
            0
        };
        Self {
            // The kernel has mounted it, so this is no more than 6; an odd one must not end PID 1.
            block_bits: (10 + (word(0x18) & 15)).min(63),
            blocks: u64::from(upper) << 32 | u64::from(word(0x4)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_the_one_that_mkfs_was_told() {
        let mkfs = Path::new("/usr/sbin/mkfs.ext4");
        if !mkfs.exists() {
            eprintln!("skipped: no {}", mkfs.display());
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mib = 64u64;
        file.as_file().set_len(mib << 20).unwrap();
        for block_bits in [10, 12] {
            let made = std::process::Command::new(mkfs)
                .args(["-q", "-F", "-b", &(1 << block_bits).to_string()])
                .arg(file.path())
                .status()
                .unwrap();
            assert!(made.success());
            let mut superblock = [0; SUPERBLOCK_LEN];
            file.as_file()
                .read_exact_at(&mut superblock, SUPERBLOCK)
                .unwrap();
            let blocks = mib << 20 >> block_bits;
            assert_eq!(Size::parse(&superblock), Size { block_bits, blocks });
        }
    }

    #[test]
    fn beyond_16_tib_the_upper_half_counts_too() {
        let mut superblock = [0; SUPERBLOCK_LEN];
        superblock[0x4] = 1;
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        let blocks = |superblock: &_| Size::parse(superblock).blocks;
        assert_eq!(blocks(&superblock), 1, "the field is another's");
        superblock[0x60] = 0x80;
        assert_eq!(blocks(&superblock), (1 << 32) + 1);
    }
}
