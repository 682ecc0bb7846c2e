//! After a restart of this process: the microVMs that went on without it are taken up again, the rest is cleared away.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use hearth_guest_protocol::Request;
use tokio::sync::oneshot;

use super::entry::Run;
use super::guest::Guest;
use super::monitor::Monitor;
use super::words::Words;
use super::{Claim, Local, pod, pump};
use crate::clock::now_ns;
use crate::network::Published;
use crate::state::{Container, ContainerId, Phase};

/// Takes up every container of `up` that still runs; returns their ids. The others' remains are removed.
pub async fn adopt(local: &Arc<Local>, up: &[Container]) -> BTreeSet<ContainerId> {
    let mut adopted = BTreeSet::new();
    let pods = pod::list(&local.paths).unwrap_or_else(|error| {
        tracing::error!(%error, "looking for running pods");
        Vec::new()
    });
    for id in pods {
        let container = up.iter().find(|container| container.id == id);
        match take_up(local, &id, container).await {
            Ok(true) => {
                adopted.insert(id);
            }
            Ok(false) => local.clear(&id),
            Err(error) => {
                tracing::warn!(pod = id.short(), %error, "not running any more");
                local.clear(&id);
            }
        }
    }
    adopted
}

async fn take_up(
    local: &Arc<Local>,
    id: &ContainerId,
    container: Option<&Container>,
) -> io::Result<bool> {
    let monitor = Monitor::adopt(&local.paths.pod_cgroup(id))?;
    let Some(container) = container else {
        tracing::warn!(pod = id.short(), "runs and should not; it is ended");
        monitor.kill();
        monitor.gone.cancelled().await;
        return Ok(false);
    };
    let followed = follow(local, id, container, &monitor).await;
    if followed.is_err() {
        monitor.kill();
        monitor.gone.cancelled().await;
    }
    followed.map(|()| true)
}

async fn follow(
    local: &Arc<Local>,
    id: &ContainerId,
    container: &Container,
    monitor: &Monitor,
) -> io::Result<()> {
    let record = pod::read(&local.paths, id)?;
    let cookie = local.cores.cookie_of(&container.tenant, monitor.pid)?;
    // Else the cookie may be that of another process with its number.
    monitor.check_alive()?;
    let claim = Claim {
        uid: record.uid,
        ports: Vec::new(),
        _cookie: cookie,
        out_of_memory: false,
    };
    local.runs().insert(id.clone(), claim);
    let words = Words::open(&local.paths.stderr(id))?;
    tokio::spawn(words.pass_on(id.short().to_owned(), monitor.gone.clone()));
    let entry = local.entry(id);
    let busy = Arc::clone(&entry.busy).lock_owned().await;
    let published = container
        .address
        .map(|address| {
            record
                .ports
                .iter()
                .map(|binding| Published {
                    binding: binding.clone(),
                    address,
                })
                .collect()
        })
        .unwrap_or_default();
    if let Some(address) = container.address {
        local
            .network
            .readopt(id.as_str(), container.tenant.as_str(), address)
            .map_err(io::Error::other)?;
    }
    let log = entry.log.clone();
    let from = tokio::task::spawn_blocking(move || log.resume_run()).await??;
    let guest = Guest::new(local.paths.vsock_socket(id));
    let conversation = guest
        .open(&Request::Follow {
            process: id.to_string(),
            from,
        })
        .await
        .map_err(io::Error::other)?;
    let pid = monitor.pid;
    let run = Arc::new(Run::new(
        container.clone(),
        guest,
        monitor.clone(),
        published,
    ));
    if let Err(error) = local.publish(&run) {
        tracing::error!(container = container.id.short(), %error, "its ports lead nowhere");
    }
    entry.begin_run(&run);
    tracing::info!(pod = id.short(), pid, from, "taken up again");
    let (announce, announced) = oneshot::channel();
    tokio::spawn(pump::follow(
        Arc::clone(local),
        Arc::clone(&entry),
        run,
        conversation,
        from,
        announced,
        busy,
    ));
    if container.status.phase == Phase::Starting {
        local.sink.started(id, pid, now_ns()).await;
    }
    let _ = announce.send(());
    Ok(())
}
