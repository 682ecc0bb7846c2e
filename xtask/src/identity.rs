//! The owner's trust anchor for trials and tests: a CA, clients' certificates, nodes' certificates or what makes them, and the
//! `hearth.toml` that hands them to a node.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustix::rand::{GetRandomFlags, getrandom};

/// Organisation in the certificate of whoever owns the nodes.
pub const OWNER: &str = "owner";

/// Years between which certificates are valid: wide, for a node without a clock must still be reachable.
const VALID_YEARS: (i32, i32) = (2020, 2049);

/// The extended key usage of nodes towards each other (`hearth_control::trust::PEER_USAGE`).
const PEER_USAGE: &[u64] = &[
    1, 2, 840, 113_556, 1, 8000, 2554, 46164, 19885, 12665, 16657, 36227, 16_267_574, 13_727_204,
];

/// Bytes of a cluster's token.
const TOKEN_LEN: usize = 32;

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A certificate authority that lives in a directory.
#[derive(Debug)]
pub struct Authority {
    pair: Pair,
}

impl Authority {
    /// A new one.
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = parameters("Hearth owner", None);
        // One below it: a cluster's issuer.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            pair: Pair {
                certificate,
                key: key.serialize_pem(),
            },
        })
    }

    /// The one kept in a directory, made there if there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let pair = kept(dir, "ca", || Ok(Self::create()?.pair))?;
        Ok(Self { pair })
    }

    /// The certificate that nodes and clients are given, PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// A client's certificate, and nothing but a client's; its organisation is its tenant.
    pub fn client(&self, organisation: &str, name: &str) -> Result<Pair> {
        let mut params = parameters(name, Some(organisation));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A client's certificate that can be taken back by its serial number.
    pub fn client_of_number(&self, organisation: &str, name: &str, number: u64) -> Result<Pair> {
        let mut params = parameters(name, Some(organisation));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(number));
        self.sign(params)
    }

    /// The list, of its own number, of certificates that are taken back; PEM.
    pub fn revoked(&self, list: u64, certificates: &[u64]) -> Result<String> {
        let issuer =
            Issuer::from_ca_cert_pem(&self.pair.certificate, KeyPair::from_pem(&self.pair.key)?)?;
        let (this_update, next_update) = (date_time_ymd(2025, 1, 1), date_time_ymd(2099, 1, 1));
        let revoked = certificates.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(list),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&issuer)?.pem()?)
    }

    /// A node's certificate, and nothing but a server's: valid for its name and for loopback, where a trial's ports are forwarded.
    pub fn server(&self, name: &str) -> Result<Pair> {
        let mut params = parameters(name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(
                name.try_into()
                    .with_context(|| format!("{name} is no host name"))?,
            ),
            SanType::DnsName("localhost".try_into().context("localhost is a host name")?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        self.sign(params)
    }

    /// What makes certificates for the nodes of a cluster, and for nobody else.
    pub fn issuer(&self) -> Result<Pair> {
        let mut params = parameters("Hearth issuer", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::Other(PEER_USAGE.to_vec()),
        ];
        self.sign_as_it_is(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.sign_as_it_is(params)
    }

    fn sign_as_it_is(&self, mut params: CertificateParams) -> Result<Pair> {
        params.use_authority_key_identifier_extension = true;
        let issuer =
            Issuer::from_ca_cert_pem(&self.pair.certificate, KeyPair::from_pem(&self.pair.key)?)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Pair {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// Everything one node and its owner need, in one directory.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    authority: Authority,
    server: Pair,
    name: String,
}

impl Identity {
    /// The identity kept in a directory, made there where it is missing.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        forget_outdated(dir)?;
        let authority = Authority::open(dir)?;
        let server = kept(dir, "server", || authority.server(name))?;
        let owner = kept(&dir.join("owner"), "client", || {
            authority.client(OWNER, "owner")
        })?;
        // The names that the docker CLI knows these files by.
        for (file, text) in [
            ("ca.pem", authority.certificate()),
            ("cert.pem", &owner.certificate),
            ("key.pem", &owner.key),
        ] {
            write_private(&dir.join("owner").join(file), text)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            authority,
            server,
            name: name.to_owned(),
        })
    }

    /// The directory with the owner's `ca.pem`, `cert.pem` and `key.pem`.
    pub fn owner_dir(&self) -> PathBuf {
        self.dir.join("owner")
    }

    /// What the node shows its clients.
    pub fn server(&self) -> &Pair {
        &self.server
    }

    /// Who signed it all.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The node's `hearth.toml`. Plain HTTP is allowed to the registries named.
    pub fn configuration(&self, insecure_registries: &[String]) -> String {
        format!(
            "[node]\nname = {:?}\n\n[identity]\nca = {}\ncertificate = {}\nkey = {}\n\n[registries]\ninsecure = {}\n",
            self.name,
            text(self.authority.certificate()),
            text(&self.server.certificate),
            text(&self.server.key),
            list(insecure_registries)
        )
    }

    /// The `hearth.toml` of a node of the cluster that is kept in the identity's directory, made there if there is none. Any number of
    /// nodes may boot with it; without a name each makes one of its own. The nodes' certificates are made by the cluster.
    pub fn cluster_configuration(
        &self,
        name: Option<&str>,
        addresses: &[String],
        insecure_registries: &[String],
    ) -> Result<String> {
        let cluster = Cluster::open(&self.dir, &self.authority)?;
        let node = name.map_or_else(String::new, |name| format!("[node]\nname = {name:?}\n\n"));
        Ok(format!(
            "{node}[identity]\nca = {}\n\n[cluster]\ntoken = {:?}\nissuer_certificate = {}\nissuer_key = {}\naddresses = {}\n\n[registries]\ninsecure = {}\n",
            text(self.authority.certificate()),
            cluster.token,
            text(&cluster.issuer.certificate),
            text(&cluster.issuer.key),
            list(addresses),
            list(insecure_registries)
        ))
    }
}

/// What the nodes of one cluster share.
#[derive(Debug)]
pub struct Cluster {
    /// What makes their certificates.
    pub issuer: Pair,
    /// What they know each other by.
    pub token: String,
}

impl Cluster {
    /// The one kept in a directory, made there if there is none.
    pub fn open(dir: &Path, authority: &Authority) -> Result<Self> {
        let issuer = kept(dir, "issuer", || authority.issuer())?;
        let path = dir.join("token");
        let token = match fs::read_to_string(&path) {
            Ok(token) => token,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; TOKEN_LEN];
                getrandom(&mut bytes, GetRandomFlags::empty())?;
                let token = hex::encode(bytes);
                write_private(&path, &token)?;
                token
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Self { issuer, token })
    }
}

/// A text of several lines in TOML.
fn text(pem: &str) -> String {
    format!("\"\"\"\n{pem}\"\"\"")
}

/// A list of strings in TOML.
fn list(strings: &[String]) -> String {
    let quoted: Vec<String> = strings.iter().map(|one| format!("{one:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Removes an identity whose CA allows no issuer below it, as earlier versions made it. It is a trial's: it and all that it has signed
/// are made anew.
fn forget_outdated(dir: &Path) -> Result<()> {
    let Ok(ca) = fs::read(dir.join("ca.pem")) else {
        return Ok(());
    };
    let outdated = x509_parser::pem::parse_x509_pem(&ca).is_ok_and(|(_, pem)| {
        pem.parse_x509().is_ok_and(|ca| {
            let constraints = ca.basic_constraints().ok().flatten();
            constraints.and_then(|found| found.value.path_len_constraint) == Some(0)
        })
    });
    if !outdated {
        return Ok(());
    }
    eprintln!(
        "    the CA in {} allows no cluster; it and its certificates are made anew",
        dir.display()
    );
    for pair in [dir.join("ca"), dir.join("server"), dir.join("owner/client")] {
        for file in [
            pair.with_extension("pem"),
            PathBuf::from(format!("{}-key.pem", pair.display())),
        ] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn parameters(name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organisation) = organisation {
        subject.push(DnType::OrganizationName, organisation);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = date_time_ymd(VALID_YEARS.0, 1, 1);
    params.not_after = date_time_ymd(VALID_YEARS.1, 1, 1);
    params
}

/// A pair from `NAME.pem` and `NAME-key.pem`, made and written there if it is missing.
fn kept(dir: &Path, name: &str, make: impl FnOnce() -> Result<Pair>) -> Result<Pair> {
    let certificate = dir.join(format!("{name}.pem"));
    let key = dir.join(format!("{name}-key.pem"));
    if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate), fs::read_to_string(&key))
    {
        return Ok(Pair { certificate, key });
    }
    let pair = make()?;
    fs::create_dir_all(dir)?;
    write_private(&key, &pair.key)?;
    write_private(&certificate, &pair.certificate)?;
    Ok(pair)
}

/// Readable by its owner only.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_of_an_earlier_version_is_made_anew_and_a_cluster_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = parameters("Hearth owner", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let old = params.self_signed(&key).unwrap().pem();
        fs::write(dir.path().join("ca.pem"), &old).unwrap();
        fs::write(dir.path().join("ca-key.pem"), key.serialize_pem()).unwrap();
        let first = Identity::open(dir.path(), "hearth-1").unwrap();
        assert_ne!(first.authority().certificate(), old);
        let configuration = first.cluster_configuration(None, &[], &[]).unwrap();
        let again = Identity::open(dir.path(), "hearth-1").unwrap();
        assert_eq!(
            again.authority().certificate(),
            first.authority().certificate()
        );
        assert_eq!(
            again.cluster_configuration(None, &[], &[]).unwrap(),
            configuration
        );
    }
}
