//! From the guest to the log and the clients, until the process ends and its microVM after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hearth_guest_protocol::Request;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use super::Local;
use super::entry::{Entry, Run};
use super::follow::{Follower, Told};
use super::guest::Conversation;
use crate::agent::{OutputChunk, Stream};
use crate::clock::now_ns;
use crate::state::Exit;

/// Writing back a file system full of dirty pages to a home disk takes seconds; after this the disk is as it would be after a power cut,
/// and its journal makes it whole.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// From the guest's power-off to the end of its monitor: some milliseconds of work.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);
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
        log_failed: false,
        oom_kills,
    };
    let process = entry.id.to_string();
    let mut exit = pump
        .run(Follower::new(&run, process, conversation, from))
        .await;
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
    local
        .sink
        .exited(&entry.id, run.number, exit, now_ns())
        .await;
    if let Some(claim) = local.runs().get_mut(&entry.id) {
        claim.run = None;
    }
    shut_down(&run).await;
    local.clear(&entry.id);
    drop(busy);
}

/// Commits each want of memory as it happens, and the last one in any case.
async fn tell_out_of_memory(local: Arc<Local>, run: Arc<Run>, mut kills: watch::Receiver<u64>) {
    while kills.changed().await.is_ok() {
        let count = *kills.borrow_and_update();
        let id = &run.container.id;
        local
            .sink
            .out_of_memory(id, run.number, count, now_ns())
            .await;
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

struct Pump<'a> {
    entry: &'a Entry,
    run: &'a Run,
    /// The log can't be written, and this has been said.
    log_failed: bool,
    /// How often the kernel has killed for want of memory.
    oom_kills: watch::Sender<u64>,
}

impl Pump<'_> {
    async fn run(&mut self, mut follower: Follower) -> Exit {
        while let Some(told) = follower.next().await {
            match told {
                Told::Output {
                    offset,
                    stderr,
                    data,
                } => self.output(offset, stderr, data).await,
                Told::OutOfMemory(kills) => {
                    self.oom_kills.send_replace(kills);
                }
                Told::Exited(exit) => {
                    return Exit {
                        code: exit.code,
                        oom_killed: exit.oom_killed,
                    };
                }
            }
        }
        if !self.run.monitor.gone.is_cancelled() {
            tracing::error!(
                pod = self.entry.id.short(),
                "the guest is lost; its microVM is ended"
            );
            self.run.monitor.kill();
        }
        LOST
    }

    async fn output(&mut self, offset: u64, stderr: bool, data: Bytes) {
        self.run
            .taken
            .store(offset + data.len() as u64, Ordering::Relaxed);
        let stream = if stderr {
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
