//! The node's key for WireGuard, in RAM: it outlives control, and the boot never. It leaves the node never; the kernel says what its public
//! half is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::entropy;
use crate::trust::write_secret;

/// Bytes of a key of Curve25519's, private or public (RFC 7748, section 5).
pub(super) const KEY_LEN: usize = 32;

const FILE: &str = "wireguard.key";

/// The node has no key.
#[derive(Debug, thiserror::Error)]
#[error("the node's WireGuard key {path}: {source}")]
pub struct KeyError {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Makes a key where there is none. One that isn't whole is no key: nobody keeps a public half for longer than the node tells it.
pub(super) fn load_or_make(folder: &Path) -> Result<[u8; KEY_LEN], KeyError> {
    let path = folder.join(FILE);
    let kept = match fs::read(&path) {
        Ok(bytes) => bytes.try_into().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(KeyError { path, source }),
    };
    if let Some(key) = kept {
        return Ok(key);
    }
    let key = clamped(entropy::random());
    match fs::create_dir_all(folder).and_then(|()| write_secret(&path, &key)) {
        Ok(()) => Ok(key),
        Err(source) => Err(KeyError { path, source }),
    }
}

/// As the kernel keeps it (RFC 7748, section 5), so that it sees that it is told the same again.
fn clamped(mut key: [u8; KEY_LEN]) -> [u8; KEY_LEN] {
    key[0] &= 0b1111_1000;
    key[KEY_LEN - 1] &= 0b0111_1111;
    key[KEY_LEN - 1] |= 0b0100_0000;
    key
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        // What power cuts leave.
        fs::write(path.with_extension("partial"), "cut off").unwrap();
        fs::write(&path, "").unwrap();
        let key = load_or_make(folder.path()).unwrap();
        assert_eq!(load_or_make(folder.path()).unwrap(), key);
        assert_eq!(clamped(key), key);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_ne!(load_or_make(folder.path()).unwrap(), key);
    }
}
