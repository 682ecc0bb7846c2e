//! The agent of the node that this process runs on: microVMs, their files, logs and streams.

mod adopt;
mod cgroup;
mod cores;
mod entry;
mod exec;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest;
mod layer;
mod log;
mod monitor;
mod node;
mod paths;
mod plan;
mod pod;
mod pump;
mod shortage;
mod size;
mod start;
mod words;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_guest_protocol::{Error as Refusal, Reply, Request};

pub use paths::Paths;

#[cfg(test)]
pub(crate) use layer::template;

use cores::{Cookie, Cores};
use entry::{Entry, Run};
use exec::Execs;
use guest::GuestError;
use layer::Templates;
use log::Log;

use super::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, ExitSink, LogOptions, LogStream,
    NodeInfo, ProcessInfo, StartTimes,
};
use crate::entropy;
use crate::network::{Error as NetworkError, Network, Published};
use crate::state::{Container, ContainerId, ContainerSpec, PortBinding, Signal};

/// A guest that runs answers within a scheduling delay; on a node that is very busy, within this.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a guest's reason for a failed start that are kept in the state: a few lines. Guests are strangers'.
const MESSAGE_MAX: usize = 4 << 10;

/// What an agent is made with.
pub struct LocalConfig {
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
}

/// The agent. Cheap to clone.
#[derive(Clone)]
pub struct LocalAgent {
    local: Arc<Local>,
}

/// What an agent's tasks share.
struct Local {
    paths: Paths,
    node: NodeInfo,
    dns: Vec<IpAddr>,
    templates: Templates,
    layer_bytes: u64,
    cores: Cores,
    images: hearth_image::Store,
    network: Network,
    sink: Arc<dyn ExitSink>,
    execs: Execs,
    entries: Mutex<HashMap<ContainerId, Arc<Entry>>>,
    /// Runs with a monitor: their ports are published, their user ids taken, their tenants' cookies kept.
    runs: Mutex<HashMap<ContainerId, Claim>>,
}

/// What a run takes of the node.
#[derive(Default)]
struct Claim {
    uid: u32,
    ports: Vec<Published>,
    /// Held for the tenant's next pod. None: no processors share a core.
    _cookie: Option<Arc<Cookie>>,
    /// It was ended because there was no memory for it.
    out_of_memory: bool,
}

impl LocalAgent {
    /// Makes the node ready: unpacks the templates of writable layers.
    pub async fn new(
        config: LocalConfig,
        images: hearth_image::Store,
        network: Network,
        sink: Arc<dyn ExitSink>,
    ) -> Result<Self, AgentError> {
        let LocalConfig {
            paths,
            node,
            dns,
            siblings,
            layer_bytes,
        } = config;
        let (packed, dir) = (paths.templates.clone(), paths.containers.clone());
        let templates = blocking("unpacking the templates of writable layers", move || {
            Templates::unpack(&packed, &dir)
        })
        .await?;
        let local = Local {
            paths,
            node,
            dns,
            templates,
            layer_bytes,
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

    /// Takes up what runs of the containers that should be up; returns which do. Called once, before anything else.
    pub async fn adopt(&self, up: &[Container]) -> BTreeSet<ContainerId> {
        let adopted = adopt::adopt(&self.local, up).await;
        self.local.republish();
        adopted
    }

    /// Removes the files of containers that are not in `known`: their creation or removal was cut short.
    pub async fn sweep(&self, known: BTreeSet<ContainerId>) {
        let dir = self.local.paths.containers.clone();
        let swept = blocking(
            "clearing away files of containers that are gone",
            move || {
                for file in std::fs::read_dir(dir)? {
                    let file = file?;
                    let id: Result<ContainerId, _> = file.file_name().to_string_lossy().parse();
                    if id.is_ok_and(|id| !known.contains(&id)) {
                        std::fs::remove_dir_all(file.path())?;
                    }
                }
                Ok(())
            },
        )
        .await;
        if let Err(error) = swept {
            tracing::warn!(%error, "sweeping");
        }
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
        let make = || Arc::new(Entry::new(id.clone(), Log::new(&self.paths.container(id))));
        Arc::clone(self.entries().entry(id.clone()).or_insert_with(make))
    }

    /// The entry of a container that has files here.
    fn known(&self, id: &ContainerId) -> Result<Arc<Entry>, AgentError> {
        if self.entries().contains_key(id) || self.paths.container(id).is_dir() {
            return Ok(self.entry(id));
        }
        Err(AgentError::Failed {
            doing: format!("looking for container {}", id.short()),
            reason: "this node has no files of it".into(),
        })
    }

    fn running(&self, id: &ContainerId) -> Result<Arc<Run>, AgentError> {
        let entry = self.entries().get(id).cloned();
        entry
            .and_then(|entry| entry.current())
            .ok_or_else(|| AgentError::NotRunning(id.clone()))
    }

    /// As [`Self::running`], and where the container is only about to run: once it does.
    async fn running_soon(&self, id: &ContainerId) -> Result<Arc<Run>, AgentError> {
        let entry = self.entries().get(id).cloned();
        let entry = entry.ok_or_else(|| AgentError::NotRunning(id.clone()))?;
        let run = entry.current_or_next().await;
        run.ok_or_else(|| AgentError::NotRunning(id.clone()))
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
        } else {
            "the monitor has ended; its reason is in the node's log"
        }
    }

    /// Removes what a run leaves behind. Its monitor is gone.
    fn clear(&self, id: &ContainerId) {
        self.runs().remove(id);
        if let Err(error) = self.network.detach(id.as_str()) {
            tracing::warn!(pod = id.short(), %error, "detaching from the network");
        }
        pod::remove(&self.paths, id);
    }
}

#[async_trait]
impl Agent for LocalAgent {
    async fn prepare(&self, container: &Container) -> Result<(), AgentError> {
        let (templates, dir) = (
            self.local.templates.clone(),
            self.local.paths.container(&container.id),
        );
        let bytes = self.local.layer_bytes(&container.spec);
        blocking("making the container's writable layer", move || {
            layer::layer(&templates, &dir, bytes).map(drop)
        })
        .await
    }

    async fn start(
        &self,
        container: &Container,
        ports: &[PortBinding],
    ) -> Result<StartTimes, AgentError> {
        start::start(&self.local, container, ports).await
    }

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

    async fn discard(&self, id: &ContainerId) -> Result<(), AgentError> {
        let entry = self.local.entry(id);
        let _busy = entry.busy.lock().await;
        self.local.execs.forget(id);
        let dir = self.local.paths.container(id);
        let removed =
            blocking(
                "removing the container's files",
                move || match std::fs::remove_dir_all(dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            )
            .await;
        self.local.entries().remove(id);
        removed
    }

    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Attached, AgentError> {
        self.local.known(id)?.attach(stdin)
    }

    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream, AgentError> {
        Ok(self.local.known(id)?.log.read(options))
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
        let exec = ContainerId::from_random(entropy::random()).to_string();
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
