//! A kernel's ELF file without its gaps: the linker puts segments 2 MiB apart, and in an initial RAM disk each byte of a gap is
//! a byte of RAM. Whoever loads the file copies the segments, to addresses that don't change.
//!
//! Offsets and sizes as in the ELF-64 object file format, "ELF header" and "Program header table".

use anyhow::{Context, Result, ensure};

/// Sizes of the ELF header and of one program header.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Segments begin at multiples of a page, so that they may also be mapped.
const PAGE: usize = 4096;
/// A segment to be loaded.
const PT_LOAD: u64 = 1;

/// Places of fields in the ELF header.
const PROGRAM_HEADERS_AT: usize = 32;
const SECTION_HEADERS_AT: usize = 40;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;
const SECTION_HEADER_COUNT: usize = 60;
const SECTION_NAMES: usize = 62;

/// Places of fields in a program header.
const OFFSET: usize = 8;
const FILE_SIZE: usize = 32;
const ALIGNMENT: usize = 48;

/// The same executable with its segments next to each other and without section headers.
pub fn packed(elf: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "the kernel is no 64-bit ELF file"
    );
    let table = number(elf, PROGRAM_HEADERS_AT, 8)?;
    let count = number(elf, PROGRAM_HEADER_COUNT, 2)?;
    ensure!(
        number(elf, PROGRAM_HEADER_SIZE, 2)? == PROGRAM_HEADER,
        "program headers of unknown size"
    );

    let mut out = slice(elf, 0, HEADER)?.to_vec();
    put(&mut out, PROGRAM_HEADERS_AT, HEADER, 8);
    for (field, size) in [
        (SECTION_HEADERS_AT, 8),
        (SECTION_HEADER_COUNT, 2),
        (SECTION_NAMES, 2),
    ] {
        put(&mut out, field, 0, size);
    }
    let headers = slice(elf, table, count * PROGRAM_HEADER)?.chunks_exact(PROGRAM_HEADER);
    out.extend(headers.clone().flatten());

    // Old place, size, and new place of what is loaded.
    let mut moved = Vec::new();
    for header in headers.clone() {
        if number(header, 0, 4)? as u64 == PT_LOAD {
            let (at, size) = (number(header, OFFSET, 8)?, number(header, FILE_SIZE, 8)?);
            out.resize(out.len().next_multiple_of(PAGE), 0);
            moved.push((at, size, out.len()));
            out.extend(slice(elf, at, size)?);
        }
    }
    for (index, header) in headers.enumerate() {
        let (at, size) = (number(header, OFFSET, 8)?, number(header, FILE_SIZE, 8)?);
        // Notes and the like lie within what is loaded.
        let (from, _, to) = moved
            .iter()
            .find(|(from, length, _)| at >= *from && at + size <= from + length)
            .with_context(|| format!("program header {index} describes what isn't loaded"))?;
        let place = HEADER + index * PROGRAM_HEADER;
        put(&mut out, place + OFFSET, to + (at - from), 8);
        if number(header, 0, 4)? as u64 == PT_LOAD {
            put(&mut out, place + ALIGNMENT, PAGE, 8);
        }
    }
    Ok(out)
}

fn slice(bytes: &[u8], at: usize, size: usize) -> Result<&[u8]> {
    at.checked_add(size)
        .and_then(|end| bytes.get(at..end))
        .context("the kernel's ELF file is cut short")
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<usize> {
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(slice(bytes, at, size)?);
    Ok(usize::try_from(u64::from_le_bytes(wide))?)
}

fn put(bytes: &mut [u8], at: usize, value: usize, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two loaded segments far apart, and a note within the second.
    fn sample() -> Vec<u8> {
        let mut elf = vec![0; 3 << 20];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        put(&mut elf, PROGRAM_HEADERS_AT, HEADER, 8);
        put(&mut elf, PROGRAM_HEADER_SIZE, PROGRAM_HEADER, 2);
        put(&mut elf, PROGRAM_HEADER_COUNT, 3, 2);
        put(&mut elf, SECTION_HEADER_COUNT, 9, 2);
        for (index, (kind, at, size)) in [(1, 1 << 20, 3), (1, 2 << 20, 8), (4, (2 << 20) + 4, 4)]
            .into_iter()
            .enumerate()
        {
            let header = HEADER + index * PROGRAM_HEADER;
            put(&mut elf, header, kind, 4);
            put(&mut elf, header + OFFSET, at, 8);
            put(&mut elf, header + FILE_SIZE, size, 8);
        }
        elf[1 << 20..][..3].copy_from_slice(b"abc");
        elf[2 << 20..][..8].copy_from_slice(b"defgnote");
        elf
    }

    #[test]
    fn segments_keep_their_contents_and_lose_the_gaps() {
        let packed = packed(&sample()).unwrap();
        assert!(packed.len() < 3 * PAGE);
        let contents = |index: usize| {
            let header = HEADER + index * PROGRAM_HEADER;
            let (at, size) = (
                number(&packed, header + OFFSET, 8).unwrap(),
                number(&packed, header + FILE_SIZE, 8).unwrap(),
            );
            &packed[at..at + size]
        };
        assert_eq!(
            [contents(0), contents(1), contents(2)],
            [&b"abc"[..], b"defgnote", b"note"]
        );
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let sample = sample();
        for length in [0, 5, 40, 100, 1 << 20, (2 << 20) + 4] {
            assert!(packed(&sample[..length]).is_err());
        }
    }
}
