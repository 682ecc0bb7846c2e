//! After a restart of this process: the microVMs that went on without it are taken up again, the rest is cleared away.

use std::io;
use std::sync::Arc;

use hearth_guest_protocol::Request;
use hearth_vmm_api::Command;
use tokio::sync::oneshot;

use super::entry::Run as EntryRun;
use super::guest::Guest;
use super::monitor::Monitor;
use super::words::Words;
use super::{Claim, Local, command, pod, pump};
use crate::clock::now_ns;
use crate::network::Published;
use crate::state::{ContainerId, Phase, Placed, Run};

/// Takes up every container of `mine` that still runs, in the epoch that it is to run in. The others' remains are removed.
pub async fn adopt(local: &Arc<Local>, mine: &[Placed]) {
    let pods = pod::list(&local.paths).unwrap_or_else(|error| {
        tracing::error!(%error, "looking for running pods");
        Vec::new()
    });
    for id in pods {
        let container = mine.iter().find(|container| container.id == id);
        match take_up(local, &id, container).await {
            Ok(true) => {}
            Ok(false) => local.clear(&id),
            Err(error) => {
                tracing::warn!(pod = id.short(), %error, "not running any more");
                local.clear(&id);
            }
        }
    }
}

async fn take_up(
    local: &Arc<Local>,
    id: &ContainerId,
    container: Option<&Placed>,
) -> io::Result<bool> {
    let monitor = Monitor::adopt(&local.paths.pod_cgroup(id))?;
    let run = pod::read(&local.paths, id).map(|record| record.run);
    let should = container.filter(|it| {
        // A run that is told to have ended has ended; of one that can't be read nobody knows, and following it will tell.
        let is_over = |run: Run| it.status.run > run || it.status.run == run && !runs(it);
        run.as_ref()
            .map_or(true, |run| run.epoch == it.pod.epoch && !is_over(*run))
    });
    let Some(container) = should else {
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

fn runs(container: &Placed) -> bool {
    container.status.phase == Phase::Running
}

async fn follow(
    local: &Arc<Local>,
    id: &ContainerId,
    container: &Placed,
    monitor: &Monitor,
) -> io::Result<()> {
    let record = pod::read(&local.paths, id)?;
    let cookie = local.cores.cookie_of(&container.tenant, monitor.pid)?;
    // Else the cookie may be that of another process with its number.
    monitor.check_alive()?;
    let claim = Claim {
        run: Some(record.run),
        uid: record.uid,
        ports: Vec::new(),
        _cookie: cookie,
        ..Claim::default()
    };
    local.runs().insert(*id, claim);
    if record.leased {
        // The process before this one may have ended between giving its lease an end and telling it.
        local.keeps_to_lease(id, monitor);
    }
    let words = Words::open(&local.paths.stderr(id))?;
    tokio::spawn(words.pass_on(id.short(), monitor.gone.clone()));
    let entry = local.entry(id);
    let busy = Arc::clone(&entry.busy).lock_owned().await;
    let published = container
        .pod
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
    if let Some(address) = container.pod.address {
        local
            .network
            .readopt(&id.to_string(), container.tenant.as_str(), address)
            .map_err(io::Error::other)?;
    }
    let log = entry.log.clone();
    let from = tokio::task::spawn_blocking(move || log.resume_run()).await??;
    // Nobody is heard of who stands still, and the state may have changed its mind since. It does again once it is followed.
    command::command(&local.paths.api_socket(id), Command::Resume).await?;
    let guest = Guest::new(local.paths.vsock_socket(id));
    let conversation = guest
        .open(&Request::Follow {
            process: id.to_string(),
            from,
        })
        .await
        .map_err(io::Error::other)?;
    let pid = monitor.pid;
    let run = Arc::new(EntryRun::new(
        container.clone(),
        record.run,
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
    if container.status.run < record.run {
        local.sink.started(id, record.run, pid, now_ns()).await;
    }
    let _ = announce.send(());
    Ok(())
}
