//! The view that is kept up is the one that would be made anew.

use proptest::prelude::*;

use super::*;
use crate::state::{
    Availability, Command, ContainerId, ContainerSpec, Exit, Health, NodeIs, NodeWanted, Phase,
    Report, Run, Signal, Telling, Tenant,
};

const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
const GIB: u64 = 1 << 30;

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Join(u64, u64),
    Wanted(u64, Availability, bool),
    Health(u64, bool),
    Remove(u64),
    Create(u8, u8),
    Start(u8),
    Told(u8, bool),
    Stop(u8),
    Gone(u8),
    Image(u64, bool),
    /// The steward's round.
    Round,
    /// Its commands come to nothing.
    LostRound,
    /// A snapshot has come.
    Replaced,
    Asked(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 1u64..5;
    let availability = prop::sample::select(vec![
        Availability::Active,
        Availability::Active,
        Availability::Pause,
        Availability::Drain,
    ]);
    let step = prop_oneof![
        3 => (node(), 1u64..9).prop_map(|(node, gib)| Step::Join(node, gib)),
        2 => (node(), availability, any::<bool>()).prop_map(|(node, a, ssd)| Step::Wanted(node, a, ssd)),
        2 => (node(), any::<bool>()).prop_map(|(node, up)| Step::Health(node, up)),
        1 => node().prop_map(Step::Remove),
        8 => (0u8..20, 0u8..8).prop_map(|(id, kind)| Step::Create(id, kind)),
        4 => (0u8..20).prop_map(Step::Start),
        4 => (0u8..20, any::<bool>()).prop_map(|(id, ends)| Step::Told(id, ends)),
        2 => (0u8..20).prop_map(Step::Stop),
        2 => (0u8..20).prop_map(Step::Gone),
        2 => (node(), any::<bool>()).prop_map(|(node, has)| Step::Image(node, has)),
        4 => Just(Step::Round),
        1 => Just(Step::LostRound),
        1 => Just(Step::Replaced),
        2 => (100u8..110, 0u8..8).prop_map(|(id, kind)| Step::Asked(id, kind)),
    ];
    prop::collection::vec(step, 1..80)
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

fn owner() -> Tenant {
    "owner".parse().unwrap()
}

fn new(n: u8, kind: u8) -> NewContainer {
    let mut spec = ContainerSpec {
        memory_bytes: u64::from(kind % 3) * 2 * GIB,
        restart: match kind % 2 {
            0 => crate::state::RestartPolicy::Always,
            _ => crate::state::RestartPolicy::No,
        },
        ..ContainerSpec::default()
    };
    let mut label = |name: &str, value: &str| spec.labels.insert(name.into(), value.into());
    match kind {
        3 => drop(label("hearth.priority", "batch")),
        4 => drop(label("hearth.constraint.a", "node.labels.disk==ssd")),
        5 => drop(label("hearth.failover", "never")),
        6 => drop(label("hearth.priority", "no priority")),
        _ => {}
    }
    NewContainer {
        id: id(n),
        tenant: owner(),
        name: format!("name-{n}").parse().unwrap(),
        image: IMAGE.to_owned(),
        image_name: "image".to_owned(),
        spec,
    }
}

#[derive(Default)]
struct World {
    state: State,
    kept_up: Placement,
    random: u64,
}

impl World {
    fn apply(&mut self, command: Command) {
        let applied = self.state.apply(&command);
        self.kept_up.applied(&self.state, &applied.changes);
    }

    fn commands(&mut self, placement: &Placement) -> Vec<Command> {
        let random = &mut self.random;
        crate::cluster::moves::commands(&self.state, placement, 0, || {
            *random += 1;
            let mut bytes = [0xff; 32];
            bytes[..8].copy_from_slice(&random.to_le_bytes());
            bytes
        })
    }

    fn create(&mut self, n: u8, kind: u8) {
        let new = new(n, kind);
        let place = self.kept_up.place(&self.state, NodeId(1), &new);
        let (node, pending) = match place {
            Place::On(node) => (Some(node), String::new()),
            Place::Soon(why) | Place::Nowhere(why) => (None, why),
        };
        let container = Box::new(new);
        let refused = self.state.containers.get(&container.id).is_some();
        self.apply(Command::Create {
            container,
            at_ns: 0,
            node,
            pending,
        });
        if refused {
            self.kept_up.forget(id(n).into());
        }
    }

    fn told(&mut self, n: u8, ends: bool) {
        let Some(placed) = self.state.placed(&id(n)) else {
            return;
        };
        let Some(node) = placed.pod.previous.or(placed.pod.node) else {
            return;
        };
        let run = match placed.status.phase {
            Phase::Running => placed.status.run,
            _ => Run {
                epoch: placed.pod.epoch,
                number: 1,
                start: placed.wanted.start,
            },
        };
        let report = match (ends, placed.pod.previous) {
            (true, Some(_)) => Report::Released {
                pod: placed.pod.id,
                epoch: placed.pod.epoch,
            },
            (true, None) => Report::Exited {
                id: id(n),
                run,
                exit: Exit::default(),
            },
            (false, _) => Report::Started {
                id: id(n),
                run,
                pid: 1,
            },
        };
        self.apply(Command::Report {
            node,
            at_ns: 0,
            report,
        });
    }

    fn tenure(&self, node: NodeId) -> u64 {
        self.state.nodes.get(&node).map_or(0, |node| node.tenure)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(node, gib) => self.apply(Command::Join {
                node: NodeId(node),
                at_ns: 0,
                is: Box::new(NodeIs {
                    cpus: 4,
                    memory_bytes: gib * GIB,
                    disk_bytes: 100 * GIB,
                    labels: [("zone".to_owned(), (node % 2).to_string())].into(),
                    ..NodeIs::default()
                }),
                wanted: NodeWanted::default(),
            }),
            Step::Wanted(node, availability, ssd) => {
                let node = NodeId(node);
                let version = self.state.nodes.get(&node).map_or(0, |node| node.version);
                let disk = ssd.then(|| ("disk".to_owned(), "ssd".to_owned()));
                self.apply(Command::UpdateNode {
                    at_ns: 0,
                    node,
                    version,
                    wanted: NodeWanted {
                        availability,
                        labels: disk.into_iter().collect(),
                        ..NodeWanted::default()
                    },
                });
            }
            Step::Health(node, up) => self.apply(Command::NodeHealth {
                at_ns: 0,
                node: NodeId(node),
                health: match up {
                    true => Health::Ready,
                    false => Health::Down {
                        reason: "silent".to_owned(),
                    },
                },
                tenure: self.tenure(NodeId(node)),
                term: None,
            }),
            Step::Remove(node) => self.apply(Command::RemoveNode {
                empty: false,
                node: NodeId(node),
                at_ns: 0,
                force: true,
            }),
            Step::Create(n, kind) => self.create(n, kind),
            Step::Start(n) => self.apply(Command::Start {
                id: id(n),
                at_ns: 0,
            }),
            Step::Told(n, ends) => self.told(n, ends),
            Step::Stop(n) => self.apply(Command::Stop {
                id: id(n),
                at_ns: 0,
                signal: Signal::KILL,
                timeout_s: None,
                tell: true,
            }),
            Step::Gone(n) => self.apply(Command::Remove {
                id: id(n),
                at_ns: 0,
                force: true,
            }),
            Step::Image(node, present) => self.apply(Command::Report {
                node: NodeId(node),
                at_ns: 0,
                report: Report::Image {
                    image: IMAGE.to_owned(),
                    contents: vec![1],
                    bytes: GIB,
                    present,
                },
            }),
            Step::Round | Step::LostRound => {
                let kept_up = std::mem::take(&mut self.kept_up);
                let commands = self.commands(&kept_up);
                self.kept_up = kept_up;
                if let Step::Round = step {
                    commands.into_iter().for_each(|command| self.apply(command));
                }
            }
            Step::Replaced => self.kept_up.replaced(&self.state),
            Step::Asked(n, kind) => {
                self.kept_up.place(&self.state, NodeId(1), &new(n, kind));
                self.kept_up.forget(id(n).into());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_view_that_is_kept_up_answers_as_one_that_is_made_anew(steps in steps()) {
        let mut world = World::default();
        world.apply(Command::AddImage {
            tenant: owner(),
            at_ns: 0,
            image: IMAGE.to_owned(),
            names: vec![],
            repo_digest: None,
            telling: Telling::Load,
            stored: Default::default(),
        });
        for (number, step) in steps.into_iter().enumerate() {
            world.step(step);
            for kind in [0, number as u8 % 8] {
                let asked = new(99, kind);
                // What the last round has decided is looked at before the next: as that does.
                let kept_up = {
                    let mut view = world.kept_up.view(&world.state);
                    let decided = std::mem::take(&mut view.decided);
                    view.look_at(&world.state, Vec::new(), decided);
                    drop(view);
                    let place = world.kept_up.place(&world.state, NodeId(1), &asked);
                    world.kept_up.forget(asked.id.into());
                    place
                };
                let anew = Placement::default().place(&world.state, NodeId(1), &asked);
                prop_assert_eq!(kept_up, anew);
            }
        }
    }

    /// However often the leader looks again, it comes to an end, and then looking anew finds nothing more to do.
    #[test]
    fn rounds_come_to_an_end(steps in steps()) {
        let mut world = World::default();
        world.apply(Command::AddImage {
            tenant: owner(),
            at_ns: 0,
            image: IMAGE.to_owned(),
            names: vec![],
            repo_digest: None,
            telling: Telling::Load,
            stored: Default::default(),
        });
        steps.into_iter().for_each(|step| world.step(step));
        let mut rounds = 0;
        loop {
            let kept_up = std::mem::take(&mut world.kept_up);
            let commands = world.commands(&kept_up);
            world.kept_up = kept_up;
            if commands.is_empty() {
                break;
            }
            commands.into_iter().for_each(|command| world.apply(command));
            rounds += 1;
            prop_assert!(rounds < 100, "it goes round in circles");
        }
        for command in world.commands(&Placement::default()) {
            let Command::Assign { pod, node, .. } = &command else {
                return Err(TestCaseError::fail(format!("{command:?}")));
            };
            // At most, gaps have become smaller.
            let known = &world.state.pods.get(pod).unwrap();
            prop_assert!(*node == known.node && !known.pending.is_empty(), "{:?}", command);
        }
    }
}
