//! The node's address: by DHCP on the first link that answers, or the one from the configuration on the first link that has a
//! carrier.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod lease;
mod wire;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::kmsg;
use crate::netlink::{Link, Netlink};

use super::config::Static;
pub use lease::Lease;
use lease::{Change, Client};

/// The port that DHCP servers answer to.
const DHCP_CLIENT_PORT: u16 = 68;

/// It is one of the machine's own Ethernet ports, and not a link that software makes, as each microVM has one. A test has no others.
pub fn is_port(link: &Link) -> bool {
    link.ethernet && (cfg!(test) || !link.software)
}

/// The node's network. Owned by the node's one thread, which calls [`Network::advance`] whenever one of [`Network::fds`] is
/// readable or the time that the last call returned is over.
pub struct Network {
    netlink: Netlink,
    events: Netlink,
    mode: Mode,
    hostname: &'static str,
    current: Option<Current>,
    /// Links have been looked at once; from then on events tell.
    listed: bool,
    /// Takes DHCP's answers that also reach the kernel's stack, and is never read: without it the kernel would tell the server that
    /// nobody listens.
    _sink: Option<UdpSocket>,
}

enum Mode {
    Dhcp(Vec<Client>),
    Static(Lease),
}

/// What the kernel has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// On this link.
    pub link: Link,
    /// These.
    pub lease: Lease,
}

impl Network {
    /// Brings up loopback and every Ethernet link.
    pub fn open(wanted: Option<Static>, hostname: &'static str) -> io::Result<Self> {
        let events = Netlink::open_link_events()?;
        let mode = match wanted {
            None => Mode::Dhcp(Vec::new()),
            Some(Static {
                address,
                gateway,
                dns,
            }) => Mode::Static(Lease {
                address,
                gateway,
                dns,
            }),
        };
        let sink = matches!(mode, Mode::Dhcp(_))
            .then(|| UdpSocket::bind(("0.0.0.0", DHCP_CLIENT_PORT)).ok())
            .flatten();
        Ok(Self {
            netlink: Netlink::open()?,
            events,
            mode,
            hostname,
            current: None,
            listed: false,
            _sink: sink,
        })
    }

    /// What to wait for.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.events.as_fd()];
        if let Mode::Dhcp(clients) = &self.mode {
            fds.extend(clients.iter().map(AsFd::as_fd));
        }
        fds
    }

    /// How long to wait at most.
    pub fn idle(&mut self) -> Option<Duration> {
        match &mut self.mode {
            Mode::Dhcp(clients) => clients
                .iter_mut()
                // One without a carrier waits for the event that says it is back.
                .filter(|client| client.link.carrier)
                .filter_map(Client::idle)
                .min(),
            Mode::Static(_) => None,
        }
    }

    /// What holds now.
    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Does what is due. True: what holds has changed.
    pub fn advance(&mut self) -> bool {
        let before = self.current.clone();
        if self.events.changed(is_port) || !self.listed {
            match self.netlink.links() {
                Ok(links) => self.follow_links(&links),
                Err(error) => kmsg::log(&format!("init: listing links: {error}")),
            }
            self.listed = true;
        }
        self.ask();
        self.current != before
    }

    fn follow_links(&mut self, links: &[Link]) {
        for link in links
            .iter()
            .filter(|link| (link.loopback || is_port(link)) && !link.up)
        {
            if let Err(error) = self.netlink.set_link_up(link.index, None) {
                kmsg::log(&format!("init: bringing up {}: {error}", link.name));
            }
        }
        let ready: Vec<&Link> = links
            .iter()
            .filter(|link| is_port(link) && link.up && link.carrier)
            .collect();
        match &mut self.mode {
            Mode::Static(lease) => {
                if self.current.is_none()
                    && let Some(link) = ready.first()
                {
                    let lease = lease.clone();
                    self.apply((*link).clone(), lease);
                }
            }
            Mode::Dhcp(clients) => {
                // The link of the lease that holds is asked again once its carrier is back; others have had their chance.
                for client in clients.iter_mut() {
                    let link = links.iter().find(|link| link.index == client.link.index);
                    let carrier = link.is_some_and(|link| link.carrier);
                    if carrier && !client.link.carrier {
                        client.restart();
                    }
                    client.link.carrier = carrier;
                }
                clients.retain(|client| links.iter().any(|link| link.index == client.link.index));
                if self.current.is_none() {
                    for link in ready {
                        if clients.iter().any(|client| client.link.index == link.index) {
                            continue;
                        }
                        match Client::start(link.clone(), self.hostname) {
                            Ok(client) => clients.push(client),
                            Err(error) => {
                                kmsg::log(&format!("init: DHCP on {}: {error}", link.name))
                            }
                        }
                    }
                }
            }
        }
    }

    fn ask(&mut self) {
        let Mode::Dhcp(clients) = &mut self.mode else {
            return;
        };
        let mut changes = Vec::new();
        for client in clients.iter_mut().filter(|client| client.link.carrier) {
            match client.advance() {
                Change::None => {}
                change => changes.push((client.link.clone(), change)),
            }
        }
        for (link, change) in changes {
            let ours = self
                .current
                .as_ref()
                .is_none_or(|current| current.link.index == link.index);
            match change {
                Change::Granted(lease) if ours => self.apply(link, lease),
                Change::Ended if ours => {
                    self.withdraw();
                    // All links may answer now.
                    self.listed = false;
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, link: Link, lease: Lease) {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.lease == lease && current.link.index == link.index)
        {
            return;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.lease.address != lease.address)
        {
            self.withdraw();
        }
        let (address, index) = (lease.address, link.index);
        let set = self
            .netlink
            .set_address(index, address.address, address.prefix_len);
        if let Err(error) = set {
            kmsg::log(&format!(
                "init: setting {address} on {}: {error}",
                link.name
            ));
            return;
        }
        // Without a route to everywhere, the neighbours still reach the node.
        if let Some(gateway) = lease.gateway
            && let Err(error) = self.netlink.set_default_route(index, gateway)
        {
            kmsg::log(&format!(
                "init: setting the gateway {gateway} on {}: {error}",
                link.name
            ));
        }
        // The first link that answered has won.
        if let Mode::Dhcp(clients) = &mut self.mode {
            clients.retain(|client| client.link.index == index);
        }
        self.current = Some(Current { link, lease });
    }

    fn withdraw(&mut self) {
        if let Some(Current { link, lease }) = self.current.take() {
            // Its routes go with it.
            let address = lease.address;
            if let Err(error) =
                self.netlink
                    .delete_address(link.index, address.address, address.prefix_len)
            {
                kmsg::log(&format!(
                    "init: taking {address} from {}: {error}",
                    link.name
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    /// Far longer than an answer takes: only a test that has failed waits for so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A link `hw0` to a DHCP server with the configuration given, in a network namespace of this thread's own.
    fn server(dir: &std::path::Path, configuration: &str) -> Option<Server> {
        let server = make_server(dir, configuration);
        if server.is_none() {
            // Past the harness, which holds back what passing tests print: `cargo xtask test` counts these lines.
            let line = b"SKIPPED: no root, namespaces or busybox with udhcpd\n";
            let _ = io::Write::write_all(&mut io::stderr(), line);
        }
        server
    }

    fn make_server(dir: &std::path::Path, configuration: &str) -> Option<Server> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("needs root");
            return None;
        }
        let applets = Command::new("busybox").arg("--list").output().ok()?;
        if !String::from_utf8_lossy(&applets.stdout)
            .lines()
            .any(|applet| applet == "udhcpd")
        {
            eprintln!("needs a busybox with udhcpd");
            return None;
        }
        // SAFETY: this flag doesn't concern the file table.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
        let run = |words: &str| {
            let mut words = words.split(' ');
            let status = Command::new(words.next()?).args(words).status();
            status.is_ok_and(|status| status.success()).then_some(())
        };
        // A namespace for the server; its first process is one that only waits.
        let mut holder = Command::new("unshare")
            .args(["-n", "sleep", "600"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let made = wait_for_namespace(holder.id()).and_then(|()| {
            run("ip link add hw0 type veth peer name srv0")?;
            run(&format!("ip link set srv0 netns {}", holder.id()))?;
            let inside = format!("nsenter -n -t {}", holder.id());
            run(&format!("{inside} ip addr add 192.0.2.1/24 dev srv0"))?;
            run(&format!("{inside} ip link set srv0 up"))?;
            std::fs::write(dir.join("leases"), "").ok()?;
            let text = format!(
                "interface srv0\nlease_file {0}/leases\npidfile {0}/pid\n{configuration}",
                dir.display()
            );
            std::fs::write(dir.join("conf"), text).ok()?;
            Command::new("nsenter")
                .args([
                    "-n",
                    "-t",
                    &holder.id().to_string(),
                    "busybox",
                    "udhcpd",
                    "-f",
                ])
                .arg(dir.join("conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        });
        let Some(server) = made else {
            eprintln!("no namespaces, ip(8) or udhcpd");
            let _ = (holder.kill(), holder.wait());
            return None;
        };
        Some(Server([server, holder]))
    }

    /// The namespace of a process that has just been started is another than ours.
    fn wait_for_namespace(pid: u32) -> Option<()> {
        let deadline = Instant::now() + PATIENCE;
        let ours = std::fs::read_link("/proc/thread-self/ns/net").ok()?;
        while Instant::now() < deadline {
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            if theirs != ours && name.trim() == "sleep" {
                return Some(());
            }
            std::thread::yield_now();
        }
        None
    }

    /// Ends its processes with the test.
    struct Server([Child; 2]);

    impl Drop for Server {
        fn drop(&mut self) {
            for child in &mut self.0 {
                let _ = (child.kill(), child.wait());
            }
        }
    }

    fn advance_until(network: &mut Network, done: impl Fn(&Network) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            network.advance();
            if done(network) {
                return;
            }
            assert!(Instant::now() < deadline, "nothing came");
            let idle = network.idle().unwrap_or(PATIENCE).min(PATIENCE);
            let idle = Timespec {
                tv_sec: idle.as_secs() as i64,
                tv_nsec: idle.subsec_nanos().into(),
            };
            let fds = network.fds().into_iter();
            let mut fds: Vec<PollFd<'_>> = fds
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            let _ = poll(&mut fds, Some(&idle));
        }
    }

    #[test]
    fn the_first_link_that_answers_gives_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let configuration = "start 192.0.2.20\nend 192.0.2.30\noption subnet 255.255.255.0\n\
            option router 192.0.2.1\noption dns 192.0.2.53\noption lease 600\n";
        let Some(_server) = server(dir.path(), configuration) else {
            return;
        };
        let mut network = Network::open(None, "tester").unwrap();
        advance_until(&mut network, |network| network.current().is_some());
        let current = network.current().unwrap().clone();
        assert_eq!(current.lease.gateway, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(
            current.lease.dns,
            ["192.0.2.53".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(current.lease.address.prefix_len, 24);
    }
}
