//! A disk that knows what is durable: what was written before the last `fsync` that succeeded. The rest is lost with the power, all of it or
//! any part, down to a sector or a bit of what was under way.
//!
//! redb's backend is synchronous. So a slow disk is one whose executor waits before it does a piece of work, and a loss of power in the middle
//! of one is the same work done with a disk that fails after some operations.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::hooks::{one_in, pick};
use crate::raft::{Executor, Work};

/// Writes that are remembered: bits flip where something is, mostly.
pub const WRITES_REMEMBERED: usize = 64;
/// What a disk writes whole, or not at all.
const SECTOR: usize = 512;
/// Operations of a piece of work, about, for its middle to be found.
const OPERATIONS: u64 = 12;
/// From handing work over to its being done, microseconds: from a fast SSD's `fsync` to a home disk's.
const LATENCY_US: std::ops::Range<u64> = 100..4_000;
/// The same of a slow one: one that wakes up, or that somebody else fills.
const SLOW_US: std::ops::Range<u64> = 20_000..900_000;

/// One machine's disk. Cheap to clone.
#[derive(Clone, Default)]
pub struct Disk {
    shared: Arc<Mutex<Bytes>>,
}

#[derive(Default)]
struct Bytes {
    /// As the kernel shows it.
    shown: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Where something was written last, and how much.
    written: VecDeque<(usize, usize)>,
    /// Whoever opened it before may do nothing any more.
    opened: u64,
    fails_after: Option<u64>,
    faults: Faults,
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// It takes long.
    pub slow: bool,
    /// Files can't grow.
    pub full: bool,
    /// `fsync` fails.
    pub fails: bool,
}

enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is wrong with it.
    pub fn set_faults(&self, faults: Faults) {
        self.bytes().faults = faults;
    }

    /// Everything is durable.
    pub fn settle(&self) {
        let mut bytes = self.bytes();
        bytes.unsynced.clear();
        bytes.durable = bytes.shown.clone();
    }

    /// A bit of what is durable flips: of one of the last so many writes, or of anything.
    pub fn flip(&self, of_last: Option<usize>) {
        let mut bytes = self.bytes();
        let length = bytes.durable.len();
        if length == 0 {
            return;
        }
        let last = of_last.map_or(0, |last| last.min(bytes.written.len()));
        let at = match last {
            0 => pick(0..length as u64) as usize,
            _ => {
                let back = 1 + pick(0..last as u64) as usize;
                let (at, length) = bytes.written[bytes.written.len() - back];
                at + pick(0..length as u64) as usize
            }
        };
        let bit = 1 << pick(0..8);
        let Bytes { shown, durable, .. } = &mut *bytes;
        for place in [shown.get_mut(at), durable.get_mut(at)]
            .into_iter()
            .flatten()
        {
            *place ^= bit;
        }
    }

    /// Opens it anew; whoever had it open has it no more.
    pub fn open(&self) -> Box<dyn StorageBackend> {
        let mut bytes = self.bytes();
        bytes.opened += 1;
        bytes.fails_after = None;
        Box::new(Opened {
            disk: self.clone(),
            opened: bytes.opened,
        })
    }

    /// Whoever has it open is gone.
    fn shut(&self) {
        self.bytes().opened += 1;
    }

    /// Power is lost, and with it what is not durable: none of it, all, or any part. `rots`: a bit may flip of what was under way. True: one
    /// has; redb's head, which is written with every commit, tells of the commit before as well, so that neither may be left.
    pub fn lose_power(&self, rots: bool) -> bool {
        let mut bytes = self.bytes();
        bytes.opened += 1;
        let mut flipped = false;
        let lost = pick(0..4);
        for mut change in std::mem::take(&mut bytes.unsynced) {
            let keeps = match lost {
                0 => false,
                1 => true,
                _ => one_in(2),
            };
            if !keeps {
                continue;
            }
            if let (2, Change::Write(_, data)) = (lost, &mut change) {
                if one_in(3) {
                    let sectors = (data.len() / SECTOR) as u64;
                    data.truncate(pick(0..sectors + 1) as usize * SECTOR);
                } else if rots && one_in(10) && !data.is_empty() {
                    let at = pick(0..data.len() as u64) as usize;
                    data[at] ^= 1 << pick(0..8);
                    flipped = true;
                }
            }
            change.apply(&mut bytes.durable);
        }
        bytes.shown = bytes.durable.clone();
        flipped
    }
}

struct Opened {
    disk: Disk,
    opened: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a simulated disk")
    }
}

impl Opened {
    fn operate<T>(&self, operate: impl FnOnce(&mut Bytes) -> io::Result<T>) -> io::Result<T> {
        let mut bytes = self.disk.bytes();
        if bytes.opened != self.opened {
            return Err(io::Error::other("the machine is down"));
        }
        match &mut bytes.fails_after {
            Some(0) => return Err(io::Error::other("power is lost")),
            Some(left) => *left -= 1,
            None => {}
        }
        operate(&mut bytes)
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.bytes().shown.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.operate(|bytes| {
            let from = offset as usize;
            let found = bytes.shown.get(from..from + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(|bytes| {
            if bytes.faults.full && len as usize > bytes.shown.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let change = Change::Length(len as usize);
            change.apply(&mut bytes.shown);
            bytes.unsynced.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(|bytes| {
            if bytes.faults.fails {
                return Err(io::Error::other("fsync has failed"));
            }
            for change in std::mem::take(&mut bytes.unsynced) {
                change.apply(&mut bytes.durable);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(|bytes| {
            if !data.is_empty() {
                bytes.written.push_back((offset as usize, data.len()));
            }
            if bytes.written.len() > WRITES_REMEMBERED {
                bytes.written.pop_front();
            }
            let change = Change::Write(offset as usize, data.to_vec());
            change.apply(&mut bytes.shown);
            bytes.unsynced.push(change);
            Ok(())
        })
    }
}

/// Does a control process's work on its disk, one piece after the other, each in its own time.
pub struct Queue {
    waiting: Arc<Waiting>,
    disk: Disk,
    _worker: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Waiting {
    /// None: nothing is done any more.
    work: Mutex<Option<VecDeque<Work>>>,
    more: Notify,
}

impl Waiting {
    fn work(&self) -> MutexGuard<'_, Option<VecDeque<Work>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// For a process that has just begun.
    pub fn start(disk: &Disk) -> Arc<Self> {
        let waiting = Arc::new(Waiting::default());
        *waiting.work() = Some(VecDeque::new());
        let worker = work(Arc::clone(&waiting), disk.clone());
        Arc::new(Self {
            waiting,
            disk: disk.clone(),
            _worker: AbortOnDropHandle::new(tokio::spawn(worker)),
        })
    }

    /// The process ends here and now, perhaps in the middle of a write.
    pub fn end(&self) {
        let Some(mut work) = self.waiting.work().take() else {
            return;
        };
        if one_in(2)
            && let Some(under_way) = work.pop_front()
        {
            self.disk.bytes().fails_after = Some(pick(0..OPERATIONS));
            under_way();
        }
        self.disk.shut();
    }
}

async fn work(waiting: Arc<Waiting>, disk: Disk) {
    loop {
        let idle = waiting.work().as_ref().is_none_or(VecDeque::is_empty);
        if idle {
            waiting.more.notified().await;
            continue;
        }
        let slow = disk.bytes().faults.slow;
        let latency = pick(if slow { SLOW_US } else { LATENCY_US });
        tokio::time::sleep(Duration::from_micros(latency)).await;
        let next = waiting.work().as_mut().and_then(VecDeque::pop_front);
        if let Some(next) = next {
            next();
        }
    }
}

impl Executor for Queue {
    fn execute(&self, work: Work) {
        if let Some(waiting) = self.waiting.work().as_mut() {
            waiting.push_back(work);
            self.waiting.more.notify_one();
        }
    }
}
