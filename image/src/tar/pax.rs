//! pax extended headers: records of `<length> <key>=<value>\n`, and what those this crate knows say.

use super::{TarError, sparse::PaxSparse};
use crate::{
    erofs::can_store_xattr,
    tree::{Attributes, Bytes, Mtime},
};

/// Prefix of the records that carry an extended attribute, its value as it is.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The attributes of overlayfs are about a host's layers; in an image they would hide files from the guest.
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";

/// What extended headers say about the entry that follows them.
#[derive(Default, Debug)]
pub(crate) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(Bytes, Bytes)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Reads the records of one header on top of what is there.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        let bad = || TarError::malformed("a pax header has a malformed record");
        // Some writers fill up with NULs.
        while records.first().is_some_and(|&byte| byte != 0) {
            let space = records
                .iter()
                .take(20)
                .position(|&byte| byte == b' ')
                .ok_or_else(bad)?;
            let length = decimal(&records[..space])
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length > space + 1 && length <= records.len())
                .ok_or_else(bad)?;
            let (record, rest) = records.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // POSIX, "pax Extended Header": an empty value takes the record back.
        let unless_empty = || Some(value).filter(|value| !value.is_empty());
        let bad = || {
            let key = String::from_utf8_lossy(key);
            TarError::malformed(format!("pax record {key} is no number"))
        };
        let id = |text| signed(text).ok_or_else(bad);
        match key {
            b"path" => self.path = unless_empty().map(<[u8]>::to_vec),
            b"linkpath" => self.link = unless_empty().map(<[u8]>::to_vec),
            b"size" => {
                let size = |text| decimal(text).ok_or_else(bad);
                self.size = unless_empty().map(size).transpose()?;
            }
            b"uid" => self.uid = unless_empty().map(id).transpose()?,
            b"gid" => self.gid = unless_empty().map(id).transpose()?,
            b"mtime" => {
                let time = |text| time(text).ok_or_else(bad);
                self.mtime = unless_empty().map(time).transpose()?;
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse.set(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR)
                    && can_store_xattr(name, value)
                    && !name.starts_with(OVERLAY_XATTR)
                {
                    self.xattrs.push((name.into(), value.into()));
                }
            }
        }
        Ok(())
    }

    /// Overrides what the header block said.
    pub(crate) fn amend(&mut self, attributes: &mut Attributes) -> Result<(), TarError> {
        if let Some(uid) = self.uid {
            attributes.uid = owner(uid)?;
        }
        if let Some(gid) = self.gid {
            attributes.gid = owner(gid)?;
        }
        if let Some(mtime) = self.mtime {
            attributes.mtime = mtime;
        }
        attributes.xattrs.extend(self.xattrs.drain(..));
        Ok(())
    }
}

/// An id as chown(2) takes it: systems whose ids are signed have some below 0 (macOS' `nobody` is -2), and -1 leaves the
/// owner as it is, which is root.
fn owner(id: i64) -> Result<u32, TarError> {
    let unsigned = u32::try_from(id).or_else(|_| i32::try_from(id).map(i32::cast_unsigned));
    match unsigned {
        Ok(u32::MAX) => Ok(0),
        Ok(id) => Ok(id),
        Err(_) => Err(TarError::malformed("an owner's id has more than 32 bits")),
    }
}

fn signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let number = i64::try_from(decimal(digits)?).ok()?;
    Some(if negative { -number } else { number })
}

/// A number of decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, b"".as_slice()),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0, |value: u32, at| {
        value * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => Mtime {
            seconds,
            nanoseconds,
        },
        (true, 0) => Mtime {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Mtime {
            seconds: (-seconds).checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}
