//! The control process of a node. No arguments: what it needs to know, init has written down.

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Threads for tasks: the node's CPUs are its containers'.
const WORKERS: usize = 2;
/// Threads for file I/O at the same time, beside them: enough to keep a disk busy. Clients may have all of them wait: the replicated
/// log isn't written by these (`raft::DiskThread`).
const BLOCKING_THREADS: usize = 16;
/// openraft tells its life's story at `info`.
const LOG: &str = "info,openraft=warn";

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(hearth_control::node::run()),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "control can't run");
            ExitCode::FAILURE
        }
    }
}
