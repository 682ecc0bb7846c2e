//! What a node has besides where its owner has given it `[cluster]`: an identity, a port for its peers, and the ways to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::Failure;
use super::belongs::{self, Belongs};
use super::lock::Keeping;
use super::paths;
use super::removed;
use crate::agent::keeper::{self, Keeper};
use crate::agent::local::LocalAgent;
use crate::cluster::discovery::{Announced, Discovery};
use crate::cluster::finder::Finder;
use crate::cluster::identity::Identity;
use crate::cluster::join::Welcomed;
use crate::cluster::leases::Leases;
use crate::cluster::links;
use crate::cluster::lock::Lock;
use crate::cluster::service::{CERTIFICATE, Node as Service, Parts};
use crate::cluster::steward::{Placer, Steward};
use crate::cluster::tenant::{Pods, Tenant};
use crate::cluster::ways::{Asked, Asking, Ways};
use crate::config::{Cluster as Configured, Identity as Owner};
use crate::entropy;
use crate::image_peers;
use crate::lease::{BootTime, NodeLease, Timing};
use crate::network::Network;
use crate::network::mesh::Mesh;
use crate::peers::{self, MutualTls, Peers, Server, Tcp};
use crate::raft::{DiskThread, Observer, Replica, Start};
use crate::state::{NodeIs, NodeWanted, encoding};
use crate::trust::ClusterId;

/// The node's key and certificate.
pub const DIR: &str = "/data/cluster";
/// The keys that open them where they are locked: in RAM, so that they outlive control, and not the boot.
pub const UNLOCKED: &str = "/run/hearth/unlock";
/// The key for WireGuard: as above.
const RAM: &str = "/run/hearth";
/// Where earlier versions had it.
const OLD_WIREGUARD: &str = "/data/cluster/wireguard.key";
/// What a cluster has said that this node is to join.
const WELCOMED: &str = "/data/cluster/welcomed";
/// The node's label for where it stands.
const ZONE: &str = "zone";
/// Names by which a node is dialled from itself, and through a forwarded port: a trial's.
const LOCAL_NAME: &str = "localhost";
/// A member signs a certificate within this, or another is asked.
const SIGNED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at the machine's addresses, which change when a cable is pulled or a lease ends.
const ADDRESSES_CHECK: Duration = Duration::from_secs(60);

/// What runs on this node.
pub struct Runs {
    pub agent: Arc<LocalAgent>,
    pub keeper: Keeper,
    pub lease: NodeLease,
    pub images: hearth_image::Store,
}

/// See the module's page.
pub struct Member {
    configured: Configured,
    hostname: String,
    pub identity: Identity,
    service: Service,
    peers: Peers,
    server: Option<Server>,
    steward: Option<Steward>,
    /// From before this node waits for others on; None: its owner doesn't want it, or the machine can't.
    discovery: Option<Arc<Discovery>>,
    /// By which others send it pods' packets.
    wireguard: Option<[u8; 32]>,
    /// Rung when another cluster has taken this node in, or it has left its own.
    another: Arc<Notify>,
    /// Closed with this.
    serving: Vec<AbortOnDropHandle<()>>,
}

impl Member {
    /// With what its owner has given it. Nothing is open yet.
    pub fn new(
        owner: &Owner,
        configured: &Configured,
        hostname: &str,
        lock: Arc<Lock>,
    ) -> Result<Self, Failure> {
        let identity = Identity::open(DIR.as_ref(), owner, configured, lock)?;
        // An error: it isn't there.
        let _ = std::fs::remove_file(OLD_WIREGUARD);
        let peers = Peers::new(Arc::new(Tcp), Arc::new(MutualTls(identity.clone())));
        Ok(Self {
            configured: configured.clone(),
            hostname: hostname.to_owned(),
            service: Service::new(Arc::new(identity.clone())),
            identity,
            peers,
            server: None,
            steward: None,
            discovery: None,
            wireguard: None,
            another: Arc::default(),
            serving: Vec::new(),
        })
    }

    /// Opens this node's replica: of the cluster that has taken it in, that it is in, or of one of its own. Nobody may lead yet.
    pub async fn open_replica(
        &mut self,
        dir: &Path,
        observer: Arc<dyn Observer>,
    ) -> Result<Replica, Failure> {
        let welcomed = Welcomed::read(WELCOMED.as_ref())?;
        if let Some(welcomed) = &welcomed {
            Replica::forget_other(dir, welcomed.node)?;
            self.identity.keep(welcomed.chain.clone())?;
        }
        if let Some(node) = belongs::left(DIR.as_ref()) {
            // What it left stays with those that it has left.
            if Replica::forget_own(dir, node)? {
                Identity::forget(DIR.as_ref())?;
                self.identity.forget_member();
            }
        }
        let founds = match &welcomed {
            Some(_) => None,
            None => Some(own_address().map_or(String::new(), |address| address.to_string())),
        };
        let random = match &welcomed {
            Some(welcomed) => welcomed.node.0,
            None => u64::from_le_bytes(entropy::random()),
        };
        let start = Start {
            storage: dir.into(),
            random,
            founds,
            executor: Arc::new(DiskThread::start()?),
            transport: Arc::new(self.peers.clone()),
        };
        let replica = Replica::start(start, observer).await?;
        // What it has promised to others from here on is never forgotten.
        Welcomed::done(WELCOMED.as_ref())?;
        self.identity.follow(replica.clone());
        self.service.follow(replica.clone());
        if self.identity.member().is_none() {
            // It is alone: nobody to wait for.
            replica.led().await?;
            if let Err(error) = self.identity.found(&replica).await {
                tracing::warn!(%error, "this node has no cluster of its own, and looks for one to join");
                self.discover(&replica);
                return Ok(replica);
            }
            let cluster = ClusterId(replica.state().cluster.id);
            self.identity.certify(cluster, replica.node())?;
        }
        self.listen().await?;
        self.discover(&replica);
        Ok(replica)
    }

    /// Waits until somebody leads, and all is here that was ever acknowledged.
    pub async fn until_led(&self, replica: &Replica) -> Result<(), Failure> {
        loop {
            let error = tokio::select! {
                biased;
                failure = replica.failed() => return Err(failure.into()),
                led = replica.led() => match led {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            if replica.standing().members.is_empty() {
                // It has promised nobody anything yet.
                tracing::error!(%error, "the cluster that has taken this node in isn't there any more: it looks for another");
                replica.close().await;
                Replica::forget_own(super::RAFT.as_ref(), replica.node())?;
                Identity::forget(DIR.as_ref())?;
                return Err("this node begins anew".into());
            }
            tracing::error!(%error, "this node waits for the others of its cluster: without most of those that vote nothing can be decided");
        }
    }

    async fn listen(&mut self) -> Result<(), Failure> {
        let server = Server::new(
            Arc::new(self.service.clone()),
            Arc::new(MutualTls(self.identity.clone())),
        );
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, peers::PORT)).await?;
        tracing::info!(port = peers::PORT, "listening for nodes of the cluster");
        self.server = Some(server.clone());
        self.serve(async move { server.serve(listener).await });
        Ok(())
    }

    /// Tells others on the link where this node is, and looks where they are: by that they find each other again when all of them have other
    /// addresses than they had.
    fn discover(&mut self, replica: &Replica) {
        if !self.configured.discovery {
            return;
        }
        let tag = self.identity.discovery_tag();
        let discovery = match Discovery::start(tag, &self.hostname, peers::PORT) {
            Ok(discovery) => Arc::new(discovery),
            Err(error) => {
                tracing::error!(%error, "name other nodes in addresses under [cluster]");
                return;
            }
        };
        let own = Announced::of(replica.node(), &replica.state());
        // Who doesn't know yet what its cluster holds, or has left one, is no cluster to be joined.
        let is_known = own.cluster != [0; 16] && belongs::left(DIR.as_ref()).is_none();
        if is_known && let Err(error) = discovery.announce(&own) {
            tracing::warn!(%error, "announcing this node");
        }
        let looked_at = Arc::downgrade(&discovery);
        self.peers.look_where_seen(Box::new(move |node| {
            let discovery = looked_at.upgrade();
            discovery.map_or_else(Vec::new, |discovery| discovery.addresses_of(node))
        }));
        self.discovery = Some(discovery);
    }

    fn serve(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.serving
            .push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    /// The ways between this node's pods and others'; None: this machine can't have them. Returns what keeps them true to the state.
    pub fn mesh(&mut self, network: &Network, replica: &Replica) -> Option<Arc<dyn Observer>> {
        match Mesh::start(network, replica.node(), RAM.as_ref()) {
            Ok(mesh) => {
                self.wireguard = Some(mesh.public_key());
                let (task, waker) = paths::keep(mesh, replica.clone());
                self.serve(task);
                Some(waker)
            }
            Err(error) => {
                tracing::error!(%error, "pods of other nodes are out of reach");
                None
            }
        }
    }

    /// Ends what goes on with nodes that were removed; returns what hears of them.
    pub fn close_removed(&mut self) -> Arc<dyn Observer> {
        let (task, waker) = removed::close(self.peers.clone(), self.server.clone());
        self.serve(task);
        Arc::new(waker)
    }

    /// The connections to the others.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Ends with this.
    pub fn along(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.serve(task);
    }

    /// The ways to the others.
    pub fn ways(&self, replica: &Replica) -> Ways {
        Ways::new(self.peers.clone(), replica.clone())
    }

    /// What others are told of it, besides what it is by itself.
    pub fn is(&self, is: NodeIs) -> NodeIs {
        let mut labels = self.configured.labels.clone();
        if let Some(zone) = &self.configured.zone {
            labels.insert(ZONE.to_owned(), zone.clone());
        }
        NodeIs {
            address: own_address(),
            wireguard: self.wireguard,
            labels,
            ..is
        }
    }

    /// Certificates for clients, where its owner has given it none; made anew when addresses change or they are about to end. Returns once
    /// there is one.
    pub fn certify_server(&self) -> Result<(), Failure> {
        let mut addresses = links::addresses();
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let names = [
            self.hostname.clone(),
            format!("{}.local", self.hostname),
            LOCAL_NAME.to_owned(),
        ];
        Ok(self.identity.certify_server(&names, &addresses)?)
    }

    /// Answers others from here on, keeps the lease of what runs here, and does what the cluster's leader does where this node is that.
    /// Called once what ran here was taken up, and the node has said what it is.
    pub fn begin(&mut self, replica: &Replica, runs: Runs) {
        let Runs {
            agent,
            keeper,
            lease,
            images,
        } = runs;
        let leases = Leases::new(replica.clone(), Arc::new(BootTime::now), Timing::STANDARD);
        let asking = Asking {
            ways: self.ways(replica),
            own: Arc::clone(&leases),
        };
        let pods = Pods {
            agent: Arc::clone(&agent),
            keeper,
        };
        let tenant = Tenant::new(
            replica.clone(),
            lease,
            Arc::new(asking),
            Arc::new(pods),
            Timing::STANDARD,
        );
        self.service.begin(Parts {
            leases: Arc::<Leases>::clone(&leases),
            tenant: Arc::clone(&tenant),
            agent: Arc::new(Asked(agent)),
            images: Arc::new(image_peers::Served::new(images)),
        });
        self.serve(leases.run());
        self.serve(tenant.run());
        if let Some(steward) = self.steward.take() {
            self.serve(steward.run());
        }
    }

    /// Who sees to the cluster where this node leads; it does so from [`Member::begin`] on. Returns what wakes it.
    pub fn steward(&mut self, replica: &Replica, placer: Arc<dyn Placer>) -> Arc<dyn Observer> {
        let (steward, waker) = Steward::new(replica.clone(), placer);
        self.steward = Some(steward);
        waker
    }

    /// What its API asks of it as a member.
    pub fn belongs(&self, replica: &Replica, is: NodeIs) -> Belongs {
        Belongs {
            identity: self.identity.clone(),
            replica: replica.clone(),
            peers: self.peers.clone(),
            server: self.server.clone(),
            dir: DIR.into(),
            welcomed: WELCOMED.into(),
            is: self.is(is),
            door: Arc::clone(&self.service.door),
            another: Arc::clone(&self.another),
        }
    }

    /// Keeps what is secret on the disk sealed as the state says.
    pub fn lock(&self, replica: &Replica) -> Keeping {
        Keeping {
            identity: self.identity.clone(),
            replica: replica.clone(),
            ways: self.ways(replica),
        }
    }

    /// Looks for a cluster to join, is found by others, and keeps what it has told them and what it shows them true. Returns once another
    /// cluster has taken this node in, and a new process is to begin there.
    pub async fn mingle(&self, replica: &Replica, is: NodeIs) -> Result<(), Failure> {
        let addresses = self.configured.addresses.iter();
        let finder = Finder {
            identity: self.identity.clone(),
            replica: replica.clone(),
            addresses: addresses
                .map(|at| match at.host.contains(':') {
                    true => format!("[{}]:{}", at.host, at.port),
                    false => format!("{}:{}", at.host, at.port),
                })
                .collect(),
            discovery: self.discovery.clone(),
            is: self.is(is.clone()),
            wanted: NodeWanted::default(),
            door: Arc::clone(&self.service.door),
        };
        let find = async {
            if belongs::left(DIR.as_ref()).is_some() {
                std::future::pending::<()>().await;
            }
            finder.run(WELCOMED.as_ref()).await
        };
        tokio::select! {
            found = find => Ok(found?),
            () = self.another.notified() => Ok(()),
            never = self.stay_true(replica, is) => never,
        }
    }

    async fn stay_true(&self, replica: &Replica, is: NodeIs) -> Result<(), Failure> {
        let mut known = links::addresses();
        loop {
            let aged = tokio::select! {
                () = tokio::time::sleep(ADDRESSES_CHECK) => false,
                () = self.identity.aged() => true,
            };
            let now = links::addresses();
            if now == known && !aged {
                continue;
            }
            if now != known {
                let join = super::joins(replica.node(), self.is(is.clone()));
                keeper::commit(replica, join).await;
            }
            known = now;
            let cluster = ClusterId(replica.state().cluster.id);
            if let Err(error) = self.certify_peer(cluster, replica).await {
                tracing::error!(%error, "this node's certificate for its peers could not be made anew");
            }
            if let Err(error) = self.certify_server() {
                tracing::error!(%error, "this node's certificate for clients could not be made anew");
            }
        }
    }

    /// By this node itself; where it can't open the issuer (it has joined by a token of a cluster whose file it doesn't have), by a
    /// member that can.
    async fn certify_peer(&self, cluster: ClusterId, replica: &Replica) -> Result<(), Failure> {
        let own = replica.node();
        let Err(error) = self.identity.certify(cluster, own) else {
            return Ok(());
        };
        let request = Bytes::from(self.identity.request()?);
        for (node, address) in replica.standing().members {
            if node == own {
                continue;
            }
            let asked =
                self.peers
                    .call(node, &address, CERTIFICATE, request.clone(), SIGNED_WITHIN);
            let Ok(answer) = asked.await else { continue };
            if let Ok(chain) = encoding::decode::<Vec<Vec<u8>>>(&answer) {
                return Ok(self.identity.keep(chain)?);
            }
        }
        Err(error.into())
    }
}

/// Where peers reach this node; None: it has no address yet.
fn own_address() -> Option<SocketAddr> {
    let first = links::addresses().into_iter().next()?;
    Some(SocketAddr::new(first, peers::PORT))
}
