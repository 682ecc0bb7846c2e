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
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(Bytes, Bytes)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Reads the records of one header on top of what is there.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), TarError> {
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
        let number = || {
            decimal(value).ok_or_else(|| {
                let key = String::from_utf8_lossy(key);
                TarError::malformed(format!("pax record {key} is no number"))
            })
        };
        match key {
            // An empty value takes the record back.
            b"path" => self.path = Some(value.to_vec()).filter(|path| !path.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|link| !link.is_empty()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                let time = time(value);
                self.mtime =
                    Some(time.ok_or_else(|| TarError::malformed("pax record mtime is no time"))?);
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
    pub(super) fn amend(&mut self, attributes: &mut Attributes) -> Result<(), TarError> {
        let id = |id: u64| {
            u32::try_from(id).map_err(|_| TarError::malformed("an owner's id is over 2^32 - 1"))
        };
        if let Some(uid) = self.uid {
            attributes.uid = id(uid)?;
        }
        if let Some(gid) = self.gid {
            attributes.gid = id(gid)?;
        }
        if let Some(mtime) = self.mtime {
            attributes.mtime = mtime;
        }
        attributes.xattrs.extend(self.xattrs.drain(..));
        Ok(())
    }
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
