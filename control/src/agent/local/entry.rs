//! What the agent holds for each container while this process lives: its log, who listens, and the run that is on.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures_util::future::OptionFuture;
use hearth_guest_protocol::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::guest::{Conversation, Guest};
use super::log::Log;
use super::monitor::Monitor;
use crate::agent::{AgentError, Attached, OutputChunk};
use crate::network::Published;
use crate::state::{ContainerId, Placed, Run as RunNumber};

/// Chunks on their way to an attached client before it slows the process: together about what a pipe or two hold.
pub const OUTPUT_QUEUE: usize = 16;
/// Chunks of stdin on their way to a process: what a client reads at a time, four times.
pub const INPUT_QUEUE: usize = 4;
/// Clients attached to a container at the same time: a terminal or two, some that watch. Each has at most those chunks of its own, also
/// after it has gone, where the process doesn't take them.
const CLIENTS_MAX: usize = 32;

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
    /// What is left of [`CLIENTS_MAX`].
    places: Arc<Semaphore>,
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
    pub container: Placed,
    /// Which run it is.
    pub number: RunNumber,
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
    /// Its microVM stands still.
    pub paused: AtomicBool,
    /// Cancelled once its exit is known; its microVM has yet to write back and power off.
    pub exited: CancellationToken,
    /// stdin, opened by the first who writes. Held across the write: chunks of several clients don't mix.
    input: tokio::sync::Mutex<Option<Conversation>>,
}

impl Run {
    /// A run whose monitor has been started.
    pub fn new(
        container: Placed,
        number: RunNumber,
        guest: Guest,
        monitor: Monitor,
        ports: Vec<Published>,
    ) -> Self {
        Self {
            container,
            number,
            guest,
            monitor,
            ports,
            hurry: CancellationToken::new(),
            taken: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            exited: CancellationToken::new(),
            input: tokio::sync::Mutex::default(),
        }
    }

    /// Stdin of the main process: some bytes, or its end.
    async fn input(&self, data: Option<Bytes>) -> Result<(), super::guest::GuestError> {
        let mut input = self.input.lock().await;
        let conversation = match input.take() {
            Some(conversation) => conversation,
            None => open_input(&self.guest, &self.container.id.to_string()).await?,
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
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
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
        let mut clients = self.clients();
        clients.clear();
        // Under the lock: who attaches meanwhile is the next run's in both respects.
        self.slot.send_modify(|slot| {
            slot.run = None;
            slot.ended += 1;
        });
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<OutputChunk>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client from now on.
    pub fn attach(self: &Arc<Self>, stdin: bool) -> Result<Attached, AgentError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| AgentError::TooMany {
            container: self.id,
            what: "attached clients".into(),
            limit: CLIENTS_MAX,
        })?;
        let (to, output) = mpsc::channel(OUTPUT_QUEUE);
        let (input, from) = stdin.then(|| mpsc::channel(INPUT_QUEUE)).unzip();
        let mut clients = self.clients();
        clients.push(to.clone());
        let client = Client {
            entry: Arc::downgrade(self),
            output: to,
            slots: self.slot.subscribe(),
            ended: self.slot.borrow().ended,
            _place: place,
        };
        drop(clients);
        tokio::spawn(client.accompany(from));
        Ok(Attached {
            output,
            input,
            broken: None,
        })
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

/// An attached client, from its attachment until it has gone or the run is over that it is attached to.
struct Client {
    entry: Weak<Entry>,
    output: mpsc::Sender<OutputChunk>,
    slots: watch::Receiver<Slot>,
    /// Runs that were over when it came.
    ended: u64,
    _place: OwnedSemaphorePermit,
}

impl Client {
    async fn accompany(self, stdin: Option<mpsc::Receiver<Bytes>>) {
        let mut slots = self.slots.clone();
        // An error: the container is gone.
        let mut over = pin!(slots.wait_for(|slot| slot.ended != self.ended));
        let mut speaking = stdin.is_some();
        let mut stdin = pin!(OptionFuture::from(
            stdin.map(|from| self.forward_input(from))
        ));
        loop {
            tokio::select! {
                _ = &mut over => return,
                _ = &mut stdin, if speaking => speaking = false,
                () = self.output.closed() => break,
            }
        }
        if let Some(entry) = self.entry.upgrade() {
            entry
                .clients()
                .retain(|client| !client.same_channel(&self.output));
        }
        // What it had said before is still passed on, and its end; but not kept for a run that has yet to begin.
        if speaking && self.slots.borrow().run.is_some() {
            tokio::select! {
                _ = &mut over => {}
                _ = &mut stdin => {}
            }
        }
    }

    /// Carries its stdin to the run that is on, or comes next.
    async fn forward_input(&self, mut from: mpsc::Receiver<Bytes>) {
        let mut slots = self.slots.clone();
        let next = slots
            .wait_for(|slot| slot.run.is_some() || slot.ended != self.ended)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &tempfile::TempDir) -> Arc<Entry> {
        let id = ContainerId::from_random([7; 32]);
        Arc::new(Entry::new(id, Log::new(dir.path())))
    }

    /// Lets the other tasks do what there is to do.
    async fn settled(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_client_of_a_container_that_does_not_run_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&dir);
        for stdin in [false, true] {
            let attached = entry.attach(stdin).unwrap();
            if let Some(input) = &attached.input {
                input
                    .send(Bytes::from_static(b"never heard"))
                    .await
                    .unwrap();
            }
            assert_eq!(entry.clients().len(), 1);
            drop(attached);
            settled(|| entry.places.available_permits() == CLIENTS_MAX).await;
            assert!(entry.clients().is_empty());
        }
    }

    #[tokio::test]
    async fn who_has_said_all_it_has_to_say_stays_attached() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&dir);
        let mut attached = entry.attach(true).unwrap();
        drop(attached.input.take());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(entry.clients().len(), 1);
        entry.end_run();
        assert!(attached.output.recv().await.is_none());
    }

    #[tokio::test]
    async fn clients_of_a_container_are_bounded_and_a_place_is_free_again_when_its_client_has_gone()
    {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&dir);
        let mut attached: Vec<_> = (0..CLIENTS_MAX)
            .map(|n| entry.attach(n % 2 == 0).unwrap())
            .collect();
        let refused = entry.attach(false).err().unwrap();
        assert!(matches!(
            refused,
            AgentError::TooMany {
                limit: CLIENTS_MAX,
                ..
            }
        ));
        attached.pop();
        settled(|| entry.places.available_permits() == 1).await;
        attached.push(entry.attach(false).unwrap());
        // The end of a run, one that could not be started included, is the end of all of them.
        entry.end_run();
        for client in &mut attached {
            assert!(client.output.recv().await.is_none());
        }
        settled(|| entry.places.available_permits() == CLIENTS_MAX).await;
    }

    #[tokio::test]
    async fn who_is_attached_to_a_container_that_goes_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&dir);
        let mut attached = entry.attach(true).unwrap();
        drop(entry);
        assert!(attached.output.recv().await.is_none());
    }
}
