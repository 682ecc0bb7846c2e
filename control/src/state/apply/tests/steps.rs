//! Commands that meet: few of everything, and reports and assignments that are right as often as not.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::state::*;

/// A command but for what depends on the state that it comes to.
#[derive(Debug, Clone)]
pub enum Step {
    /// As it is.
    Plain(Command),
    /// A container that was never there before.
    Create(Box<NewContainer>, Option<NodeId>),
    /// Of a container, or, rarely, of none.
    Of(Pick, OfContainer),
    /// By a node, of a container.
    Told(Pick, By, Told),
    /// Of the pod of a container.
    Assign {
        of: Pick,
        epoch: Off,
        node: Option<NodeId>,
        keeps: bool,
    },
    /// With the node's version, or another.
    UpdateNode(NodeId, Off, NodeWanted),
    /// With the node's tenure, or another; by the node itself, or a leader of this term, or another.
    NodeHealth(NodeId, Health, Off, Option<Off>),
    /// With the cluster as it is, or another.
    SetCluster(bool, [u8; 16]),
}

/// One of the containers that are there.
#[derive(Debug, Clone, Copy)]
pub struct Pick(u8);

/// What a user does to one.
#[derive(Debug, Clone)]
pub enum OfContainer {
    Start,
    Stop(Signal, Option<u64>, bool),
    Restart(Signal, Option<u64>),
    Signalled(Signal, bool),
    Pause(bool),
    Rename(ContainerName),
    Remove(bool),
}

/// Which node tells.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// The one that has the pod, or has yet to let go of it.
    Right,
    Node(NodeId),
}

/// What it tells; of the run that is on, or beside it.
#[derive(Debug, Clone)]
pub enum Told {
    Started(Beside, u32),
    StartFailed(Beside, u8),
    NotStarted(Off),
    Exited(Beside, Exit),
    OutOfMemory(Beside, u64),
    Paused(Beside, bool),
    Released(Off),
    Image(String, u8, bool),
}

/// How far a number is from the right one.
pub type Off = i8;

/// How far a run is from the one that is right: in its epoch, number, and start.
pub type Beside = (Off, Off, Off);

pub fn nodes() -> impl Strategy<Value = NodeId> {
    (1u64..5).prop_map(NodeId)
}
pub fn tenant() -> impl Strategy<Value = Tenant> {
    prop_oneof![Just("owner"), Just("other")].prop_map(|name| name.parse().unwrap())
}
fn names() -> impl Strategy<Value = ContainerName> {
    (0u8..6).prop_map(|n| format!("name-{n}").parse().unwrap())
}
fn images() -> impl Strategy<Value = String> {
    (0u8..3).prop_map(|n| format!("sha256:{n:064}"))
}
fn tags() -> impl Strategy<Value = String> {
    (0u8..3).prop_map(|n| format!("image-{n}:latest"))
}
fn stored() -> impl Strategy<Value = Stored> {
    (1u8..3, proptest::collection::btree_set(nodes(), 0..2)).prop_map(|(contents, nodes)| Stored {
        contents: vec![contents],
        bytes: 1,
        nodes,
    })
}
fn signals() -> impl Strategy<Value = Signal> {
    prop_oneof![Just(9), Just(15), 1i32..16].prop_map(|n| n.try_into().unwrap())
}
fn picks() -> impl Strategy<Value = Pick> {
    any::<u8>().prop_map(Pick)
}
fn off() -> impl Strategy<Value = Off> {
    prop_oneof![6 => Just(0i8), 1 => Just(-1), 1 => Just(1)]
}
fn beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        6 => Just((0, 0, 0)),
        1 => (off(), off(), off()),
        1 => (-3i8..3, -3i8..3, -3i8..3),
    ]
}

fn port_requests() -> impl Strategy<Value = Vec<PortRequest>> {
    let ip = prop_oneof![
        Just(None),
        Just(Some("0.0.0.0".parse::<IpAddr>().unwrap())),
        Just(Some("127.0.0.1".parse::<IpAddr>().unwrap())),
    ];
    let host_port = prop_oneof![Just(0u16), 2375u16..2378, 32768u16..32771];
    let last = proptest::option::of(2375u16..32771);
    let request = (1u16..4, any::<bool>(), ip, host_port, last);
    let request = request.prop_map(
        |(container_port, udp, host_ip, host_port, last)| PortRequest {
            container_port,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            host_ip,
            host_port,
            host_port_last: last.filter(|&last| last > host_port && host_port != 0),
        },
    );
    proptest::collection::vec(request, 0..3)
}

fn restart_policies() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
        (0u32..3).prop_map(|maximum_retries| RestartPolicy::OnFailure { maximum_retries }),
    ]
}

fn specs() -> impl Strategy<Value = ContainerSpec> {
    let network = prop_oneof![Just(NetworkMode::None), Just(NetworkMode::Default)];
    let spec = (
        port_requests(),
        network,
        any::<bool>(),
        any::<bool>(),
        restart_policies(),
    );
    spec.prop_map(
        |(ports, network_mode, publish_all, auto_remove, restart)| ContainerSpec {
            ports,
            publish_all,
            exposed_ports: ["1/tcp".into(), "9/udp".into()].into(),
            network_mode,
            auto_remove,
            restart,
            ..Default::default()
        },
    )
}

/// No container has it.
fn none() -> ContainerId {
    ContainerId::from_random([0; 32])
}

fn create() -> impl Strategy<Value = Step> {
    let container = (tenant(), names(), images(), specs());
    (container, proptest::option::weighted(0.9, nodes())).prop_map(
        |((tenant, name, image, spec), node)| {
            let container = NewContainer {
                id: none(),
                tenant,
                name,
                image_name: image.clone(),
                image,
                spec,
            };
            Step::Create(Box::new(container), node)
        },
    )
}

fn of_container() -> impl Strategy<Value = OfContainer> {
    let timeout = || proptest::option::of(0u64..20);
    prop_oneof![
        4 => Just(OfContainer::Start),
        2 => (signals(), timeout(), any::<bool>())
            .prop_map(|(signal, timeout_s, tell)| OfContainer::Stop(signal, timeout_s, tell)),
        2 => (signals(), timeout()).prop_map(|(signal, timeout_s)| OfContainer::Restart(signal, timeout_s)),
        1 => (signals(), any::<bool>()).prop_map(|(signal, end)| OfContainer::Signalled(signal, end)),
        2 => any::<bool>().prop_map(OfContainer::Pause),
        1 => names().prop_map(OfContainer::Rename),
        2 => any::<bool>().prop_map(OfContainer::Remove),
    ]
}

fn told() -> impl Strategy<Value = Told> {
    let exit = (prop_oneof![Just(0u8), any::<u8>()], any::<bool>())
        .prop_map(|(code, oom_killed)| Exit { code, oom_killed });
    prop_oneof![
        6 => (beside(), 1u32..9).prop_map(|(run, pid)| Told::Started(run, pid)),
        1 => (beside(), 125u8..128).prop_map(|(run, code)| Told::StartFailed(run, code)),
        1 => off().prop_map(Told::NotStarted),
        3 => (beside(), exit).prop_map(|(run, exit)| Told::Exited(run, exit)),
        1 => (beside(), 0u64..4).prop_map(|(run, kills)| Told::OutOfMemory(run, kills)),
        2 => (beside(), any::<bool>()).prop_map(|(run, paused)| Told::Paused(run, paused)),
        2 => off().prop_map(Told::Released),
        2 => (images(), 1u8..3, prop::bool::weighted(0.7))
            .prop_map(|(image, contents, present)| Told::Image(image, contents, present)),
    ]
}

fn plain() -> impl Strategy<Value = Command> {
    let node_is = (0u32..3, any::<bool>()).prop_map(|(features, named)| NodeIs {
        hostname: if named { "host".into() } else { String::new() },
        features,
        ..Default::default()
    });
    prop_oneof![
        4 => (tenant(), images(), proptest::collection::vec(tags(), 0..2), stored()).prop_map(|(tenant, image, names, stored)| {
            Command::AddImage { tenant, at_ns: 1, image, names, repo_digest: None, telling: Telling::Pull, stored }
        }),
        1 => (tenant(), tags()).prop_map(|(tenant, name)| Command::Untag { tenant, at_ns: 1, name }),
        1 => (tenant(), images(), any::<bool>())
            .prop_map(|(tenant, image, force)| Command::RemoveImage { tenant, at_ns: 1, image, force }),
        4 => (nodes(), node_is).prop_map(|(node, is)| Command::Join {
            node, at_ns: 1, is: Box::new(is), wanted: NodeWanted::default(),
        }),
        1 => (0u64..9).prop_map(|term| Command::Lead { term }),
        1 => (nodes(), any::<bool>(), any::<bool>()).prop_map(|(node, force, empty)| Command::RemoveNode { node, at_ns: 1, force, empty }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let by = prop_oneof![4 => Just(By::Right), 1 => nodes().prop_map(By::Node)];
    let health = prop_oneof![
        Just(Health::Ready),
        Just(Health::Down {
            reason: "silent".into()
        })
    ];
    let node_wanted = any::<bool>().prop_map(|drained| NodeWanted {
        availability: match drained {
            true => Availability::Drain,
            false => Availability::Active,
        },
        ..Default::default()
    });
    prop_oneof![
        6 => plain().prop_map(Step::Plain),
        4 => create(),
        8 => (picks(), of_container()).prop_map(|(of, what)| Step::Of(of, what)),
        10 => (picks(), by, told()).prop_map(|(of, by, told)| Step::Told(of, by, told)),
        4 => (picks(), off(), proptest::option::weighted(0.8, nodes()), any::<bool>())
            .prop_map(|(of, epoch, node, keeps)| Step::Assign { of, epoch, node, keeps }),
        1 => (nodes(), off(), node_wanted).prop_map(|(node, version, wanted)| Step::UpdateNode(node, version, wanted)),
        3 => (nodes(), health, off(), proptest::option::of(off()))
            .prop_map(|(node, health, tenure, term)| Step::NodeHealth(node, health, tenure, term)),
        1 => (any::<bool>(), any::<[u8; 16]>()).prop_map(|(right, id)| Step::SetCluster(right, id)),
    ]
}

/// A cluster that has images and nodes, and then whatever comes.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let begin = ["owner", "other"].into_iter().map(|tenant| {
        Step::Plain(Command::AddImage {
            tenant: tenant.parse().unwrap(),
            at_ns: 0,
            image: format!("sha256:{:064}", 0),
            names: vec!["image-0:latest".into()],
            repo_digest: None,
            telling: Telling::Load,
            stored: Stored::default(),
        })
    });
    let joins = [1, 2].map(|node| {
        Step::Plain(Command::Join {
            node: NodeId(node),
            at_ns: 0,
            is: Box::default(),
            wanted: NodeWanted::default(),
        })
    });
    let begin: Vec<Step> = begin.chain(joins).collect();
    proptest::collection::vec(step(), 0..80).prop_map(move |more| [begin.clone(), more].concat())
}

/// Makes commands of steps, each for the state that it comes to.
#[derive(Default)]
pub struct Maker {
    ids: u8,
    at_ns: u64,
}

fn beside_number(number: u64, off: Off) -> u64 {
    number.saturating_add_signed(off.into())
}

fn beside_run(run: Run, (epoch, number, start): Beside) -> Run {
    Run {
        epoch: beside_number(run.epoch, epoch),
        number: beside_number(run.number, number),
        start: beside_number(run.start, start),
    }
}

impl Maker {
    /// The command that a step is.
    pub fn command(&mut self, state: &State, step: &Step) -> Command {
        self.at_ns += 7;
        let at_ns = self.at_ns;
        match step {
            Step::Plain(command) => command.clone(),
            Step::Create(container, node) => Command::Create {
                container: Box::new(NewContainer {
                    id: self.fresh(),
                    ..NewContainer::clone(container)
                }),
                at_ns,
                node: *node,
                pending: String::new(),
            },
            Step::Of(of, what) => {
                let id = of.from(state);
                match what.clone() {
                    OfContainer::Start => Command::Start { id, at_ns },
                    OfContainer::Stop(signal, timeout_s, tell) => Command::Stop {
                        id,
                        at_ns,
                        signal,
                        timeout_s,
                        tell,
                    },
                    OfContainer::Restart(signal, timeout_s) => Command::Restart {
                        id,
                        at_ns,
                        signal,
                        timeout_s,
                    },
                    OfContainer::Signalled(signal, end) => Command::Signalled {
                        id,
                        at_ns,
                        signal,
                        end,
                    },
                    OfContainer::Pause(paused) => Command::Pause { id, at_ns, paused },
                    OfContainer::Rename(name) => Command::Rename { id, at_ns, name },
                    OfContainer::Remove(force) => Command::Remove { id, at_ns, force },
                }
            }
            Step::Told(of, by, told) => {
                let id = of.from(state);
                let pod = state.placed(&id).map(|placed| placed.pod);
                let right = pod.as_ref().and_then(|pod| pod.previous.or(pod.node));
                let node = match by {
                    By::Right => right.unwrap_or(NodeId(1)),
                    By::Node(node) => *node,
                };
                Command::Report {
                    node,
                    at_ns,
                    report: told.report(state, id),
                }
            }
            Step::Assign {
                of,
                epoch,
                node,
                keeps,
            } => {
                let id = of.from(state);
                let pod = state.placed(&id).map(|placed| placed.pod);
                Command::Assign {
                    pod: id.into(),
                    at_ns,
                    epoch: beside_number(pod.map_or(0, |pod| pod.epoch), *epoch),
                    node: *node,
                    pending: match node {
                        Some(_) => String::new(),
                        None => "no node has room".into(),
                    },
                    kept: match keeps {
                        true => vec![self.fresh()],
                        false => Vec::new(),
                    },
                }
            }
            Step::UpdateNode(node, version, wanted) => Command::UpdateNode {
                at_ns: 0,
                node: *node,
                version: beside_number(state.nodes.get(node).map_or(0, |n| n.version), *version),
                wanted: wanted.clone(),
            },
            Step::NodeHealth(node, health, tenure, term) => Command::NodeHealth {
                at_ns: 0,
                node: *node,
                health: health.clone(),
                tenure: beside_number(state.nodes.get(node).map_or(0, |n| n.tenure), *tenure),
                term: term.map(|term| beside_number(state.term, term)),
            },
            Step::SetCluster(right, id) => {
                let to = Cluster {
                    id: *id,
                    ..state.cluster.clone()
                };
                let from = if *right { &state.cluster } else { &to };
                Command::SetCluster {
                    from: Box::new(from.clone()),
                    to: Box::new(to.clone()),
                }
            }
        }
    }

    /// Ids are never used again.
    fn fresh(&mut self) -> ContainerId {
        self.ids += 1;
        ContainerId::from_random([self.ids; 32])
    }
}

impl Pick {
    fn from(self, state: &State) -> ContainerId {
        let all: Vec<ContainerId> = state.containers.iter().map(|it| it.id).collect();
        match all.len() {
            0 => none(),
            _ if self.0 == u8::MAX => none(),
            many => all[usize::from(self.0) % many],
        }
    }
}

impl Told {
    fn report(&self, state: &State, id: ContainerId) -> Report {
        let placed = state.placed(&id);
        let (status, wanted, pod) = match &placed {
            Some(placed) => (
                placed.status.clone(),
                placed.wanted.clone(),
                Some(&placed.pod),
            ),
            None => Default::default(),
        };
        let epoch = pod.map_or(0, |pod| pod.epoch);
        let next = Run {
            epoch,
            number: status.run.number + 1,
            start: wanted.start,
        };
        let current = match status.phase {
            Phase::Running => status.run,
            _ => next,
        };
        match self.clone() {
            Self::Started(beside, pid) => Report::Started {
                id,
                run: beside_run(next, beside),
                pid,
            },
            Self::StartFailed(beside, code) => Report::StartFailed {
                id,
                run: beside_run(next, beside),
                failure: Failure {
                    kind: FailureKind::Program,
                    message: "why".into(),
                },
                code,
            },
            Self::NotStarted(off) => Report::NotStarted {
                id,
                start: beside_number(wanted.start, off),
            },
            Self::Exited(beside, exit) => Report::Exited {
                id,
                run: beside_run(current, beside),
                exit,
            },
            Self::OutOfMemory(beside, kills) => Report::OutOfMemory {
                id,
                run: beside_run(current, beside),
                kills,
            },
            Self::Paused(beside, paused) => Report::Paused {
                id,
                run: beside_run(current, beside),
                paused,
            },
            Self::Released(off) => Report::Released {
                pod: id.into(),
                epoch: beside_number(epoch, off),
            },
            Self::Image(image, contents, present) => Report::Image {
                image,
                contents: vec![contents],
                bytes: 1,
                present,
            },
        }
    }
}
