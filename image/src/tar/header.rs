//! The 512-byte header block.
//!
//! ```text
//! 0 name 100 | 100 mode 8 | 108 uid 8 | 116 gid 8 | 124 size 12 | 136 mtime 12 | 148 checksum 8 | 156 type 1
//! 157 link name 100 | 257 magic 6, version 2 | 265 user name 32 | 297 group name 32 | 329 major 8 | 337 minor 8
//! ustar: 345 prefix 155            GNU sparse: 386 four (offset 12, length 12) | 482 more follow 1 | 483 real size 12
//! ```

use super::{BLOCK_BYTES, TarError};

/// A header block whose checksum is right.
#[derive(Debug)]
pub(super) struct Header<'a>(&'a [u8; BLOCK_BYTES]);

impl<'a> Header<'a> {
    /// `None` for a block of zeros, which ends the archive.
    pub(super) fn parse(block: &'a [u8; BLOCK_BYTES]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Self(block);
        let bytes = || {
            block.iter().enumerate().map(|(at, &byte)| match at {
                // The checksum counts itself as spaces.
                148..156 => b' ',
                _ => byte,
            })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some old tars summed signed bytes.
        let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        let stored = parse_number(header.field(148, 8));
        if ![Some(unsigned), Some(signed)].contains(&stored) {
            return Err(TarError::malformed(
                "not a tar archive, or damaged: the checksum of a header is wrong",
            ));
        }
        Ok(Some(header))
    }

    fn field(&self, offset: usize, length: usize) -> &'a [u8] {
        &self.0[offset..offset + length]
    }

    /// Up to the first NUL or the field's end.
    fn text(&self, offset: usize, length: usize) -> &'a [u8] {
        let field = self.field(offset, length);
        field.split(|&byte| byte == 0).next().unwrap_or(field)
    }

    /// A number in octal digits, or in GNU's base 256 if the field's first bit is set.
    fn number(&self, offset: usize, length: usize, what: &str) -> Result<i64, TarError> {
        parse_number(self.field(offset, length))
            .ok_or_else(|| TarError::malformed(format!("the {what} in a header is no number")))
    }

    fn unsigned(&self, offset: usize, length: usize, what: &str) -> Result<u64, TarError> {
        u64::try_from(self.number(offset, length, what)?)
            .map_err(|_| TarError::malformed(format!("the {what} in a header is negative")))
    }

    pub(super) fn entry_type(&self) -> u8 {
        self.0[156]
    }

    /// The path, put together from ustar's prefix and name.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.is_ustar() {
            self.text(345, 155)
        } else {
            b""
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> &'a [u8] {
        self.text(157, 100)
    }

    /// POSIX's magic; GNU's has a space where this has a NUL, and other things where this has the prefix.
    fn is_ustar(&self) -> bool {
        self.field(257, 6) == b"ustar\0"
    }

    pub(super) fn mode(&self) -> Result<u16, TarError> {
        // Some tars put the file type above the permissions.
        Ok((self.unsigned(100, 8, "mode")? & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<i64, TarError> {
        self.number(108, 8, "uid")
    }

    pub(super) fn gid(&self) -> Result<i64, TarError> {
        self.number(116, 8, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        self.unsigned(124, 12, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136, 12, "mtime")
    }

    pub(super) fn device_major(&self) -> Result<u64, TarError> {
        self.unsigned(329, 8, "major device number")
    }

    pub(super) fn device_minor(&self) -> Result<u64, TarError> {
        self.unsigned(337, 8, "minor device number")
    }

    /// GNU sparse: offset and length of segment 0 to 3.
    pub(super) fn gnu_segment(&self, index: usize) -> Result<Option<(u64, u64)>, TarError> {
        gnu_segment(self.field(386 + index * 24, 24))
    }

    pub(super) fn gnu_more_segments(&self) -> bool {
        self.0[482] != 0
    }

    pub(super) fn gnu_real_size(&self) -> Result<u64, TarError> {
        self.unsigned(483, 12, "real size")
    }
}

/// An (offset, length) pair of GNU's sparse map; `None` for an unused slot.
pub(super) fn gnu_segment(pair: &[u8]) -> Result<Option<(u64, u64)>, TarError> {
    let (offset, length) = pair.split_at(12);
    if offset[0] == 0 || length[0] == 0 {
        return Ok(None);
    }
    let number = |field| parse_number(field).and_then(|number| u64::try_from(number).ok());
    match (number(offset), number(length)) {
        (Some(offset), Some(length)) => Ok(Some((offset, length))),
        _ => Err(TarError::malformed(
            "a sparse map has something that is no number",
        )),
    }
}

fn parse_number(field: &[u8]) -> Option<i64> {
    match field.first()? {
        first if first & 0x80 != 0 => {
            // Two's complement, big endian, with the first bit as the mark and the second as the sign.
            let negative = first & 0x40 != 0;
            let mut value: i128 = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
            for &byte in &field[1..] {
                value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
            }
            i64::try_from(value).ok()
        }
        _ => {
            let text = field.split(|&byte| byte == 0).next()?.trim_ascii();
            text.iter().try_fold(0i64, |value, digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}
