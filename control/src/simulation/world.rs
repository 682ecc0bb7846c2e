//! The cluster as a whole: its machines, switched on and off, and what must hold of all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clients::{self, Clients};
use super::control::{Control, Site, is};
use super::disk::Disk;
use super::hooks::{one_in, pick};
use super::host::{Host, some_clock};
use super::machine::Machine;
use super::network::Network;
use super::truth::Truth;
use crate::clock::now_ns;
use crate::cluster::join::{self, Reply};
use crate::cluster::moves::may_move;
use crate::controller::Controller;
use crate::lease::Timing;
use crate::state::{Command, ContainerId, NodeId, NodeWanted, encoding};

/// Between two looks at what must hold.
const STEP: Duration = Duration::from_millis(50);
/// A join is asked for so often: there may be no leader just now, or another.
const JOINS_TRIED: usize = 60;
/// A control that can't use its disk has failed at it several times within this.
const REPORTED_DEAD: Duration = Duration::from_secs(6);
/// init starts a control again that has ended.
const RESTART: Duration = Duration::from_secs(1);

/// See the module's page.
pub struct World {
    /// Its machines; the first is node 1.
    pub hosts: Vec<Host>,
    /// Between them.
    pub network: Arc<Network>,
    /// What is so.
    pub truth: Arc<Truth>,
    /// Who ask.
    pub clients: Arc<Clients>,
}

impl World {
    /// Machines that are all switched off.
    pub fn new(
        nodes: u64,
        dir: &Path,
        images: &hearth_image::Store,
        timing: Timing,
        tells: bool,
    ) -> Self {
        let truth = Truth::new(tells);
        let network = Network::new(&truth);
        let host = |n| {
            let node = NodeId(n);
            let site = Site {
                node,
                machine: Machine::new(node, &truth),
                disk: Disk::default(),
                mark: Disk::default(),
                lease: dir.join(format!("lease-{n}")),
                clock: some_clock(),
                network: Arc::clone(&network),
                truth: Arc::clone(&truth),
                images: images.clone(),
                timing,
            };
            Host::new(site)
        };
        Self {
            hosts: (1..=nodes).map(host).collect(),
            network,
            clients: Clients::new(&truth),
            truth,
        }
    }

    /// The first founds a cluster, and the others join it.
    pub async fn found(&mut self) -> Result<(), String> {
        self.hosts[0].begin(true);
        let first = |world: &Self| world.hosts[0].controller().is_some();
        self.until("the first node serves", 60, first).await?;
        for at in 1..self.hosts.len() {
            self.join(at).await?;
            let serves = |world: &Self| world.hosts[at].controller().is_some();
            self.until("a node serves", 60, serves).await?;
        }
        self.until("all is well", 120, |world| world.unwell().is_none())
            .await
            .map_err(|error| format!("{error}: {:?}", self.unwell()))?;
        let first = self.hosts[0].controller().ok_or("it has died")?;
        let known = first.propose(clients::image()).await;
        known.map(drop).map_err(|error| error.to_string())
    }

    async fn join(&mut self, at: usize) -> Result<(), String> {
        let node = self.hosts[at].site.node;
        let request = join::Request {
            token: String::new(),
            node,
            csr: Vec::new(),
            is: is(node),
            wanted: NodeWanted::default(),
        };
        let body = encoding::encode(&request).map_err(|error| error.to_string())?;
        let body = bytes::Bytes::from(body);
        let patience = Duration::from_secs(20);
        for _ in 0..JOINS_TRIED {
            let Some(leader) = self.leader() else {
                self.pass(RESTART).await?;
                continue;
            };
            let to = self.hosts[leader].site.node;
            let network = Arc::clone(&self.network);
            let asked = network.call(None, to, join::PATH, body.clone(), patience);
            let reply = asked.await?;
            match encoding::decode(&reply).map_err(|error| error.to_string())? {
                Reply::Welcome { .. } => {
                    self.hosts[at].begin(false);
                    return Ok(());
                }
                Reply::Elsewhere { .. } => self.pass(RESTART).await?,
            }
        }
        Err(format!("{node} finds nobody who takes it in"))
    }

    /// A node whose disk has rotted begins again. If it doesn't take what it finds there, its owner removes it, and it joins as another.
    pub async fn replace_rotten(&mut self) -> Result<(), String> {
        let rotten = self.hosts.iter().position(|host| host.rots);
        let Some(at) = rotten else {
            return Ok(());
        };
        let old = self.hosts[at].site.node;
        self.hosts[at].kill_control(Duration::ZERO);
        let led =
            |world: &Self| world.some_controller(Some(at)).is_some() && world.leader().is_some();
        self.until("the others go on", 60, led).await?;
        self.pass(REPORTED_DEAD).await?;
        self.hosts[at].rots = false;
        if self.hosts[at].replica().is_some() {
            return Ok(());
        }
        self.truth.note("is replaced", &old);
        self.hosts[at].lose_power(Duration::from_secs(3600));
        let number = self.hosts.iter().map(|host| host.site.node.0).max();
        let new = NodeId(number.unwrap_or(0) + 1);
        self.hosts[at] = self.hosts[at].replaced(new);
        let joins_first = one_in(2);
        if joins_first {
            self.join(at).await?;
        }
        let Some((_, controller)) = self.some_controller(Some(at)) else {
            return Err("nobody serves, and nothing is wrong".to_owned());
        };
        let removal = Command::RemoveNode {
            node: old,
            at_ns: now_ns(),
            force: true,
            empty: false,
        };
        let removed = controller.propose(removal).await;
        removed.map_err(|error| error.to_string())?;
        if !joins_first {
            self.join(at).await?;
        }
        Ok(())
    }

    /// Time passes. An error: something was that must not.
    pub async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            self.step();
            if let Some(violation) = self.truth.violation() {
                return Err(violation);
            }
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            tokio::time::sleep(STEP.min(until - now)).await;
        }
    }

    /// Time passes until something is so, at most so many seconds.
    pub async fn until(
        &mut self,
        what: &str,
        within_s: u64,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(within_s);
        while !is_so(self) {
            if Instant::now() >= until {
                return Err(format!(
                    "it does not come to it in {within_s} s that {what}"
                ));
            }
            self.pass(STEP).await?;
        }
        Ok(())
    }

    fn step(&mut self) {
        for host in &mut self.hosts {
            let ended = host.control.as_ref().is_some_and(Control::has_ended);
            if ended && let Some(control) = host.control.take() {
                control.kill();
                host.again.get_or_insert(Instant::now() + RESTART);
            }
            if host.again.is_some_and(|again| again <= Instant::now()) {
                host.begin(false);
            }
            if let Some(replica) = host.replica() {
                let standing = replica.standing();
                if let Some(leader) = standing.leader {
                    self.truth.leads(standing.term, leader);
                }
            }
        }
    }

    /// Which node leads, as most believe.
    pub fn leader(&self) -> Option<usize> {
        let standings = self.hosts.iter().filter_map(Host::replica);
        let latest = standings
            .map(|replica| replica.standing())
            .filter(|standing| standing.leader.is_some())
            .max_by_key(|standing| standing.term)?;
        let at = self
            .hosts
            .iter()
            .position(|host| Some(host.site.node) == latest.leader)?;
        self.hosts[at].controller().is_some().then_some(at)
    }

    /// Some node that answers, other than this one.
    pub fn some_controller(&self, but: Option<usize>) -> Option<(usize, Controller)> {
        let all: Vec<(usize, Controller)> = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != but)
            .filter_map(|(at, host)| Some((at, host.controller()?)))
            .collect();
        if all.is_empty() {
            return None;
        }
        let at = pick(0..all.len() as u64) as usize;
        Some(all[at].clone())
    }

    /// Some client asks something of some node.
    pub fn ask(&self) {
        let Some((at, controller)) = self.some_controller(None) else {
            return;
        };
        if let Some(control) = &self.hosts[at].control {
            let clients = Arc::clone(&self.clients);
            tokio::spawn(clients.ask(controller, control.life.clone()));
        }
    }

    /// Pods of a node that are to run elsewhere if that is lost.
    pub fn pods_that_move(&self, at: usize) -> Vec<ContainerId> {
        let node = self.hosts[at].site.node;
        let Some(replica) = self.hosts[at].replica() else {
            return Vec::new();
        };
        let state = replica.state();
        let own = state.on_node(node);
        own.filter(|placed| may_move(placed) && placed.wanted.up)
            .map(|placed| placed.id)
            .collect()
    }
}
