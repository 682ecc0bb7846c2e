//! A node's control process, wired as `crate::node` wires it, on a simulated machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::task::AbortOnDropHandle;

use super::agent::{Handle, LocalAgent, Pods};
use super::disk::{Disk, Queue};
use super::life::Life;
use super::machine::Machine;
use super::network::{Asking, End, Network};
use super::truth::{Truth, Witness};
use crate::agent::keeper::{self, Images, Keeper};
use crate::agent::{AgentError, Agents};
use crate::clock::now_ns;
use crate::cluster::leases::Leases;
use crate::cluster::service::{Issues, Node as Service, Part, Parts};
use crate::cluster::steward::Steward;
use crate::cluster::tenant::Tenant;
use crate::controller::{Controller, Reporter, Watchers};
use crate::lease::{BootTime, Clock, NodeLease, Timing};
use crate::peers::{self, RecvHalf, Refusal, RefusalKind, SendHalf};
use crate::raft::{Observer, Replica, Start, Storage};
use crate::state::{Command, FEATURES, NodeId, NodeIs, NodeWanted, Placed};

/// What a node is made of, but for what runs on it.
#[derive(Clone)]
pub struct Site {
    /// Which.
    pub node: NodeId,
    /// Its machine.
    pub machine: Arc<Machine>,
    /// Its disk, and what lies beside the replica's file there.
    pub disk: Disk,
    /// See [`Site::disk`].
    pub mark: Disk,
    /// In RAM.
    pub lease: PathBuf,
    /// Since its machine's boot.
    pub clock: Clock,
    /// What it is on.
    pub network: Arc<Network>,
    /// Who is to know.
    pub truth: Arc<Truth>,
    /// No image is in it: those of the simulation have no bytes.
    pub images: hearth_image::Store,
    /// How long leaders wait before they call a node out.
    pub timing: Timing,
}

/// How a process begins.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    /// It founds a cluster.
    pub founds: bool,
    /// The first since its machine's boot.
    pub booted: bool,
}

/// A control process.
pub struct Control {
    /// Until it is killed.
    pub life: Life,
    queue: Arc<Queue>,
    shared: Arc<Mutex<Shared>>,
    main: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    keeper: Option<Keeper>,
    replica: Option<Replica>,
    controller: Option<Controller>,
}

impl Control {
    /// Begins one.
    pub fn start(site: &Site, begin: Begin) -> Self {
        let (life, queue) = (Life::default(), Queue::start(&site.disk));
        let shared = Arc::<Mutex<Shared>>::default();
        let process = Process {
            site: site.clone(),
            life: life.clone(),
            queue: Arc::clone(&queue),
            shared: Arc::clone(&shared),
        };
        let main = tokio::spawn(async move {
            let (node, truth) = (process.site.node, Arc::clone(&process.site.truth));
            let why = process.run(begin).await;
            truth.note("control ends", &(node, why));
        });
        Self {
            life,
            queue,
            shared,
            main: AbortOnDropHandle::new(main),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// It has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.main.is_finished()
    }

    /// What its API would ask, once there is one.
    pub fn controller(&self) -> Option<Controller> {
        self.shared().controller.clone()
    }

    /// Its replica, once it has begun.
    pub fn replica(&self) -> Option<Replica> {
        self.shared().replica.clone()
    }

    /// It is killed.
    pub fn kill(self) {
        self.life.end();
        self.queue.end();
        self.main.abort();
        if let Some(keeper) = &self.shared().keeper {
            keeper.stop_listening();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Process {
    site: Site,
    life: Life,
    queue: Arc<Queue>,
    shared: Arc<Mutex<Shared>>,
}

/// What a node says of itself.
pub fn is(node: NodeId) -> NodeIs {
    let address: SocketAddr = ([10, 0, 0, node.0 as u8], peers::PORT).into();
    NodeIs {
        hostname: format!("node-{node}"),
        features: FEATURES,
        address: Some(address),
        cpus: 64,
        memory_bytes: 1 << 40,
        disk_bytes: 1 << 40,
        ..NodeIs::default()
    }
}

impl Process {
    /// Why it has ended.
    async fn run(self, begin: Begin) -> String {
        let Site { node, network, .. } = &self.site;
        let end = End {
            network: Arc::clone(network),
            node: *node,
            life: self.life.clone(),
        };
        let watchers = Arc::new(Watchers::default());
        let start = Start {
            storage: Storage::Backends {
                file: self.site.disk.open(),
                mark: self.site.mark.open(),
            },
            random: node.0,
            founds: begin.founds.then(|| {
                let address = is(*node).address;
                address.map_or(String::new(), |address| address.to_string())
            }),
            executor: Arc::<Queue>::clone(&self.queue),
            transport: Arc::new(end.clone()),
        };
        let witness = Witness {
            truth: Arc::clone(&self.site.truth),
            node: *node,
            watchers: Arc::clone(&watchers),
        };
        let replica = match Replica::start(start, Arc::new(witness)).await {
            Ok(replica) => replica,
            Err(error) => return error.to_string(),
        };
        lock(&self.shared).replica = Some(replica.clone());
        let service = Service::new(Arc::new(Anybody));
        service.follow(replica.clone());
        network.listen(*node, self.life.clone(), service.clone());
        loop {
            tokio::select! {
                led = replica.led() => match led {
                    Ok(()) => break,
                    Err(error) => self.site.truth.note("waits for the others", &(node, error.to_string())),
                },
                failure = replica.failed() => return failure.to_string(),
            }
        }
        match self.serve(begin, &replica, watchers, service, end).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn serve(
        &self,
        begin: Begin,
        replica: &Replica,
        watchers: Arc<Watchers>,
        service: Service,
        end: End,
    ) -> Result<std::convert::Infallible, String> {
        let site = &self.site;
        let reporter = Reporter::new(replica.clone(), &watchers);
        let lease = NodeLease::open(&site.lease, Arc::clone(&site.clock));
        let lease = lease.map_err(|error| error.to_string())?;
        let agent = LocalAgent::new(
            &site.machine,
            Arc::new(reporter),
            &lease,
            &site.clock,
            &self.life,
        );
        let mine: Vec<Placed> = replica.state().on_node(site.node).collect();
        agent.adopt(&mine).await;
        let join = Command::Join {
            node: site.node,
            at_ns: now_ns(),
            is: Box::new(is(site.node)),
            wanted: NodeWanted::default(),
        };
        keeper::commit(replica, join).await;
        let handle = Arc::new(Handle(Arc::clone(&agent)));
        let agents = Agents::alone(site.node, Arc::<Handle>::clone(&handle));
        let controller = Controller::new(replica.clone(), watchers, agents, site.images.clone());
        let (keeper, waker) = Keeper::new(replica.clone(), handle, Arc::new(Everywhere));
        let (steward, steward_waker) = Steward::new(replica.clone(), controller.placer());
        let observers: Vec<Arc<dyn Observer>> = vec![waker, steward_waker];
        controller.observe(observers);
        lock(&self.shared).keeper = Some(keeper.clone());
        keeper.begin(begin.booted).await;
        let leases = Leases::new(replica.clone(), Arc::clone(&site.clock), site.timing);
        let asking = Asking {
            end,
            replica: replica.clone(),
            own: Arc::clone(&leases),
        };
        let pods = Pods { agent, keeper };
        let tenant = Tenant::new(
            replica.clone(),
            lease,
            Arc::new(asking),
            Arc::new(pods),
            Timing::STANDARD,
        );
        service.begin(Parts {
            leases: Arc::<Leases>::clone(&leases),
            tenant: Arc::clone(&tenant),
            agent: Arc::new(Nothing),
            images: Arc::new(Nothing),
        });
        let _begun = [
            AbortOnDropHandle::new(tokio::spawn(leases.run())),
            AbortOnDropHandle::new(tokio::spawn(tenant.run())),
            AbortOnDropHandle::new(tokio::spawn(steward.run())),
        ];
        lock(&self.shared).controller = Some(controller.clone());
        site.truth.note("serves", &site.node);
        Err(controller.failed().await.to_string())
    }
}

/// Anybody may join: trust is tried elsewhere.
struct Anybody;

impl Issues for Anybody {
    fn check_token(&self, _: &str) -> Result<bool, String> {
        Ok(true)
    }
    fn sign(&self, _: NodeId, _: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
    fn unlock_key(&self) -> Option<String> {
        None
    }
}

/// Every image is everywhere.
struct Everywhere;

#[async_trait]
impl Images for Everywhere {
    async fn bring(&self, _: &str) -> Result<(), AgentError> {
        Ok(())
    }
}

/// Streams aren't simulated.
struct Nothing;

#[async_trait]
impl Part for Nothing {
    async fn call(&self, _: NodeId, path: &str, _: bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
        Err(Refusal::unknown(path))
    }
    async fn open(&self, _: NodeId, _: &str, _: bytes::Bytes, send: SendHalf, _: RecvHalf) {
        // An error: nobody waits for it any more.
        let _ = send.fail(&Refusal::new(RefusalKind::Failed, "not simulated"));
    }
}

/// A machine's clock, which is a little wrong, since it was switched on.
pub fn clock(wrong_ppm: i64, since_ns: u64) -> Clock {
    Arc::new(move || {
        let true_ns = super::hooks::true_ns().saturating_sub(since_ns);
        let wrong = (true_ns as i128) * i128::from(wrong_ppm) / 1_000_000;
        BootTime(1 + (true_ns as i128 + wrong) as u64)
    })
}
