//! A node whose secrets are locked, from its boot to the unlock key: it answers docker's clients by what it shows at the door, and does
//! nothing else. It meets nobody, opens nothing of the cluster's state, and starts no container.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::member::DIR;
use super::{DOCKER_PORT, Failure, belongs, node_info, revoked};
use crate::agent::NodeInfo;
use crate::api;
use crate::cluster::identity::{self, Identity};
use crate::cluster::lock::{Lock, LockError};
use crate::cluster::membership::Door;
use crate::config::{Boot, Identity as Configured, Owner};
use crate::trust::UnlockKey;

/// From the answer to who has given the key, to the end of this part of the node's life: the answer is heard.
const ANSWERED: Duration = Duration::from_secs(1);

/// How it ended.
pub enum Ended {
    /// The node is opened: its API goes on here. None: nothing listens.
    Opened(Option<TcpListener>),
    /// It has given up what was locked.
    Left,
    /// The node goes down.
    Down,
}

/// What has become of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Opened,
    Left,
}

struct Locked {
    lock: Arc<Lock>,
    info: NodeInfo,
    stage: watch::Sender<Stage>,
}

impl Door for Locked {
    fn info(&self) -> NodeInfo {
        self.info.clone()
    }

    fn is_open(&self) -> bool {
        *self.stage.borrow() != Stage::Closed
    }

    fn unlock(&self, key: &UnlockKey) -> Result<(), LockError> {
        self.lock.unlock(key)?;
        tracing::info!("the node is unlocked");
        self.stage.send_replace(Stage::Opened);
        Ok(())
    }

    fn leave(&self) -> Result<(), LockError> {
        let dir = Path::new(DIR);
        let failed = |source| LockError::File {
            path: dir.to_owned(),
            source,
        };
        if let Some(peer) = identity::member_in(dir) {
            belongs::mark_left(dir, peer.node).map_err(failed)?;
        }
        // Before the key that it is of.
        Identity::forget(dir).map_err(failed)?;
        self.lock.forget()?;
        tracing::warn!("the node has left its cluster without being unlocked");
        self.stage.send_replace(Stage::Left);
        Ok(())
    }
}

/// Waits for the key, where the node is locked.
pub async fn wait(
    lock: &Arc<Lock>,
    owner: &Owner,
    boot: &Boot,
    terminate: &mut Signal,
) -> Result<Ended, Failure> {
    if !lock.is_closed()? {
        return Ok(Ended::Opened(None));
    }
    tracing::warn!("this node is locked, and does nothing before `docker swarm unlock`");
    let mut info = node_info(owner, boot);
    info.kernel_version = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let (stage, mut now) = watch::channel(Stage::Closed);
    let door = Arc::new(Locked {
        lock: Arc::clone(lock),
        info,
        stage,
    });
    let listener = match &owner.identity {
        Some(identity) => listen(identity).await?,
        None => None,
    };
    let ended = async {
        // An error: its other end is above.
        let _ = now.wait_for(|stage| *stage != Stage::Closed).await;
        tokio::time::sleep(ANSWERED).await;
    };
    let serving = async {
        match &listener {
            Some((listener, tls)) => api::serve_locked(door.clone(), listener, tls).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ended => {}
        () = serving => {}
        _ = terminate.recv() => return Ok(Ended::Down),
    }
    let stage = *door.stage.borrow();
    Ok(match stage {
        Stage::Left => Ended::Left,
        _ => Ended::Opened(listener.map(|(listener, _)| listener)),
    })
}

/// With the certificate that its owner has given it, or the one that its cluster has made for this.
async fn listen(identity: &Configured) -> Result<Option<(TcpListener, api::Clients)>, Failure> {
    let made = match identity.pair() {
        Some((certificate, key)) => {
            api::Clients::met_by(&identity.ca, certificate, key).map_err(Failure::from)
        }
        None => Identity::door(DIR.as_ref())
            .map_err(Failure::from)
            .and_then(|shown| Ok(api::Clients::met_showing(&identity.ca, shown)?)),
    };
    let made = made.and_then(|clients| {
        revoked::at_the_door(identity, &clients)?;
        Ok(clients)
    });
    match made {
        Ok(tls) => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, DOCKER_PORT)).await?;
            Ok(Some((listener, tls)))
        }
        Err(error) => {
            tracing::error!(%error, "nothing listens, and nobody can unlock this node: give it certificate and key under [identity]");
            Ok(None)
        }
    }
}
