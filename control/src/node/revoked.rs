//! Keeps clients out whose certificates the owner's CA has taken back: by the lists in hearth.toml and those in the state, the latest of each
//! CA. They are also kept beside the node's key, for the node's door while it is locked and has no state.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Notify;

use super::lock::Waker;
use super::{Failure, member};
use crate::api::Clients;
use crate::config::Identity;
use crate::raft::Replica;
use crate::state::encoding;
use crate::trust::revocation::{Crl, newest};

/// In [`member::DIR`]: a sequence of DER in CBOR.
const FILE: &str = "crls";

/// See the module's page.
pub struct Revoked {
    ca: String,
    own: Vec<Crl>,
    replica: Replica,
    changed: Arc<Notify>,
}

impl Revoked {
    /// Of what the owner has given this node, and what its state says.
    pub fn new(identity: &Identity, replica: &Replica) -> Result<Self, Failure> {
        Ok(Self {
            ca: identity.ca.clone(),
            own: own(identity)?,
            replica: replica.clone(),
            changed: Arc::default(),
        })
    }

    /// What wakes [`Self::keep`].
    pub fn waker(&self) -> Arc<Waker> {
        Arc::new(Waker(Arc::clone(&self.changed)))
    }

    /// What counts now.
    pub fn apply(&self, clients: &Clients) -> Result<(), Failure> {
        let shared = self.replica.state().cluster.crls.clone();
        let lists = newest([self.own.clone(), read(&shared, &self.ca)].concat());
        clients.revoke(&lists)?;
        if let Err(error) = remember(&lists) {
            tracing::error!(%error, "keeping the certificate revocation lists for when this node is locked");
        }
        Ok(())
    }

    /// Never ends.
    pub async fn keep(self, clients: Clients) {
        loop {
            self.changed.notified().await;
            if let Err(error) = self.apply(&clients) {
                tracing::error!(%error, "a certificate revocation list has no effect");
            }
        }
    }
}

/// For a node that is locked.
pub fn at_the_door(identity: &Identity, clients: &Clients) -> Result<(), Failure> {
    let kept = fs::read(Path::new(member::DIR).join(FILE)).ok();
    let kept = kept.and_then(|bytes| encoding::decode::<Vec<Vec<u8>>>(&bytes).ok());
    let kept = read(&kept.unwrap_or_default(), &identity.ca);
    Ok(clients.revoke(&newest([own(identity)?, kept].concat()))?)
}

fn own(identity: &Identity) -> Result<Vec<Crl>, Failure> {
    let text = identity.crl.as_deref().unwrap_or_default();
    let lists = Crl::parse_all(text, &identity.ca);
    Ok(lists.map_err(|error| format!("hearth.toml: crl under [identity]: {error}"))?)
}

fn read(lists: &[Vec<u8>], ca: &str) -> Vec<Crl> {
    let parsed = lists.iter().map(|list| Crl::parse(list, ca));
    // Of a CA that is the owner's no more: nobody gets in with a certificate of it anyway.
    parsed.filter_map(Result::ok).collect()
}

fn remember(lists: &[Crl]) -> Result<(), Failure> {
    let dir = Path::new(member::DIR);
    if !dir.exists() {
        return Ok(());
    }
    let (path, beside) = (dir.join(FILE), dir.join("crls.new"));
    let lists: Vec<&[u8]> = lists.iter().map(Crl::der).collect();
    let bytes = encoding::encode(&lists)?;
    if fs::read(&path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    fs::write(&beside, bytes)?;
    fs::File::open(&beside)?.sync_all()?;
    fs::rename(beside, path)?;
    Ok(fs::File::open(dir)?.sync_all()?)
}
