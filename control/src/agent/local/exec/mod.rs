//! Execs: further processes in running containers. Known to this process only; their output is nobody's but the client's.
//!
//! An exec is remembered until its container's run is over, or [`room`] has it forgotten.

mod room;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use hearth_guest_protocol::{Reply, Request};
use tokio::sync::mpsc;

use self::room::{Full, Stage, Standing};
use super::entry::{INPUT_QUEUE, OUTPUT_QUEUE, Run, open_input};
use super::follow::{Follower, Told};
use super::guest::{Guest, GuestError};
use super::{plan, start_error};
use crate::agent::{
    AgentError, Attached, ExecId, ExecSpec, ExecStatus, OutputChunk, Reports, Stream,
};
use crate::clock::now_ns;
use crate::state::{ContainerId, What};

/// Code of a process that went down with its microVM: docker's for SIGKILL.
const KILLED: u8 = 137;

/// All execs of this node.
#[derive(Clone)]
pub struct Execs {
    /// For each container no more than [`room`] says.
    all: Arc<Mutex<HashMap<ExecId, Exec>>>,
    sink: Arc<dyn Reports>,
}

struct Exec {
    run: Arc<Run>,
    status: ExecStatus,
    stage: Stage,
    /// Of what was asked for.
    bytes: usize,
}

impl Exec {
    fn standing(&self) -> Standing {
        Standing {
            stage: self.stage,
            bytes: self.bytes,
        }
    }
}

/// Bytes that remembering it takes; a million of empty words are some, too.
fn size_of(spec: &ExecSpec) -> usize {
    let texts = [&spec.working_dir, &spec.user, &spec.detach_keys];
    let texts = texts.into_iter().chain(&spec.args).chain(&spec.env);
    texts.map(|text| size_of_val(text) + text.len()).sum()
}

/// Forgets the ended, for as long as there is somebody to remember them.
async fn forget_the_ended(all: Weak<Mutex<HashMap<ExecId, Exec>>>) {
    loop {
        tokio::time::sleep(room::KEPT).await;
        let Some(all) = all.upgrade() else {
            return;
        };
        let now = Instant::now();
        all.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, exec| !room::is_over(exec.stage, now));
    }
}

impl Execs {
    /// None yet. `sink` is told of each that is made, started, and ends.
    pub fn new(sink: Arc<dyn Reports>) -> Self {
        let all = Arc::default();
        tokio::spawn(forget_the_ended(Arc::downgrade(&all)));
        Self { all, sink }
    }

    /// Tells those who watch.
    fn tell(&self, container: &ContainerId, what: What) {
        self.sink.happened(container, what, now_ns());
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<ExecId, Exec>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, id: &ExecId, code: u8) {
        if let Some(exec) = self.all().get_mut(id) {
            exec.stage = Stage::Ended(Instant::now());
            (exec.status.running, exec.status.exit_code) = (false, Some(code));
        }
    }

    /// Remember one, in place of some that have ended if need be.
    pub fn create(&self, id: ExecId, run: Arc<Run>, spec: ExecSpec) -> Result<(), AgentError> {
        let container = run.container.id;
        let bytes = size_of(&spec);
        let now = Instant::now();
        let mut all = self.all();
        let own = all
            .iter()
            .filter(|(_, exec)| exec.status.container == container);
        let own = own.map(|(id, exec)| (id.clone(), exec.standing()));
        let forgotten = room::make_room(own, bytes, now).map_err(|full| match full {
            Full::Number => AgentError::TooMany {
                container,
                what: "execs that run or are about to".into(),
                limit: room::EXECS_MAX,
            },
            Full::Bytes => AgentError::TooMany {
                container,
                what: "MiB of words and variables of execs".into(),
                limit: room::BYTES_MAX >> 20,
            },
        })?;
        for id in forgotten {
            all.remove(&id);
        }
        let created = What::ExecCreated {
            exec: id.clone(),
            line: command_line(&spec.args),
        };
        self.tell(&container, created);
        let status = ExecStatus {
            id: id.clone(),
            container,
            spec,
            running: false,
            exit_code: None,
            pid: 0,
        };
        all.insert(
            id,
            Exec {
                run,
                status,
                stage: Stage::Made(now),
                bytes,
            },
        );
        Ok(())
    }

    /// As it stands.
    pub fn status(&self, id: &ExecId) -> Result<ExecStatus, AgentError> {
        self.all()
            .get(id)
            .map(|exec| exec.status.clone())
            .ok_or_else(|| AgentError::NoSuchExec(id.clone()))
    }

    /// Those of a container that run.
    pub fn running(&self, container: &ContainerId) -> Vec<ExecId> {
        let all = self.all();
        let mut ids: Vec<ExecId> = all
            .values()
            .filter(|exec| exec.status.container == *container && exec.status.running)
            .map(|exec| exec.status.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Forget a container's: it begins another run, or is gone.
    pub fn forget(&self, container: &ContainerId) {
        self.all()
            .retain(|_, exec| exec.status.container != *container);
    }

    /// Where one runs.
    pub fn guest(&self, id: &ExecId) -> Result<Guest, AgentError> {
        self.all()
            .get(id)
            .map(|exec| exec.run.guest.clone())
            .ok_or_else(|| AgentError::NoSuchExec(id.clone()))
    }

    /// Start one.
    pub async fn start(
        &self,
        id: &ExecId,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, AgentError> {
        let (run, spec) = {
            let mut all = self.all();
            let exec = all
                .get_mut(id)
                .ok_or_else(|| AgentError::NoSuchExec(id.clone()))?;
            if !matches!(exec.stage, Stage::Made(_)) {
                return Err(AgentError::ExecStarted(id.clone()));
            }
            exec.stage = Stage::Running;
            let spec = exec.status.spec.clone();
            (Arc::clone(&exec.run), spec)
        };
        let container = run.container.id;
        if run.monitor.gone.is_cancelled() {
            self.ended(id, KILLED);
            return Err(AgentError::NotRunning(container));
        }
        let started = What::ExecStarted {
            exec: id.clone(),
            line: command_line(&spec.args),
        };
        self.tell(&container, started);
        let request = Request::Exec(Box::new(plan::exec(&run.container, id, &spec, size)));
        let started = async {
            let mut conversation = run.guest.open(&request).await?;
            conversation
                .reply()
                .await
                .map(|reply| (conversation, reply))
        };
        let (conversation, reply) = match started.await {
            Ok(started) => started,
            Err(error) => {
                let error = start_error(error);
                let code = if let AgentError::Start { code, .. } = &error {
                    *code
                } else {
                    KILLED
                };
                self.ended(id, code);
                return Err(error);
            }
        };
        let pid = if let Reply::Started { pid, .. } = reply {
            pid
        } else {
            0
        };
        if let Some(exec) = self.all().get_mut(id) {
            (exec.status.running, exec.status.pid) = (true, pid);
        }
        let (to, output) = mpsc::channel(OUTPUT_QUEUE);
        let input = spec.stdin.then(|| {
            let (input, from) = mpsc::channel(INPUT_QUEUE);
            tokio::spawn(forward_input(Arc::clone(&run), id.clone(), from));
            input
        });
        let (execs, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let follower = Follower::new(&run, id.clone(), conversation, 0);
            let code = deliver(follower, &to).await;
            execs.ended(&id, code);
            drop(to);
            let died = What::ExecDied {
                exec: id.clone(),
                code,
            };
            execs.tell(&container, died);
            let _ = run.guest.ask(&Request::Forget { process: id }).await;
        });
        Ok(Attached {
            output,
            input,
            broken: None,
        })
    }
}

/// Carries output to the client, or nowhere once it has gone; returns the exit code.
async fn deliver(mut follower: Follower, to: &mpsc::Sender<OutputChunk>) -> u8 {
    while let Some(told) = follower.next().await {
        match told {
            Told::Output { stderr, data, .. } => {
                let stream = if stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                // Gone: the process goes on without, as with docker.
                let _ = to.send(OutputChunk { stream, data }).await;
            }
            Told::OutOfMemory(_) => {}
            Told::Exited(exit) => return exit.code,
        }
    }
    KILLED
}

async fn forward_input(run: Arc<Run>, id: ExecId, mut from: mpsc::Receiver<Bytes>) {
    let carried = async {
        let mut conversation = open_input(&run.guest, &id).await?;
        while let Some(data) = from.recv().await {
            conversation.write(&data).await?;
        }
        conversation.finish().await?;
        // Held until the guest lets go: a connection that just vanishes is no end of stdin.
        let _ = conversation.next().await;
        Ok::<_, GuestError>(())
    };
    if let Err(error) = carried.await {
        tracing::debug!(exec = &id[..12.min(id.len())], %error, "stdin");
    }
}

/// As docker's events have it: the program, a space, and its arguments, of which there may be none.
fn command_line(args: &[String]) -> String {
    let (program, args) = args
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{program} {}", args.join(" "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_without_arguments_is_followed_by_a_space_all_the_same() {
        let line = |args: &[&str]| {
            super::command_line(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(line(&["ls"]), "ls ");
        assert_eq!(line(&["sh", "-c", "true"]), "sh -c true");
    }
}
