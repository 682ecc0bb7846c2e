//! What init hands over: the owner's configuration and the facts of this boot.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::agent::Weakness;

/// `/run/hearth/hearth.toml`, as far as this process needs it. init has checked it, unknown keys included.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// None: nothing listens.
    pub identity: Option<Identity>,
    /// Where images come from.
    pub registries: Registries,
    /// What containers get of the disk.
    pub storage: Storage,
}

/// `[storage]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// GiB of a writable layer; None: the template's.
    pub layer_gib: Option<u64>,
}

/// `[identity]`, as PEM.
#[derive(Clone, Deserialize)]
pub struct Identity {
    /// The owner's CA.
    pub ca: String,
    /// The node's certificate and its chain.
    pub certificate: String,
    /// The node's key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// `[registries]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Registries {
    /// Spoken to in plain HTTP.
    pub insecure: Vec<String>,
}

/// `/run/hearth/node.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Boot {
    /// Of Hearth.
    pub version: String,
    /// The node's name.
    pub hostname: String,
    /// `disk` or `ram`.
    pub storage: String,
    /// `/dev/vda`.
    pub storage_device: String,
    /// Why RAM.
    pub storage_note: String,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Processors that share a core are in use. None: init doesn't say.
    pub siblings: Option<bool>,
    /// The processor's.
    pub weaknesses: Vec<Weakness>,
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    path: PathBuf,
    reason: String,
}

/// Reads one of the two; a file that isn't there is an empty one.
pub fn read<T: Default + for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ConfigError> {
    let failed = |reason: String| ConfigError {
        path: path.to_owned(),
        reason,
    };
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[node]\nname = 'a'\n[identity]\nca = 'a'\ncertificate = 'b'\nkey = 'c'\n[registries]\ninsecure = ['10.0.2.2:5000']\n[storage]\nlayer_gib = 20\n").unwrap();
        let owner: Owner = read(&path).unwrap();
        assert_eq!(owner.identity.unwrap().key, "c");
        assert_eq!(owner.registries.insecure, ["10.0.2.2:5000"]);
        assert_eq!(owner.storage.layer_gib, Some(20));
        std::fs::write(&path, "version = '0.1.0'\nstorage = 'ram'\nstorage_note = 'no disk'\ndns = ['10.0.2.3']\naddresses = ['10.0.2.15/24']\nsiblings = true\n[[weaknesses]]\nname = 'mds'\nstate = 'Vulnerable'\n").unwrap();
        let boot: Boot = read(&path).unwrap();
        assert_eq!((boot.storage.as_str(), boot.dns.len()), ("ram", 1));
        assert_eq!(boot.siblings, Some(true));
        assert_eq!(boot.weaknesses[0].name, "mds");
        assert!(
            read::<Owner>(&dir.path().join("absent"))
                .unwrap()
                .identity
                .is_none()
        );
    }
}
