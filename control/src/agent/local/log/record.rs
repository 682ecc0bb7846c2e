//! The log file's bytes.
//!
//! ```text
//! file    magic "HEARTHL1" (8 bytes), then records
//! record  length of data, u32 | kind, u8 | 0, 3 bytes | time, u64 | offset, u64 | data | length of the whole record, u32
//! ```
//!
//! Numbers are little-endian. `time` is nanoseconds since the Unix epoch, `offset` the place of `data`'s first byte in everything the main
//! process of this run has written, as the guest counts. The length at the end lets a reader go backwards, and shows a record that
//! was cut short.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// At the head of each file.
pub const MAGIC: [u8; 8] = *b"HEARTHL1";
const HEAD: usize = 24;
const TAIL: usize = 4;
/// Largest `data`: what a guest sends at once is smaller.
pub const DATA_MAX: usize = 1 << 20;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run of the container begins; offsets count from 0 again.
    Run,
    /// Output.
    Stdout,
    /// Error output.
    Stderr,
    /// First in a file that goes on where the one before it ended.
    Continued,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Of the first byte of `data`, within its run.
    pub offset: u64,
    /// Output.
    pub data: Bytes,
}

impl Record {
    /// Appends the record's bytes.
    pub fn write(&self, to: &mut Vec<u8>) {
        let total = self.size();
        to.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        to.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        to.extend_from_slice(&self.at_ns.to_le_bytes());
        to.extend_from_slice(&self.offset.to_le_bytes());
        to.extend_from_slice(&self.data);
        to.extend_from_slice(&(total as u32).to_le_bytes());
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        (HEAD + self.data.len() + TAIL) as u64
    }

    /// Where the run's output goes on after this record.
    pub fn next_offset(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Reads the record at `at` of a file that is `end` bytes long; None where there is no whole and sound one.
    pub fn read(file: &File, at: u64, end: u64) -> io::Result<Option<Self>> {
        if end.saturating_sub(at) < (HEAD + TAIL) as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, at)?;
        let Some((kind, length, at_ns, offset)) = parse_head(&head) else {
            return Ok(None);
        };
        let total = HEAD + length + TAIL;
        if end - at < total as u64 {
            return Ok(None);
        }
        let mut data = vec![0; length + TAIL];
        file.read_exact_at(&mut data, at + HEAD as u64)?;
        let tail = data.split_off(length);
        if tail != (total as u32).to_le_bytes() {
            return Ok(None);
        }
        Ok(Some(Self {
            kind,
            at_ns,
            offset,
            data: data.into(),
        }))
    }

    /// Where the records of a file end that is `length` bytes long: before what was cut short, if anything was.
    pub fn end(file: &File, length: u64) -> io::Result<u64> {
        if Self::before(file, length)?.is_some() {
            return Ok(length);
        }
        let mut at = MAGIC.len() as u64;
        while let Some(record) = Self::read(file, at, length)? {
            at += record.size();
        }
        Ok(at)
    }

    /// The record that ends at `end`, and where it begins; None at the file's head, or where what ends there is no record.
    pub fn before(file: &File, end: u64) -> io::Result<Option<(u64, Self)>> {
        let first = MAGIC.len() as u64;
        if end < first + (HEAD + TAIL) as u64 {
            return Ok(None);
        }
        let mut tail = [0; TAIL];
        file.read_exact_at(&mut tail, end - TAIL as u64)?;
        let total = u64::from(u32::from_le_bytes(tail));
        let Some(at) = end.checked_sub(total).filter(|at| *at >= first) else {
            return Ok(None);
        };
        let record = Self::read(file, at, end)?;
        Ok(record
            .filter(|record| record.size() == total)
            .map(|record| (at, record)))
    }
}

fn parse_head(head: &[u8; HEAD]) -> Option<(Kind, usize, u64, u64)> {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let kind = match head[4] {
        0 => Kind::Run,
        1 => Kind::Stdout,
        2 => Kind::Stderr,
        3 => Kind::Continued,
        _ => return None,
    };
    let length = (number(0) & u64::from(u32::MAX)) as usize;
    let offset = number(16);
    (length <= DATA_MAX && offset.checked_add(length as u64).is_some()).then_some((
        kind,
        length,
        number(8),
        offset,
    ))
}
