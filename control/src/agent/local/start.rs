//! Starting a container: its files, its microVM, its main process.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_guest_protocol::{Reply, Request};
use hearth_image::ImageId;
use hearth_vmm_api as api;
use tokio::sync::oneshot;

use super::cgroup::Limits;
use super::entry::Run;
use super::guest::{Conversation, Guest, GuestError};
use super::monitor::{Inheritance, Monitor, Walls};
use super::patience::{self, Patience};
use super::{
    Claim, Local, blocking, failed, io_failed, node, plan, pod, pump, size, start_error,
    unpublished,
};
use crate::agent::{AgentError, StartTimes};
use crate::clock::now_ns;
use crate::cluster::moves::may_move;
use crate::entropy;
use crate::network::{PodLink, Published};
use crate::state::{Container, Placed, Run as RunNumber};

/// Boots the microVM and starts the main process; the rest of its life is [`pump::follow`]'s.
pub async fn start(
    local: &Arc<Local>,
    container: &Placed,
    number: RunNumber,
) -> Result<StartTimes, AgentError> {
    let entry = local.entry(&container.id);
    // Signals that come from here on reach the process once it runs.
    let starting = entry.begin_start();
    // The last run's microVM may still be powering off.
    let busy = Arc::clone(&entry.busy).lock_owned().await;
    local.execs.forget(&container.id);
    let booted = async {
        make_layer(local, container).await?;
        boot(local, container, number).await
    };
    let (run, conversation, mut times) = match booted.await {
        Ok(booted) => booted,
        Err(error) => {
            local.clear(&container.id);
            entry.end_run();
            return Err(error);
        }
    };
    if let Err(error) = local.publish(&run) {
        run.monitor.kill();
        run.monitor.gone.cancelled().await;
        local.clear(&container.id);
        entry.end_run();
        return Err(error);
    }
    let pid = run.monitor.pid;
    let log = entry.log.clone();
    if let Err(error) = blocking("beginning the log", move || log.begin_run(now_ns())).await {
        tracing::error!(container = container.id.short(), %error, "output is lost to the log");
    }
    entry.begin_run(&run);
    drop(starting);
    let (announce, announced) = oneshot::channel();
    tokio::spawn(pump::follow(
        Arc::clone(local),
        Arc::clone(&entry),
        run,
        conversation,
        0,
        announced,
        busy,
    ));
    let committing = Instant::now();
    local
        .sink
        .started(&container.id, number, pid, now_ns())
        .await;
    times.commit = committing.elapsed();
    // It fails where the run is over: then there is nobody to tell.
    let _ = announce.send(());
    Ok(times)
}

/// What it writes to, where it isn't there yet.
pub async fn make_layer(local: &Arc<Local>, container: &Placed) -> Result<(), AgentError> {
    let (local, container) = (Arc::clone(local), container.clone());
    blocking("making the container's writable layer", move || {
        local.layer(&container).map(drop)
    })
    .await
}

/// `CLOCK_MONOTONIC`, which the monitors go by too.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// Everything up to the guest's word that the process runs.
async fn boot(
    local: &Arc<Local>,
    container: &Placed,
    number: RunNumber,
) -> Result<(Arc<Run>, Conversation, StartTimes), AgentError> {
    let id = &container.id;
    let ports = &container.pod.ports;
    local.network.check_addresses(ports).map_err(unpublished)?;
    let link = match container.pod.address {
        Some(address) => Some(
            local
                .network
                .attach(&id.to_string(), container.tenant.as_str(), address)
                .map_err(|error| failed("attaching the pod to the network", error))?,
        ),
        None => None,
    };
    let request = Request::Start(Box::new(plan::start(
        container,
        link.as_ref(),
        &local.dns,
        now_ns(),
        entropy::random(),
    )));
    let monitor_at = monotonic();
    let monitor = {
        let (local, container) = (Arc::clone(local), container.clone());
        // Opening files, making a cgroup, forking: short, but not for a thread that serves others.
        let runtime = tokio::runtime::Handle::current();
        let image = image_id(&container)?;
        let spawned = tokio::task::spawn_blocking(move || {
            let _within = runtime.enter();
            spawn(&local, &container, &image, link, number)
        });
        spawned
            .await
            .map_err(|error| failed("starting the monitor", error))??
    };
    let guest = Guest::new(local.paths.vsock_socket(id));
    let published = container
        .pod
        .address
        .map(|address| {
            ports
                .iter()
                .map(|binding| Published {
                    binding: binding.clone(),
                    address,
                })
                .collect()
        })
        .unwrap_or_default();
    let started = tokio::select! {
        started = first_reply(&guest, &request) => Ok(started),
        why = never_comes(monitor.pid) => Err(why),
        () = monitor.gone.cancelled() => Ok(Err(io::Error::other(local.why_ended(id)).into())),
    };
    let error = match started {
        Ok(Ok((conversation, guest_init))) => {
            let times = StartTimes {
                monitor_at,
                running_at: monotonic(),
                guest_init,
                commit: Duration::ZERO,
            };
            let run = Run::new(container.clone(), number, guest, monitor, published);
            return Ok((Arc::new(run), conversation, times));
        }
        Ok(Err(error)) => start_error(error),
        Err(why) => failed("booting the microVM", why),
    };
    let over = local.ended_by_lease(id);
    monitor.kill();
    monitor.gone.cancelled().await;
    match over {
        true => Err(AgentError::LeaseOver),
        false => Err(error),
    }
}

/// Returns why a microVM that boots isn't waited for any longer, once that is so.
async fn never_comes(monitor: u32) -> String {
    let mut patience = Patience::new(Instant::now());
    loop {
        tokio::time::sleep(patience::LOOK).await;
        // Errors: it is gone, which is heard otherwise.
        if let Ok(cpu) = patience::cpu_time(monitor)
            && let Some(why) = patience.look(Instant::now(), cpu)
        {
            return why;
        }
    }
}

/// With the time that the guest's PID 1 took.
async fn first_reply(
    guest: &Guest,
    request: &Request,
) -> Result<(Conversation, Duration), GuestError> {
    let mut conversation = guest.open(request).await?;
    match conversation.reply().await? {
        Reply::Started { init_age_ns, .. } => Ok((conversation, Duration::from_nanos(init_age_ns))),
        other => Err(io::Error::other(format!("the guest answered {other:?}")).into()),
    }
}

fn image_id(container: &Container) -> Result<ImageId, AgentError> {
    container
        .image
        .parse()
        .map_err(|error: hearth_image::Error| failed("finding the image", error))
}

/// Starts the monitor with everything it needs. Blocks.
fn spawn(
    local: &Local,
    container: &Placed,
    image: &ImageId,
    link: Option<PodLink>,
    number: RunNumber,
) -> Result<Monitor, AgentError> {
    let id = &container.id;
    let io = |doing: &'static str| move |error| io_failed(doing, error);
    let lease = match may_move(container) {
        true => Some(local.lease_for_a_monitor()?),
        false => None,
    };
    let size = size::size(&container.spec, node::memory_bytes(), node::cpus())?;
    let root = File::open(local.images.root_file(image)).map_err(io("opening the image"))?;
    let writable = local
        .layer(container)
        .and_then(|path| OpenOptions::new().read(true).write(true).open(path))
        .map_err(io("opening the container's writable layer"))?;
    let kernel = File::open(&local.paths.kernel).map_err(io("opening the guest's kernel"))?;
    let initramfs =
        File::open(&local.paths.initramfs).map_err(io("opening the guest's initramfs"))?;
    let layer_bytes = writable.metadata().map_or(0, |file| file.len());
    let limits = Limits::new(
        size,
        plan::cpu_quota_us(container.spec.nano_cpus),
        if local.in_ram() { layer_bytes } else { 0 },
    );
    let files = pod::make(&local.paths, id, &limits)
        .map_err(io("making the pod's directory and control group"))?;
    let cookie = local
        .cores
        .cookie(&container.tenant)
        .map_err(io("keeping the tenant's pods on cores of their own"))?;
    let uid = {
        let mut runs = local.runs();
        let taken = runs.values().map(|claim| claim.uid).collect();
        let uid = pod::free_uid(taken).ok_or_else(|| {
            AgentError::Exhausted("this node has no user id left for another pod".into())
        })?;
        runs.insert(
            *id,
            Claim {
                run: Some(number),
                uid,
                ports: Vec::new(),
                _cookie: cookie.clone(),
                ..Claim::default()
            },
        );
        uid
    };
    let record = pod::PodRecord {
        run: number,
        uid,
        leased: lease.is_some(),
        ports: container.pod.ports.clone(),
    };
    pod::record(&local.paths, id, &record).map_err(io("recording the pod"))?;
    let mut inheritance = Inheritance::default();
    let config = api::Config {
        name: id.to_string(),
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        kernel: inheritance.add(kernel),
        initramfs: inheritance.add(initramfs),
        command_line: String::new(),
        disks: vec![
            api::Disk {
                file: inheritance.add(root),
                read_only: true,
            },
            api::Disk {
                file: inheritance.add(writable),
                read_only: false,
            },
        ],
        network: container
            .pod
            .address
            .zip(link)
            .map(|(address, link)| api::Network {
                tun: inheritance.add(link.tun),
                mac: link.mac,
                gateway_mac: link.gateway_mac,
                gateway: link.gateway,
                addresses: vec![address.into()],
                mtu: link.mtu,
            }),
        api: inheritance.add(files.api),
        vsock: inheritance.add(files.vsock),
        console: None,
        jail: api::Jail {
            uid,
            gid: uid,
            root: inheritance.add(files.root),
        },
        lease: lease.map(|page| inheritance.add(page)),
    };
    let walls = Walls {
        cgroup_procs: files.cgroup_procs,
        cookie,
        stderr: files.stderr,
    };
    let monitor = Monitor::spawn(&local.paths.vmm, &config, inheritance, walls)
        .map_err(io("starting the monitor"))?;
    if record.leased {
        local.keeps_to_lease(id, &monitor);
    }
    tokio::spawn(files.words.pass_on(id.short(), monitor.gone.clone()));
    Ok(monitor)
}
