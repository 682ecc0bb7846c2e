//! The agent with everything real but the monitor, the guest in it, and the node's network.

mod adoption;
mod leases;
pub(crate) mod monitor;
mod runs;
mod streams;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::monitor::Monitor;
use super::*;
use crate::agent::Happening;
use crate::lease::BootTime;
use crate::network::{Change, Connections, Error as NetworkError, Kernel, NetworkConfig, Pod};
use crate::state::{Container, Exit, Pod as PodState, PortBinding, Protocol, What, address};

/// An address that the node hasn't.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
/// A port that the kernel doesn't publish.
const REFUSED_PORT: u16 = 666;

/// A network that takes note of what is published.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<usize>>>);

impl Kernel for Notes {
    fn set_parameter(&self, _: &str, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
    fn create_link(&self, _: &str) -> Result<OwnedFd, NetworkError> {
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }
    fn add_own_address(&self, _: Ipv4Addr) -> Result<(), NetworkError> {
        Ok(())
    }
    fn has_address(&self, address: IpAddr) -> Result<bool, NetworkError> {
        Ok(address != ELSEWHERE)
    }
    fn add_unreachable(&self, _: Ipv4Addr, _: u8) -> Result<(), NetworkError> {
        Ok(())
    }
    fn lead(&self, _: &str, _: u16, _: Ipv4Addr, _: Ipv4Addr) -> Result<(), NetworkError> {
        Ok(())
    }
    fn change(&self, changes: &[Change]) -> Result<(), NetworkError> {
        for change in changes {
            if let Change::Publish(ports) = change {
                if ports
                    .iter()
                    .any(|port| port.binding.host_port == REFUSED_PORT)
                {
                    return Err(NetworkError::Kernel {
                        doing: "changing the rules".to_owned(),
                        source: io::Error::from_raw_os_error(12),
                    });
                }
                self.0.lock().unwrap().push(ports.len());
            }
        }
        Ok(())
    }
    fn forget(&self, _: &[Connections]) -> Result<(), NetworkError> {
        Ok(())
    }
    fn pods(&self) -> Result<Vec<Pod>, NetworkError> {
        Ok(Vec::new())
    }
}

#[derive(Debug, PartialEq)]
enum Report {
    Happened(What),
    Started(RunNumber),
    OutOfMemory(u64),
    Exited(Exit),
}

struct Told(mpsc::UnboundedSender<Report>);

#[async_trait]
impl Reports for Told {
    async fn started(&self, _: &ContainerId, run: RunNumber, _: u32, _: u64) {
        let _ = self.0.send(Report::Started(run));
    }
    async fn out_of_memory(&self, _: &ContainerId, _: RunNumber, kills: u64, _: u64) {
        let _ = self.0.send(Report::OutOfMemory(kills));
    }
    async fn exited(&self, _: &ContainerId, _: RunNumber, exit: Exit, _: u64) {
        let _ = self.0.send(Report::Exited(exit));
    }
    fn happened(&self, _: &ContainerId, what: What, _: u64) {
        let _ = self.0.send(Report::Happened(what));
    }
    fn happenings(&self) -> broadcast::Receiver<Happening> {
        broadcast::channel(1).1
    }
}

/// The run that tests begin.
const RUN: RunNumber = RunNumber {
    epoch: 1,
    number: 1,
    start: 1,
};

const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

struct Node {
    agent: LocalAgent,
    reports: mpsc::UnboundedReceiver<Report>,
    network: Notes,
    lease: NodeLease,
}

pub(crate) fn paths(dir: &Path) -> Paths {
    Paths {
        containers: dir.join("containers"),
        pods: dir.join("pods"),
        empty: dir.join("empty"),
        cgroup: dir.join("cgroup"),
        vmm: dir.join("vmm"),
        kernel: dir.join("kernel"),
        initramfs: dir.join("initramfs"),
        templates: dir.join("templates"),
    }
}

async fn node(dir: &Path) -> Node {
    let paths = paths(dir);
    monitor::script(dir);
    template(&paths.templates, "empty", &[1; 4096]);
    std::fs::write(&paths.kernel, "").unwrap();
    std::fs::write(&paths.initramfs, "").unwrap();
    let images = hearth_image::Store::open(&dir.join("images"), Default::default())
        .await
        .unwrap();
    let root = images.root_file(&IMAGE.parse().unwrap());
    std::fs::create_dir_all(root.parent().unwrap()).unwrap();
    std::fs::write(root, "").unwrap();
    let lease = NodeLease::open(&dir.join("lease"), Arc::new(BootTime::now)).unwrap();
    let network = Notes::default();
    let config = NetworkConfig {
        pods: address::NETWORK,
        prefix: address::PREFIX,
        gateway: address::GATEWAY,
    };
    let started = Network::start_on(Box::new(network.clone()), config).unwrap();
    let (to, reports) = mpsc::unbounded_channel();
    let config = LocalConfig {
        id: NodeId(1),
        paths,
        node: NodeInfo::default(),
        dns: vec![],
        siblings: false,
        layer_bytes: 0,
        lease: lease.clone(),
    };
    let agent = LocalAgent::new(config, images, started, Arc::new(Told(to)))
        .await
        .unwrap();
    Node {
        agent,
        reports,
        network,
        lease,
    }
}

fn container(command: &[&str]) -> Placed {
    let mut container = Container {
        image: IMAGE.into(),
        ..Container::sample(7)
    };
    container.spec.command = command.iter().map(|word| (*word).to_owned()).collect();
    container.spec.open_stdin = true;
    container.spec.stdin_once = true;
    Placed {
        container: container.into(),
        pod: PodState::sample(7).into(),
    }
}

async fn start(
    agent: &LocalAgent,
    container: &Placed,
    ports: Vec<PortBinding>,
) -> Result<StartTimes, AgentError> {
    let mut container = container.clone();
    Arc::make_mut(&mut container.pod).ports = ports;
    agent.start(&container, RUN).await
}

fn port() -> PortBinding {
    PortBinding {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 8080,
    }
}

fn signal(number: i32) -> Signal {
    number.try_into().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn exited(code: u8) -> Option<Report> {
    Some(Report::Exited(Exit {
        code,
        oom_killed: false,
    }))
}

fn monitor_of(dir: &Path, id: &ContainerId) -> u32 {
    let group = paths(dir).pod_cgroup(id);
    cgroup::process(&group).unwrap().unwrap()
}

async fn logged(agent: &LocalAgent, id: &ContainerId) -> String {
    let options = LogOptions {
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let records: Vec<_> = agent.logs(id, options).await.unwrap().collect().await;
    records
        .into_iter()
        .map(|record| String::from_utf8(record.unwrap().data.to_vec()).unwrap())
        .collect()
}

async fn everything(mut attached: Attached) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = attached.output.recv().await {
        all.extend_from_slice(&chunk.data);
    }
    all
}
