//! From the guest to the log and the clients, until the process ends and its microVM after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hearth_guest_protocol::{Error as Refusal, Output, Reply, Request};
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

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

/// Between two commits of a want of memory. A guest that claims one after the other costs the node ten small writes a second at most; the
/// claims in between count together.
const OUT_OF_MEMORY_PAUSE: Duration = Duration::from_millis(100);

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
    let (oom_kills, told) = watch::channel(0);
    let telling = tokio::spawn(tell_out_of_memory(
        Arc::clone(&local),
        Arc::clone(&run),
        told,
    ));
    let mut pump = Pump {
        entry: &entry,
        run: &run,
        offset: from,
        acknowledged: from,
        log_failed: false,
        oom_kills,
    };
    let mut exit = pump.run(conversation).await;
    drop(pump);
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
    // Ends with the pump; an error is a panic there, which has been logged.
    let _ = telling.await;
    local.sink.exited(&entry.id, exit, now_ns()).await;
    shut_down(&run).await;
    local.clear(&entry.id);
    drop(busy);
}

/// Commits each want of memory as it happens, and the last one in any case.
async fn tell_out_of_memory(local: Arc<Local>, run: Arc<Run>, mut kills: watch::Receiver<u64>) {
    while kills.changed().await.is_ok() {
        let count = *kills.borrow_and_update();
        let id = &run.container.id;
        local.sink.out_of_memory(id, count, now_ns()).await;
        tokio::select! {
            () = run.exited.cancelled() => {}
            () = tokio::time::sleep(OUT_OF_MEMORY_PAUSE) => {}
        }
    }
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

/// What lies behind the `known` bytes, and its offset. Counted here: a guest that leaps ahead has nobody follow. None: all of it is here
/// already, should a guest repeat itself, or there can't be so many bytes.
pub fn unknown(known: u64, offset: u64, data: Bytes) -> Option<(u64, Bytes)> {
    let repeated = usize::try_from(known.saturating_sub(offset)).ok()?;
    known.checked_add(data.len() as u64)?;
    (repeated < data.len()).then(|| (known, data.slice(repeated..)))
}

struct Pump<'a> {
    entry: &'a Entry,
    run: &'a Run,
    /// Next byte.
    offset: u64,
    acknowledged: u64,
    /// The log can't be written, and this has been said.
    log_failed: bool,
    /// How often the kernel has killed for want of memory.
    oom_kills: watch::Sender<u64>,
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
                Reply::OutOfMemory { kills } => {
                    self.oom_kills.send_replace(kills);
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
        let Some((offset, data)) = unknown(self.offset, output.offset, output.data.into()) else {
            return;
        };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..300, u64::MAX - 300..=u64::MAX]
    }

    proptest! {
        #[test]
        fn whatever_a_guest_claims_no_byte_is_taken_twice_and_offsets_only_grow(
            known in offsets(), offset in offsets(), data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let length = data.len();
            if let Some((first, rest)) = unknown(known, offset, data.clone().into()) {
                prop_assert!(first >= known && !rest.is_empty());
                prop_assert!(first.checked_add(rest.len() as u64).is_some());
                prop_assert_eq!(&rest[..], &data[length - rest.len()..]);
            } else {
                prop_assert!(length == 0 || offset.checked_add(length as u64).is_none_or(|end| end <= known));
            }
        }
    }
}
