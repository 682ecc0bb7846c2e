//! A thread's devices and their events.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::{Epoll, EventSet};

use crate::events::{self, Ready, Watcher};
use crate::virtio::mmio::Transport;

/// The source of the one descriptor that is not a device's; see [`Worker::watch_other`].
const OTHER: u32 = u32::MAX;

/// Devices of one thread. A device's source is twice its index: even for the driver's notifications, odd for the device's own
/// descriptors.
pub(crate) struct Worker {
    epoll: Arc<Epoll>,
    devices: Vec<Arc<Transport>>,
    ready: Vec<Ready>,
}

impl Worker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Arc::new(Epoll::new()?),
            devices: Vec::new(),
            ready: Vec::new(),
        })
    }

    /// With what the next device registers its own descriptors.
    pub(crate) fn watcher(&self) -> Watcher {
        Watcher::new(self.epoll.clone(), 2 * self.devices.len() as u32 + 1)
    }

    /// Takes a device on.
    pub(crate) fn add(&mut self, device: Arc<Transport>) -> io::Result<()> {
        let watcher = Watcher::new(self.epoll.clone(), 2 * self.devices.len() as u32);
        watcher.add(device.notify(), 0, EventSet::IN)?;
        self.devices.push(device);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Watches one more descriptor, whose readiness [`Worker::turn`] reports.
    pub(crate) fn watch_other(&self, fd: &impl std::os::fd::AsRawFd) -> io::Result<()> {
        Watcher::new(self.epoll.clone(), OTHER).add(fd, 0, EventSet::IN)
    }

    /// Waits for something to happen and has the devices see to it. True: the other descriptor was among it.
    pub(crate) fn turn(&mut self) -> io::Result<bool> {
        let mut other = false;
        events::wait(&self.epoll, true, &mut self.ready)?;
        for Ready {
            source,
            token,
            events,
        } in self.ready.drain(..)
        {
            if source == OTHER {
                other = true;
                continue;
            }
            let Some(device) = self.devices.get(source as usize / 2) else {
                continue;
            };
            if source % 2 == 0 {
                device.notified();
            } else {
                device.ready(token, events);
            }
        }
        Ok(other)
    }
}
