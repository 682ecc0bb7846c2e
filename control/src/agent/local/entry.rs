//! What the agent holds for each container while this process lives: its log, who listens, and the run that is on.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hearth_guest_protocol::Request;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::guest::{Conversation, Guest};
use super::log::Log;
use super::monitor::Monitor;
use crate::agent::{Attached, OutputChunk};
use crate::network::Published;
use crate::state::{Container, ContainerId};

/// Chunks on their way to an attached client before it slows the process: together about what a pipe or two hold.
pub const OUTPUT_QUEUE: usize = 16;
/// Chunks of stdin on their way to a process.
pub const INPUT_QUEUE: usize = 16;

/// One container.
pub struct Entry {
    /// Which.
    pub id: ContainerId,
    /// What it has written.
    pub log: Log,
    /// Held from the start of a run to the end of its monitor, and while the container's files are made or removed.
    pub busy: Arc<tokio::sync::Mutex<()>>,
    /// The run that is on.
    slot: watch::Sender<Slot>,
    /// Who gets the output of this run, or of the next where none is on.
    clients: Mutex<Vec<mpsc::Sender<OutputChunk>>>,
}

/// Where a container's runs come and go.
#[derive(Default, Clone)]
struct Slot {
    run: Option<Arc<Run>>,
    /// One is about to begin.
    starting: bool,
    /// Runs that are over, those that never came to be included.
    ended: u64,
}

/// One run of a container.
pub struct Run {
    /// As it was when it was started.
    pub container: Container,
    /// The way to it.
    pub guest: Guest,
    /// Its process.
    pub monitor: Monitor,
    /// Its ports.
    pub ports: Vec<Published>,
    /// It has been told to die: no client may hold it up any more.
    pub hurry: CancellationToken,
    /// Output taken from the guest, bytes.
    pub taken: AtomicU64,
    /// Cancelled once its exit is known; its microVM has yet to write back and power off.
    pub exited: CancellationToken,
    /// stdin, opened by the first who writes. Held across the write: chunks of several clients don't mix.
    input: tokio::sync::Mutex<Option<Conversation>>,
}

impl Run {
    /// A run whose monitor has been started.
    pub fn new(
        container: Container,
        guest: Guest,
        monitor: Monitor,
        ports: Vec<Published>,
    ) -> Self {
        Self {
            container,
            guest,
            monitor,
            ports,
            hurry: CancellationToken::new(),
            taken: AtomicU64::new(0),
            exited: CancellationToken::new(),
            input: tokio::sync::Mutex::default(),
        }
    }

    /// Stdin of the main process: some bytes, or its end.
    async fn input(&self, data: Option<Bytes>) -> Result<(), super::guest::GuestError> {
        let mut input = self.input.lock().await;
        let conversation = match input.take() {
            Some(conversation) => conversation,
            None => open_input(&self.guest, self.container.id.as_str()).await?,
        };
        let conversation = input.insert(conversation);
        match data {
            Some(data) => conversation.write(&data).await,
            None => conversation.finish().await,
        }
    }
}

/// Opens the stdin of a process.
pub async fn open_input(
    guest: &Guest,
    process: &str,
) -> Result<Conversation, super::guest::GuestError> {
    let mut conversation = guest
        .open(&Request::Input {
            process: process.to_owned(),
        })
        .await?;
    conversation.reply().await?;
    Ok(conversation)
}

/// While it lives, a run is about to begin.
pub struct Starting(Arc<Entry>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.slot.send_modify(|slot| slot.starting = false);
    }
}

impl Entry {
    /// Of a container that this process has not dealt with yet.
    pub fn new(id: ContainerId, log: Log) -> Self {
        Self {
            id,
            log,
            busy: Arc::default(),
            slot: watch::Sender::default(),
            clients: Mutex::default(),
        }
    }

    /// The run that is on.
    pub fn current(&self) -> Option<Arc<Run>> {
        self.slot.borrow().run.clone()
    }

    /// A run is about to begin.
    pub fn begin_start(self: &Arc<Self>) -> Starting {
        self.slot.send_modify(|slot| slot.starting = true);
        Starting(Arc::clone(self))
    }

    /// The run that is on, or that is about to begin once it has.
    pub async fn current_or_next(&self) -> Option<Arc<Run>> {
        let mut slots = self.slot.subscribe();
        let settled = |slot: &Slot| slot.run.is_some() || !slot.starting;
        slots.wait_for(settled).await.ok()?.run.clone()
    }

    /// A run is on.
    pub fn begin_run(&self, run: &Arc<Run>) {
        self.slot
            .send_modify(|slot| slot.run = Some(Arc::clone(run)));
    }

    /// The last byte of a run has been given out, or it could not be started: nobody listens or speaks to it any more.
    pub fn end_run(&self) {
        self.clients().clear();
        self.slot.send_modify(|slot| {
            slot.run = None;
            slot.ended += 1;
        });
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<OutputChunk>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client from now on.
    pub fn attach(self: &Arc<Self>, stdin: bool) -> Attached {
        let (to, output) = mpsc::channel(OUTPUT_QUEUE);
        self.clients().push(to);
        let input = stdin.then(|| {
            let (input, from) = mpsc::channel(INPUT_QUEUE);
            tokio::spawn(forward_input(self.slot.subscribe(), from));
            input
        });
        Attached { output, input }
    }

    /// Gives a chunk to everybody; waits for the slow, forgets the gone, and the slow as well once `run` has to hurry.
    pub async fn fan_out(&self, run: &Run, chunk: &OutputChunk) {
        let clients = self.clients().clone();
        let mut gone = false;
        for client in &clients {
            tokio::select! {
                biased;
                sent = client.send(chunk.clone()) => gone |= sent.is_err(),
                () = run.hurry.cancelled() => gone = true,
            }
        }
        if gone {
            let hurry = run.hurry.is_cancelled();
            self.clients()
                .retain(|client| !(client.is_closed() || hurry && client.capacity() == 0));
        }
    }
}

/// Carries one client's stdin to the run that is on, or comes next.
async fn forward_input(mut slots: watch::Receiver<Slot>, mut from: mpsc::Receiver<Bytes>) {
    let ended = slots.borrow().ended;
    let next = slots
        .wait_for(|slot| slot.run.is_some() || slot.ended != ended)
        .await;
    let Some(run) = next.ok().and_then(|slot| slot.run.clone()) else {
        return;
    };
    let carried = async {
        while let Some(data) = from.recv().await {
            run.input(Some(data)).await?;
        }
        if run.container.spec.stdin_once && !run.container.spec.tty {
            run.input(None).await
        } else {
            Ok(())
        }
    };
    tokio::select! {
        done = carried => if let Err(error) = done {
            tracing::debug!(container = run.container.id.short(), %error, "stdin");
        },
        () = run.monitor.gone.cancelled() => {}
    }
}
