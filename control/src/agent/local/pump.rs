//! From the guest to the log and the clients, until the process ends and its microVM after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_guest_protocol::{Error as Refusal, Output, Reply, Request};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::entry::{Entry, Run};
use super::guest::{Conversation, GuestError};
use super::{Local, now_ns};
use crate::agent::{OutputChunk, Stream};
use crate::state::Exit;

/// Output between two acknowledgements: a quarter of what the guest keeps, so that it never waits for one.
const ACKNOWLEDGE_BYTES: u64 = (hearth_guest_protocol::OUTPUT_WINDOW / 4) as u64;
/// Writing back a file system full of dirty pages to a home disk takes seconds; after this the disk is as it would be after a power cut,
/// and its journal makes it whole.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// From the guest's power-off to the end of its monitor: some milliseconds of work.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);
/// Reconnections to a guest that is there but has dropped the line, before it is given up.
const RECONNECTIONS: u32 = 5;
/// Between reconnections; also how long the end of a monitor may lag behind the end of its connections.
const RECONNECTION_PAUSE: Duration = Duration::from_millis(200);

/// docker's code for a process that SIGKILL has ended, which is what the loss of its machine comes to.
pub const LOST: Exit = Exit {
    code: 137,
    oom_killed: false,
};

/// Follows a run to its end. `announced` resolves once its start is committed: its exit never is before.
pub async fn follow(
    local: Arc<Local>,
    entry: Arc<Entry>,
    run: Arc<Run>,
    conversation: Conversation,
    from: u64,
    announced: oneshot::Receiver<()>,
    busy: OwnedMutexGuard<()>,
) {
    let mut pump = Pump {
        entry: &entry,
        run: &run,
        offset: from,
        acknowledged: from,
        log_failed: false,
    };
    let mut exit = pump.run(conversation).await;
    if exit == LOST {
        exit.oom_killed = local.ran_out_of_memory(&entry.id);
    }
    run.exited.cancel();
    // An exit that was answered has its output beside it, also after a power cut.
    let log = entry.log.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || log.sync()).await {
        tracing::warn!(container = entry.id.short(), %error, "writing the log back");
    }
    entry.log.end_run();
    entry.end_run();
    local.unpublish(&run);
    // An error: whoever was to announce it is gone, and so is its claim to be first.
    let _ = announced.await;
    local.sink.exited(&entry.id, exit, now_ns()).await;
    shut_down(&run).await;
    local.clear(&entry.id);
    drop(busy);
}

/// Powers the microVM off in order, or else at once.
async fn shut_down(run: &Run) {
    let pod = run.container.id.short();
    if !run.monitor.gone.is_cancelled() {
        match tokio::time::timeout(SHUTDOWN_PATIENCE, run.guest.ask(&Request::Shutdown)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(pod, %error, "no orderly power-off"),
            Err(_) => tracing::warn!(pod, "the microVM does not power off; it is ended"),
        }
        if tokio::time::timeout(MONITOR_PATIENCE, run.monitor.gone.cancelled())
            .await
            .is_err()
        {
            tracing::warn!(
                pod,
                pid = run.monitor.pid,
                "the monitor does not end; it is killed"
            );
        }
    }
    run.monitor.kill();
    run.monitor.gone.cancelled().await;
}

struct Pump<'a> {
    entry: &'a Entry,
    run: &'a Run,
    /// Next byte.
    offset: u64,
    acknowledged: u64,
    /// The log can't be written, and this has been said.
    log_failed: bool,
}

impl Pump<'_> {
    async fn run(&mut self, mut conversation: Conversation) -> Exit {
        for _ in 0..RECONNECTIONS {
            match self.converse(&mut conversation).await {
                Ok(Some(exit)) => return exit,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(pod = self.entry.id.short(), %error, "connection to the guest")
                }
            }
            tokio::select! {
                () = self.run.monitor.gone.cancelled() => return LOST,
                () = tokio::time::sleep(RECONNECTION_PAUSE) => {}
            }
            let process = self.entry.id.to_string();
            match self
                .run
                .guest
                .open(&Request::Follow {
                    process,
                    from: self.offset,
                })
                .await
            {
                Ok(reopened) => conversation = reopened,
                Err(error) => {
                    tracing::warn!(pod = self.entry.id.short(), %error, "the guest does not answer")
                }
            }
        }
        tracing::error!(
            pod = self.entry.id.short(),
            "the guest is lost; its microVM is ended"
        );
        self.run.monitor.kill();
        LOST
    }

    /// None: the connection has ended before the process.
    async fn converse(
        &mut self,
        conversation: &mut Conversation,
    ) -> Result<Option<Exit>, GuestError> {
        while let Some(reply) = conversation.next().await? {
            match reply {
                Reply::Output(output) => {
                    self.output(output).await;
                    if self.offset - self.acknowledged >= ACKNOWLEDGE_BYTES {
                        conversation.acknowledge(self.offset).await?;
                        self.acknowledged = self.offset;
                    }
                }
                Reply::Exited(exit) => {
                    return Ok(Some(Exit {
                        code: exit.code,
                        oom_killed: exit.oom_killed,
                    }));
                }
                Reply::Error(Refusal::NoSuchProcess(_)) => return Ok(Some(LOST)),
                Reply::Error(refusal) => return Err(refusal.into()),
                Reply::Started { .. } | Reply::Done | Reply::Processes(_) => {}
            }
        }
        Ok(None)
    }

    async fn output(&mut self, output: Output) {
        // What is here already is passed over, should a guest repeat itself.
        let known =
            usize::try_from(self.offset.saturating_sub(output.offset)).unwrap_or(usize::MAX);
        if known >= output.data.len() {
            return;
        }
        // Counted here: a guest that leaps ahead has nobody follow.
        let offset = self.offset;
        let data = bytes::Bytes::from(output.data).slice(known..);
        self.offset = offset + data.len() as u64;
        self.run.taken.store(self.offset, Ordering::Relaxed);
        let stream = if output.stderr {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        let chunk = OutputChunk {
            stream,
            data: data.clone(),
        };
        let log = self.entry.log.clone();
        let at_ns = now_ns();
        let written = tokio::task::spawn_blocking(move || log.append(stream, at_ns, offset, data));
        let (written, ()) = tokio::join!(written, self.entry.fan_out(self.run, &chunk));
        if let Err(error) = written.map_err(std::io::Error::other).flatten()
            && !std::mem::replace(&mut self.log_failed, true)
        {
            tracing::error!(container = self.entry.id.short(), %error, "output is lost to the log");
        }
    }
}
