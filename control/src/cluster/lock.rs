//! What a node keeps secret on its disk while its cluster is locked (`docker swarm update --autolock`).
//!
//! ```text
//! /data/cluster/node.key     the node's key, PEM: the cluster isn't locked
//! /data/cluster/node.lock    CBOR: { doors: [ D sealed under an unlock key ]…, within: { the node's key, unlock keys } sealed under D }
//! /run/hearth/unlock         unlock keys, one a line: in RAM
//! ```
//!
//! With the second in place of the first, a node that has booted can't meet its cluster, nor open what is secret in the state, before
//! somebody gives it the unlock key. What is in RAM outlives this process and not the boot: a node is locked by a power cut, not by a fault
//! of control's. `D` is drawn anew with each writing. It has two doors while the unlock key is being replaced, so that whichever key
//! counts after a power cut opens what there is.
//!
//! [`Lock::settle`] makes the disk what the state says; it may be called again at any time, after any crash.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::state::encoding;
use crate::trust::{
    KeyError, NODE_KEY_FILE, NodeKey, Purpose, SealError, SealKey, UnlockKey, write_secret,
};

/// Keys that are held at a time: the one that counts, and those that may come to count. A change that came to nothing leaves one behind
/// until the next.
const KEYS_MAX: usize = 8;
/// The node's key, sealed.
const FILE: &str = "node.lock";

/// See the module's page.
pub struct Lock {
    dir: PathBuf,
    ram: PathBuf,
    /// Protects files and memory from differing; held while files are written.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// In the order in which they came. One that came after the key that counts may be in a command that isn't committed yet, and outlive the
    /// process that has proposed it: such a key is never given up before another one counts that came after it.
    keys: Vec<UnlockKey>,
    /// What was in the sealed file, PEM.
    node_key: Option<String>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Sealed {
    doors: Vec<Vec<u8>>,
    within: Vec<u8>,
}

/// What is in it.
#[derive(Serialize, Deserialize)]
struct Within {
    node_key: String,
    keys: Vec<String>,
}

/// Why a node stays locked, or can't be.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another key.
    #[error("swarm could not be unlocked: invalid key provided")]
    Key,
    /// The disk.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in a file isn't what was written.
    #[error(
        "{path} is damaged ({reason}): remove this node from the cluster, and have it leave (`docker swarm leave --force`), to join as a new one"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key of its own.
    #[error(transparent)]
    NodeKey(#[from] KeyError),
}

impl Lock {
    /// What is in `dir`, opened by what is in the file `ram`, if there is anything. Blocks.
    pub fn open(dir: &Path, ram: &Path) -> Result<Self, LockError> {
        let lock = Self {
            dir: dir.to_owned(),
            ram: ram.to_owned(),
            held: Mutex::default(),
        };
        let known = read(ram)?.unwrap_or_default();
        let known = String::from_utf8(known).unwrap_or_default();
        let keys: Vec<UnlockKey> = known.lines().filter_map(|line| line.parse().ok()).collect();
        if lock.is_sealed()? {
            for key in &keys {
                match lock.unlock(key) {
                    Err(LockError::Key) => {}
                    opened => return opened.map(|()| lock),
                }
            }
        }
        lock.held().keys = keys;
        Ok(lock)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    fn plain(&self) -> PathBuf {
        self.dir.join(NODE_KEY_FILE)
    }

    /// The node's key is on the disk in no other form.
    fn is_sealed(&self) -> Result<bool, LockError> {
        let there = |path: PathBuf| {
            let found = path.try_exists();
            found.map_err(|source| LockError::File { path, source })
        };
        Ok(!there(self.plain())? && there(self.file())?)
    }

    /// Nothing here can be used before the unlock key is given.
    pub fn is_closed(&self) -> Result<bool, LockError> {
        Ok(self.is_sealed()? && self.held().node_key.is_none())
    }

    /// Opens what is sealed. Blocks.
    pub fn unlock(&self, key: &UnlockKey) -> Result<(), LockError> {
        let path = self.file();
        let damaged = |reason: &dyn std::fmt::Display| LockError::Damaged {
            path: path.clone(),
            reason: reason.to_string(),
        };
        let bytes = read(&path)?.ok_or_else(|| damaged(&"it isn't there"))?;
        let sealed: Sealed = encoding::decode(&bytes).map_err(|e| damaged(&e))?;
        let outer = key.seal_key();
        let mut doors = sealed.doors.iter();
        let opened = doors.find_map(|door| match SealKey::unseal_under(&outer, door) {
            Err(SealError::Key) => None,
            opened => Some(opened),
        });
        let opened = opened.ok_or(LockError::Key)?.map_err(|e| damaged(&e))?;
        let plain = opened.unseal(Purpose::Node, &sealed.within);
        let within: Within = plain
            .map_err(|e| damaged(&e))
            .and_then(|plain| encoding::decode(&plain).map_err(|e| damaged(&e)))?;
        let keys = within.keys.iter().map(|text| text.parse());
        let keys: Result<Vec<UnlockKey>, _> = keys.collect();
        let mut held = self.held();
        held.keys = keys.map_err(|e| damaged(&e))?;
        held.node_key = Some(within.node_key);
        self.write_ram(&held)
    }

    /// The node's key. Only of a node that isn't closed. Blocks.
    pub fn node_key(&self) -> Result<NodeKey, LockError> {
        if self.is_closed()? {
            return Err(LockError::Key);
        }
        if !self.is_sealed()? {
            return Ok(NodeKey::load_or_make(&self.dir)?);
        }
        let pem = self.held().node_key.clone().unwrap_or_default();
        NodeKey::parse(&pem).map_err(|error| LockError::Damaged {
            path: self.file(),
            reason: error.to_string(),
        })
    }

    /// The unlock key that is known by this ([`UnlockKey::check`]). None: this node doesn't have it.
    pub fn key(&self, check: &[u8; 32]) -> Option<UnlockKey> {
        let held = self.held();
        held.keys.iter().find(|key| key.check() == *check).cloned()
    }

    /// One more unlock key that may come to count; before that is proposed, so that no crash can lose it. Blocks.
    pub fn hold(&self, key: UnlockKey) -> Result<(), LockError> {
        let mut held = self.held();
        if !held.keys.contains(&key) {
            held.keys.push(key);
        }
        // The first counts.
        while held.keys.len() > KEYS_MAX {
            held.keys.remove(1);
        }
        self.write_ram(&held)?;
        match held.node_key {
            Some(_) => self.write(&held),
            None => Ok(()),
        }
    }

    /// Makes the disk what the state says: `check` is the cluster's lock. False: it is locked by a key that this node doesn't have. Blocks.
    pub fn settle(&self, check: Option<&[u8; 32]>, node_key: &NodeKey) -> Result<bool, LockError> {
        let mut held = self.held();
        let Some(check) = check else {
            if self.file().exists() {
                write(&self.plain(), node_key.pem().as_bytes())?;
                remove(&self.file())?;
            }
            held.node_key = None;
            return Ok(true);
        };
        let Some(at) = held.keys.iter().position(|key| key.check() == *check) else {
            return Ok(false);
        };
        if at == 0 && self.is_sealed()? {
            return Ok(true);
        }
        held.keys.drain(..at);
        held.node_key = Some(node_key.pem());
        self.write(&held)?;
        self.write_ram(&held)?;
        remove(&self.plain())?;
        Ok(true)
    }

    /// What is locked is given up: the node will be another. Blocks.
    pub fn forget(&self) -> Result<(), LockError> {
        let mut held = self.held();
        remove(&self.file())?;
        remove(&self.ram)?;
        *held = Held::default();
        Ok(())
    }

    fn write(&self, held: &Held) -> Result<(), LockError> {
        let inner = SealKey::random();
        let within = Within {
            node_key: held.node_key.clone().unwrap_or_default(),
            keys: held.keys.iter().map(ToString::to_string).collect(),
        };
        let path = self.file();
        let unwritable = |e: encoding::EncodingError| LockError::File {
            path: path.clone(),
            source: io::Error::other(e.to_string()),
        };
        let within = encoding::encode(&within).map_err(unwritable)?;
        let doors = held.keys.iter();
        let sealed = Sealed {
            doors: doors.map(|key| inner.seal_under(&key.seal_key())).collect(),
            within: inner.seal(Purpose::Node, &within),
        };
        let sealed = encoding::encode(&sealed).map_err(unwritable)?;
        write(&path, &sealed)
    }

    fn write_ram(&self, held: &Held) -> Result<(), LockError> {
        let lines: String = held.keys.iter().map(|key| format!("{key}\n")).collect();
        write(&self.ram, lines.as_bytes())
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LockError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| file(path, source)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), LockError> {
    write_secret(path, bytes).map_err(|source| file(path, source))
}

/// For good.
fn remove(path: &Path) -> Result<(), LockError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all())
            .map_err(|source| file(path, source)),
    }
}

fn file(path: &Path, source: io::Error) -> LockError {
    LockError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            Self(folder)
        }

        fn open(&self) -> Lock {
            Lock::open(&self.0.path().join("data"), &self.0.path().join("ram")).unwrap()
        }

        /// A power cut.
        fn reopen(&self) -> Lock {
            remove(&self.0.path().join("ram")).unwrap();
            self.open()
        }

        /// Everything that lies on it.
        fn bytes(&self) -> Vec<u8> {
            let files = fs::read_dir(self.0.path().join("data")).unwrap();
            let read = files.map(|file| fs::read(file.unwrap().path()).unwrap());
            read.collect::<Vec<_>>().concat()
        }
    }

    fn holds(bytes: &[u8], part: &str) -> bool {
        let part = part.as_bytes();
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn what_is_locked_opens_by_its_key_alone_and_is_nowhere_on_the_disk() {
        let disk = Disk::new();
        let lock = disk.open();
        let (node, key) = (lock.node_key().unwrap(), UnlockKey::random());
        let secret = node.pem().lines().nth(1).unwrap().to_owned();
        assert!(holds(&disk.bytes(), &secret));
        assert!(!lock.settle(Some(&key.check()), &node).unwrap());
        lock.hold(key.clone()).unwrap();
        assert!(lock.settle(Some(&key.check()), &node).unwrap());
        assert!(lock.settle(Some(&key.check()), &node).unwrap());
        assert!(!holds(&disk.bytes(), &secret));
        assert!(!holds(&disk.bytes(), &key.to_string()));
        // Control alone was started again.
        assert_eq!(disk.open().node_key().unwrap().pem(), node.pem());

        let lock = disk.reopen();
        assert!(lock.is_closed().unwrap());
        assert!(lock.node_key().is_err() && lock.key(&key.check()).is_none());
        let other = lock.unlock(&UnlockKey::random());
        assert!(matches!(other, Err(LockError::Key)));
        lock.unlock(&key).unwrap();
        assert!(!lock.is_closed().unwrap());
        assert_eq!(lock.node_key().unwrap().pem(), node.pem());
        assert!(lock.key(&key.check()).is_some());

        assert!(lock.settle(None, &node).unwrap());
        let lock = disk.reopen();
        assert!(!lock.is_closed().unwrap());
        assert_eq!(lock.node_key().unwrap().pem(), node.pem());
    }

    #[test]
    fn while_a_key_is_replaced_both_open_and_then_the_new_one_alone() {
        let disk = Disk::new();
        let lock = disk.open();
        let node = lock.node_key().unwrap();
        let (old, new) = (UnlockKey::random(), UnlockKey::random());
        lock.hold(old.clone()).unwrap();
        lock.settle(Some(&old.check()), &node).unwrap();
        lock.hold(new.clone()).unwrap();
        for key in [&old, &new] {
            let lock = disk.reopen();
            lock.unlock(key).unwrap();
            // Whichever of them counts by now.
            assert!(lock.key(&old.check()).is_some() && lock.key(&new.check()).is_some());
        }
        let lock = disk.open();
        assert!(lock.settle(Some(&new.check()), &node).unwrap());
        let lock = disk.reopen();
        assert!(matches!(lock.unlock(&old), Err(LockError::Key)));
        lock.unlock(&new).unwrap();
    }

    #[test]
    fn a_key_that_may_yet_come_to_count_is_never_given_up() {
        let disk = Disk::new();
        let lock = disk.open();
        let node = lock.node_key().unwrap();
        let (old, new) = (UnlockKey::random(), UnlockKey::random());
        lock.hold(old.clone()).unwrap();
        assert!(lock.settle(None, &node).unwrap());
        assert!(disk.open().settle(Some(&old.check()), &node).unwrap());
        let lock = disk.open();
        lock.hold(new.clone()).unwrap();
        assert!(lock.settle(Some(&old.check()), &node).unwrap());
        let lock = disk.reopen();
        lock.unlock(&old).unwrap();
        assert!(lock.settle(Some(&old.check()), &node).unwrap());
        assert!(lock.settle(Some(&new.check()), &node).unwrap());
        for _ in 0..2 * KEYS_MAX {
            lock.hold(UnlockKey::random()).unwrap();
        }
        assert!(lock.key(&new.check()).is_some());
        assert_eq!(lock.held().keys.len(), KEYS_MAX);
    }

    #[test]
    fn a_power_cut_between_two_files_leaves_the_node_itself() {
        let disk = Disk::new();
        let lock = disk.open();
        let (node, key) = (lock.node_key().unwrap(), UnlockKey::random());
        lock.hold(key.clone()).unwrap();
        lock.settle(Some(&key.check()), &node).unwrap();
        // The plain file isn't gone yet; or, where it is opened for good, the sealed one isn't.
        write(&lock.plain(), node.pem().as_bytes()).unwrap();
        let lock = disk.reopen();
        assert!(!lock.is_closed().unwrap());
        assert_eq!(lock.node_key().unwrap().pem(), node.pem());
    }

    #[test]
    fn a_damaged_file_is_said_to_be_damaged_and_the_node_can_be_given_up() {
        let disk = Disk::new();
        let lock = disk.open();
        let (node, key) = (lock.node_key().unwrap(), UnlockKey::random());
        lock.hold(key.clone()).unwrap();
        lock.settle(Some(&key.check()), &node).unwrap();
        write(&lock.file(), b"{").unwrap();
        let lock = disk.reopen();
        assert!(lock.is_closed().unwrap());
        assert!(matches!(lock.unlock(&key), Err(LockError::Damaged { .. })));
        lock.forget().unwrap();
        assert_ne!(lock.node_key().unwrap().pem(), node.pem());
    }
}
