//! What devices have at their other end: packets, clients, and the command socket's.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_vmm_api::{Answer, Description, Network};
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use super::ROOM;
use super::script::Script;
use crate::api::{Commands, Server};
use crate::events::{self, Watcher};
use crate::net::Net;
use crate::net::tun::{self, Received};
use crate::virtio::mmio::Transport;
use crate::vsock::Vsock;

pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub(crate) const GUEST_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The guest's link.
pub(crate) fn network() -> Network {
    Network {
        tun: -1,
        mac: [2, 0, 0, 0, 0, 2],
        gateway_mac: [2, 0, 0, 0, 0, 1],
        gateway: vec![
            Ipv4Addr::new(10, 88, 0, 1).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        ],
        addresses: vec![GUEST.into(), GUEST_6.into()],
        mtu: 1500,
    }
}

/// A packet that has left the guest is from one of its own addresses.
pub(crate) fn check_source(packet: &[u8]) {
    let source: IpAddr = match packet[0] >> 4 {
        4 => <[u8; 4]>::try_from(&packet[12..16]).expect("four").into(),
        _ => <[u8; 16]>::try_from(&packet[8..24])
            .expect("sixteen")
            .into(),
    };
    assert!(source == GUEST || source == GUEST_6, "from {source}");
}

/// The host's end of a link. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Packets {
    /// On their way to the guest.
    waiting: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Packets {
    pub(super) fn device(&self) -> Net<Queue> {
        let queue = Queue {
            event: EventFd::new(0).expect(ROOM),
            packets: self.clone(),
        };
        let watcher = Watcher::new(Arc::new(Epoll::new().expect(ROOM)), 0);
        Net::new(&network(), queue, &watcher).expect(ROOM)
    }

    pub(super) fn arrive(&self, packet: &[u8]) {
        self.lock().push_back(packet.to_vec());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network device's own end.
pub(super) struct Queue {
    event: EventFd,
    packets: Packets,
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl tun::Packets for Queue {
    fn offloads(&self) -> u64 {
        0
    }

    fn set_offloads(&mut self, _features: u64) {}

    fn send(&mut self, _header: &[u8], packet: &[u8]) -> io::Result<()> {
        check_source(packet);
        Ok(())
    }

    fn receive(&mut self, header: &mut [u8], packet: &mut [u8]) -> Received {
        let Some(next) = self.packets.lock().pop_front() else {
            return Received::Nothing;
        };
        header.fill(0);
        packet[..next.len()].copy_from_slice(&next);
        Received::Packet(next.len())
    }
}

/// A listener without a file, and how to reach it.
fn listener() -> (UnixListener, SocketAddr) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("hearth-fuzzing-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    (UnixListener::bind_addr(&address).expect(ROOM), address)
}

/// Clients of a guest's streams.
pub(super) struct Clients {
    epoll: Arc<Epoll>,
    address: SocketAddr,
    clients: Vec<UnixStream>,
}

/// Clients at once.
const MOST_CLIENTS: usize = 8;

impl Clients {
    pub(super) fn new() -> (Self, Vsock) {
        let (listener, address) = listener();
        let epoll = Arc::new(Epoll::new().expect(ROOM));
        let watcher = Watcher::new(Arc::clone(&epoll), 0);
        let device = Vsock::new(listener, Arc::default(), watcher).expect(ROOM);
        let clients = Self {
            epoll,
            address,
            clients: Vec::new(),
        };
        (clients, device)
    }

    /// Has one do something.
    pub(super) fn act(&mut self, step: u8, script: &mut Script<'_>) {
        let which = usize::from(script.byte());
        let bytes = script.bytes();
        if step.is_multiple_of(6) && self.clients.len() < MOST_CLIENTS {
            let mut client = UnixStream::connect_addr(&self.address).expect(ROOM);
            client.set_nonblocking(true).expect(ROOM);
            let _ = client.write(bytes);
            self.clients.push(client);
        }
        if self.clients.is_empty() {
            return;
        }
        let which = which % self.clients.len();
        let mut client = &self.clients[which];
        match step % 6 {
            1 => drop(client.write(bytes)),
            2 => drop(client.read(&mut [0; 300])),
            3 => drop(client.write(&[7; 70_000])),
            4 => drop(client.shutdown(Shutdown::Write)),
            5 => drop(self.clients.swap_remove(which)),
            _ => {}
        }
    }

    /// Lets the device see it.
    pub(super) fn turn(&self, transport: &Transport) {
        // An event may bring the next one; a guest that could keep this up would keep its monitor busy.
        for _ in 0..100 {
            let mut ready = Vec::new();
            events::wait(&self.epoll, false, &mut ready).expect(ROOM);
            if ready.is_empty() {
                return;
            }
            for event in ready {
                transport.ready(event.token, event.events);
            }
        }
        panic!("there is always another event");
    }
}

#[derive(Default)]
struct Nothing;

impl Commands for Nothing {
    fn describe(&self) -> Description {
        Description {
            name: "fuzzing".to_owned(),
            pid: 1,
            paused: false,
            ready: false,
            exits_to_monitor: 0,
            exits: 0,
            running_since_ns: 0,
            reported_free: 0,
        }
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
    fn stop(&mut self) {}
}

/// The command socket: whatever one client says, the next one is answered.
pub fn monitor_api(bytes: &[u8]) {
    let (listener, address) = listener();
    let epoll = Arc::new(Epoll::new().expect(ROOM));
    let watcher = Watcher::new(Arc::clone(&epoll), 0);
    let mut server = Server::new(listener, watcher).expect(ROOM);
    let mut turn = || {
        loop {
            let mut ready = Vec::new();
            events::wait(&epoll, false, &mut ready).expect(ROOM);
            if ready.is_empty() {
                return;
            }
            for event in ready {
                server.ready(event.token, &mut Nothing);
            }
        }
    };
    let mut script = Script::new(bytes);
    let mut wild = UnixStream::connect_addr(&address).expect(ROOM);
    wild.set_nonblocking(true).expect(ROOM);
    while let Some(step) = script.step() {
        match step % 4 {
            0 => drop(wild.read(&mut [0; 300])),
            1 => drop(wild.shutdown(Shutdown::Write)),
            _ => drop(wild.write(script.bytes())),
        }
        turn();
    }
    let client = UnixStream::connect_addr(&address).expect(ROOM);
    (&client).write_all(b"\"resume\"\n").expect(ROOM);
    turn();
    client.set_nonblocking(true).expect(ROOM);
    let mut answer = String::new();
    BufReader::new(client)
        .read_line(&mut answer)
        .expect("an answer");
    let answer: Answer = serde_json::from_str(&answer).expect("an answer");
    assert_eq!(answer, Answer::Done);
}
