//! What a node of a cluster shows others, and whom it believes: everything in [`crate::trust`], put together for one node.
//!
//! A node that is in a cluster has a certificate for its peers on its disk, so that it can meet them before it has heard from any.
//! Everything else it makes by itself: the issuer is in the replicated state, and whoever has the owner's token can open it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig};

use super::lock::{Lock, LockError};
use super::service::Issues;
use crate::config::{Cluster as Configured, Identity as Owner};
use crate::peers::{AsStranger, Greet, Trust};
use crate::raft::Replica;
use crate::state::{Cluster, Command, NodeId, encoding};
use crate::trust::{
    Anchor, ClusterId, ClusterSecret, Credentials, Issuer, IssuerDigest, NodeKey, Peer, Peering,
    SealKey, Secret, Token, UnlockKey, issuer_digest, join_client_config, peer_in, renew_at,
};

/// The certificate by which peers know this node, and those between it and the owner's: a sequence of DER in CBOR.
const CHAIN: &str = "peer.chain";
/// What a node shows clients while it is locked, in a folder of its own: a key that is good for nothing else, and its certificate. Only where
/// the cluster is locked.
const DOOR: &str = "door";
/// The certificate there, as [`CHAIN`].
const DOOR_CHAIN: &str = "server.chain";
/// When renewing has failed, the next attempt: two thirds of a certificate's life are left for it.
const RENEW_RETRY: Duration = Duration::from_secs(60 * 60);

/// What a node is told that has nothing but its owner's file to join a locked cluster by.
const LOCKED: &str = "the cluster is locked (`docker swarm update --autolock`), and takes in no node for its hearth.toml alone: have this one join by `docker swarm join`, with a token that `docker swarm join-token worker` shows on a node of the cluster";

/// Why a node can't be one of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What its owner has given it can't be used.
    #[error("{0}")]
    Configuration(String),
    /// The disk.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither the configuration nor the cluster has an issuer that this node can use.
    #[error(
        "this node can make no certificates: {0}; give it issuer_key under [cluster], or let it join a cluster that has it"
    )]
    NoIssuer(String),
    /// Something else of it.
    #[error("{0}")]
    Failed(String),
}

/// See the module's page. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    ca: String,
    issuer_certificate: String,
    secret: ClusterSecret,
    lock: Arc<Lock>,
    /// What clients dial this node by.
    dialled: Mutex<(Vec<String>, Vec<IpAddr>)>,
    digest: IssuerDigest,
    anchor: Arc<Anchor>,
    key: NodeKey,
    dir: PathBuf,
    time: Arc<dyn TimeProvider>,
    /// What peers are shown.
    peer: Arc<Credentials>,
    /// What clients are shown.
    server: Arc<Credentials>,
    /// The one in the configuration, or else the one in the state, once it was needed.
    issuer: RwLock<Option<Arc<Issuer>>>,
    /// Known once the node is in a cluster.
    member: RwLock<Option<Peer>>,
    replica: OnceLock<Replica>,
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn failed(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Failed(error.to_string())
}

impl Identity {
    /// From what its owner has given the node, and what lies in `dir`: its key, behind the lock, which is open; and its certificate if it is
    /// in a cluster. Blocks.
    pub fn open(
        dir: &Path,
        owner: &Owner,
        cluster: &Configured,
        lock: Arc<Lock>,
    ) -> Result<Self, IdentityError> {
        let bad = |error: &dyn std::fmt::Display| IdentityError::Configuration(error.to_string());
        let secret = ClusterSecret::new(&cluster.token).map_err(|e| bad(&e))?;
        let unreadable = || bad(&"hearth.toml: issuer_certificate under [cluster] can't be read");
        let certificate = CertificateDer::from_pem_slice(cluster.issuer_certificate.as_bytes())
            .map_err(|_| unreadable())?;
        let digest = issuer_digest(&certificate).ok_or_else(unreadable)?;
        let anchor = Anchor::new(&owner.ca, [digest]).map_err(|e| bad(&e))?;
        let issuer = match &cluster.issuer_key {
            Some(key) => Some(
                Issuer::parse(&cluster.issuer_certificate, key, &owner.ca, now())
                    .map_err(|e| bad(&e))?,
            ),
            None => None,
        };
        let identity = Self(Arc::new(Inner {
            ca: owner.ca.clone(),
            issuer_certificate: cluster.issuer_certificate.clone(),
            secret,
            key: lock.node_key().map_err(failed)?,
            lock,
            dialled: Mutex::default(),
            digest,
            anchor: Arc::new(anchor),
            dir: dir.to_owned(),
            time: Arc::new(DefaultTimeProvider),
            peer: Arc::default(),
            server: Arc::default(),
            issuer: RwLock::new(issuer.map(Arc::new)),
            member: RwLock::default(),
            replica: OnceLock::new(),
        }));
        let path = dir.join(CHAIN);
        match fs::read(&path) {
            Ok(bytes) => {
                let chain: Vec<Vec<u8>> = encoding::decode(&bytes).map_err(failed)?;
                identity.show_peer(chain)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(IdentityError::File { path, source }),
        }
        Ok(identity)
    }

    /// The replica of this node, once it is open: who was removed is let in no more, and the issuer is there.
    pub fn follow(&self, replica: Replica) {
        // A second call has no effect, which its caller would find out at once.
        let _ = self.0.replica.set(replica);
    }

    /// The cluster and the node that its certificate names. None: it is in no cluster yet.
    pub fn member(&self) -> Option<Peer> {
        *self.0.member.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What clients of the APIs are shown.
    pub fn server_credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.0.server)
    }

    /// What a node with this stick shows to join.
    pub fn token(&self) -> Token {
        self.0.secret.token(self.0.digest)
    }

    /// What nodes with this stick know each other by on their link.
    pub fn discovery_tag(&self) -> [u8; 16] {
        self.0.secret.discovery_tag()
    }

    /// A request for a certificate of this node's key, PKCS #10 in DER.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        self.0.key.request().map_err(failed)
    }

    /// For one who has no certificate yet: whoever has one by the cluster's issuer may be shown the token.
    pub fn stranger(&self) -> impl Greet + use<> {
        AsStranger {
            config: Arc::new(join_client_config(Arc::clone(&self.0.anchor), &self.0.time)),
            node_of: node_of_chain,
        }
    }

    /// The cluster is founded, if it isn't yet: it gets its id, its issuer and its tokens.
    pub async fn found(&self, replica: &Replica) -> Result<(), IdentityError> {
        let known = replica.state().cluster.clone();
        if known.id != [0; 16] {
            return Ok(());
        }
        let issuer = self.issuer()?;
        let seal = self.seal(&known)?;
        let token = || {
            let token = Token::new(self.0.digest, Secret::random());
            token.seal(&seal)
        };
        let founded = Cluster {
            id: ClusterId::random().0,
            created_ns: crate::clock::now_ns(),
            issuer: issuer.seal(&seal),
            tokens: [token(), token()],
            ..known.clone()
        };
        let command = Command::SetCluster {
            from: Box::new(known),
            to: Box::new(founded),
        };
        let founded = replica.propose(command).await.map_err(failed)?;
        founded.map(drop).map_err(failed)
    }

    /// This node's certificate for peers is made by itself, where it has none of this cluster or that one is to be renewed.
    pub fn certify(&self, cluster: ClusterId, node: NodeId) -> Result<(), IdentityError> {
        let own = Peer { cluster, node };
        let shown = self.0.peer.certificate();
        let good = shown.and_then(|shown| renew_at(&shown));
        if self.member() == Some(own) && good.is_some_and(|at| now() < at) {
            return Ok(());
        }
        let issuer = self.issuer()?;
        let request = self.request()?;
        let chain = issuer.sign_peer(&request, cluster, node, now());
        let chain = chain.map_err(failed)?;
        self.keep(chain.iter().map(|one| one.to_vec()).collect())
    }

    /// What clients are shown is made by this node itself, for these names and addresses.
    pub fn certify_server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<(), IdentityError> {
        *self
            .0
            .dialled
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (names.to_vec(), addresses.to_vec());
        let request = self.request()?;
        let chain = self
            .issuer()?
            .sign_server(&request, names, addresses, now())
            .map_err(failed)?;
        self.0.server.show(chain, &self.0.key).map_err(failed)?;
        self.keep_door();
        Ok(())
    }

    /// What is shown at the door of a locked node is there, and no older than what is shown now; or isn't, where nothing is locked.
    pub fn keep_door(&self) {
        let locked = self.0.replica.get();
        let locked = locked.is_some_and(|replica| replica.state().cluster.lock.is_some());
        let folder = self.0.dir.join(DOOR);
        if !locked {
            // An error: there is none.
            let _ = fs::remove_dir_all(folder);
            return;
        }
        if let Err(error) = self.make_door(&folder) {
            tracing::error!(%error, "this node can't be unlocked by its API after a boot, unless it has certificate and key under [identity]");
        }
    }

    fn make_door(&self, folder: &Path) -> Result<(), IdentityError> {
        let key = NodeKey::load_or_make(folder).map_err(failed)?;
        let (names, addresses) = self
            .0
            .dialled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let request = key.request().map_err(failed)?;
        let chain = self
            .issuer()?
            .sign_server(&request, &names, &addresses, now());
        let chain = chain.map_err(failed)?;
        write_chain(
            &folder.join(DOOR_CHAIN),
            &chain.iter().map(|one| one.to_vec()).collect(),
        )
    }

    /// What a locked node shows clients.
    pub fn door(dir: &Path) -> Result<Arc<Credentials>, IdentityError> {
        let folder = dir.join(DOOR);
        let path = folder.join(DOOR_CHAIN);
        let bytes = fs::read(&path).map_err(|source| IdentityError::File { path, source })?;
        let chain: Vec<Vec<u8>> = encoding::decode(&bytes).map_err(failed)?;
        let key = NodeKey::load_or_make(&folder).map_err(failed)?;
        let shown = Arc::<Credentials>::default();
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        shown.show(chain, &key).map_err(failed)?;
        Ok(shown)
    }

    /// What is behind the lock.
    pub fn lock(&self) -> &Lock {
        &self.0.lock
    }

    /// The disk is made what the state says; false: this node doesn't have the key that counts. Blocks.
    pub fn settle_lock(&self) -> Result<bool, LockError> {
        let replica = self.0.replica.get();
        let check = replica.and_then(|replica| replica.state().cluster.lock);
        self.0.lock.settle(check.as_ref(), &self.0.key)
    }

    /// What the secrets of a cluster are sealed with.
    fn seal(&self, cluster: &Cluster) -> Result<SealKey, IdentityError> {
        let Some(check) = &cluster.lock else {
            return Ok(self.0.secret.seal_key());
        };
        let key = self.0.lock.key(check);
        let none = || failed("the cluster is locked, and this node has yet to be told its key");
        Ok(key.ok_or_else(none)?.seal_key())
    }

    /// The cluster's secrets sealed by another lock, or by none.
    pub fn relock(
        &self,
        cluster: &Cluster,
        to: Option<&UnlockKey>,
    ) -> Result<Cluster, IdentityError> {
        let old = self.seal(cluster)?;
        let new = to.map_or_else(|| self.0.secret.seal_key(), UnlockKey::seal_key);
        let issuer = Issuer::unseal(&old, &cluster.issuer, &self.0.ca, now());
        let mut relocked = Cluster {
            issuer: issuer.map_err(failed)?.seal(&new),
            lock: to.map(UnlockKey::check),
            ..cluster.clone()
        };
        for token in &mut relocked.tokens {
            *token = Token::unseal(&old, token).map_err(failed)?.seal(&new);
        }
        Ok(relocked)
    }

    /// A certificate that a cluster has made for this node, kept on the disk and shown from now on.
    pub fn keep(&self, chain: Vec<Vec<u8>>) -> Result<(), IdentityError> {
        write_chain(&self.0.dir.join(CHAIN), &chain)?;
        self.show_peer(chain)
    }

    /// Forgets the cluster that it was in: the next certificate is of another.
    pub fn forget(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(CHAIN)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// It is in no cluster any more.
    pub fn forget_member(&self) {
        *self
            .0
            .member
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The certificate of who makes the nodes' certificates, and those between it and the owner's CA; PEM.
    pub fn issuer_certificate(&self) -> &str {
        &self.0.issuer_certificate
    }

    /// Waits until what is shown to peers or clients is to be renewed.
    pub async fn aged(&self) {
        let ends = [&self.0.peer, &self.0.server].map(|credentials| {
            let shown = credentials.certificate();
            shown.and_then(|shown| renew_at(&shown))
        });
        let first = ends.into_iter().flatten().min();
        let left = first.map_or(0, |at| at.as_secs().saturating_sub(now().as_secs()));
        tokio::time::sleep(Duration::from_secs(left).max(RENEW_RETRY)).await;
    }

    fn show_peer(&self, chain: Vec<Vec<u8>>) -> Result<(), IdentityError> {
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(Into::into).collect();
        let own = peer_in(Some(&chain)).map_err(failed)?;
        self.0.peer.show(chain, &self.0.key).map_err(failed)?;
        *self
            .0
            .member
            .write()
            .unwrap_or_else(PoisonError::into_inner) = own;
        Ok(())
    }

    fn issuer(&self) -> Result<Arc<Issuer>, IdentityError> {
        let known = self
            .0
            .issuer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(issuer) = known {
            return Ok(issuer);
        }
        let none = |why: &str| IdentityError::NoIssuer(why.to_owned());
        let replica = self.0.replica.get();
        let cluster = replica.map(|replica| replica.state().cluster.clone());
        let cluster = cluster.filter(|cluster| !cluster.issuer.is_empty());
        let cluster = cluster.ok_or_else(|| none("it is in no cluster that has an issuer"))?;
        let issuer = Issuer::unseal(&self.seal(&cluster)?, &cluster.issuer, &self.0.ca, now())
            .map_err(|e| none(&e.to_string()))?;
        let issuer = Arc::new(issuer);
        *self
            .0
            .issuer
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&issuer));
        Ok(issuer)
    }

    /// The tokens by which nodes join by hand: a worker's, a manager's. None: this node is in no cluster.
    pub fn tokens(&self) -> Option<[Token; 2]> {
        let cluster = self.0.replica.get()?.state().cluster.clone();
        let seal = self.seal(&cluster).ok()?;
        let [worker, manager] = cluster
            .tokens
            .map(|sealed| Token::unseal(&seal, &sealed).ok());
        Some([worker?, manager?])
    }

    /// A new token in sealed form, as the state keeps it.
    pub fn new_token(&self, cluster: &Cluster) -> Result<Vec<u8>, IdentityError> {
        let seal = self.seal(cluster)?;
        Ok(Token::new(self.0.digest, Secret::random()).seal(&seal))
    }

    fn peering(&self) -> Peering {
        let replica = self.0.replica.get().cloned();
        let removed = move |peer: &Peer| {
            let replica = replica.as_ref();
            replica.is_some_and(|it| it.state().cluster.removed.contains(&peer.node))
        };
        Peering {
            anchor: Arc::clone(&self.0.anchor),
            // Of one that is in no cluster yet: nobody's.
            cluster: self.member().map_or(ClusterId([0; 16]), |own| own.cluster),
            credentials: Arc::clone(&self.0.peer),
            time: Arc::clone(&self.0.time),
            revoked: Arc::new(removed),
        }
    }
}

fn write_chain(path: &Path, chain: &Vec<Vec<u8>>) -> Result<(), IdentityError> {
    let written = || {
        let beside = path.with_extension("new");
        fs::write(&beside, encoding::encode(chain).map_err(io::Error::other)?)?;
        fs::File::open(&beside)?.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    written().map_err(|source| IdentityError::File {
        path: path.to_owned(),
        source,
    })
}

/// Who a node is whose files are in `dir`, by its certificate.
pub fn member_in(dir: &Path) -> Option<Peer> {
    let bytes = fs::read(dir.join(CHAIN)).ok()?;
    let chain: Vec<Vec<u8>> = encoding::decode(&bytes).ok()?;
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(Into::into).collect();
    peer_in(Some(&chain)).ok()?
}

fn node_of_chain(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String> {
    let peer = peer_in(chain).map_err(|e| e.to_string())?;
    Ok(peer.map(|peer| peer.node))
}

impl Trust for Identity {
    fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(self.peering().server_config())
    }

    fn client_config(&self, node: NodeId) -> (Arc<ClientConfig>, ServerName<'static>) {
        let peering = self.peering();
        let peer = Peer {
            cluster: peering.cluster,
            node,
        };
        (Arc::new(peering.client_config()), peer.server_name())
    }

    fn node_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String> {
        node_of_chain(chain)
    }
}

impl Issues for Identity {
    fn check_token(&self, token: &str) -> Result<bool, String> {
        let shown: Token = token.parse().map_err(|e| format!("{e}"))?;
        let own = self.token();
        let unattended = shown.verify(&own.issuer(), &own.secret().hash());
        let locked = self.0.replica.get();
        let locked = locked.is_some_and(|replica| replica.state().cluster.lock.is_some());
        let refused = match unattended {
            Ok(()) if locked => return Err(LOCKED.to_owned()),
            Ok(()) => return Ok(true),
            Err(refused) => refused,
        };
        let tokens = self.tokens().into_iter().flatten();
        let mut manager = false;
        for known in tokens {
            let verified = shown.verify(&known.issuer(), &known.secret().hash());
            if verified.is_ok() {
                return Ok(manager);
            }
            manager = true;
        }
        Err(refused.to_string())
    }

    fn sign(&self, node: NodeId, csr: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let own = self.member().ok_or("this node is in no cluster")?;
        let issuer = self.issuer().map_err(|e| e.to_string())?;
        let chain = issuer
            .sign_peer(csr, own.cluster, node, now())
            .map_err(|e| e.to_string())?;
        Ok(chain.iter().map(|one| one.to_vec()).collect())
    }

    fn unlock_key(&self) -> Option<String> {
        let check = self.0.replica.get()?.state().cluster.lock?;
        Some(self.0.lock.key(&check)?.to_string())
    }
}
