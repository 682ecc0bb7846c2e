//! How a node comes into a cluster: it shows the token, gets a certificate, and is taken in by whoever leads.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::discovery::Announced;
use crate::peers::{Dial, Greet, ask_stranger};
use crate::state::{NodeId, NodeIs, NodeWanted, encoding};

/// What a node that is to join asks whoever it finds.
pub const PATH: &str = "/join";
/// What a node asks first: whether there is a cluster to be joined.
pub const HELLO: &str = "/hello";
/// Certificates are signed and two entries written within this, on a slow disk; then the next address is tried.
const PATIENCE: Duration = Duration::from_secs(20);
/// Leaders that may follow each other while one node joins.
const REDIRECTS_MAX: usize = 8;

/// A node asks what there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// What its owner has given it.
    pub token: String,
}

/// A node wants to join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// What its owner has given it.
    pub token: String,
    /// Its id: random, and never used before.
    pub node: NodeId,
    /// A request for a certificate of its key, PKCS #10 in DER.
    pub csr: Vec<u8>,
    /// What it is. Where peers reach it is filled in by whoever answers, if it doesn't know.
    pub is: NodeIs,
    /// What its owner wants of it.
    pub wanted: NodeWanted,
}

/// What it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// It is taken in.
    Welcome {
        /// The cluster's id.
        cluster: [u8; 16],
        /// Its certificate and those between it and the owner's, in DER.
        chain: Vec<Vec<u8>>,
    },
    /// Another node leads: ask there.
    Elsewhere {
        /// Where.
        address: String,
    },
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody has taken it in.
    #[error("this node was not taken into the cluster: {0}")]
    Refused(String),
    /// What it needs to remember can't be written or read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Asks the members at these addresses, one after the other, until one has taken this node in.
pub async fn ask(
    dial: &dyn Dial,
    greet: &dyn Greet,
    addresses: &[String],
    request: &Request,
) -> Result<Reply, JoinError> {
    let body = encoding::encode(request).map_err(|e| JoinError::Refused(e.to_string()))?;
    let mut reasons = Vec::new();
    for first in addresses {
        let mut address = first.clone();
        for _ in 0..REDIRECTS_MAX {
            let asked = ask_stranger(dial, greet, &address, PATH, body.clone().into(), PATIENCE);
            let reply = match asked.await {
                Ok((_, reply)) => encoding::decode(&reply).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match reply {
                Ok(Reply::Elsewhere { address: next }) => address = next,
                Ok(welcome) => return Ok(welcome),
                Err(reason) => {
                    reasons.push(reason);
                    break;
                }
            }
        }
    }
    Err(JoinError::Refused(reasons.join("; ")))
}

/// A cluster has taken this node in: what is left to be done by the next process, which has not opened the cluster that this node had
/// for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcomed {
    /// This node's new id.
    pub node: NodeId,
    /// Its certificate and those between it and the owner's, in DER.
    pub chain: Vec<Vec<u8>>,
}

impl Welcomed {
    /// What was written down, if there is anything.
    pub fn read(path: &Path) -> Result<Option<Self>, JoinError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| file(path, source))?,
        };
        let invalid = |e| file(path, io::Error::new(io::ErrorKind::InvalidData, e));
        encoding::decode(&bytes).map(Some).map_err(invalid)
    }

    /// Writes it down, for good.
    pub fn write(&self, path: &Path) -> Result<(), JoinError> {
        let written = || {
            let beside = path.with_extension("new");
            let mut new = fs::File::create(&beside)?;
            new.write_all(&encoding::encode(self).map_err(io::Error::other)?)?;
            new.sync_all()?;
            fs::rename(&beside, path)?;
            fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        written().map_err(|source| file(path, source))
    }

    /// It is done.
    pub fn done(path: &Path) -> Result<(), JoinError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| file(path, source)),
        }
    }
}

fn file(path: &Path, source: io::Error) -> JoinError {
    JoinError::File {
        path: path.to_owned(),
        source,
    }
}

/// Whether a node that was found is to be joined. Of two clusters that hold nothing the one with the greater id goes to the other, so
/// that they don't go to each other; one that holds something is never left.
pub fn should_join(own: ([u8; 16], bool), other: ([u8; 16], bool)) -> bool {
    let ((own, own_empty), (other, other_empty)) = (own, other);
    own != other && own_empty && (!other_empty || other < own)
}

/// Asks whoever is at an address what cluster it is of.
pub async fn hello(
    dial: &dyn Dial,
    greet: &dyn Greet,
    address: &str,
    token: &str,
) -> Result<Announced, JoinError> {
    let refused = |e: String| JoinError::Refused(e);
    let hello = Hello {
        token: token.to_owned(),
    };
    let body = encoding::encode(&hello).map_err(|e| refused(e.to_string()))?;
    let asked = ask_stranger(dial, greet, address, HELLO, body.into(), PATIENCE).await;
    let (_, told) = asked.map_err(|e| refused(e.to_string()))?;
    encoding::decode(&told).map_err(|e| refused(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_that_hold_something_stay_and_empty_ones_end_as_one() {
        let (low, high) = ([1; 16], [2; 16]);
        assert!(should_join((high, true), (low, true)));
        assert!(!should_join((low, true), (high, true)));
        assert!(should_join((low, true), (high, false)));
        assert!(!should_join((low, false), (high, true)));
        assert!(!should_join((high, false), (low, false)));
        assert!(!should_join((low, true), (low, true)));
        // Whatever two find each other, one goes at most.
        for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
            let both = should_join((low, a), (high, b)) && should_join((high, b), (low, a));
            assert!(!both);
        }
    }

    #[test]
    fn what_is_written_down_is_found_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join");
        assert_eq!(Welcomed::read(&path).unwrap(), None);
        let welcomed = Welcomed {
            node: NodeId(7),
            chain: vec![vec![1, 2], vec![3]],
        };
        welcomed.write(&path).unwrap();
        assert_eq!(Welcomed::read(&path).unwrap(), Some(welcomed));
        Welcomed::done(&path).unwrap();
        Welcomed::done(&path).unwrap();
        assert_eq!(Welcomed::read(&path).unwrap(), None);
        fs::write(&path, "{").unwrap();
        assert!(Welcomed::read(&path).is_err());
    }
}
