//! Owners, issuers and nodes of them, and what they are to each other in real handshakes.

mod handshakes;
mod issuing;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::*;
use crate::state::NodeId;

/// 2030-01-01.
const NOW: u64 = 1_893_456_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A clock that is set by hand.
#[derive(Debug)]
struct Clock(AtomicU64);

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NOW)))
    }

    fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    fn now(&self) -> UnixTime {
        at(self.0.load(Ordering::Relaxed))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

/// Somebody's CA.
struct Owner {
    signer: rcgen::Issuer<'static, KeyPair>,
    ca: String,
}

/// What an issuer is to be like; the default is a right one.
#[derive(Clone)]
struct Shape {
    purposes: Vec<ExtendedKeyUsagePurpose>,
    is_ca: IsCa,
    until: i32,
    subject: Vec<(DnType, &'static str)>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, peers()],
            is_ca: IsCa::Ca(BasicConstraints::Constrained(0)),
            until: 2040,
            subject: vec![(DnType::CommonName, "issuer")],
        }
    }
}

fn peers() -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(PEER_USAGE_ARCS.to_vec())
}

impl Owner {
    fn new() -> Self {
        Self::with(BasicConstraints::Unconstrained)
    }

    fn with(constraints: BasicConstraints) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(constraints);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "owner");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        Self {
            signer: rcgen::Issuer::new(params, key),
            ca,
        }
    }

    /// Certificate and key, PEM.
    fn pair(&self, shape: &Shape) -> (String, String) {
        let mut params = CertificateParams::default();
        params.is_ca = shape.is_ca;
        params.extended_key_usages = shape.purposes.clone();
        params.not_after = rcgen::date_time_ymd(shape.until, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in &shape.subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.signer).unwrap().pem();
        (certificate, key.serialize_pem())
    }

    fn try_issuer(&self, shape: &Shape) -> Result<Issuer, IssuerError> {
        let (certificate, key) = self.pair(shape);
        Issuer::parse(&certificate, &key, &self.ca, at(NOW))
    }

    fn issuer(&self) -> Issuer {
        self.try_issuer(&Shape::default()).unwrap()
    }
}

/// A node with its key, and what it meets others with.
struct Node {
    peer: Peer,
    key: NodeKey,
    peering: Peering,
}

impl Node {
    fn new(owner: &Owner, issuer: &Issuer, cluster: u8, node: u64, clock: &Arc<Clock>) -> Self {
        let peer = Peer {
            cluster: ClusterId([cluster; 16]),
            node: NodeId(node),
        };
        let key = NodeKey::generate().unwrap();
        let peering = Peering {
            anchor: Arc::new(Anchor::new(&owner.ca, [issuer.digest()]).unwrap()),
            cluster: peer.cluster,
            credentials: Arc::default(),
            time: Arc::<Clock>::clone(clock),
            revoked: Arc::new(|_| false),
        };
        let node = Self { peer, key, peering };
        node.renew(issuer, clock);
        node
    }

    fn renew(&self, issuer: &Issuer, clock: &Clock) {
        let chain = issuer
            .sign_peer(
                &self.key.request().unwrap(),
                self.peer.cluster,
                self.peer.node,
                clock.now(),
            )
            .unwrap();
        self.peering.credentials.show(chain, &self.key).unwrap();
    }
}
