//! A node's own key: made on the node, and never anywhere else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;

/// The key's file: PKCS#8, PEM.
pub const FILE: &str = "node.key";

/// ECDSA on P-256, which every client of TLS can verify.
pub struct NodeKey(KeyPair);

/// Why a node has no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The disk.
    #[error("the node's key, {path}: {source}")]
    File {
        /// The file or its folder.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file that holds no key. It isn't replaced: the node would be another one, without anybody having said so.
    #[error(
        "the node's key, {path}, is damaged ({reason}): remove this node from the cluster, and start it with an empty disk as a new one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// It couldn't be made.
    #[error("making the node's key failed: {0}")]
    Make(rcgen::Error),
}

impl NodeKey {
    /// The key in a folder. Where there is none, one is made; it is on disk, whole, when this returns. Blocks.
    pub fn load_or_make(dir: &Path) -> Result<Self, KeyError> {
        let path = dir.join(FILE);
        let failed = |source| KeyError::File {
            path: path.clone(),
            source,
        };
        match fs::read_to_string(&path) {
            Ok(pem) => Self::from_pem(&pem).map_err(|error| KeyError::Damaged {
                path,
                reason: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate().map_err(KeyError::Make)?;
                fs::create_dir_all(dir).map_err(failed)?;
                write_secret(&path, key.pem().as_bytes()).map_err(failed)?;
                Ok(key)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(KeyError::Damaged {
                path,
                reason: error.to_string(),
            }),
            Err(error) => Err(failed(error)),
        }
    }

    /// The key that [`Self::pem`] has given.
    pub fn parse(pem: &str) -> Result<Self, rcgen::Error> {
        Self::from_pem(pem)
    }

    /// The whole key, as its file has it.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// One that is kept nowhere.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self)
    }

    fn from_pem(pem: &str) -> Result<Self, rcgen::Error> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// A request for a certificate (PKCS#10, DER): the key, and the proof that the node has it.
    pub fn request(&self) -> Result<Vec<u8>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// For TLS.
    pub(super) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let der = PrivatePkcs8KeyDer::from(self.0.serialized_der());
        rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(der))
    }
}

/// A file appears whole and readable by root alone, or not at all. Its folder is there. Blocks.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let partial = path.with_extension("partial");
    // What a power cut has left may have been made by something else, with other rights.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(dir)?.sync_all()
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trust");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("node.partial"), "cut off").unwrap();
        let made = NodeKey::load_or_make(&folder).unwrap();
        let loaded = NodeKey::load_or_make(&folder).unwrap();
        assert_eq!(made.0.serialized_der(), loaded.0.serialized_der());
        let files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(
            files[0].metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_damaged_key_is_kept_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for damaged in [&b"-----BEGIN PRIVATE KEY-----\n"[..], b"", b"\xff\xfe"] {
            fs::write(&path, damaged).unwrap();
            let error = NodeKey::load_or_make(dir.path()).unwrap_err();
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}
