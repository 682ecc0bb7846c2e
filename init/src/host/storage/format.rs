//! Putting a fresh file system onto a blank disk by copying a template.
//!
//! The order makes a power cut harmless at any moment: first a mark that says that we found the disk blank and are
//! formatting it, then everything but the super blocks, then the super block's copy, then the super block, then the mark is taken away; the disk
//! writes back what it has between any two of these. A disk with the mark is formatted again, whatever else is on it; it has never been
//! mounted.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use hearth_template::Template;
use rustix::rand::{GetRandomFlags, getrandom};

use super::btrfs::{self, SuperBlock};

/// Where the mark is: in the first 64 KiB, which btrfs leaves alone.
const MARK_OFFSET: u64 = 32 << 10;
const MARK: &[u8; 32] = b"hearth is formatting this disk\n\0";
/// One sector of the coarsest disks, so that the mark is there as a whole or not at all.
const MARK_SECTOR: usize = 4096;

/// Why a disk could not be formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The disk refuses.
    #[error("writing to the disk: {0}")]
    Disk(#[source] io::Error),
    /// The template in the image can't be read.
    #[error("unpacking the template of the file system: {0}; the image is damaged")]
    Template(#[source] io::Error),
    /// The template is no file system of ours.
    #[error("the template holds no btrfs with our label; the image is damaged")]
    NoSuperBlock,
}

/// An earlier formatting of ours has not come to its end.
pub fn was_interrupted(disk: &File) -> io::Result<bool> {
    let mut mark = [0; MARK.len()];
    disk.read_exact_at(&mut mark, MARK_OFFSET)?;
    Ok(mark == *MARK)
}

/// Copies the compressed template onto the disk and gives it an id of its own.
pub fn format(disk: &File, template: impl Read) -> Result<(), FormatError> {
    let write = |bytes: &[u8], at: u64| disk.write_all_at(bytes, at).map_err(FormatError::Disk);
    let settle = || disk.sync_data().map_err(FormatError::Disk);

    let mut mark = [0; MARK_SECTOR];
    mark[..MARK.len()].copy_from_slice(MARK);
    write(&mark, MARK_OFFSET)?;
    settle()?;

    let mut template = Template::open(template).map_err(FormatError::Template)?;
    let mut blocks: [Option<SuperBlock>; btrfs::OFFSETS.len()] =
        [const { None }; btrfs::OFFSETS.len()];
    while let Some((at, run)) = template.next_run().map_err(FormatError::Template)? {
        for (offset, kept) in btrfs::OFFSETS.into_iter().zip(&mut blocks) {
            // Runs are whole blocks, and a super block is one.
            let inside = offset
                .checked_sub(at)
                .and_then(|inside| usize::try_from(inside).ok());
            if let Some(bytes) = inside
                .and_then(|inside| run.get_mut(inside..))
                .and_then(<[u8]>::first_chunk_mut::<{ btrfs::LEN }>)
            {
                *kept = SuperBlock::parse(bytes).filter(SuperBlock::is_ours);
                bytes.fill(0);
            }
        }
        write(run, at)?;
    }
    let mut id = [0; 16];
    getrandom(&mut id, GetRandomFlags::empty()).map_err(|errno| FormatError::Disk(errno.into()))?;
    // A UUID of version 4 (RFC 9562, section 5.4).
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    if blocks[0].is_none() {
        return Err(FormatError::NoSuperBlock);
    }
    settle()?;
    for (offset, block) in btrfs::OFFSETS.into_iter().zip(blocks).rev() {
        if let Some(mut block) = block {
            block.set_id(id);
            write(block.bytes(), offset)?;
            settle()?;
        }
    }
    write(&[0; MARK_SECTOR], MARK_OFFSET)?;
    settle()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::storage::disks::{Content, SIZE_MIN, classify};
    use std::process::Command;

    /// None where there is no mkfs.btrfs.
    fn template() -> Option<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(256 << 20).unwrap();
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let made = Command::new("mkfs.btrfs")
            .args(["-q", "-L", "hearth-data"])
            .arg(file.path())
            .env("PATH", path)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            // Past the harness, which holds back what passing tests print: `cargo xtask test` counts these lines.
            let _ = io::Write::write_all(&mut io::stderr(), b"SKIPPED: no mkfs.btrfs\n");
            return None;
        }
        let mut packed = Vec::new();
        hearth_template::pack(file.as_file(), &mut packed).unwrap();
        Some(packed)
    }

    fn disk() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE_MIN).unwrap();
        file
    }

    fn content(disk: &File) -> Content {
        classify(disk, SIZE_MIN).unwrap()
    }

    #[test]
    fn a_blank_disk_becomes_ours_with_an_id_of_its_own() {
        let Some(template) = template() else { return };
        let (one, two) = (disk(), disk());
        assert_eq!(content(&one), Content::Blank);
        format(&one, template.as_slice()).unwrap();
        format(&two, template.as_slice()).unwrap();
        assert!(matches!(content(&one), Content::Ours { .. }));
        let id = |disk: &File| {
            let mut id = [0; 16];
            disk.read_exact_at(&mut id, btrfs::OFFSETS[0] + 0x20)
                .unwrap();
            id
        };
        assert_ne!(id(&one), id(&two));
    }

    #[test]
    fn a_formatting_that_stops_anywhere_leaves_a_disk_that_is_taken_again() {
        let Some(template) = template() else { return };
        for cut in [1, template.len() / 3, template.len() - 10] {
            let disk = disk();
            assert!(format(&disk, &template[..cut]).is_err());
            assert_eq!(content(&disk), Content::Blank, "cut after {cut} bytes");
            format(&disk, template.as_slice()).unwrap();
            assert!(matches!(content(&disk), Content::Ours { .. }));
        }
    }

    #[test]
    fn any_byte_at_either_end_makes_a_disk_somebodys() {
        for at in [
            0,
            510,
            0x1fe,
            0x8000,
            0x10040,
            (1 << 20) - 1,
            SIZE_MIN - (1 << 20),
            SIZE_MIN - 1,
        ] {
            let disk = disk();
            disk.write_all_at(&[1], at).unwrap();
            assert_eq!(content(&disk), Content::Foreign, "at {at}");
        }
    }
}
