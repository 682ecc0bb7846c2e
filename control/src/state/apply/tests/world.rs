//! A state with an image and two nodes, and what is done to it.

use super::super::Applied;
use crate::state::*;

pub const IMAGE: &str = "sha256:0";
pub const ONE: NodeId = NodeId(1);
pub const OTHER: NodeId = NodeId(2);

pub struct World {
    pub state: State,
    pub at_ns: u64,
}

pub fn owner() -> Tenant {
    "owner".parse().unwrap()
}

pub fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

pub fn new(n: u8, spec: ContainerSpec) -> NewContainer {
    NewContainer {
        id: id(n),
        tenant: owner(),
        name: format!("name-{n}").parse().unwrap(),
        image: IMAGE.to_owned(),
        image_name: "image".to_owned(),
        spec,
    }
}

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            at_ns: 0,
        };
        world.ok(Command::AddImage {
            tenant: owner(),
            at_ns: 0,
            image: IMAGE.to_owned(),
            names: vec![],
            repo_digest: None,
            telling: Telling::Load,
            stored: Stored::default(),
        });
        for (node, hostname) in [(ONE, "one"), (OTHER, "other")] {
            world.ok(Command::Join {
                node,
                at_ns: 0,
                is: Box::new(NodeIs {
                    hostname: hostname.to_owned(),
                    ..Default::default()
                }),
                wanted: NodeWanted::default(),
            });
        }
        world
    }

    /// With a container, on node 1.
    pub fn with(spec: ContainerSpec) -> Self {
        let mut world = Self::new();
        world.ok(Command::Create {
            container: Box::new(new(1, spec)),
            at_ns: 0,
            node: Some(ONE),
            pending: String::new(),
        });
        world
    }

    pub fn apply(&mut self, command: Command) -> Applied {
        let before = self.state.clone();
        let applied = self.state.apply(&command);
        super::promises::hold(&self.state);
        super::promises::hold_between(&before, &command, &applied, &self.state);
        applied
    }

    /// The words of what is told; those without an event in brackets.
    pub fn ok(&mut self, command: Command) -> String {
        let applied = self.apply(command);
        applied.result.unwrap();
        let words = applied.changes.iter().map(|change| match &change.what {
            What::Signalled(signal) => format!("signalled {}", signal.number()),
            What::Died { exit, .. } => format!("died {}", exit.code),
            What::Wanted | What::Moved => format!("({:?})", change.what).to_lowercase(),
            What::Updated { .. } => "updated".to_owned(),
            what => format!("{what:?}").to_lowercase(),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    pub fn it(&self) -> Placed {
        self.state.placed(&id(1)).unwrap()
    }

    pub fn start(&mut self) -> String {
        self.ok(Command::Start {
            id: id(1),
            at_ns: self.at_ns,
        })
    }

    pub fn stop(&mut self) -> String {
        self.ok(Command::Stop {
            id: id(1),
            at_ns: self.at_ns,
            signal: Signal::TERM,
            timeout_s: Some(10),
            tell: true,
        })
    }

    pub fn restart(&mut self) -> String {
        self.ok(Command::Restart {
            id: id(1),
            at_ns: self.at_ns,
            signal: Signal::TERM,
            timeout_s: Some(10),
        })
    }

    pub fn remove(&mut self, force: bool) -> Applied {
        self.apply(Command::Remove {
            id: id(1),
            at_ns: self.at_ns,
            force,
        })
    }

    /// The run that its node begins next.
    pub fn next(&self) -> Run {
        let it = self.it();
        let number = match it.status.run.epoch == it.pod.epoch {
            true => it.status.run.number + 1,
            false => 1,
        };
        Run {
            epoch: it.pod.epoch,
            number,
            start: it.wanted.start,
        }
    }

    pub fn told(&mut self, node: NodeId, report: Report) -> String {
        self.ok(Command::Report {
            node,
            at_ns: self.at_ns,
            report,
        })
    }

    /// Its node has begun what is wanted.
    pub fn begins(&mut self) -> String {
        let (run, node) = (self.next(), self.it().pod.held().unwrap());
        let id = id(1);
        self.told(node, Report::Started { id, run, pid: 5 })
    }

    pub fn fails(&mut self, code: u8) -> String {
        let failure = Failure {
            kind: FailureKind::Program,
            message: "why".to_owned(),
        };
        let (run, node) = (self.next(), self.it().pod.held().unwrap());
        let id = id(1);
        self.told(
            node,
            Report::StartFailed {
                id,
                run,
                failure,
                code,
            },
        )
    }

    /// What runs has ended.
    pub fn ends(&mut self, code: u8) -> String {
        let it = self.it();
        let node = it.pod.previous.or(it.pod.node).unwrap();
        let exit = Exit {
            code,
            oom_killed: false,
        };
        let run = it.status.run;
        let id = id(1);
        self.told(node, Report::Exited { id, run, exit })
    }

    pub fn assign(&mut self, node: Option<NodeId>, kept: Vec<ContainerId>) -> String {
        let pod = self.it().pod;
        self.ok(Command::Assign {
            pod: pod.id,
            at_ns: self.at_ns,
            epoch: pod.epoch,
            node,
            pending: String::new(),
            kept,
        })
    }

    pub fn released(&mut self, node: NodeId) -> String {
        let pod = self.it().pod;
        self.told(
            node,
            Report::Released {
                pod: pod.id,
                epoch: pod.epoch,
            },
        )
    }

    pub fn down(&mut self, node: NodeId) -> String {
        let health = Health::Down {
            reason: "silent".to_owned(),
        };
        self.ok(self.health(node, health))
    }

    /// The node comes in again.
    pub fn up(&mut self, node: NodeId) -> String {
        self.ok(self.health(node, Health::Ready))
    }

    fn health(&self, node: NodeId, health: Health) -> Command {
        Command::NodeHealth {
            at_ns: 0,
            node,
            health,
            tenure: self.tenure(node),
            term: None,
        }
    }

    pub fn tenure(&self, node: NodeId) -> u64 {
        self.state.nodes[&node].tenure
    }
}
