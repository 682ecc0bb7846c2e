//! The owner's trust anchor for trials and tests: a CA, clients' certificates, nodes' certificates, and the `hearth.toml` that
//! hands them to a node.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// Organisation in the certificate of whoever owns the nodes.
pub const OWNER: &str = "owner";

/// Years between which certificates are valid: wide, for a node without a clock must still be reachable.
const VALID_YEARS: (i32, i32) = (2020, 2049);

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
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
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

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
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
        let registries: Vec<String> = insecure_registries
            .iter()
            .map(|registry| format!("{registry:?}"))
            .collect();
        format!(
            "[node]\nname = {:?}\n\n[identity]\nca = \"\"\"\n{}\"\"\"\ncertificate = \"\"\"\n{}\"\"\"\nkey = \"\"\"\n{}\"\"\"\n\n\
             [registries]\ninsecure = [{}]\n",
            self.name,
            self.authority.certificate(),
            self.server.certificate,
            self.server.key,
            registries.join(", ")
        )
    }
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
