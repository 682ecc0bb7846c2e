//! How often the replica's file was written, told in a second place: whoever opens it knows whether it is the newest that was
//! acknowledged.
//!
//! redb writes a commit with one `fsync`. Where its pages turn out not to be what their checksums say, it takes the commit before that one instead: after
//! a power cut those pages were never all there, and nobody was answered. But a bit that changes later, or a disk that lied, looks the same,
//! and then something that was acknowledged would be gone without a word, a vote among it. So after each commit that has succeeded its number is written
//! here, and a file that knows of fewer isn't used any more.
//!
//! This is not synced: that would double what each command costs. The kernel writes it within half a minute, and it outlives the process
//! in any case. What remains is a commit that was acknowledged less than half a minute before the power failed, and of which a bit changes
//! before the node starts again.
//!
//! It stands there twice, each in a sector of its own:
//!
//! ```text
//! 0   8  "hearthmk"
//! 8   8  the node's id, little-endian
//! 16  8  its commits, likewise
//! 24  4  CRC-32C of all before
//! ```

use std::io;

use redb::StorageBackend;

use crate::state::NodeId;

const MAGIC: [u8; 8] = *b"hearthmk";
/// What disks write whole.
const SECTOR: u64 = 512;
const SLOTS: u64 = 2;
const SLOT: usize = 28;
/// Of the file.
pub(super) const BYTES: u64 = SLOTS * SECTOR;

/// The open file.
pub(super) struct Mark(Box<dyn StorageBackend>);

/// What is written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Whose file it is about.
    pub node: NodeId,
    /// How many of its commits have succeeded, at least.
    pub commits: u64,
}

impl Mark {
    pub fn open(backend: Box<dyn StorageBackend>) -> io::Result<Self> {
        if backend.len()? < BYTES {
            backend.set_len(BYTES)?;
        }
        Ok(Self(backend))
    }

    /// None: nothing that makes sense.
    pub fn read(&self) -> Option<Written> {
        let slots = (0..SLOTS).filter_map(|slot| {
            let mut bytes = [0; SLOT];
            self.0.read(slot * SECTOR, &mut bytes).ok()?;
            parse(&bytes)
        });
        slots.max_by_key(|written| written.commits)
    }

    pub fn write(&self, written: Written) -> io::Result<()> {
        let mut both = [0; BYTES as usize];
        for slot in both.chunks_mut(SECTOR as usize) {
            slot[..SLOT].copy_from_slice(&bytes(written));
        }
        self.0.write(0, &both)
    }

    /// Makes it durable, where there is time for that.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn bytes(written: Written) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&written.node.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&written.commits.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8; SLOT]) -> Option<Written> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    let is_whole = bytes[24..] == crc32c::crc32c(&bytes[..24]).to_le_bytes();
    if !is_whole || bytes[..8] != MAGIC {
        return None;
    }
    Some(Written {
        node: NodeId(number(8)?),
        commits: number(16)?,
    })
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn one_copy_that_is_whole_is_enough() {
        let mark = Mark::open(Box::new(InMemoryBackend::new())).unwrap();
        assert_eq!(mark.read(), None);
        let written = |commits| Written {
            node: NodeId(7),
            commits,
        };
        for commits in 1..=3 {
            mark.write(written(commits)).unwrap();
            assert_eq!(mark.read(), Some(written(commits)));
        }
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT];
            mark.0.read(slot * SECTOR, &mut bytes).unwrap();
            bytes[20] ^= 1;
            mark.0.write(slot * SECTOR, &bytes).unwrap();
            let left = (slot == 0).then(|| written(3));
            assert_eq!(mark.read(), left);
        }
    }
}
