//! What a user waits for, measured inside the node so that nothing waits for the world outside: the clock of a machine that counts
//! instructions runs away while it waits for real I/O.
//!
//! Everything is taken from `/side` in the initramfs: `ca.pem`, `cert.pem`, `key.pem`, and `image.tar`, an image
//! named `bench` whose command prints one line.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::api::Api;
use crate::processes;

/// Containers started before the measured ones: the first also unpacks what later ones share.
const WARM_UP_RUNS: usize = 1;
/// Of RAM.
const PAGE_BYTES: u64 = 4096;
/// Digits by which control names a container in its log.
const SHORT_ID: usize = 12;
/// Containers measured. They agree to about one per cent; the median is reported.
const RUNS: usize = 5;
/// Containers that start beside a first one to see what each takes.
const OTHERS: u64 = 4;
/// After this long on the node's clock, containers that do nothing have given back what only their start needed.
const QUIET: Duration = Duration::from_secs(10);

/// See the module.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(measure())?;
    crate::say(&result);
    Ok(())
}

async fn measure() -> Result<Value> {
    let api = Api::new()?;
    api.wait().await?;
    let boot_to_api_ms = uptime_ms()?;
    // What start-up left to do in the background is part of neither number.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // What this measurement has brought along lies in the node's memory too, and in no other node's.
    let idle_kib = processes::meminfo_kib("MemTotal")?
        - processes::meminfo_kib("MemAvailable")?
        - brought_kib()?;

    api.load().await?;
    let mut runs = Vec::new();
    for run in 0..WARM_UP_RUNS + RUNS {
        let measured = run_once(&api).await?;
        if run >= WARM_UP_RUNS {
            runs.push(measured);
        }
    }
    let another_kib = another_idle_container_kib(&api).await?;
    runs.sort_by(|a, b| a.first_byte_ms.total_cmp(&b.first_byte_ms));
    let median = &runs[runs.len() / 2];
    Ok(json!({
        "boot_to_api_ms": boot_to_api_ms,
        "idle_node_kib": idle_kib,
        "run_to_first_byte_ms": median.first_byte_ms,
        "run_create_ms": median.create_ms,
        "run_vm_exits": median.exits,
        "run_exits_to_monitor": median.exits_to_monitor,
        "vmm_overhead_kib": median.overhead_kib,
        "another_container_kib": another_kib,
        "run_shares_ms": median.shares_ms,
        "runs_ms": runs.iter().map(|r| r.first_byte_ms).collect::<Vec<_>>(),
    }))
}

struct Run {
    create_ms: f64,
    first_byte_ms: f64,
    shares_ms: Value,
    exits: u64,
    exits_to_monitor: u64,
    overhead_kib: u64,
}

/// A container of the bench image that has said its first byte: it waits for its stdin to end.
struct Started {
    id: String,
    stream: TokioIo<Upgraded>,
    begun: Instant,
    create_ms: f64,
}

async fn start(api: &Api) -> Result<Started> {
    let config = json!({"Image": "bench", "AttachStdout": true, "AttachStdin": true, "OpenStdin": true, "StdinOnce": true});
    let begun = Instant::now();
    let created: Value = serde_json::from_slice(
        &api.call(
            "POST",
            "/containers/create",
            Some(config.to_string().into()),
        )
        .await?,
    )?;
    let create_ms = begun.elapsed().as_secs_f64() * 1e3;
    let id = created["Id"]
        .as_str()
        .context("create answers with an Id")?
        .to_owned();
    let attach = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut stream = api.upgrade(&attach).await?;
    api.call("POST", &format!("/containers/{id}/start"), None)
        .await?;
    // A frame's header is eight bytes; the ninth is the container's first.
    let mut first = [0; 9];
    stream
        .read_exact(&mut first)
        .await
        .context("the container ended without output")?;
    Ok(Started {
        id,
        stream,
        begun,
        create_ms,
    })
}

/// Ends it by the end of its stdin, and removes it.
async fn end(api: &Api, mut container: Started) -> Result<()> {
    let id = &container.id;
    container.stream.shutdown().await?;
    api.call("POST", &format!("/containers/{id}/wait"), None)
        .await?;
    api.call("DELETE", &format!("/containers/{id}?force=1"), None)
        .await?;
    Ok(())
}

/// What each container after the first takes of the node while it does nothing.
async fn another_idle_container_kib(api: &Api) -> Result<u64> {
    let mut containers = vec![start(api).await?];
    tokio::time::sleep(QUIET).await;
    let one = processes::meminfo_kib("MemAvailable")?;
    for _ in 0..OTHERS {
        containers.push(start(api).await?);
    }
    tokio::time::sleep(QUIET).await;
    let all = processes::meminfo_kib("MemAvailable")?;
    for container in containers {
        end(api, container).await?;
    }
    Ok(one.saturating_sub(all) / OTHERS)
}

/// Create and start a container of the bench image; its first byte; what its monitor counted; remove it.
async fn run_once(api: &Api) -> Result<Run> {
    let container = start(api).await?;
    let first_byte_ms = container.begun.elapsed().as_secs_f64() * 1e3;
    let create_ms = container.create_ms;

    let description = describe().await?;
    let shares_ms = shares(&container.id, first_byte_ms, &description)?;
    let vmm = processes::named("vmm")
        .first()
        .copied()
        .context("a monitor runs")?;
    let overhead_kib = processes::overhead_kib(vmm)?;
    end(api, container).await?;
    Ok(Run {
        create_ms,
        first_byte_ms,
        shares_ms,
        exits: description["exits"].as_u64().unwrap_or(0),
        exits_to_monitor: description["exits_to_monitor"].as_u64().unwrap_or(0),
        overhead_kib,
    })
}

/// Where a run's milliseconds went. control logs when its part of a start began and ended, the guest how long its own took, the monitor
/// knows when it let the guest run; what is left is the API's, the client's half of it included.
fn shares(id: &str, total_ms: f64, description: &Value) -> Result<Value> {
    let log = processes::kernel_log()?;
    let logged = |event: &str, field: &str| -> Result<f64> {
        let line = log
            .iter()
            .rev()
            .find(|line| line.contains(event) && line.contains(id.get(..SHORT_ID).unwrap_or(id)));
        line.and_then(|line| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(field)?.strip_prefix('='))
        })
        .and_then(|us| Some(us.parse::<f64>().ok()? / 1e3))
        .with_context(|| format!("control has logged no {field} of {event:?}"))
    };
    let (created, started) = ("container created", "container started");
    let let_run_ms = description["running_since_ns"]
        .as_f64()
        .context("the monitor knows when it let the guest run")?
        / 1e6;
    let commit = logged(created, "commit_us")? + logged(started, "commit_us")?;
    let monitor = let_run_ms - logged(started, "monitor_at_us")?;
    let guest_init = logged(started, "guest_init_us")?;
    let guest_kernel = logged(started, "running_at_us")? - let_run_ms - guest_init;
    Ok(json!({
        "api": total_ms - commit - monitor - guest_kernel - guest_init,
        "commit": commit,
        "monitor": monitor,
        "guest_kernel": guest_kernel,
        "guest_init": guest_init,
    }))
}

/// KiB that this process takes: its files, which lie in RAM as whole pages, and its own memory.
fn brought_kib() -> Result<u64> {
    let mut kib = processes::status_kib("RssAnon")?;
    for file in fs::read_dir("/side")? {
        kib += file?.metadata()?.len().div_ceil(PAGE_BYTES) * (PAGE_BYTES >> 10);
    }
    Ok(kib)
}

/// What the one running monitor says of itself.
async fn describe() -> Result<Value> {
    let pod = fs::read_dir("/run/hearth/pods")?
        .next()
        .context("one pod runs")??;
    let mut socket = UnixStream::connect(pod.path().join("api.sock")).await?;
    socket.write_all(b"\"describe\"\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        if socket.read_buf(&mut answer).await? == 0 {
            bail!("the monitor hung up");
        }
    }
    Ok(serde_json::from_slice::<Value>(&answer)?["description"].take())
}

/// Milliseconds on the kernel's clock, which starts when the kernel does.
fn uptime_ms() -> Result<f64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Ok(now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6)
}
