//! The whole of a node's control: wired together, run, and taken down in order.

mod belongs;
mod lock;
mod locked;
mod member;
mod paths;
mod removed;
mod revoked;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use hearth_template::{SMALL_BYTES, WRITABLE_BYTES};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::SetOnce;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::keeper::{self, Keeper};
use crate::agent::local::{LocalAgent, LocalConfig, Paths};
use crate::agent::{Agent, Agents, NodeInfo};
use crate::api;
use crate::clock::now_ns;
use crate::cluster::lock::Lock;
use crate::config::{self, Boot, Identity, Owner};
use crate::controller::{Controller, Quotas, Reporter, Watchers};
use crate::entropy;
use crate::image_peers;
use crate::lease::{BootTime, Deadline, NodeLease};
use crate::network::{Network, NetworkConfig};
use crate::raft::{Observer, Replica};
use crate::reserve;
use crate::state::{
    Command, FEATURES, Health, NodeId, NodeIs, NodeWanted, Placed, Refusal, address,
};
use locked::Ended;
use member::{Member, Runs};
use revoked::Revoked;

/// Where the Docker API listens, on every address of the node.
const DOCKER_PORT: u16 = 2376;
const OWNER_CONFIG: &str = "/run/hearth/hearth.toml";
const BOOT_FACTS: &str = "/run/hearth/node.toml";
/// Made by the first control process after the node's boot.
const SINCE_BOOT: &str = "/run/hearth/control.started";
/// In RAM: it outlives control, and not the boot.
const LEASE: &str = "/run/hearth/lease";
const DATA: &str = "/data";
const RAFT: &str = "/data/raft";
const IMAGES: &str = "/data/images";

/// Why a node's control could not start.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What comes after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The node goes down.
    Down,
    /// Another cluster has taken this node in: another run begins there.
    Another,
}

/// Runs until SIGTERM; then stops the containers, and returns when everything is written.
pub async fn run() -> Result<Next, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let owner: Owner = config::read(OWNER_CONFIG.as_ref())?;
    let boot: Boot = config::read(BOOT_FACTS.as_ref())?;
    if let Err(error) = reserve::keep(DATA.as_ref(), RAFT.as_ref()) {
        tracing::error!(%error, "no room is kept for the state of this node: a full disk stops its commits");
    }
    let (lock, listener) = match (&owner.identity, &owner.cluster) {
        (Some(_), Some(_)) => {
            std::fs::create_dir_all(member::DIR)?;
            let lock = Lock::open(member::DIR.as_ref(), member::UNLOCKED.as_ref())?;
            let lock = Arc::new(lock);
            match locked::wait(&lock, &owner, &boot, &mut terminate).await? {
                Ended::Opened(listener) => (Some(lock), listener),
                Ended::Left => return Ok(Next::Another),
                Ended::Down => return Ok(Next::Down),
            }
        }
        _ => (None, None),
    };
    let network = Network::start(NetworkConfig {
        pods: address::NETWORK,
        prefix: address::PREFIX,
        gateway: address::GATEWAY,
    })?;
    let watchers = Arc::new(Watchers::default());
    let mut member = match (&owner.identity, &owner.cluster, lock) {
        (Some(identity), Some(cluster), Some(lock)) => {
            Some(Member::new(identity, cluster, &boot.hostname, lock)?)
        }
        _ => None,
    };
    let observer = Arc::<Watchers>::clone(&watchers);
    let replica = match &mut member {
        Some(member) => member.open_replica(RAFT.as_ref(), observer).await?,
        None => {
            let random = u64::from_le_bytes(entropy::random());
            Replica::open(RAFT.as_ref(), random, observer).await?
        }
    };
    tracing::info!(
        node = format!("{:x}", replica.node().0),
        revision = replica.state().revision,
        "state restored"
    );
    let revoked = owner.identity.as_ref();
    let revoked = revoked.map(|identity| Revoked::new(identity, &replica));
    let mut port = Port {
        listener,
        ready: Arc::new(SetOnce::new()),
    };
    let ready = Arc::clone(&port.ready);
    let mut along = Vec::new();
    // Clients may come: they hear what this node waits for.
    let mut serving = port.open(&owner, member.as_ref(), revoked.as_ref()).await?;
    if let Some(member) = &member {
        tokio::select! {
            _ = terminate.recv() => {
                replica.close().await;
                return Ok(Next::Down);
            }
            led = member.until_led(&replica) => led?,
        }
        let lock = member.lock(&replica);
        tokio::select! {
            // Without the key that counts it can make no certificates.
            () = lock.settle() => {}
            _ = terminate.recv() => {
                replica.close().await;
                return Ok(Next::Down);
            }
        }
        if serving.is_none() {
            // What it lacked may have come with the state.
            serving = port.open(&owner, Some(member), revoked.as_ref()).await?;
        }
    }
    let used = replica.state().cluster.features;
    if used > FEATURES {
        let (cluster, node) = (used, FEATURES);
        return Err(Refusal::TooOld { cluster, node }.into());
    }
    let mut observers: Vec<Arc<dyn Observer>> = Vec::new();
    if let Some(Ok(revoked)) = &revoked {
        observers.push(revoked.waker());
    }
    if let Some(member) = &mut member {
        let (task, waker) = member.lock(&replica).keep();
        member.along(task);
        observers.push(waker);
        observers.push(member.close_removed());
        observers.extend(member.mesh(&network, &replica));
    }
    let options = hearth_image::StoreOptions {
        insecure_registries: owner.registries.insecure.clone(),
        dns_servers: boot.dns.clone(),
        keep_layers: boot.storage != "ram",
        ..hearth_image::StoreOptions::default()
    };
    let images = hearth_image::Store::open(IMAGES.as_ref(), options).await?;
    let reporter = Reporter::new(replica.clone(), &watchers);
    let lease = NodeLease::open(LEASE.as_ref(), Arc::new(BootTime::now))?;
    if member.is_none() {
        // There is nobody else to start them.
        let _ = lease.extend(Deadline::Never);
    }
    let layer_bytes = owner.storage.layer_gib;
    let layer_bytes = layer_bytes.map_or(WRITABLE_BYTES, |gib| gib << 30);
    let local = LocalConfig {
        id: replica.node(),
        paths: Paths::default(),
        node: node_info(&owner, &boot),
        dns: boot.dns.clone(),
        siblings: boot.siblings.unwrap_or(true),
        layer_bytes,
        lease: lease.clone(),
    };
    let agent = LocalAgent::new(local, images.clone(), network, Arc::new(reporter)).await?;
    let mine: Vec<Placed> = replica.state().on_node(replica.node()).collect();
    agent.adopt(&mine).await;
    let agent = Arc::new(agent);
    let is = node_is(agent.node().await);
    let told = match &member {
        Some(member) => member.is(is.clone()),
        None => is.clone(),
    };
    keeper::commit(&replica, joins(replica.node(), told)).await;
    let own = Arc::<LocalAgent>::clone(&agent);
    let agents = match &member {
        Some(member) => Agents::among(replica.node(), own, Arc::new(member.ways(&replica))),
        None => Agents::alone(replica.node(), own),
    };
    let controller = Controller::new(replica.clone(), watchers, agents, images.clone());
    let bounds = owner.tenants.iter();
    let bounds = bounds.map(|(tenant, bounds)| (tenant.clone(), bounds.quota()));
    controller.bounded(Quotas::new(bounds.collect(), layer_bytes));
    let bring = Arc::new(controller.clone());
    let (keeper, waker) = Keeper::new(replica.clone(), Arc::<LocalAgent>::clone(&agent), bring);
    observers.push(waker);
    if let Some(member) = &mut member {
        observers.push(member.steward(&replica, controller.placer()));
        let others = image_peers::OverPeers(member.peers().clone());
        let (stock, waker) = controller.reach_images(Arc::new(others));
        observers.push(waker);
        member.along(stock.run());
        member.along(controller.clone().gather());
    }
    controller.observe(observers);
    keeper.begin(first_since_boot()).await;
    if let Some(member) = &mut member {
        let runs = Runs {
            agent: Arc::clone(&agent),
            keeper: keeper.clone(),
            lease,
            images: images.clone(),
        };
        member.begin(&replica, runs);
        controller.belongs(Arc::new(member.belongs(&replica, is.clone())));
    }
    if member.is_none() {
        controller.collect_unowned_images().await?;
    }
    if let (Some((_, clients)), Some(Ok(revoked))) = (&serving, revoked) {
        // What was taken back while this node was off: nobody was answered yet.
        revoked.apply(clients)?;
        along.push(AbortOnDropHandle::new(tokio::spawn(
            revoked.keep(clients.clone()),
        )));
        if ready.set(controller.clone()).is_ok() {
            tracing::info!(port = DOCKER_PORT, "the Docker API answers");
        }
    }
    let mingling = async {
        match &member {
            Some(member) => member.mingle(&replica, is).await,
            None => std::future::pending().await,
        }
    };
    let next = tokio::select! {
        _ = terminate.recv() => Next::Down,
        // The containers go on; the next process takes them up, and what they did meanwhile is committed then.
        failure = controller.failed() => return Err(failure.into()),
        mingled = mingling => {
            mingled?;
            Next::Another
        }
    };
    if next == Next::Down {
        tracing::info!("stopping containers");
    }
    drop((serving, along));
    controller.close();
    replica.hurry();
    keeper.close().await;
    agent.idle().await;
    if next == Next::Down
        && let Some(down) = goes_down(&replica)
    {
        keeper::commit(&replica, down).await;
    }
    controller.flush().await;
    tracing::info!("stopped");
    Ok(next)
}

/// The port of the APIs, which answer once there is a controller.
struct Port {
    /// From when the node was locked.
    listener: Option<TcpListener>,
    ready: Arc<SetOnce<Controller>>,
}

impl Port {
    /// None: this node shows none.
    async fn open(
        &mut self,
        owner: &Owner,
        member: Option<&Member>,
        revoked: Option<&Result<Revoked, Failure>>,
    ) -> Result<Option<(AbortOnDropHandle<()>, api::Clients)>, Failure> {
        let Some(clients) = tls(owner.identity.as_ref(), member) else {
            return Ok(None);
        };
        let applied = match revoked {
            Some(Ok(revoked)) => revoked.apply(&clients).map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(()),
        };
        if let Err(error) = applied {
            tracing::error!(error, "nothing listens");
            return Ok(None);
        }
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::UNSPECIFIED, DOCKER_PORT)).await?,
        };
        let serving = api::serve(Arc::clone(&self.ready), listener, clients.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Ok(Some((serving, clients)))
    }
}

/// The node says what it is.
fn joins(node: NodeId, is: NodeIs) -> Command {
    Command::Join {
        node,
        at_ns: now_ns(),
        is: Box::new(is),
        wanted: NodeWanted::default(),
    }
}

/// Where there are others, they hear that this node goes in order; None: there are none.
fn goes_down(replica: &Replica) -> Option<Command> {
    let state = replica.state();
    let own = state.nodes.get(&replica.node())?;
    (state.nodes.size() > 1).then(|| Command::NodeHealth {
        at_ns: now_ns(),
        node: own.id,
        health: Health::Down {
            reason: "it was shut down".to_owned(),
        },
        tenure: own.tenure,
        term: None,
    })
}

fn node_is(info: NodeInfo) -> NodeIs {
    NodeIs {
        hostname: info.name,
        version: info.version,
        features: FEATURES,
        cpus: info.cpus as u64,
        memory_bytes: info.memory_bytes,
        disk_bytes: info.storage_total_bytes,
        ..NodeIs::default()
    }
}

/// What the API's port needs. Without it nothing listens, and the containers run all the same.
fn tls(identity: Option<&Identity>, member: Option<&Member>) -> Option<api::Clients> {
    let Some(identity) = identity else {
        tracing::warn!(
            "no [identity] in hearth.toml: nothing listens; give this node the owner's CA, a certificate and its key"
        );
        return None;
    };
    let made = match (identity.pair(), member) {
        (Some((certificate, key)), _) => {
            api::Clients::met_by(&identity.ca, certificate, key).map_err(Failure::from)
        }
        (None, Some(member)) => member.certify_server().and_then(|()| {
            let shown = member.identity.server_credentials();
            Ok(api::Clients::met_showing(&identity.ca, shown)?)
        }),
        (None, None) => {
            tracing::warn!(
                "no certificate and key under [identity] in hearth.toml, and no cluster that makes them: nothing listens"
            );
            return None;
        }
    };
    match made {
        Ok(tls) => Some(tls),
        Err(error) => {
            tracing::error!(%error, "nothing listens");
            None
        }
    }
}

fn node_info(owner: &Owner, boot: &Boot) -> NodeInfo {
    let note = if boot.storage_note.is_empty() {
        &boot.storage_device
    } else {
        &boot.storage_note
    };
    NodeInfo {
        name: boot.hostname.clone(),
        version: boot.version.clone(),
        storage: boot.storage.clone(),
        storage_note: note.clone(),
        insecure_registries: owner.registries.insecure.clone(),
        layer_bytes_min: SMALL_BYTES,
        siblings: boot.siblings.unwrap_or(true),
        weaknesses: boot.weaknesses.clone(),
        ..NodeInfo::default()
    }
}

/// True for the first control process after the node's boot.
fn first_since_boot() -> bool {
    let path = Path::new(SINCE_BOOT);
    let first = !path.exists();
    if let Err(error) = std::fs::write(path, "") {
        tracing::warn!(%error, "marking that control has run");
    }
    first
}
