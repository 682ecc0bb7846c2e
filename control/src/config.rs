//! What init hands over: the owner's configuration and the facts of this boot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::agent::Weakness;
use crate::scheduler::{Band, Quota};
use crate::state::Tenant;

/// `/run/hearth/hearth.toml`, as far as this process needs it. init has checked it, unknown keys included.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// None: nothing listens.
    pub identity: Option<Identity>,
    /// None: the node is a cluster of its own until somebody tells it otherwise.
    pub cluster: Option<Cluster>,
    /// Where images come from.
    pub registries: Registries,
    /// What containers get of the disk.
    pub storage: Storage,
    /// What tenants may have; those that aren't here have no bounds.
    pub tenants: BTreeMap<Tenant, TenantBounds>,
}

/// `[tenants.NAME]`. None: no bound.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TenantBounds {
    /// GiB that its containers' `--memory` may come to.
    pub memory_gib: Option<u64>,
    /// Processors that their `--cpus` may come to.
    pub cpus: Option<u64>,
    /// GiB that their layers may come to.
    pub disk_gib: Option<u64>,
    /// How many there may be, stopped ones included.
    pub containers: Option<u64>,
    /// The highest that they may have.
    pub priority: Option<Band>,
}

impl TenantBounds {
    /// As the scheduler counts.
    pub fn quota(&self) -> Quota {
        Quota {
            memory_bytes: self.memory_gib.map(|gib| gib.saturating_mul(1 << 30)),
            nano_cpus: self.cpus.map(|cpus| cpus.saturating_mul(1_000_000_000)),
            disk_bytes: self.disk_gib.map(|gib| gib.saturating_mul(1 << 30)),
            pods: self.containers,
            highest: self.priority,
        }
    }
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
    /// The node's certificate and its chain. None: its cluster makes one.
    pub certificate: Option<String>,
    /// The node's key; there is one where there is a certificate.
    pub key: Option<String>,
    /// Which clients' certificates the CA has taken back.
    pub crl: Option<String>,
}

/// `[cluster]`.
#[derive(Clone, Deserialize)]
pub struct Cluster {
    /// What all sticks of the cluster share: [`crate::trust::ClusterSecret`].
    pub token: String,
    /// Who makes the nodes' certificates, and those between it and the owner's CA; PEM.
    pub issuer_certificate: String,
    /// Its key, PEM. None: the node can join a cluster, and can't found one.
    pub issuer_key: Option<String>,
    /// Where other nodes may be, beyond this one's link.
    #[serde(default)]
    pub addresses: Vec<MemberAddress>,
    /// Whether the node looks for others on its link, and may be found there.
    #[serde(default = "yes")]
    pub discovery: bool,
    /// The node's label `zone`.
    pub zone: Option<String>,
    /// The node's other labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where a node may be found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MemberAddress {
    /// A name, or an address.
    pub host: String,
    /// TCP.
    pub port: u16,
}

/// Where nodes meet, unless said otherwise; swarm's.
const PEER_PORT: u16 = 2377;

fn yes() -> bool {
    true
}

impl TryFrom<String> for MemberAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let of = |host: &str, port| Self {
            host: host.to_owned(),
            port,
        };
        if text.parse::<IpAddr>().is_ok() {
            return Ok(of(&text, PEER_PORT));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (
                host,
                port.parse()
                    .map_err(|_| format!("{text:?} has no port after its colon"))?,
            ),
            None => (text.as_str(), PEER_PORT),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        Ok(of(bare.unwrap_or(host), port))
    }
}

impl Identity {
    /// The node's own certificate and key, where the owner has given it some.
    pub fn pair(&self) -> Option<(&str, &str)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
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
        assert_eq!(owner.identity.unwrap().pair(), Some(("b", "c")));
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

    #[test]
    fn what_tenants_may_have_is_understood() {
        let owner: Owner = toml::from_str(
            "[tenants.acme]\nmemory_gib = 8\ncpus = 4\ndisk_gib = 100\ncontainers = 20\npriority = 'best-effort'\n[tenants.\"Brave & Söhne\"]\ncontainers = 0\n",
        )
        .unwrap();
        let quota = |name: &str| owner.tenants[&name.parse().unwrap()].quota();
        assert_eq!(
            quota("acme"),
            Quota {
                memory_bytes: Some(8 << 30),
                nano_cpus: Some(4_000_000_000),
                disk_bytes: Some(100 << 30),
                pods: Some(20),
                highest: Some(Band::BestEffort),
            }
        );
        assert_eq!(quota("Brave & S\u{f6}hne").pods, Some(0));
    }

    #[test]
    fn a_clusters_part_is_understood() {
        let owner: Owner = toml::from_str(
            "[identity]\nca = 'a'\n[cluster]\ntoken = 't'\nissuer_certificate = 'i'\naddresses = ['10.0.0.1', 'n2:99', '2001:db8::1', '[2001:db8::1]:99']\nzone = 'east'\nlabels = { disk = 'ssd' }\n",
        )
        .unwrap();
        assert_eq!(owner.identity.unwrap().pair(), None);
        let cluster = owner.cluster.unwrap();
        assert!(cluster.discovery && cluster.issuer_key.is_none());
        let addresses: Vec<_> = cluster
            .addresses
            .iter()
            .map(|address| (address.host.as_str(), address.port))
            .collect();
        assert_eq!(
            addresses,
            [
                ("10.0.0.1", 2377),
                ("n2", 99),
                ("2001:db8::1", 2377),
                ("2001:db8::1", 99)
            ]
        );
        assert_eq!(cluster.zone.as_deref(), Some("east"));
        assert_eq!(cluster.labels["disk"], "ssd");
    }
}
