//! Several nodes on one Ethernet segment, which are one cluster: their plugs can be pulled, their cables cut, and what goes between them is captured.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result};
pub use xtask::qemu::Way;
use xtask::qemu::{Plug, Running, Segment, Switch};

use crate::api::Api;
use crate::capture::Capture;
use crate::docker::Docker;
use crate::node::{Node, Place, Setup};
use crate::process::{self, eventually};

/// Nodes of the cluster that cases share: the fewest that outlive one's death.
pub const NODES: u8 = 3;

/// MiB of memory of each node: three of them on a machine where two test programs run at a time.
pub const MEMORY_MIB: u64 = 1024;

/// Nodes that share a network, counted from 0. They end with the test binary, or when the value is dropped.
pub struct Cluster {
    // Dropped in this order: nodes before what connects them.
    nodes: Vec<Member>,
    switch: Switch,
    _way_out: WayOut,
    frames: PathBuf,
}

struct Member {
    node: Node,
    plug: Plug,
    docker: Docker,
}

/// The process by which the segment has DHCP, names, and ports on loopback.
struct WayOut(Child);

impl Drop for WayOut {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    /// Boots so many nodes, all at once, and waits until they are one cluster.
    #[track_caller]
    pub fn boot(nodes: u8) -> Self {
        Self::boot_as(nodes, &Setup::default())
    }

    /// The same; each is set up like this, but for its memory and its place.
    #[track_caller]
    pub fn boot_as(nodes: u8, setup: &Setup) -> Self {
        let cluster = Self::start(nodes, setup)
            .unwrap_or_else(|error| panic!("can't boot {nodes} nodes: {error:#}"));
        for member in &cluster.nodes {
            member.node.wait_for_api();
        }
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until every node sees all of them ready.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        for (number, member) in self.nodes.iter().enumerate() {
            let mut last = String::new();
            let what = format!("hearth-{} doesn't see all nodes ready", number + 1);
            eventually(&what, || {
                let format = "{{.Hostname}} {{.Status}}";
                let listed = member.docker.run(&["node", "ls", "--format", format]);
                let now = format!("{}{}", listed.text(), listed.stderr);
                if now != last {
                    eprintln!(
                        "hearth-{} sees: {}",
                        number + 1,
                        now.trim().replace('\n', ", ")
                    );
                    last = now;
                }
                let ready = listed
                    .text()
                    .lines()
                    .filter(|line| line.ends_with(" Ready"))
                    .count();
                (listed.code == Some(0) && ready == self.len()).then_some(())
            });
        }
    }

    /// Starts the nodes without waiting for anything.
    pub fn start(nodes: u8, setup: &Setup) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("segment-")
            .tempdir_in(crate::work_folder())?
            .keep();
        let segment = Segment::plan(&dir, nodes)?;
        let log = File::create(dir.join("qemu.log"))?;
        let mut command = segment.way_out();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut way_out = WayOut(process::spawn_bound(command).context("starting the way out")?);
        let switch = segment.switch()?;
        let frames = dir.join("frames.pcap");
        switch.capture(&frames)?;
        eventually("the way out doesn't open its monitor", || {
            if let Ok(Some(status)) = way_out.0.try_wait() {
                let log = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
                panic!("the way out ended ({status}): {log}");
            }
            Running::attach(&dir).is_running().then_some(())
        });
        let mut members = Vec::new();
        for (number, plug) in (1..).zip(segment.machines()) {
            let node = Node::start(&Setup {
                memory_mib: MEMORY_MIB,
                place: Some(Place {
                    segment: segment.clone(),
                    plug: *plug,
                    identity: dir.join("identity"),
                    name: format!("hearth-{number}"),
                }),
                ..setup.clone()
            })?;
            members.push(Member {
                docker: node.docker(),
                node,
                plug: *plug,
            });
        }
        Ok(Self {
            nodes: members,
            switch,
            _way_out: way_out,
            frames,
        })
    }

    /// How many nodes there are, with power or without.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node.
    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node].node
    }

    /// The owner's docker CLI, at that node. At one without power it hangs: a switch can't tell that nobody is there.
    pub fn docker(&self, node: usize) -> &Docker {
        &self.nodes[node].docker
    }

    /// A node's API.
    pub fn api(&self, node: usize) -> &Api {
        self.node(node).api()
    }

    /// A node's address on the segment.
    #[track_caller]
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.node(node).address()
    }

    /// The addresses of all nodes.
    #[track_caller]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        (0..self.len()).map(|node| self.address(node)).collect()
    }

    /// Everything on a node's console since its last boot.
    pub fn console(&self, node: usize) -> String {
        self.node(node).console()
    }

    /// Makes a node's port appear on loopback; where.
    #[track_caller]
    pub fn forward(&self, node: usize, port: u16, udp: bool) -> SocketAddr {
        self.node(node).forward(port, udp)
    }

    /// Pulls a node's plug.
    pub fn kill(&self, node: usize) {
        self.node(node).cut_power();
    }

    /// Boots a node whose plug was pulled, on the disk as it is, and waits for its API.
    #[track_caller]
    pub fn boot_again(&self, node: usize) {
        self.node(node).restore_power();
    }

    /// Cuts a node's cable.
    pub fn cut(&self, node: usize, way: Way) {
        self.switch.cut(self.nodes[node].plug, way);
    }

    /// Mends a node's cable.
    pub fn heal(&self, node: usize) {
        self.switch.heal(self.nodes[node].plug);
    }

    /// What goes over the segment from now on. What a cut cable loses on its way to a node is in it, what it loses on the way from one
    /// isn't. Whatever caused an answer that was heard is in it by then.
    pub fn capture(&self) -> Capture {
        Capture::from_now_on(&self.frames)
    }

    /// Mends all cables, gives power to all nodes, and waits until they are one again.
    #[track_caller]
    pub fn restore(&self) {
        for node in 0..self.len() {
            self.heal(node);
        }
        let dead = |member: &&Member| !member.node.has_power();
        let dead: Vec<_> = self.nodes.iter().filter(dead).collect();
        for member in &dead {
            member
                .node
                .power_on()
                .unwrap_or_else(|error| panic!("can't boot a node again: {error:#}"));
        }
        for member in dead {
            member.node.wait_for_api();
        }
        self.wait_until_whole();
    }
}

/// The cluster of this test binary, for one case alone.
pub struct Exclusive(MutexGuard<'static, Cluster>);

impl Deref for Exclusive {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

/// The cluster of this test binary: booted by the first case that asks, ended with the binary. One case has it at a time, since cases pull
/// plugs; each finds all nodes with power, all cables whole, and all of it one cluster.
#[track_caller]
pub fn exclusive() -> Exclusive {
    static SHARED: OnceLock<Mutex<Cluster>> = OnceLock::new();
    // A case that failed leaves a cluster as good as any other does: what it broke is mended below.
    let cluster = SHARED
        .get_or_init(|| Mutex::new(Cluster::boot(NODES)))
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    cluster.restore();
    Exclusive(cluster)
}
