//! How placement and the replicated state do with 10,000 nodes and 100,000 pods, on the machine that this runs on: one JSON object, read by
//! `cargo xtask bench`. Times are those of one processor, the best of a few, whatever else the machine does; nothing of a disk or a network is in
//! them, but for what is durable: that is a ratio to what the disk under the working folder does at the same time.

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_control::cluster::moves;
use hearth_control::cluster::steward::Placer;
use hearth_control::placement::{Place, Placement};
use hearth_control::raft::{Observer, Replica};
use hearth_control::state::{
    Change, Command, ContainerId, ContainerSpec, NewContainer, NodeId, NodeIs, NodeWanted, State,
    Telling, Tenant,
};

use futures_util::StreamExt as _;
use rustix::time::{ClockId, clock_gettime};

const NODES: u64 = 10_000;
const PODS: u64 = 100_000;
/// Pods that wait when the queue is full: one for each node.
const WAITING: u64 = 10_000;
/// Pods of a tenant; each is of a few services.
const OF_A_TENANT: u64 = 100;
const SERVICES: u64 = 5;
const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
const GIB: u64 = 1 << 30;
/// Commits that are compared with writes to the disk, one after the other, and as many of each.
const COMMITS: u32 = 300;
/// Commands that wait for the disk together.
const TOGETHER: usize = 256;
/// What a small commit writes: a page or two.
const SMALL_WRITE: usize = 8 << 10;
/// What is measured is repeated as often, and the best counts: the others were disturbed.
const TIMES: usize = 5;

type Error = Box<dyn std::error::Error>;

struct World {
    state: State,
    placement: Placement,
}

impl World {
    fn apply(&mut self, command: &Command) -> Result<(), Error> {
        let applied = self.state.apply(command);
        self.placement.applied(&self.state, &applied.changes);
        applied.result.map(drop).map_err(Into::into)
    }

    fn place(&self, pod: u64, memory_bytes: u64) -> Result<(NewContainer, Place), Error> {
        let new = container(pod, memory_bytes)?;
        let place = self.placement.place(&self.state, NodeId(0), &new);
        Ok((new, place))
    }

    fn create(&mut self, pod: u64, memory_bytes: u64) -> Result<Command, Error> {
        let (new, place) = self.place(pod, memory_bytes)?;
        let (node, pending) = match place {
            Place::On(node) => (Some(node), String::new()),
            Place::Soon(why) | Place::Nowhere(why) => (None, why),
        };
        let create = Command::Create {
            container: Box::new(new),
            at_ns: pod,
            node,
            pending,
        };
        self.apply(&create)?;
        Ok(create)
    }
}

fn tenant(pod: u64) -> Result<Tenant, Error> {
    Ok(format!("tenant-{}", pod / OF_A_TENANT).parse()?)
}

fn container(pod: u64, memory_bytes: u64) -> Result<NewContainer, Error> {
    let mut id = [0; 32];
    // Ids are random: neighbours in time aren't in the maps.
    id[..8].copy_from_slice(&pod.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let service = pod % SERVICES;
    let labels: BTreeMap<String, String> = [
        ("com.docker.compose.project", "shop".to_owned()),
        ("com.docker.compose.service", format!("service-{service}")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let none = hearth_control::state::NetworkMode::None;
    Ok(NewContainer {
        id: ContainerId::from_random(id),
        tenant: tenant(pod)?,
        name: format!("pod-{pod}").parse()?,
        image: IMAGE.to_owned(),
        image_name: "image".to_owned(),
        spec: ContainerSpec {
            command: vec!["serve".to_owned()],
            labels,
            memory_bytes,
            nano_cpus: 1_000_000_000,
            // The pods' network has fewer addresses.
            network_mode: none,
            ..ContainerSpec::default()
        },
    })
}

/// What this thread has had of a processor; everything happens on it.
fn spent() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn best(mut measure: impl FnMut() -> Result<Duration, Error>) -> Result<Duration, Error> {
    let times: Result<Vec<_>, _> = (0..TIMES).map(|_| measure()).collect();
    Ok(times?.into_iter().min().unwrap_or_default())
}

fn filled() -> Result<(World, Vec<Command>), Error> {
    let mut world = World {
        state: State::default(),
        placement: Placement::default(),
    };
    let mut commands = Vec::new();
    for node in 0..NODES {
        commands.push(Command::Join {
            node: NodeId(node),
            at_ns: 0,
            is: Box::new(NodeIs {
                hostname: format!("hearth-{node}"),
                cpus: 32,
                memory_bytes: 64 * GIB,
                disk_bytes: 1 << 40,
                labels: [("zone".to_owned(), format!("zone-{}", node % 3))].into(),
                ..NodeIs::default()
            }),
            wanted: NodeWanted::default(),
        });
    }
    for pod in (0..PODS + WAITING).step_by(OF_A_TENANT as usize) {
        commands.push(Command::AddImage {
            tenant: tenant(pod)?,
            at_ns: 0,
            image: IMAGE.to_owned(),
            names: vec!["image:latest".to_owned()],
            repo_digest: None,
            telling: Telling::Load,
            stored: Default::default(),
        });
    }
    for command in &commands {
        world.apply(command)?;
    }
    for pod in 0..PODS {
        let create = world.create(pod, 4 * GIB)?;
        commands.push(create);
    }
    Ok((world, commands))
}

/// Nobody listens.
struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &State, _: &[Change]) {}
    fn replaced(&self, _: &State) {}
}

/// What a commit and a command cost that wait for the disk, in writes that do nothing else: of one proposer, and of many.
struct Durable {
    commits_per_fsync: f64,
    commands_per_fsync: f64,
}

fn fsyncs(dir: &Path) -> Result<Duration, Error> {
    let mut file = File::create(dir.join("fsyncs"))?;
    let bytes = vec![7; SMALL_WRITE];
    let begun = Instant::now();
    for _ in 0..COMMITS {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    Ok(begun.elapsed() / COMMITS)
}

async fn durable() -> Result<Durable, Error> {
    let dir = tempfile::tempdir_in(".")?;
    let replica = Replica::open(&dir.path().join("raft"), 1, Arc::new(Nobody)).await?;
    let command = |number: u32| Command::AddImage {
        tenant: Tenant::owner(),
        at_ns: u64::from(number),
        image: IMAGE.to_owned(),
        names: vec![format!("image:{number}")],
        repo_digest: None,
        telling: Telling::Load,
        stored: Default::default(),
    };
    let (mut one, mut many) = (0_f64, 0_f64);
    for _ in 0..TIMES {
        // Close to each other: the disk does other things now and then.
        let fsync = fsyncs(dir.path())?;
        let begun = Instant::now();
        for number in 0..COMMITS {
            replica.propose(command(number)).await??;
        }
        one = one.max(fsync.as_secs_f64() / (begun.elapsed() / COMMITS).as_secs_f64());
        let begun = Instant::now();
        let all = (0..COMMITS * 10).map(|number| replica.propose(command(number)));
        let mut all = futures_util::stream::iter(all).buffer_unordered(TOGETHER);
        while let Some(done) = all.next().await {
            done??;
        }
        many = many.max(fsync.as_secs_f64() / (begun.elapsed() / (COMMITS * 10)).as_secs_f64());
    }
    replica.close().await;
    Ok(Durable {
        commits_per_fsync: one,
        commands_per_fsync: many,
    })
}

/// Of this process, at its most.
fn memory_mib() -> Result<f64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    Ok(kib
        .ok_or("the kernel tells no peak")?
        .trim()
        .parse::<f64>()?
        / 1024.0)
}

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let durable = runtime.block_on(durable())?;
    drop(runtime);
    let (mut world, commands) = filled()?;
    // With the commands themselves, which a controller doesn't keep.
    let memory_mib = memory_mib()?;
    let unplaced = world.state.pods.unassigned().count();
    if unplaced > 0 {
        return Err(format!("{unplaced} pods have no place").into());
    }

    // As a creation asks, each told of what the one before has taken.
    let asked: u64 = 10_000;
    let placing = best(|| {
        let begun = spent();
        for pod in PODS..PODS + asked {
            black_box(world.place(pod, 4 * GIB)?);
        }
        let took = spent().saturating_sub(begun);
        for pod in PODS..PODS + asked {
            world.placement.forget(container(pod, 0)?.id.into());
        }
        Ok(took)
    })?;

    let applying = best(|| {
        let mut state = State::default();
        let begun = spent();
        for command in &commands {
            black_box(state.apply(command)).result?;
        }
        Ok(spent().saturating_sub(begun))
    })?;

    let one = tenant(PODS / 2)?;
    let listing = best(|| {
        let begun = spent();
        let mut own: Vec<_> = world.state.of_tenant(&one).collect();
        own.sort_by_key(|placed| placed.created_ns);
        black_box(own);
        Ok(spent().saturating_sub(begun))
    })?;

    let copying = best(|| {
        let begun = spent();
        let copy = black_box(world.state.clone());
        let took = spent().saturating_sub(begun);
        drop(copy);
        Ok(took)
    })?;

    let anew = best(|| {
        let placement = Placement::default();
        let begun = spent();
        black_box(placement.place(&world.state, NodeId(0), &container(PODS, GIB)?));
        Ok(spent().saturating_sub(begun))
    })?;

    // What fits nowhere, half of it, and what does.
    for pod in PODS..PODS + WAITING {
        let new = container(pod, if pod % 2 == 0 { 512 * GIB } else { 4 * GIB })?;
        world.apply(&Command::Create {
            container: Box::new(new),
            at_ns: pod,
            node: None,
            pending: String::new(),
        })?;
    }
    let passing = best(|| {
        let placement = Placement::default();
        // Kept up, as on a leader.
        black_box(placement.place(&world.state, NodeId(0), &container(0, GIB)?));
        let begun = spent();
        let homeless: Vec<_> = moves::homeless(&world.state).collect();
        black_box(placement.pass(&world.state, &homeless));
        Ok(spent().saturating_sub(begun))
    })?;

    let per_s = |count: u64, took: Duration| (count as f64 / took.as_secs_f64()).round();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let result = serde_json::json!({
        "placements_per_s": per_s(asked, placing),
        "pass_ms": ms(passing),
        "view_anew_ms": ms(anew),
        "commands_per_s": per_s(commands.len() as u64, applying),
        "containers_of_a_tenant_ms": ms(listing),
        "snapshot_pause_ms": ms(copying),
        "memory_mib": memory_mib,
        "commits_per_fsync": durable.commits_per_fsync,
        "commands_per_fsync": durable.commands_per_fsync,
    });
    println!("{result}");
    Ok(())
}
