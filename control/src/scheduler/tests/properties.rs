//! Properties of any history: nodes that come, change and go, pods that come and go, and questions between.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::Decision;
use super::super::queue;
use super::reference::{Answer, Reference, suits};
use super::*;

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Node(Node),
    Gone(NodeId),
    /// Placed, and allocated where that says.
    Place(Request),
    /// As another member of the cluster decided, whether there is room or not.
    Assign(Request, Index),
    Release(PodId),
    Pass(Vec<Request>),
}

fn nodes() -> impl Strategy<Value = Node> {
    let devices = prop::collection::btree_set(Just("/dev/kvm".to_owned()), 0..2);
    let zone = prop::sample::select(vec!["a", "b", "c"]);
    let rack = prop::sample::select(vec!["", "1", "2"]);
    let availability = prop::sample::select(vec![
        Availability::Active,
        Availability::Active,
        Availability::Active,
        Availability::Pause,
        Availability::Drain,
    ]);
    let alive = prop::bool::weighted(0.9);
    let image = prop::option::of(0u64..2 * GIB);
    (
        0u64..12,
        zone,
        rack,
        1u64..9,
        availability,
        alive,
        image,
        devices,
    )
        .prop_map(
            |(id, zone, rack, memory, availability, alive, image, devices)| {
                let mut node = node(id, zone);
                node.labels.insert("rack".to_owned(), rack.to_owned());
                node.capacity = Resources {
                    memory_bytes: memory * GIB,
                    nano_cpus: 2_000_000_000,
                    disk_bytes: 4 * GIB,
                };
                node.images = image
                    .map(|size| ("sha256:00".into(), size))
                    .into_iter()
                    .collect();
                Node {
                    availability,
                    alive,
                    devices,
                    ..node
                }
            },
        )
}

/// Few kinds, so that many are equal.
fn kinds() -> impl Strategy<Value = Wants> {
    let priority = prop::sample::select(vec![
        "best-effort",
        "50",
        "batch",
        "production",
        "200",
        "monitoring",
    ]);
    let constraint = prop::sample::select(vec![
        "node.labels.zone==a",
        "node.labels.zone!=b",
        "node.labels.rack==1",
    ]);
    let constraints = prop::collection::vec(constraint, 0..2);
    let device = prop::bool::weighted(0.1);
    let tenant = prop::sample::select(vec!["x", "y"]);
    let racks = any::<bool>();
    (
        tenant,
        0u8..2,
        priority,
        1u64..4,
        constraints,
        device,
        racks,
    )
        .prop_map(
            |(tenant, service, priority, memory, constraints, device, racks)| {
                let mut wants = wants(tenant, &service.to_string(), priority, gib(memory));
                wants.constraints = constraints
                    .iter()
                    .map(|text| text.parse().unwrap())
                    .collect();
                if device {
                    wants.devices.insert("/dev/kvm".to_owned());
                }
                if racks {
                    wants.spread.push(Label::Node("rack".to_owned()));
                }
                wants
            },
        )
}

fn requests() -> impl Strategy<Value = Request> {
    let node = || (0u64..12).prop_map(NodeId);
    let pinned = prop::option::weighted(0.1, node());
    let home = prop::option::weighted(0.2, node());
    let avoid = prop::collection::vec(node(), 0..3);
    (0u64..40, kinds(), pinned, home, avoid).prop_map(|(number, wants, pinned, home, avoid)| {
        Request {
            pinned,
            home,
            avoid,
            ..request(number, &wants)
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => nodes().prop_map(Step::Node),
        1 => (0u64..12).prop_map(|id| Step::Gone(NodeId(id))),
        8 => requests().prop_map(Step::Place),
        1 => (requests(), any::<Index>()).prop_map(|(request, at)| Step::Assign(request, at)),
        2 => (0u64..40).prop_map(|number| Step::Release(pod(number))),
        1 => prop::collection::vec(requests(), 0..8).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// Bounds that are reached: few candidates, and classes that are forgotten.
fn bounds() -> impl Strategy<Value = class::Bounds> {
    (1usize..20, 1usize..6, 1usize..4).prop_map(|(candidates, classes, evictions)| class::Bounds {
        candidates,
        classes,
        evictions,
    })
}

/// A cluster, and beside it the slow one that is told the same.
struct Both {
    fast: Cluster,
    slow: Reference,
}

impl Both {
    fn new(bounds: class::Bounds) -> Self {
        Self {
            fast: Cluster {
                bounds,
                ..Cluster::default()
            },
            slow: Reference {
                bounds,
                ..Reference::default()
            },
        }
    }

    fn release(&mut self, pod: &PodId) {
        self.fast.release(pod);
        self.slow.pods.remove(pod);
    }

    /// Both answer the same, and what they answer keeps to the rules; then it is so.
    fn ask(&mut self, request: &Request) -> Result<(), TestCaseError> {
        self.release(&request.pod);
        let decision = self.fast.place(request);
        let answer = answer(&decision);
        prop_assert_eq!(&answer, &self.slow.place(request), "{:?}", request);
        self.check(request, &decision)?;
        if let Some((node, victims)) = answer {
            for victim in &victims {
                self.release(victim);
            }
            self.fast.assign(request.pod, node, &request.wants).unwrap();
        }
        self.apply(request, &decision);
        Ok(())
    }

    fn apply(&mut self, request: &Request, decision: &Decision) {
        if let Some((node, victims)) = answer(decision) {
            victims.iter().for_each(|victim| {
                self.slow.pods.remove(victim);
            });
            self.slow
                .pods
                .insert(request.pod, (node, request.wants.clone()));
        }
    }

    fn check(&self, request: &Request, decision: &Decision) -> Result<(), TestCaseError> {
        let wants = &request.wants;
        let Some((id, victims)) = answer(decision) else {
            let words = decision_words(decision);
            prop_assert!(words.starts_with("no suitable node"), "{}", words);
            prop_assert!(words.contains(": "), "says why: {}", words);
            return Ok(());
        };
        let node = &self.slow.nodes[&id];
        prop_assert!(suits(node, wants));
        prop_assert!(request.pinned.is_none_or(|pinned| pinned == id));
        let mut after = self.slow.clone();
        for victim in &victims {
            let (on, evicted) = &self.slow.pods[victim];
            prop_assert_eq!(*on, id);
            prop_assert!(
                evicted.priority < wants.priority,
                "no equal or higher one goes"
            );
            let both_in_production = evicted.priority.band() == Band::Production
                && wants.priority.band() == Band::Production;
            prop_assert!(!both_in_production);
            after.pods.remove(victim);
        }
        prop_assert!(after.free(node).holds(&wants.resources), "there is room");
        for victim in &victims {
            let mut spared = after.clone();
            spared.pods.insert(*victim, self.slow.pods[victim].clone());
            prop_assert!(
                !spared.free(node).holds(&wants.resources),
                "{:?} need not go",
                victim
            );
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Node(node) => {
                self.slow.nodes.insert(node.id, node.clone());
                self.fast.set_node(node);
            }
            Step::Gone(node) => {
                let mut gone = self.fast.remove_node(node);
                gone.sort();
                let held = self.slow.pods.iter().filter(|(_, (on, _))| *on == node);
                prop_assert_eq!(gone, held.map(|(pod, _)| *pod).collect::<Vec<_>>());
                self.slow.remove_node(node);
            }
            Step::Place(request) => self.ask(&request)?,
            Step::Assign(request, at) => {
                let ids: Vec<NodeId> = self.slow.nodes.keys().copied().collect();
                if !ids.is_empty() {
                    let node = *at.get(&ids);
                    self.fast.assign(request.pod, node, &request.wants).unwrap();
                    self.slow.pods.insert(request.pod, (node, request.wants));
                }
            }
            Step::Release(pod) => self.release(&pod),
            Step::Pass(mut queue) => {
                let mut seen = std::collections::BTreeSet::new();
                queue.retain(|request| seen.insert(request.pod));
                queue.iter().for_each(|request| self.release(&request.pod));
                let decisions: BTreeMap<_, _> = self.fast.pass(queue.clone()).into_iter().collect();
                prop_assert_eq!(decisions.len(), queue.len());
                for request in queue::order(queue) {
                    let decision = &decisions[&request.pod];
                    prop_assert_eq!(answer(decision), self.slow.place(&request));
                    self.check(&request, decision)?;
                    self.apply(&request, decision);
                }
            }
        }
        Ok(())
    }
}

fn answer(decision: &Decision) -> Answer {
    match decision {
        Decision::On(node) => Some((*node, Vec::new())),
        Decision::Preempting { node, victims } => {
            assert!(!victims.is_empty());
            Some((*node, victims.clone()))
        }
        Decision::Nowhere(_) => None,
    }
}

fn decision_words(decision: &Decision) -> String {
    match decision {
        Decision::Nowhere(reasons) => reasons.to_string(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is remembered changes no answer; no answer exceeds a capacity, violates a constraint, or evicts whom it may not or need not.
    #[test]
    fn remembering_changes_no_answer_and_every_answer_keeps_to_the_rules(bounds in bounds(), steps in steps()) {
        let mut both = Both::new(bounds);
        for step in steps {
            both.step(step)?;
        }
    }

    /// Nodes and pods may be told of in any order.
    #[test]
    fn the_order_of_arrival_changes_no_answer(
        bounds in bounds(),
        nodes in prop::collection::vec(nodes(), 1..12),
        pods in prop::collection::vec((requests(), any::<Index>()), 0..30),
        asked in prop::collection::vec(requests(), 1..10),
        seed in any::<u64>(),
    ) {
        let nodes: BTreeMap<NodeId, Node> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let nodes: Vec<Node> = nodes.into_values().collect();
        let pods: BTreeMap<PodId, (NodeId, Arc<Wants>)> = pods
            .into_iter()
            .map(|(request, at)| (request.pod, (at.get(&nodes).id, request.wants)))
            .collect();
        let told = |nodes: &[Node], pods: &[(&PodId, &(NodeId, Arc<Wants>))]| {
            let mut cluster = Cluster { bounds, ..Cluster::default() };
            nodes.iter().for_each(|node| cluster.set_node(node.clone()));
            for (pod, (node, wants)) in pods {
                cluster.assign(**pod, *node, wants).unwrap();
            }
            cluster
        };
        let in_order: Vec<_> = pods.iter().collect();
        let mut shuffled = nodes.clone();
        shuffled.sort_by_key(|node| node.id.0.wrapping_add(1).wrapping_mul(seed | 1));
        let mut shuffled_pods = in_order.clone();
        shuffled_pods.sort_by_key(|(pod, _)| super::super::order::start(pod) ^ seed);
        let mut one = told(&nodes, &in_order);
        let mut other = told(&shuffled, &shuffled_pods);
        // A node that was there and has gone leaves no trace.
        other.set_node(node(99, "z"));
        other.remove_node(NodeId(99));
        for request in &asked {
            prop_assert_eq!(one.place(request), other.place(request));
        }
        prop_assert_eq!(one.pass(asked.clone()), other.pass(asked));
    }

    /// Wherever there is room everywhere, zones hold the same number of a group's pods, give or take one, at every moment.
    #[test]
    fn zones_are_filled_within_one(
        bounds in bounds(),
        sizes in prop::collection::vec(1u64..8, 1..5),
        count in 1u64..40,
        others in prop::collection::vec((0u64..30, 0u64..3), 0..10),
    ) {
        let mut cluster = Cluster { bounds, ..Cluster::default() };
        let mut zone_of = BTreeMap::new();
        for (zone, size) in sizes.iter().enumerate() {
            for number in 0..*size {
                let id = zone as u64 * 100 + number;
                zone_of.insert(NodeId(id), zone);
                cluster.set_node(Node {
                    capacity: Resources { memory_bytes: 1 << 50, nano_cpus: 1 << 50, disk_bytes: 1 << 50 },
                    ..node(id, &zone.to_string())
                });
            }
        }
        for (number, kind) in others {
            cluster.pass([request(1000 + number, &wants("other", &kind.to_string(), "production", gib(1)))]);
        }
        let web = wants("x", "web", "production", gib(1));
        let mut in_zone = vec![0u64; sizes.len()];
        for number in 0..count {
            let Decision::On(node) = cluster.place(&request(number, &web)) else {
                return Err(TestCaseError::fail("there is room"));
            };
            cluster.assign(pod(number), node, &Arc::new(web.clone())).unwrap();
            in_zone[zone_of[&node]] += 1;
            prop_assert!(in_zone.iter().max().unwrap() - in_zone.iter().min().unwrap() <= 1, "{:?}", in_zone);
        }
    }

    /// Nobody of lower priority goes first; within one, no tenant is served twice before another that waits is served once.
    #[test]
    fn tenants_take_turns(waiting in prop::collection::vec((0u8..4, 0u8..3), 0..60)) {
        let priorities = ["batch", "production", "monitoring"];
        let queue: Vec<Request> = waiting
            .iter()
            .enumerate()
            .map(|(number, (tenant, priority))| {
                request(number as u64, &wants(&format!("t{tenant}"), "s", priorities[*priority as usize], gib(1)))
            })
            .collect();
        let ordered = queue::order(queue.clone());
        prop_assert_eq!(ordered.len(), queue.len());
        let key = |request: &Request| (request.wants.priority, request.wants.group.tenant.clone());
        let mut left: BTreeMap<_, usize> = BTreeMap::new();
        queue.iter().for_each(|request| *left.entry(key(request)).or_default() += 1);
        let mut served: BTreeMap<_, usize> = BTreeMap::new();
        for request in &ordered {
            let (priority, tenant) = key(request);
            prop_assert!(left.iter().all(|((other, _), left)| *left == 0 || *other <= priority));
            let turn = served.entry((priority, tenant.clone())).or_default();
            *turn += 1;
            let turn = *turn;
            for ((other, who), left) in &left {
                let had = served.get(&(*other, who.clone())).copied().unwrap_or(0);
                prop_assert!(*other != priority || *who == tenant || *left == 0 || turn <= had + 1);
            }
            *left.get_mut(&(priority, tenant)).unwrap() -= 1;
        }
        // A tenant's own keep their order.
        for window in ordered.windows(2).filter(|pair| key(&pair[0]) == key(&pair[1])) {
            let position = |request: &Request| queue.iter().position(|other| other.pod == request.pod);
            prop_assert!(position(&window[0]) < position(&window[1]));
        }
    }
}
