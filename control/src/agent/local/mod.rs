//! The agent of the node that this process runs on: microVMs, their files, logs and streams.

mod adopt;
mod cgroup;
mod command;
mod cores;
mod entry;
mod exec;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest;
mod layer;
mod layers;
mod leased;
mod log;
mod monitor;
mod node;
mod paths;
mod patience;
mod plan;
mod pod;
mod pump;
mod shortage;
mod size;
mod start;
mod words;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_guest_protocol::{Error as Refusal, Reply, Request};
use tokio::sync::broadcast;

pub use paths::Paths;

#[cfg(test)]
pub(crate) use layer::template;

use cores::{Cookie, Cores};
use entry::{Entry, Run};
use exec::Execs;
use guest::GuestError;
use layer::Templates;
use log::Log;
use monitor::Monitor;

use super::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, Happenings, LogOptions, LogStream,
    NodeInfo, ProcessInfo, Reports, Runtime, StartTimes, exec_id,
};
use crate::cluster::moves::may_move;
use crate::entropy;
use crate::lease::NodeLease;
use crate::network::{Error as NetworkError, Network, Published};
use crate::state::{ContainerId, ContainerSpec, Layer, NodeId, Placed, Run as RunNumber, Signal};

/// A guest that runs answers within a scheduling delay; on a node that is very busy, within this.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a guest's reason for a failed start that are kept in the state: a few lines. Guests are strangers'.
const MESSAGE_MAX: usize = 4 << 10;

/// What an agent is made with.
pub struct LocalConfig {
    /// The node's id.
    pub id: NodeId,
    /// Where things are.
    pub paths: Paths,
    /// What is known of the node beforehand: name, version, storage, registries.
    pub node: NodeInfo,
    /// Name servers for containers.
    pub dns: Vec<IpAddr>,
    /// The machine has processors that share a core, on which tenants are kept apart.
    pub siblings: bool,
    /// The size of writable layers where a container asks for none, bytes.
    pub layer_bytes: u64,
    /// What pods keep to that may run elsewhere.
    pub lease: NodeLease,
}

/// The agent. Cheap to clone.
#[derive(Clone)]
pub struct LocalAgent {
    local: Arc<Local>,
}

/// What an agent's tasks share.
struct Local {
    id: NodeId,
    paths: Paths,
    node: NodeInfo,
    dns: Vec<IpAddr>,
    templates: Templates,
    layer_bytes: u64,
    lease: NodeLease,
    cores: Cores,
    images: hearth_image::Store,
    network: Network,
    sink: Arc<dyn Reports>,
    execs: Execs,
    entries: Mutex<HashMap<ContainerId, Arc<Entry>>>,
    /// Runs with a monitor: their ports are published, their user ids taken, their tenants' cookies kept.
    runs: Mutex<HashMap<ContainerId, Claim>>,
}

/// What a run takes of the node.
#[derive(Default)]
struct Claim {
    /// Which run it is, until its end has been told.
    run: Option<RunNumber>,
    uid: u32,
    ports: Vec<Published>,
    /// Held for the tenant's next pod. None: no processors share a core.
    _cookie: Option<Arc<Cookie>>,
    /// It was ended because there was no memory for it.
    out_of_memory: bool,
    /// Its monitor, once that is started, where it keeps to the node's lease.
    leased: Option<Monitor>,
}

impl LocalAgent {
    /// Makes the node ready: unpacks the templates of writable layers.
    pub async fn new(
        config: LocalConfig,
        images: hearth_image::Store,
        network: Network,
        sink: Arc<dyn Reports>,
    ) -> Result<Self, AgentError> {
        let LocalConfig {
            id,
            paths,
            node,
            dns,
            siblings,
            layer_bytes,
            lease,
        } = config;
        let (packed, dir) = (paths.templates.clone(), paths.containers.clone());
        let templates = blocking("unpacking the templates of writable layers", move || {
            Templates::unpack(&packed, &dir)
        })
        .await?;
        let local = Local {
            id,
            paths,
            node,
            dns,
            templates,
            layer_bytes,
            lease,
            cores: Cores::new(siblings),
            images,
            network,
            execs: Execs::new(Arc::clone(&sink)),
            sink,
            entries: Mutex::default(),
            runs: Mutex::default(),
        };
        let local = Arc::new(local);
        let pods = local.paths.cgroup.clone();
        tokio::spawn(shortage::watch(Arc::downgrade(&local), pods));
        Ok(Self { local })
    }

    /// Takes up what runs of the containers that this node has. Called once, before anything else.
    pub async fn adopt(&self, mine: &[Placed]) {
        adopt::adopt(&self.local, mine).await;
        self.local.republish();
    }

    /// Waits until no microVM is left. Whoever calls this has stopped them all.
    pub async fn idle(&self) {
        let entries: Vec<_> = self.local.entries().values().cloned().collect();
        for entry in entries {
            drop(entry.busy.lock().await);
        }
    }
}

impl Local {
    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Claim>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &ContainerId) -> Arc<Entry> {
        let make = || Arc::new(Entry::new(*id, Log::new(&self.paths.container(id))));
        Arc::clone(self.entries().entry(*id).or_insert_with(make))
    }

    fn running(&self, id: &ContainerId) -> Result<Arc<Run>, AgentError> {
        let entry = self.entries().get(id).cloned();
        entry
            .and_then(|entry| entry.current())
            .ok_or(AgentError::NotRunning(*id))
    }

    /// As [`Self::running`], and where the container is only about to run: once it does.
    async fn running_soon(&self, id: &ContainerId) -> Result<Arc<Run>, AgentError> {
        let entry = self.entries().get(id).cloned();
        let entry = entry.ok_or(AgentError::NotRunning(*id))?;
        let run = entry.current_or_next().await;
        run.ok_or(AgentError::NotRunning(*id))
    }

    /// The ports of a run lead to it from now on. Where one can't, none does.
    fn publish(&self, run: &Run) -> Result<(), AgentError> {
        if let Some(claim) = self.runs().get_mut(&run.container.id) {
            claim.ports.clone_from(&run.ports);
        }
        if !run.ports.is_empty()
            && let Err(error) = self.try_republish()
        {
            self.unpublish(run);
            return Err(unpublished(error));
        }
        Ok(())
    }

    /// They don't any more.
    fn unpublish(&self, run: &Run) {
        let ports = self
            .runs()
            .get_mut(&run.container.id)
            .map(|claim| std::mem::take(&mut claim.ports));
        if ports.is_some_and(|ports| !ports.is_empty()) {
            self.republish();
        }
    }

    fn republish(&self) {
        if let Err(error) = self.try_republish() {
            tracing::error!(%error, "publishing ports");
        }
    }

    fn try_republish(&self) -> Result<(), NetworkError> {
        let runs = self.runs();
        let ports: Vec<Published> = runs
            .values()
            .flat_map(|claim| claim.ports.iter().cloned())
            .collect();
        // Under the lock: of two sets, the later one stays.
        self.network.publish(&ports)
    }

    /// The writable layer of a container where its pod is now, made if it isn't there. Blocks.
    fn layer(&self, placed: &Placed) -> io::Result<std::path::PathBuf> {
        let place = placed.layer_in(placed.pod.epoch);
        let dir = layers::place(&self.paths.containers, &placed.id, place)?;
        layer::layer(&self.templates, &dir, self.layer_bytes(&placed.spec))
    }

    /// The size of a container's writable layer.
    fn layer_bytes(&self, spec: &ContainerSpec) -> u64 {
        spec.storage_bytes.unwrap_or(self.layer_bytes)
    }

    /// What is written to a layer is in the node's RAM.
    fn in_ram(&self) -> bool {
        self.node.storage == "ram"
    }

    /// Why a monitor has ended by itself.
    fn why_ended(&self, id: &ContainerId) -> &'static str {
        if self.ran_out_of_memory(id) {
            "the node has no memory left for it"
        } else if self.ended_by_lease(id) {
            "the node's lease is over, and it may run elsewhere"
        } else {
            "the monitor has ended; its reason is in the node's log"
        }
    }

    /// Removes what a run leaves behind. Its monitor is gone.
    fn clear(&self, id: &ContainerId) {
        self.runs().remove(id);
        if let Err(error) = self.network.detach(&id.to_string()) {
            tracing::warn!(pod = id.short(), %error, "detaching from the network");
        }
        pod::remove(&self.paths, id);
    }
}

#[async_trait]
impl Runtime for LocalAgent {
    async fn prepare(&self, placed: &Placed) -> Result<(), AgentError> {
        start::make_layer(&self.local, placed).await
    }

    async fn start(&self, placed: &Placed, run: RunNumber) -> Result<StartTimes, AgentError> {
        start::start(&self.local, placed, run).await
    }

    fn may_start(&self, placed: &Placed) -> bool {
        !may_move(placed) || self.local.lease.holds()
    }

    fn running(&self, id: &ContainerId) -> Option<RunNumber> {
        self.local.runs().get(id).and_then(|claim| claim.run)
    }

    async fn pause(&self, id: &ContainerId, paused: bool) -> Result<(), AgentError> {
        let run = self.local.running(id)?;
        let asked = match paused {
            true => hearth_vmm_api::Command::Pause,
            false => hearth_vmm_api::Command::Resume,
        };
        command::command(&self.local.paths.api_socket(id), asked)
            .await
            .map_err(|error| failed("having the microVM stand still or go on", error))?;
        run.paused.store(paused, Ordering::Relaxed);
        Ok(())
    }

    fn is_paused(&self, id: &ContainerId) -> bool {
        let run = self.local.running(id);
        run.is_ok_and(|run| run.paused.load(Ordering::Relaxed))
    }

    async fn ended(&self, id: &ContainerId) {
        let entry = self.local.entries().get(id).cloned();
        if let Some(entry) = entry {
            drop(entry.busy.lock().await);
        }
    }

    async fn destroy(&self, id: &ContainerId) {
        if let Ok(run) = self.local.running_soon(id).await {
            run.hurry.cancel();
            run.monitor.kill();
        }
    }

    async fn discard(&self, id: &ContainerId, others: &[Layer]) -> Result<(), AgentError> {
        let others = others.to_vec();
        let entry = self.local.entry(id);
        let _busy = entry.busy.lock().await;
        self.local.execs.forget(id);
        let link = self.local.paths.container(id);
        let removed = blocking("removing the container's files", move || {
            layers::remove(&link, &others)
        })
        .await;
        self.local.entries().remove(id);
        removed
    }

    async fn present(&self) -> Vec<ContainerId> {
        let dir = self.local.paths.containers.clone();
        let found = blocking("looking for files of containers", move || {
            layers::present(&dir)
        });
        let mut present = found.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "not all of what is here is known");
            Vec::new()
        });
        present.extend(self.local.runs().keys());
        present
    }

    async fn sweep(&self, known: Vec<(ContainerId, Layer)>) {
        let dir = self.local.paths.containers.clone();
        let swept = blocking(
            "clearing away files of containers that are gone",
            move || layers::sweep(&dir, &known),
        )
        .await;
        if let Err(error) = swept {
            tracing::warn!(%error, "sweeping");
        }
    }
}

#[async_trait]
impl Agent for LocalAgent {
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        let run = self.local.running_soon(id).await?;
        if signal == Signal::KILL {
            run.hurry.cancel();
        }
        let request = Request::Signal {
            process: id.to_string(),
            signal: signal.number(),
        };
        let asked = tokio::time::timeout(GUEST_PATIENCE, run.guest.ask(&request)).await;
        match asked {
            // Ended by itself in the meantime; that it has will be known in a moment.
            Ok(
                Ok(_) | Err(GuestError::Refused(Refusal::Exited(_) | Refusal::NoSuchProcess(_))),
            ) => {
                if signal == Signal::KILL {
                    end_if_stuck(run, GUEST_PATIENCE);
                }
                Ok(())
            }
            Ok(Err(GuestError::Refused(refusal))) => Err(failed("sending the signal", refusal)),
            _ if signal == Signal::KILL => {
                tracing::warn!(
                    container = id.short(),
                    "the guest does not answer; its microVM is ended"
                );
                run.monitor.kill();
                Ok(())
            }
            Ok(Err(error)) => Err(failed("sending the signal", error)),
            Err(_) => Err(failed("sending the signal", "the microVM does not answer")),
        }
    }

    async fn resize(&self, id: &ContainerId, rows: u16, columns: u16) -> Result<(), AgentError> {
        let run = self.local.running_soon(id).await?;
        let request = Request::Resize {
            process: id.to_string(),
            rows,
            columns,
        };
        ask(&run.guest, &request, "resizing the terminal")
            .await
            .map(drop)
    }

    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, AgentError> {
        let templates = self.local.templates.clone();
        let dir = self.local.paths.container(id);
        blocking("looking at the container's writable layer", move || {
            layer::bytes_written(&templates, &dir)
        })
        .await
    }

    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Attached, AgentError> {
        self.local.entry(id).attach(stdin)
    }

    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream, AgentError> {
        Ok(self.local.entry(id).log.read(options))
    }

    async fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        let run = self.local.running(id)?;
        let request = Request::Processes {
            container: id.to_string(),
        };
        match ask(&run.guest, &request, "listing processes").await? {
            Reply::Processes(processes) => Ok(processes),
            other => Err(failed(
                "listing processes",
                format!("the guest answered {other:?}"),
            )),
        }
    }

    async fn exec_create(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecId, AgentError> {
        let run = self.local.running(id)?;
        let exec = exec_id(self.local.id, entropy::random());
        self.local.execs.create(exec.clone(), run, spec)?;
        Ok(exec)
    }

    async fn exec_start(
        &self,
        exec: &ExecId,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, AgentError> {
        self.local.execs.start(exec, size).await
    }

    async fn exec_resize(&self, exec: &ExecId, rows: u16, columns: u16) -> Result<(), AgentError> {
        let guest = self.local.execs.guest(exec)?;
        let request = Request::Resize {
            process: exec.clone(),
            rows,
            columns,
        };
        ask(&guest, &request, "resizing the terminal")
            .await
            .map(drop)
    }

    async fn exec_status(&self, exec: &ExecId) -> Result<ExecStatus, AgentError> {
        self.local.execs.status(exec)
    }

    async fn execs(&self, id: &ContainerId) -> Vec<ExecId> {
        self.local.execs.running(id)
    }

    async fn node(&self) -> NodeInfo {
        node::info(&self.local.node, &self.local.paths.containers)
    }

    async fn happenings(&self) -> Result<Happenings, AgentError> {
        let told = self.local.sink.happenings();
        let all = futures_util::stream::unfold(told, |mut told| async {
            loop {
                match told.recv().await {
                    Ok(happening) => return Some((Ok(happening), told)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(
                            missed,
                            "another node was too slow to hear what happens here"
                        );
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(Box::pin(all))
    }
}

/// Ends the microVM of a process that was killed, if its exit doesn't come: neither that nor more of its last output for a while.
fn end_if_stuck(run: Arc<Run>, patience: Duration) {
    tokio::spawn(async move {
        loop {
            let taken = run.taken.load(Ordering::Relaxed);
            tokio::select! {
                () = run.exited.cancelled() => return,
                () = tokio::time::sleep(patience) => {}
            }
            if run.taken.load(Ordering::Relaxed) == taken {
                run.monitor.kill();
                return;
            }
        }
    });
}

async fn ask(guest: &guest::Guest, request: &Request, doing: &str) -> Result<Reply, AgentError> {
    match tokio::time::timeout(GUEST_PATIENCE, guest.ask(request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(failed(doing, error)),
        Err(_) => Err(failed(doing, "the microVM does not answer")),
    }
}

/// Why a process could not be started, with docker's exit code for it.
fn start_error(error: GuestError) -> AgentError {
    let code = match &error {
        GuestError::Refused(Refusal::NotFound { .. }) => 127,
        GuestError::Refused(Refusal::NotExecutable { .. }) => 126,
        _ => 125,
    };
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    AgentError::Start { message, code }
}

fn failed(doing: &str, reason: impl ToString) -> AgentError {
    AgentError::Failed {
        doing: doing.into(),
        reason: reason.to_string(),
    }
}

/// A port could not be had. docker's words, which Compose and scripts look for.
fn unpublished(error: NetworkError) -> AgentError {
    failed("driver failed programming external connectivity", error)
}

fn io_failed(doing: &str, error: io::Error) -> AgentError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AgentError::DiskFull,
        _ => failed(doing, error),
    }
}

async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, AgentError> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| failed(doing, error))?;
    done.map_err(|error| io_failed(doing, error))
}

#[cfg(test)]
pub(crate) mod tests;
