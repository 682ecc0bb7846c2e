//! The agent with everything real but the monitor, the guest in it, and the node's network.

pub(crate) mod monitor;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::monitor::Monitor;
use super::*;
use crate::network::{Change, Connections, Error as NetworkError, Kernel, NetworkConfig, Pod};
use crate::state::{Action, ContainerSpec, Exit, NodeId, Protocol, Status, address};

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
    Happened(Action, BTreeMap<String, String>),
    Started,
    OutOfMemory(u64),
    Exited(Exit),
}

struct Reports(mpsc::UnboundedSender<Report>);

#[async_trait]
impl ExitSink for Reports {
    async fn started(&self, _: &ContainerId, _: u32, _: u64) {
        let _ = self.0.send(Report::Started);
    }
    async fn out_of_memory(&self, _: &ContainerId, kills: u64, _: u64) {
        let _ = self.0.send(Report::OutOfMemory(kills));
    }
    async fn exited(&self, _: &ContainerId, exit: Exit, _: u64) {
        let _ = self.0.send(Report::Exited(exit));
    }
    async fn happened(
        &self,
        _: &ContainerId,
        action: Action,
        attributes: BTreeMap<String, String>,
        _: u64,
    ) {
        let _ = self.0.send(Report::Happened(action, attributes));
    }
}

const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

struct Node {
    agent: LocalAgent,
    reports: mpsc::UnboundedReceiver<Report>,
    network: Notes,
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
    let network = Notes::default();
    let config = NetworkConfig {
        pods: address::NETWORK,
        prefix: address::PREFIX,
        gateway: address::GATEWAY,
    };
    let started = Network::start_on(Box::new(network.clone()), config).unwrap();
    let (to, reports) = mpsc::unbounded_channel();
    let config = LocalConfig {
        paths,
        node: NodeInfo::default(),
        dns: vec![],
        siblings: false,
        layer_bytes: 0,
    };
    let agent = LocalAgent::new(config, images, started, Arc::new(Reports(to)))
        .await
        .unwrap();
    Node {
        agent,
        reports,
        network,
    }
}

fn container(command: &[&str]) -> Container {
    Container {
        id: ContainerId::from_random([7; 32]),
        tenant: "owner".parse().unwrap(),
        name: "name".parse().unwrap(),
        node: NodeId(1),
        created_ns: 0,
        image: IMAGE.into(),
        image_name: "image".into(),
        spec: ContainerSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            open_stdin: true,
            stdin_once: true,
            ..Default::default()
        },
        status: Status::default(),
        address: Some(Ipv4Addr::new(10, 88, 0, 2)),
    }
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

fn runtime() -> Runtime {
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

#[test]
fn a_container_whose_port_cannot_be_had_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["cat"]);
        node.agent.prepare(&container).await.unwrap();
        let refused = PortBinding {
            host_port: REFUSED_PORT,
            ..port()
        };
        let elsewhere = PortBinding {
            host_ip: Some(ELSEWHERE),
            ..port()
        };
        for (port, words) in [
            (refused, "changing the rules"),
            (
                elsewhere,
                "failed to bind host port 192.0.2.7:8080: cannot assign requested address",
            ),
        ] {
            let error = node.agent.start(&container, &[port]).await.unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("driver failed programming external connectivity: ")
                    && error.contains(words),
                "{error}"
            );
            assert!(!paths(dir.path()).pod(&container.id).exists());
        }
        node.agent.start(&container, &[port()]).await.unwrap();
        node.agent
            .signal(&container.id, Signal::KILL)
            .await
            .unwrap();
        node.agent.idle().await;
    });
}

#[test]
fn a_run_is_logged_shown_and_reported_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["print", "500"]);
        let id = &container.id;
        node.agent.prepare(&container).await.unwrap();
        for runs in 1..=2 {
            let attached = node.agent.attach(id, false).await.unwrap();
            node.agent.start(&container, &[port()]).await.unwrap();
            let shown = everything(attached).await;
            assert_eq!(node.reports.recv().await, Some(Report::Started));
            assert_eq!(node.reports.recv().await, exited(0));
            let expected: String = (0..500).map(|n| format!("line {n}\n")).collect();
            assert_eq!(shown, expected.as_bytes());
            let mut log = logged(&node.agent, id)
                .await
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>();
            assert_eq!(log.len(), 500 * runs);
            log.sort();
            log.dedup();
            assert_eq!(log.len(), 500);
        }
        node.agent.idle().await;
        let network = node.network.0.lock().unwrap().clone();
        assert_eq!(
            network,
            [1, 0, 1, 0],
            "published at each start and no longer at each exit"
        );
        assert!(!paths(dir.path()).pod(id).exists());
        assert!(matches!(
            node.agent.signal(id, signal(15)).await,
            Err(AgentError::NotRunning(_))
        ));
        node.agent.discard(id).await.unwrap();
        assert!(!paths(dir.path()).container(id).exists());
        node.agent.discard(id).await.unwrap();
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error_with_dockers_code() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["no-such-program"]);
        node.agent.prepare(&container).await.unwrap();
        let attached = node.agent.attach(&container.id, true).await.unwrap();
        let error = node.agent.start(&container, &[]).await.unwrap_err();
        assert!(matches!(&error, AgentError::Start { code: 127, message } if message.contains("no-such-program")), "{error:?}");
        assert_eq!(everything(attached).await, b"", "attached clients are let go");
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn a_monitor_that_dies_is_an_exit_by_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["crash"]);
        // Whether the crash is seen before or after the start is known is a matter of luck.
        if node.agent.start(&container, &[]).await.is_ok() {
            assert_eq!(node.reports.recv().await, Some(Report::Started));
            assert_eq!(node.reports.recv().await, exited(137));
        }
        node.agent.idle().await;
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn wants_of_memory_are_reported_before_the_exit_and_a_flood_of_them_together() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["hog", "10000"]);
        node.agent.start(&container, &[]).await.unwrap();
        let mut told = Vec::new();
        let end = loop {
            match node.reports.recv().await {
                Some(Report::OutOfMemory(kills)) => told.push(kills),
                Some(Report::Started) => {}
                end => break end,
            }
        };
        assert_eq!(end, exited(0));
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!(told.last(), Some(&10_000), "the last one is told");
        assert!(told.len() < 1000, "{} commits", told.len());
        node.agent.idle().await;
    });
}

#[test]
fn a_signal_during_the_boot_reaches_the_process_once_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let may_run = dir.path().join("may-run");
        let container = container(&["slow", may_run.to_str().unwrap()]);
        let id = &container.id;
        let mut signalling = Box::pin(node.agent.signal(id, signal(15)));
        let mut starting = Box::pin(node.agent.start(&container, &[]));
        // It begins first, and waits for its microVM; then the signal waits for it.
        assert!(futures_util::poll!(&mut starting).is_pending());
        assert!(futures_util::poll!(&mut signalling).is_pending());
        std::fs::write(may_run, "").unwrap();
        let (started, signalled) = tokio::join!(starting, signalling);
        started.unwrap();
        signalled.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        assert_eq!(node.reports.recv().await, exited(143));
        // One that never runs is told so.
        let container = self::container(&["no-such-program"]);
        let mut starting = Box::pin(node.agent.start(&container, &[]));
        let mut signalling = Box::pin(node.agent.signal(id, signal(15)));
        assert!(futures_util::poll!(&mut starting).is_pending());
        let (started, signalled) = tokio::join!(starting, &mut signalling);
        started.unwrap_err();
        assert!(matches!(signalled, Err(AgentError::NotRunning(_))));
    });
}

#[test]
fn a_line_that_drops_again_and_again_costs_neither_output_nor_the_container() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["drop-line", "8"]);
        node.agent.start(&container, &[]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        assert_eq!(node.reports.recv().await, exited(3));
        let expected: String = (0..8).map(|n| format!("line {n}\n")).collect();
        assert_eq!(logged(&node.agent, &container.id).await, expected);
        node.agent.idle().await;
    });
}

#[test]
fn stdin_sent_before_the_start_arrives_and_its_end_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["cat"]);
        node.agent.prepare(&container).await.unwrap();
        let mut attached = node.agent.attach(&container.id, true).await.unwrap();
        let input = attached.input.take().unwrap();
        input.send("one ".into()).await.unwrap();
        node.agent.start(&container, &[]).await.unwrap();
        input.send("two".into()).await.unwrap();
        drop(input);
        assert_eq!(everything(attached).await, b"one two");
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        assert_eq!(node.reports.recv().await, exited(0));
        assert_eq!(logged(&node.agent, &container.id).await, "one two");
        node.agent.idle().await;
    });
}

#[test]
fn a_client_that_reads_nothing_holds_up_the_output_but_not_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["flood", "1000"]);
        node.agent.prepare(&container).await.unwrap();
        let attached = node.agent.attach(&container.id, false).await.unwrap();
        node.agent.start(&container, &[]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        node.agent.signal(&container.id, signal(9)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(137));
        drop(attached);
        node.agent.idle().await;
        assert_eq!(logged(&node.agent, &container.id).await.len(), 8192 * 1000);
    });
}

#[test]
fn an_exec_has_output_and_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["wait"]);
        node.agent.start(&container, &[]).await.unwrap();
        let spec = ExecSpec {
            args: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        let exec = node.agent.exec_create(&container.id, spec).await.unwrap();
        let attached = node.agent.exec_start(&exec, None).await.unwrap();
        assert!(matches!(
            node.agent.exec_start(&exec, None).await,
            Err(AgentError::ExecStarted(_))
        ));
        assert_eq!(everything(attached).await, b"a b");
        let status = node.agent.exec_status(&exec).await.unwrap();
        assert_eq!(
            (status.running, status.exit_code, status.pid),
            (false, Some(7), 3)
        );
        let about = BTreeMap::from([("execID".to_owned(), exec)]);
        let mut at_its_end = about.clone();
        at_its_end.insert("exitCode".to_owned(), "7".to_owned());
        for (action, attributes) in [
            (Action::ExecCreate("a b".to_owned()), about.clone()),
            (Action::ExecStart("a b".to_owned()), about),
            (Action::ExecDie, at_its_end),
        ] {
            let told = Report::Happened(action, attributes);
            assert_eq!(node.reports.recv().await, Some(told));
        }
        node.agent.signal(&container.id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143));
        node.agent.idle().await;
    });
}

#[test]
fn a_containers_execs_are_bounded_and_those_that_ended_make_room_for_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["wait"]);
        node.agent.start(&container, &[]).await.unwrap();
        let create = || {
            let spec = ExecSpec {
                args: vec!["a".into()],
                ..Default::default()
            };
            node.agent.exec_create(&container.id, spec)
        };
        let mut made = Vec::new();
        let refused = loop {
            match create().await {
                Ok(exec) => made.push(exec),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(refused, AgentError::TooMany { limit, .. } if limit == made.len()),
            "{refused}"
        );
        let attached = node.agent.exec_start(&made[0], None).await.unwrap();
        everything(attached).await;
        assert!(node.agent.exec_status(&made[0]).await.is_ok());
        let newest = create().await.unwrap();
        assert!(matches!(
            node.agent.exec_status(&made[0]).await,
            Err(AgentError::NoSuchExec(_))
        ));
        assert!(node.agent.exec_status(&newest).await.is_ok());
        assert!(create().await.is_err());
        node.agent.signal(&container.id, signal(9)).await.unwrap();
        node.agent.idle().await;
    });
}

#[test]
fn a_new_agent_finds_what_runs_and_neither_loses_nor_repeats_output() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(&["wait"]);
    let id = &container.id;
    let mut up = container.clone();
    up.status.phase = crate::state::Phase::Running;
    let first = runtime();
    first.block_on(async {
        let node = node(dir.path()).await;
        node.agent.start(&container, &[port()]).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
    });
    // As `kill -9` of the process: its tasks and sockets are gone, nothing was said to anybody.
    first.shutdown_background();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let adopted = node.agent.adopt(std::slice::from_ref(&up)).await;
        assert_eq!(adopted, BTreeSet::from([id.clone()]));
        assert_eq!(
            node.network.0.lock().unwrap().last(),
            Some(&1),
            "its port is published"
        );
        let options = LogOptions {
            follow: true,
            stdout: true,
            ..Default::default()
        };
        let mut follower = node.agent.logs(id, options).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
        node.agent.signal(id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143));
        let mut followed = String::new();
        while let Some(record) = follower.next().await {
            followed.push_str(std::str::from_utf8(&record.unwrap().data).unwrap());
        }
        assert_eq!(followed, "ready\ntick\ntick\ntick\n");
        node.agent.idle().await;
        assert!(!paths(dir.path()).pod(id).exists());
    });
}

#[test]
fn what_should_not_run_is_ended_and_what_does_not_run_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(&["wait"]);
    let first = runtime();
    let pid = first.block_on(async {
        let node = node(dir.path()).await;
        node.agent.start(&container, &[]).await.unwrap();
        let pid = monitor_of(dir.path(), &container.id);
        let stale = ContainerId::from_random([8; 32]);
        std::fs::create_dir_all(paths(dir.path()).pod(&stale)).unwrap();
        std::fs::create_dir_all(paths(dir.path()).container(&stale)).unwrap();
        pid
    });
    first.shutdown_background();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        assert_eq!(node.agent.adopt(&[]).await, BTreeSet::new());
        node.agent
            .sweep(BTreeSet::from([container.id.clone()]))
            .await;
        assert_eq!(
            std::fs::read_dir(dir.path().join("pods")).unwrap().count(),
            0
        );
        // The container's own directory, and the template.
        assert_eq!(
            std::fs::read_dir(dir.path().join("containers"))
                .unwrap()
                .count(),
            2
        );
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let gone = rustix::process::test_kill_process(pid).is_err()
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                .unwrap()
                .contains(" Z ");
        assert!(gone);
    });
}

#[test]
fn a_monitor_that_names_another_process_gets_nobody_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut innocent = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let container = container(&["impostor", &innocent.id().to_string()]);
    let first = runtime();
    let monitor = first.block_on(async {
        let node = node(dir.path()).await;
        node.agent.start(&container, &[]).await.unwrap();
        monitor_of(dir.path(), &container.id)
    });
    first.shutdown_background();
    let alive = runtime().block_on(async {
        let node = node(dir.path()).await;
        assert_eq!(node.agent.adopt(&[]).await, BTreeSet::new());
        innocent.try_wait().unwrap().is_none()
    });
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert!(
        alive,
        "a process was killed because a monitor claimed to be it"
    );
    let pid = rustix::process::Pid::from_raw(monitor as i32).unwrap();
    let gone = rustix::process::test_kill_process(pid).is_err()
        || std::fs::read_to_string(format!("/proc/{monitor}/stat"))
            .unwrap()
            .contains(" Z ");
    assert!(gone, "the monitor itself lives");
}

#[test]
fn a_number_that_has_gone_to_another_process_is_nobodys_monitor() {
    let dir = tempfile::tempdir().unwrap();
    let mut innocent = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = innocent.id();
    runtime().block_on(async {
        // As the kernel shows a group whose process has ended, whatever a record says.
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        assert!(Monitor::adopt(dir.path()).is_err());
        std::fs::write(dir.path().join("cgroup.procs"), pid.to_string()).unwrap();
        assert_eq!(Monitor::adopt(dir.path()).unwrap().pid, pid);
    });
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_pod_that_has_no_walls_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        std::fs::write(paths(dir.path()).cgroup, "no directory").unwrap();
        let container = container(&["wait"]);
        let error = node.agent.start(&container, &[]).await.unwrap_err();
        assert!(error.to_string().contains("control group"), "{error}");
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn a_monitor_that_the_kernel_ends_for_want_of_memory_is_a_container_that_ran_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["wait"]);
        node.agent.start(&container, &[]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        let group = paths(dir.path()).pod_cgroup(&container.id);
        std::fs::write(group.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        let pid = monitor_of(dir.path(), &container.id);
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let exit = Exit {
            code: 137,
            oom_killed: true,
        };
        assert_eq!(node.reports.recv().await, Some(Report::Exited(exit)));
        node.agent.idle().await;
    });
}

#[test]
fn output_is_counted_here_whatever_a_guest_says_of_its_place() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["leap"]);
        node.agent.start(&container, &[]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started));
        assert_eq!(node.reports.recv().await, exited(0));
        assert_eq!(logged(&node.agent, &container.id).await, "one two");
        node.agent.idle().await;
    });
}

#[test]
fn a_guests_reason_is_kept_as_far_as_one_can_be() {
    let error = GuestError::Refused(Refusal::NotFound {
        program: "ä".repeat(1 << 20),
        reason: String::new(),
    });
    let AgentError::Start { message, code } = start_error(error) else {
        panic!("it is a failed start");
    };
    assert_eq!(code, 127);
    assert!((MESSAGE_MAX - 1..=MESSAGE_MAX).contains(&message.len()));
}
