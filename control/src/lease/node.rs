//! The node's lease within control: one page, shared by whoever extends it and those who start what keeps to it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BootTime, Clock, Deadline, Page, PageError};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct NodeLease {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    clock: Clock,
    /// Who asks whether it holds, and who extends it, see each other: whoever was refused hears of the extension.
    held: Mutex<Held>,
}

struct Held {
    page: Page,
    /// The node is out: this page is never extended again, and nothing that keeps to it starts.
    out: bool,
    /// Something was not started for want of it.
    refused: bool,
}

impl Held {
    fn holds(&mut self, now: BootTime) -> bool {
        let holds = !self.out
            && match self.page.deadline() {
                Deadline::Never => true,
                Deadline::At(deadline) => now < deadline,
            };
        self.refused |= !holds;
        holds
    }
}

impl NodeLease {
    /// The lease of the page at `path`; see [`Page::open`].
    pub fn open(path: &Path, clock: Clock) -> Result<Self, PageError> {
        let held = Held {
            page: Page::open(path)?,
            out: false,
            refused: false,
        };
        let inner = Inner {
            path: path.to_owned(),
            clock,
            held: Mutex::new(held),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let held = self.inner.held.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, by the clock that the deadline counts from.
    pub fn now(&self) -> BootTime {
        (self.inner.clock)()
    }

    /// Until when it is.
    pub fn deadline(&self) -> Deadline {
        self.held().page.deadline()
    }

    /// Whether what keeps to it may start. Where it may not, [`NodeLease::extend`] tells once it may.
    pub fn holds(&self) -> bool {
        let mut held = self.held();
        held.holds(self.now())
    }

    /// The page for a monitor, for reading only. None: the lease is over.
    pub fn reader(&self) -> Result<Option<OwnedFd>, PageError> {
        let mut held = self.held();
        let holds = held.holds(self.now());
        holds.then(|| held.page.reader()).transpose()
    }

    /// Extends it; not that of a node that is out. True: something was not started before, and may be now.
    #[must_use]
    pub fn extend(&self, deadline: Deadline) -> bool {
        let mut held = self.held();
        if held.out {
            return false;
        }
        held.page.extend(deadline);
        std::mem::take(&mut held.refused)
    }

    /// Gives a lease without an end one. True: it had none, and who keeps to it is to be signalled.
    #[must_use]
    pub fn limit(&self, deadline: BootTime) -> bool {
        let held = self.held();
        let endless = held.page.deadline() == Deadline::Never;
        held.page.limit(deadline);
        endless
    }

    /// The node is out: until [`NodeLease::anew`] nothing extends it, and nothing that keeps to it starts.
    pub fn go_out(&self) {
        self.held().out = true;
    }

    /// Another lease, not granted yet, on another page. Nothing is left that kept to the old one.
    pub fn anew(&self) -> Result<(), PageError> {
        let mut held = self.held();
        held.page = Page::anew(&self.inner.path)?;
        held.out = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn at(ns: u64) -> Deadline {
        Deadline::At(BootTime(ns))
    }

    fn lease(dir: &Path, time: &Arc<AtomicU64>) -> NodeLease {
        let time = Arc::clone(time);
        let clock = Arc::new(move || BootTime(time.load(Ordering::Relaxed)));
        NodeLease::open(&dir.join("lease"), clock).unwrap()
    }

    #[test]
    fn nothing_starts_without_a_lease_and_who_was_refused_hears_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(7));
        let lease = lease(dir.path(), &time);
        assert!(lease.reader().unwrap().is_none());
        assert!(lease.extend(at(7)));
        assert!(!lease.holds(), "it is over at once");
        assert!(lease.extend(at(9)));
        assert!(lease.holds() && lease.reader().unwrap().is_some());
        assert!(!lease.extend(at(10)), "nobody was refused");
        time.store(10, Ordering::Relaxed);
        assert!(!lease.holds());
        assert!(lease.extend(Deadline::Never));
        assert!(lease.holds());
    }

    #[test]
    fn the_lease_of_a_node_that_is_out_is_never_extended_and_the_next_one_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let lease = lease(dir.path(), &Arc::new(AtomicU64::new(7)));
        let _ = lease.extend(at(9));
        let old = lease.reader().unwrap().unwrap();
        let old = hearth_vmm_api::lease::Page::map(old).unwrap();
        lease.go_out();
        assert!(!lease.holds(), "though its time isn't over");
        assert!(!lease.extend(at(99)));
        lease.anew().unwrap();
        assert!(!lease.holds(), "it isn't granted yet");
        assert!(lease.extend(at(99)) && lease.holds());
        assert_eq!(old.deadline_ns(), 9);
    }

    #[test]
    fn who_sleeps_without_an_end_is_to_be_signalled_once() {
        let dir = tempfile::tempdir().unwrap();
        let lease = lease(dir.path(), &Arc::new(AtomicU64::new(7)));
        let _ = lease.extend(Deadline::Never);
        assert!(lease.limit(BootTime(9)));
        assert!(!lease.limit(BootTime(8)));
        assert_eq!(lease.deadline(), at(9));
    }
}
