//! The node's loop: everything that PID 1 reacts to, in one thread that sleeps in poll(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{WaitOptions, wait};

use super::boot::Api;
use super::config::Static;
use super::console::Console;
use super::facts::Facts;
use super::network::Network;
use super::power::{self, Button, End, Signals, Wish};
use super::seed;
use super::storage::{self, Kind, Storage};
use super::supervisor::{Event, Supervisor};
use super::watchdog::{self, Watchdog};
use crate::kmsg;

/// How long the controller waits for an address before it is started without: a node without a network still runs its containers.
const NETWORK_PATIENCE: Duration = Duration::from_secs(8);
/// How long the controller may take to end its microVMs in order: docker's ten seconds for each of them, at the same time, and some
/// for writing back.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// The Docker API's port.
const API_PORT: u16 = 2376;

/// Everything that PID 1 keeps.
pub struct Node {
    console: Console,
    signals: Signals,
    buttons: Vec<Button>,
    watchdog: Option<Watchdog>,
    watchdog_due: Instant,
    network: Option<Network>,
    storage: Pending,
    supervisor: Supervisor,
    facts: Facts,
    api: Api,
    /// The controller is started at this time, whatever the network does.
    patience_until: Instant,
    /// It has been started for the first time.
    enabled: bool,
    /// The node is to end, at this time at the latest.
    ending: Option<(End, Instant)>,
}

/// The data disk while a thread is at it.
struct Pending {
    /// Becomes readable when the result is there.
    wake: OwnedFd,
    result: Option<Receiver<Storage>>,
}

impl Node {
    /// Begins with disks and network at the same time.
    pub fn new(
        console: Console,
        signals: Signals,
        network: Option<Static>,
        facts: Facts,
        api: Api,
    ) -> Self {
        let storage = Pending::begin();
        // Lives as long as the machine.
        let hostname: &'static str = Box::leak(facts.hostname.clone().into_boxed_str());
        let network = Network::open(network, hostname)
            .inspect_err(|error| console.warn(&format!("the network can't be set up: {error}")))
            .ok();
        let mut node = Self {
            console,
            signals,
            buttons: Button::find(),
            watchdog: Watchdog::open(),
            watchdog_due: Instant::now(),
            network,
            storage,
            supervisor: Supervisor::new(),
            facts,
            api,
            patience_until: Instant::now() + NETWORK_PATIENCE,
            enabled: false,
            ending: None,
        };
        node.write_facts();
        node
    }

    /// Reacts until the machine ends.
    pub fn run(mut self) -> ! {
        loop {
            self.advance_network();
            self.advance_storage();
            self.advance_controller();
            self.advance_watchdog();
            self.advance_power();
            if let Some((how, deadline)) = self.ending
                && (!self.supervisor.is_running() || Instant::now() >= deadline)
            {
                if let Some(watchdog) = self.watchdog.take() {
                    watchdog.disarm();
                }
                power::end(how, &self.console);
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let mut idle = vec![
            self.supervisor.idle(),
            self.network.as_mut().and_then(Network::idle),
        ];
        if self.watchdog.is_some() {
            idle.push(Some(self.watchdog_due.saturating_duration_since(now)));
        }
        if !self.enabled && self.storage.is_done() {
            idle.push(Some(self.patience_until.saturating_duration_since(now)));
        }
        idle.extend(
            self.ending
                .map(|(_, deadline)| Some(deadline.saturating_duration_since(now))),
        );
        let timeout = idle.into_iter().flatten().min().map(|idle| Timespec {
            tv_sec: idle.as_secs() as i64,
            tv_nsec: i64::from(idle.subsec_nanos()),
        });
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd(), self.storage.wake.as_fd()];
        fds.extend(self.buttons.iter().map(AsFd::as_fd));
        fds.extend(self.network.iter().flat_map(Network::fds));
        fds.extend(self.supervisor.fds());
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // Whatever it says, everything is looked at next.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn advance_network(&mut self) {
        let Some(network) = &mut self.network else {
            return;
        };
        if !network.advance() {
            return;
        }
        match network.current() {
            Some(current) => {
                let lease = &current.lease;
                self.facts.addresses = vec![lease.address.to_string()];
                self.facts.gateway = lease.gateway.map(|gateway| gateway.to_string());
                self.facts.dns = lease.dns.iter().map(ToString::to_string).collect();
                self.facts.interface = Some(current.link.name.clone());
                self.console.say(&format!(
                    "address {} on {}",
                    lease.address, current.link.name
                ));
                if self.api == Api::Listens {
                    self.console.say(&format!(
                        "API at https://{}:{API_PORT}",
                        lease.address.address
                    ));
                }
            }
            None => {
                self.facts.addresses.clear();
                self.facts.dns.clear();
                self.facts.gateway = None;
                self.facts.interface = None;
                self.console
                    .warn("the address lease has ended and no DHCP server renews it; still asking");
            }
        }
        self.write_facts();
    }

    fn advance_storage(&mut self) {
        let Some(storage) = self.storage.take() else {
            return;
        };
        for remark in &storage.remarks {
            self.console.say(remark);
        }
        match storage.kind {
            Kind::Disk { device, size_bytes } => {
                let gib = size_bytes as f64 / f64::from(1 << 30);
                self.console
                    .say(&format!("data on {} ({gib:.1} GiB)", device.display()));
                self.facts.storage = "disk".to_owned();
                self.facts.storage_device = Some(device.display().to_string());
            }
            Kind::Ram { reason } => {
                self.console
                    .warn(&format!("data is in RAM and will be lost: {reason}"));
                self.facts.storage = "ram".to_owned();
                self.facts.storage_note = Some(reason);
            }
        }
        self.write_facts();
    }

    fn advance_controller(&mut self) {
        let network_ready = self
            .network
            .as_ref()
            .is_some_and(|network| network.current().is_some());
        let patient = Instant::now() < self.patience_until && self.network.is_some();
        if !self.enabled
            && self.api != Api::Off
            && self.storage.is_done()
            && (network_ready || !patient)
        {
            self.enabled = true;
            if !network_ready {
                self.console.warn(
                    "no DHCP server has answered yet; still asking. Is the cable plugged in?",
                );
            }
            self.supervisor.enable();
        }
        let event = self.supervisor.advance();
        self.report(event);
    }

    fn report(&self, event: Option<Event>) {
        match event {
            None => {}
            Some(Event::Started) => self.console.say("controller started"),
            Some(Event::Ended(_)) if self.ending.is_some() => {}
            Some(Event::Ended(how)) => self.console.warn(&how),
        }
    }

    fn advance_watchdog(&mut self) {
        let now = Instant::now();
        if let Some(watchdog) = &mut self.watchdog
            && self.watchdog_due <= now
        {
            watchdog.ping();
            self.watchdog_due = now + watchdog::PERIOD;
        }
    }

    fn advance_power(&mut self) {
        let mut wishes = self.signals.read();
        for button in &mut self.buttons {
            if button.pressed() {
                wishes.push(Wish::End(End::PowerOff));
            }
        }
        for wish in wishes {
            match wish {
                Wish::Reap => self.reap(),
                Wish::End(how) => self.begin_to_end(how),
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let event = self.supervisor.child_ended(pid, status);
            self.report(event);
            if self.ending.is_some() {
                self.supervisor.stop();
            }
        }
    }

    fn begin_to_end(&mut self, how: End) {
        if self.ending.is_some() {
            // Asked twice: no more patience.
            self.ending = Some((how, Instant::now()));
            return;
        }
        self.console
            .say("ending: stopping containers, writing back; once more to end at once");
        self.ending = Some((how, Instant::now() + STOP_PATIENCE));
        self.enabled = true;
        self.supervisor.stop();
    }

    fn write_facts(&mut self) {
        if let Err(error) = self.facts.write() {
            kmsg::log(&format!("init: writing node.toml: {error}"));
        }
    }
}

impl Pending {
    fn begin() -> Self {
        let (sender, receiver) = mpsc::channel();
        // Descriptors are what a machine has plenty of at this point; without one there is nothing to do but go on at once.
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .expect("the first descriptors can be opened");
        let done = wake
            .try_clone()
            .expect("the first descriptors can be opened");
        let work = move || {
            let storage = catch_unwind(|| {
                let storage = storage::set_up();
                seed::carry_over();
                storage
            });
            if let Ok(storage) = storage {
                // The node never drops its end before it has received.
                let _ = sender.send(storage);
            }
            drop(sender);
            let _ = rustix::io::write(&done, &1u64.to_ne_bytes());
        };
        if let Err(error) = thread::Builder::new()
            .name("storage".to_owned())
            .spawn(work)
        {
            kmsg::log(&format!("init: starting a thread for the disks: {error}"));
        }
        Self {
            wake,
            result: Some(receiver),
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_none()
    }

    fn take(&mut self) -> Option<Storage> {
        let storage = match self.result.as_ref()?.try_recv() {
            Ok(storage) => storage,
            Err(mpsc::TryRecvError::Empty) => return None,
            Err(mpsc::TryRecvError::Disconnected) => Storage {
                kind: Kind::Ram {
                    reason: "looking at the disks failed; the kernel's log says how".to_owned(),
                },
                remarks: Vec::new(),
            },
        };
        self.result = None;
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        Some(storage)
    }
}
