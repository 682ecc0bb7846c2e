//! The control process of a node. No arguments: what it needs to know, init has written down.

use std::process::ExitCode;
use std::time::Duration;

use hearth_control::node::{self, Failure, Next};
use tracing_subscriber::EnvFilter;

/// Threads for tasks: the node's CPUs are its containers'.
const WORKERS: usize = 2;
/// Threads for file I/O at the same time, beside them: enough to keep a disk busy. Clients may have all of them wait: the replicated
/// log isn't written by these (`raft::DiskThread`).
const BLOCKING_THREADS: usize = 16;
/// What a run leaves behind of file I/O has this long to end.
const LEFT_OVER: Duration = Duration::from_secs(5);
/// openraft tells its life's story, and of each attempt to reach a node that is off; what comes of it is ours to tell.
const LOG: &str = "info,openraft=off";

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
    loop {
        match run() {
            Ok(Next::Another) => tracing::info!("beginning anew, in another cluster"),
            Ok(Next::Down) => return ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "control can't run");
                return ExitCode::FAILURE;
            }
        }
    }
}

/// In a runtime of its own: nothing of one run is left for the next.
fn run() -> Result<Next, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    // In a task of its own, not on this thread: what wakes it now and then would wake a third thread each time.
    let ended = runtime
        .block_on(runtime.spawn(node::run()))
        .unwrap_or_else(|panic| Err(panic.into()));
    runtime.shutdown_timeout(LEFT_OVER);
    ended
}
