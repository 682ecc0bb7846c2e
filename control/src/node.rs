//! The whole of a node's control: wired together, run, and taken down in order.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use hearth_template::{SMALL_BYTES, WRITABLE_BYTES};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::NodeInfo;
use crate::agent::local::{LocalAgent, LocalConfig, Paths};
use crate::api;
use crate::config::{self, Boot, Identity, Owner};
use crate::controller::{Controller, Reporter, Watchers};
use crate::entropy;
use crate::network::{Network, NetworkConfig};
use crate::raft::Replica;
use crate::reserve;
use crate::state::address;

/// Where the Docker API listens, on every address of the node.
const DOCKER_PORT: u16 = 2376;
const OWNER_CONFIG: &str = "/run/hearth/hearth.toml";
const BOOT_FACTS: &str = "/run/hearth/node.toml";
/// Made by the first control process after the node's boot.
const SINCE_BOOT: &str = "/run/hearth/control.started";
const DATA: &str = "/data";
const RAFT: &str = "/data/raft";
const IMAGES: &str = "/data/images";

/// Why a node's control could not start.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs until SIGTERM; then stops the containers, and returns when everything is written.
pub async fn run() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let owner: Owner = config::read(OWNER_CONFIG.as_ref())?;
    let boot: Boot = config::read(BOOT_FACTS.as_ref())?;
    if let Err(error) = reserve::keep(DATA.as_ref(), RAFT.as_ref()) {
        tracing::error!(%error, "no room is kept for the state of this node: a full disk stops its commits");
    }
    let network = Network::start(NetworkConfig {
        pods: address::NETWORK,
        prefix: address::PREFIX,
        gateway: address::GATEWAY,
    })?;
    let watchers = Arc::new(Watchers::default());
    let replica = Replica::open(
        RAFT.as_ref(),
        u64::from_le_bytes(entropy::random()),
        Arc::<Watchers>::clone(&watchers),
    )
    .await?;
    tracing::info!(
        node = format!("{:x}", replica.node().0),
        revision = replica.state().revision,
        "state restored"
    );
    let options = hearth_image::StoreOptions {
        insecure_registries: owner.registries.insecure.clone(),
        dns_servers: boot.dns.clone(),
        keep_layers: boot.storage != "ram",
        ..hearth_image::StoreOptions::default()
    };
    let images = hearth_image::Store::open(IMAGES.as_ref(), options).await?;
    let (reporter, exits) = Reporter::new(replica.clone());
    let local = LocalConfig {
        paths: Paths::default(),
        node: node_info(&owner, &boot),
        dns: boot.dns.clone(),
        siblings: boot.siblings.unwrap_or(true),
        layer_bytes: owner
            .storage
            .layer_gib
            .map_or(WRITABLE_BYTES, |gib| gib << 30),
    };
    let agent = LocalAgent::new(local, images.clone(), network, Arc::new(reporter)).await?;
    let controller = Controller::new(replica, watchers, Arc::new(agent.clone()), images, exits);
    let running = agent.adopt(&controller.up()).await;
    let known = controller
        .state()
        .containers
        .iter()
        .map(|container| container.id.clone())
        .collect();
    agent.sweep(known).await;
    controller.reconcile(&running, first_since_boot()).await;
    controller.collect_unowned_images().await?;
    let serving = match tls(owner.identity.as_ref()) {
        Some(tls) => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, DOCKER_PORT)).await?;
            tracing::info!(port = DOCKER_PORT, "the Docker API answers");
            Some(tokio::spawn(api::serve(
                controller.clone(),
                listener,
                Arc::new(tls),
            )))
        }
        None => None,
    };
    tokio::select! {
        _ = terminate.recv() => {}
        // The containers go on; the next process takes them up, and what they did meanwhile is committed then.
        failure = controller.failed() => return Err(failure.into()),
    }
    tracing::info!("stopping containers");
    if let Some(serving) = serving {
        serving.abort();
    }
    controller.close().await;
    agent.idle().await;
    controller.flush().await;
    tracing::info!("stopped");
    Ok(())
}

/// What the API's port needs. Without it nothing listens, and the containers run all the same.
fn tls(identity: Option<&Identity>) -> Option<rustls::ServerConfig> {
    let Some(identity) = identity else {
        tracing::warn!(
            "no [identity] in hearth.toml: nothing listens; give this node the owner's CA, a certificate and its key"
        );
        return None;
    };
    match api::server_config(&identity.ca, &identity.certificate, &identity.key) {
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
