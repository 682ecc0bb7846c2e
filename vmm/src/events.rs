//! Who is told when a descriptor is ready.
//!
//! Every thread with events has one epoll. An event carries a source (a device, by index) and a token of that source's choice.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::virtio::Token;

/// Events fetched per system call; more come with the next one.
pub const EVENTS_AT_ONCE: usize = 32;

/// Registers one source's descriptors.
#[derive(Debug, Clone)]
pub struct Watcher {
    epoll: Arc<Epoll>,
    source: u32,
}

/// Something is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Whose descriptor.
    pub source: u32,
    /// Which of them.
    pub token: Token,
    /// For what.
    pub events: EventSet,
}

impl Watcher {
    /// Registers with `epoll` as `source`.
    pub fn new(epoll: Arc<Epoll>, source: u32) -> Self {
        Self { epoll, source }
    }

    /// A watcher whose events nobody reads.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self::new(Arc::new(Epoll::new().unwrap()), 0)
    }

    /// Begins to watch `fd`.
    pub fn add(&self, fd: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        let data = u64::from(self.source) << 32 | u64::from(token);
        let event = EpollEvent::new(events, data);
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
    }

    /// Watches for other events.
    pub fn change(&self, fd: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        let data = u64::from(self.source) << 32 | u64::from(token);
        let event = EpollEvent::new(events, data);
        self.epoll
            .ctl(ControlOperation::Modify, fd.as_raw_fd(), event)
    }

    /// Ends it. Not watched in the first place: nothing happens.
    pub fn remove(&self, fd: &impl AsRawFd) {
        let _ = self.epoll.ctl(
            ControlOperation::Delete,
            fd.as_raw_fd(),
            EpollEvent::default(),
        );
    }
}

/// Waits until something is ready, or not at all, and appends it to `ready`.
pub fn wait(epoll: &Epoll, block: bool, ready: &mut Vec<Ready>) -> io::Result<()> {
    let mut events = [EpollEvent::default(); EVENTS_AT_ONCE];
    let count = match epoll.wait(if block { -1 } else { 0 }, &mut events) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    ready.extend(events.iter().take(count).map(|event| Ready {
        source: (event.data() >> 32) as u32,
        token: event.data() as u32,
        events: event.event_set(),
    }));
    Ok(())
}
