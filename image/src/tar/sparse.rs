//! Sparse files: the four ways in which GNU tar writes which parts of a file are stored.
//!
//! - the old one: type `S`, a map in the header block and in blocks after it;
//! - pax 0.0: records `GNU.sparse.offset` and `.numbytes` in turn;
//! - pax 0.1: one record `GNU.sparse.map` of `offset,length,...`;
//! - pax 1.0: `GNU.sparse.major=1`, and the map at the front of the data: decimal numbers in lines (count, then offset
//!   and length of each segment), filled up to a block.

use std::io::Read;

use super::{
    BLOCK_BYTES, MAX_EXTENSION_BYTES, Segment, TarError,
    header::{Header, gnu_segment},
    pax::decimal,
};

/// Segments of one file; a map of more doesn't fit in [`MAX_EXTENSION_BYTES`] anyway.
const MAX_SEGMENTS: usize = 1 << 18;

/// What pax headers say about sparseness.
#[derive(Default, Debug)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    /// The real path; the entry's own is made up for tars that don't know sparse files.
    pub(super) name: Option<Vec<u8>>,
    real_size: Option<u64>,
    offset: Option<u64>,
    segments: Vec<(u64, u64)>,
    found: bool,
}

impl PaxSparse {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let bad = || {
            let key = String::from_utf8_lossy(key);
            TarError::malformed(format!("pax record {key} is malformed"))
        };
        let number = || decimal(value).ok_or_else(bad);
        self.found = true;
        match key {
            b"GNU.sparse.major" => self.major = Some(number()?),
            b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.real_size = Some(number()?),
            b"GNU.sparse.offset" => self.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.offset.take().ok_or_else(bad)?;
                self.segments.push((offset, number()?));
            }
            b"GNU.sparse.map" => {
                let numbers: Vec<u64> = value
                    .split(|&byte| byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(|text| decimal(text).ok_or_else(bad))
                    .collect::<Result<_, _>>()?;
                if !numbers.len().is_multiple_of(2) {
                    return Err(bad());
                }
                self.segments = numbers
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// Real size and segments; `None` if the entry isn't sparse. `stored` is reduced by a map in front of the data.
    pub(super) fn resolve(
        self,
        source: &mut impl Read,
        stored: &mut u64,
    ) -> Result<Option<(u64, Vec<Segment>)>, TarError> {
        if !self.found {
            return Ok(None);
        }
        let Some(size) = self.real_size else {
            return Err(TarError::malformed("a sparse file's real size is missing"));
        };
        let pairs = match self.major {
            Some(1) => read_map(source, stored)?,
            None | Some(0) => self.segments,
            Some(_) => return Err(TarError::malformed("a sparse file of an unknown version")),
        };
        Ok(Some((size, check(pairs, size, *stored)?)))
    }
}

/// The map of pax 1.0, from the front of the data.
fn read_map(source: &mut impl Read, stored: &mut u64) -> Result<Vec<(u64, u64)>, TarError> {
    let bad = || TarError::malformed("a sparse map is malformed");
    let mut numbers = Vec::new();
    let mut digits = Vec::new();
    let mut read = 0;
    let mut wanted = None;
    loop {
        let mut block = [0; BLOCK_BYTES];
        if *stored < BLOCK_BYTES as u64 || read > MAX_EXTENSION_BYTES {
            return Err(bad());
        }
        source.read_exact(&mut block)?;
        *stored -= BLOCK_BYTES as u64;
        read += BLOCK_BYTES as u64;
        for byte in block {
            if wanted == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                digits.push(byte);
                continue;
            }
            let number = decimal(&digits).ok_or_else(bad)?;
            digits.clear();
            if wanted.is_some() {
                numbers.push(number);
            } else {
                let count = usize::try_from(number)
                    .ok()
                    .filter(|&count| count <= MAX_SEGMENTS);
                wanted = Some(count.ok_or_else(bad)? * 2);
            }
        }
        if wanted == Some(numbers.len()) {
            return Ok(numbers
                .chunks_exact(2)
                .map(|pair| (pair[0], pair[1]))
                .collect());
        }
    }
}

/// Real size and segments of an entry of type `S`.
pub(super) fn old_gnu(
    header: &Header<'_>,
    source: &mut impl Read,
    stored: u64,
) -> Result<(u64, Vec<Segment>), TarError> {
    let mut pairs = Vec::new();
    for index in 0..4 {
        pairs.extend(header.gnu_segment(index)?);
    }
    let mut more = header.gnu_more_segments();
    while more {
        if pairs.len() > MAX_SEGMENTS {
            return Err(TarError::malformed("a sparse map is too long"));
        }
        let mut block = [0; BLOCK_BYTES];
        source.read_exact(&mut block)?;
        for index in 0..21 {
            pairs.extend(gnu_segment(&block[index * 24..(index + 1) * 24])?);
        }
        more = block[504] != 0;
    }
    let size = header.gnu_real_size()?;
    Ok((size, check(pairs, size, stored)?))
}

/// Segments ascend, don't overlap, stay within the size, and are as long as what is stored.
fn check(pairs: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Vec<Segment>, TarError> {
    let bad = || TarError::malformed("a sparse map contradicts the sizes of its file");
    let mut end = 0;
    let mut sum = 0u64;
    let mut segments = Vec::with_capacity(pairs.len());
    for (offset, length) in pairs {
        if offset < end {
            return Err(bad());
        }
        end = offset
            .checked_add(length)
            .filter(|&end| end <= size)
            .ok_or_else(bad)?;
        // Cannot overflow: segments don't overlap.
        sum += length;
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if sum != stored {
        return Err(bad());
    }
    Ok(segments)
}
