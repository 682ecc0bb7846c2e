//! A node's control, wired as `crate::node` wires it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::super::*;
use super::fake::{FakeAgent, Machine};
use crate::agent::keeper::{Images, Keeper};
use crate::image_peers::tests::Direct;
use crate::state::{Change, NodeId, NodeIs, NodeWanted, Object, Signal, Telling};

pub const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

pub fn owner() -> Tenant {
    "owner".parse().unwrap()
}

pub struct Node {
    pub controller: Controller,
    pub keeper: Keeper,
    pub machine: Arc<Machine>,
    pub images: Arc<FakeImages>,
    pub events: Subscriber,
    /// The images of another node.
    pub elsewhere: hearth_image::Store,
    _stock: AbortOnDropHandle<()>,
    late: Arc<Late>,
}

/// Every image is here, once it may be.
pub struct FakeImages {
    pub may_come: Semaphore,
    pub asked_for: Mutex<usize>,
}

#[async_trait]
impl Images for FakeImages {
    async fn bring(&self, _: &str) -> Result<(), AgentError> {
        *self.asked_for.lock().unwrap() += 1;
        drop(self.may_come.acquire().await.unwrap());
        Ok(())
    }
}

/// Returns once something is so that other tasks make so.
pub async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

/// A new machine's.
pub async fn node(dir: &Path) -> Node {
    on(dir, Machine::new(), false).await
}

pub async fn node_deaf_to(dir: &Path, deaf_to: i32) -> Node {
    let node = node(dir).await;
    node.machine.deaf_to.store(deaf_to, Ordering::Release);
    node
}

/// Of a control process that begins on a machine, the one before having ended somehow.
pub async fn on(dir: &Path, machine: Arc<Machine>, booted: bool) -> Node {
    let watchers = Arc::new(Watchers::default());
    let replica = loop {
        // A process before this one that was killed may yet have to close the file.
        match Replica::open(dir, 1, Arc::<Watchers>::clone(&watchers)).await {
            Ok(replica) => break replica,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let store = hearth_image::Store::open(&dir.join("images"), Default::default())
        .await
        .unwrap();
    let agent = Arc::new(FakeAgent {
        machine: Arc::clone(&machine),
        reports: Arc::new(Reporter::new(replica.clone(), &watchers)),
    });
    let mine: Vec<Placed> = replica.state().on_node(replica.node()).collect();
    agent.adopt(&mine).await;
    let join = Command::Join {
        node: replica.node(),
        at_ns: 0,
        is: Box::default(),
        wanted: NodeWanted::default(),
    };
    replica.propose(join).await.unwrap().unwrap();
    let agents = Agents::alone(replica.node(), Arc::<FakeAgent>::clone(&agent));
    let controller = Controller::new(replica.clone(), watchers, agents, store);
    let images = Arc::new(FakeImages {
        may_come: Semaphore::new(Semaphore::MAX_PERMITS),
        asked_for: Mutex::default(),
    });
    let (keeper, waker) = Keeper::new(replica, agent, Arc::<FakeImages>::clone(&images));
    let elsewhere = hearth_image::Store::open(&dir.join("elsewhere"), Default::default())
        .await
        .unwrap();
    let (stock, stock_waker) = controller.reach_images(Direct::to(elsewhere.clone()));
    let late = Arc::new(Late::default());
    controller.observe(vec![waker, stock_waker, Arc::<Late>::clone(&late)]);
    let image = Command::AddImage {
        tenant: owner(),
        at_ns: 0,
        image: IMAGE.into(),
        names: vec!["busybox:latest".into()],
        repo_digest: None,
        telling: Telling::Load,
        stored: crate::state::Stored::default(),
    };
    controller.propose(image).await.unwrap();
    keeper.begin(booted).await;
    let stock = AbortOnDropHandle::new(tokio::spawn(stock.run()));
    let events = controller.events(&owner(), false).await;
    Node {
        controller,
        keeper,
        machine,
        images,
        events,
        elsewhere,
        _stock: stock,
        late,
    }
}

/// Observers that come after the keeper's.
#[derive(Default)]
pub struct Late(Mutex<Vec<Arc<dyn Observer>>>);

impl Observer for Late {
    fn applied(&self, state: &State, changes: &[Change]) {
        let all = self.0.lock().unwrap();
        all.iter().for_each(|it| it.applied(state, changes));
    }
    fn replaced(&self, state: &State) {
        let all = self.0.lock().unwrap();
        all.iter().for_each(|it| it.replaced(state));
    }
}

impl Node {
    pub async fn create(
        &self,
        command: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> ContainerId {
        let mut spec = ContainerSpec {
            command: vec![command.into()],
            ..Default::default()
        };
        change(&mut spec);
        self.controller
            .create(&owner(), None, IMAGE, "busybox", spec)
            .await
            .unwrap()
    }

    pub fn find(&self, id: &ContainerId) -> Placed {
        self.controller.find(&owner(), &id.to_string()).unwrap()
    }

    /// The words of the next events, without the signals' numbers.
    pub async fn next_events(&mut self, count: usize) -> Vec<&'static str> {
        let mut words = Vec::new();
        while words.len() < count {
            let change = self.events.next().await.unwrap();
            if matches!(change.object, Object::Node(_)) {
                continue;
            }
            words.push(match &change.what {
                What::Created => "create",
                What::Started => "start",
                What::Died { .. } => "die",
                What::Signalled(_) => "kill",
                What::Stopped => "stop",
                What::Paused => "pause",
                What::Unpaused => "unpause",
                What::Restarted => "restart",
                What::Removed => "destroy",
                What::Wanted | What::Moved => continue,
                _ => "other",
            });
        }
        words
    }

    /// In order, as at the machine's power button.
    pub async fn go_down(&self) {
        self.controller.close();
        self.keeper.close().await;
        self.controller.flush().await;
    }

    pub fn other(&self) -> NodeId {
        NodeId(self.controller.inner.replica.node().0 + 1)
    }

    /// Has another told of every change as well, from now on.
    pub fn watch(&self, other: Arc<dyn Observer>) {
        self.late.0.lock().unwrap().push(other);
    }

    pub fn own(&self) -> NodeId {
        self.controller.inner.replica.node()
    }

    pub fn replica(&self) -> Replica {
        self.controller.inner.replica.clone()
    }

    /// Another node is there, which only the state knows; new pods go to this one.
    pub async fn joined_by_another(&self) -> NodeId {
        let roomy = NodeIs {
            cpus: 64,
            memory_bytes: 1 << 40,
            disk_bytes: 1 << 40,
            ..NodeIs::default()
        };
        self.joins(self.own(), roomy).await;
        let other = NodeIs {
            address: Some(([192, 0, 2, 2], 2377).into()),
            ..NodeIs::default()
        };
        self.joins(self.other(), other).await;
        self.other()
    }

    /// A node is there, or is another than it was.
    pub async fn joins(&self, node: NodeId, is: NodeIs) {
        let join = Command::Join {
            node,
            at_ns: 0,
            is: Box::new(is),
            wanted: NodeWanted::default(),
        };
        self.controller.propose(join).await.unwrap();
    }

    pub async fn assign(&self, id: &ContainerId, node: Option<NodeId>, kept: Vec<ContainerId>) {
        let assign = Command::Assign {
            pod: (*id).into(),
            at_ns: 0,
            epoch: self.find(id).pod.epoch,
            node,
            pending: String::new(),
            kept,
        };
        self.controller.propose(assign).await.unwrap();
    }

    pub async fn kill(&self, id: &ContainerId) {
        self.controller.kill(id, Signal::KILL).await.unwrap();
    }
}
