//! What holds of every state, and of every two that follow each other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::Applied;
use crate::state::*;

fn distinct<T: Ord>(things: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    things.into_iter().all(|thing| seen.insert(thing))
}

/// Of every state.
pub fn hold(state: &State) {
    state.containers.assert_indexed();
    state.pods.assert_indexed();
    names_and_addresses(state);
    pods(state);
    ports(state);
    state.containers.iter().for_each(|it| container(state, it));
    layers(state);
    for ((tenant, _), tag) in state.tags.iter() {
        let image = (tenant.clone(), tag.image.clone());
        assert!(state.images.contains_key(&image), "a tag of no image");
    }
    for (image, stored) in state.stored.iter() {
        let mut nodes = stored.nodes.iter();
        assert!(
            nodes.all(|node| state.nodes.contains_key(node)),
            "no member has it"
        );
        let is_needed = state.is_needed(image);
        assert!(
            is_needed || !stored.nodes.is_empty(),
            "bytes that nobody has or needs"
        );
    }
    let features = state.nodes.values().map(|node| node.is.features).min();
    assert!(state.cluster.features >= features.unwrap_or(0));
}

fn names_and_addresses(state: &State) {
    let names = state.containers.iter().map(|it| (&it.tenant, &it.name));
    assert!(distinct(names), "a tenant has a name twice");
    let addresses = || state.pods.iter().filter_map(|pod| pod.address);
    assert!(distinct(addresses()), "two pods share an address");
    assert!(addresses().all(|address| address > address::GATEWAY));
}

fn pods(state: &State) {
    for pod in state.pods.iter() {
        assert!(!pod.containers.is_empty(), "an empty pod");
        for id in &pod.containers {
            let container = state.containers.get(id).expect("it is in its pod");
            assert_eq!(
                (container.pod, &container.tenant),
                (pod.id, &pod.tenant),
                "a pod of somebody else's"
            );
            let none = container.spec.network_mode == NetworkMode::None;
            assert_eq!(pod.address.is_none(), none);
        }
        assert!(pod.held().is_none() || pod.previous.is_none());
        assert!(
            pod.previous.is_none_or(|node| state.is_ready(node)),
            "it waits for a node that will not tell"
        );
        assert!(pod.node.is_none() || pod.epoch > 0);
    }
}

fn ports(state: &State) {
    let held = state.pods.iter();
    let held = held.flat_map(|pod| pod.ports.iter().map(move |port| (pod.id, port)));
    let held: Vec<_> = held.collect();
    for (i, (_, a)) in held.iter().enumerate() {
        assert_ne!(a.host_port, 0, "a run with a port that was never picked");
        assert!(
            a.protocol == Protocol::Udp || !(2376..=2377).contains(&a.host_port),
            "the node's own port"
        );
        for (_, b) in &held[i + 1..] {
            let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
            let collide = a.protocol == b.protocol
                && a.host_port == b.host_port
                && (any(a.host_ip) || any(b.host_ip) || a.host_ip == b.host_ip);
            assert!(!collide, "{a:?} and {b:?} collide");
        }
    }
    for pod in state.pods.iter().filter(|pod| !pod.ports.is_empty()) {
        let needed = state.in_pod(&pod.id);
        assert!(
            needed
                .iter()
                .any(|placed| placed.wanted.up || placed.is_up()),
            "ports that nobody needs"
        );
    }
}

fn container(state: &State, it: &Container) {
    let pod = state.pods.get(&it.pod).expect("a container's pod is there");
    assert!(pod.containers.contains(&it.id));
    let (wanted, status) = (&it.wanted, &it.status);
    assert_ne!(status.phase, Phase::Starting);
    assert_eq!(status.pid != 0, status.phase == Phase::Running);
    assert!(status.run.epoch <= pod.epoch);
    assert!(
        status.run.start <= wanted.start,
        "a start that nobody asked for"
    );
    assert!(
        wanted.stop.is_none() || it.is_up(),
        "nothing is there to be stopped"
    );
    assert!(
        !wanted.removed || status.phase == Phase::Running,
        "it should have gone"
    );
    let ended = it.phase() == Phase::Exited && !wanted.up;
    assert!(!(ended && it.spec.auto_remove), "it goes with its end");
    assert!(it.version <= state.revision && pod.version <= state.revision);
}

/// No two containers of one node write to one layer.
fn layers(state: &State) {
    for node in 0..5 {
        let here = state.on_node(NodeId(node));
        let layers = here.map(|placed| placed.layer_in(placed.pod.epoch));
        assert!(distinct(layers), "two containers share a layer");
    }
}

/// Of a command and what it has come to.
pub fn hold_between(before: &State, command: &Command, applied: &Applied, after: &State) {
    assert_eq!(after.revision, before.revision + 1);
    if applied.result.is_err() {
        nothing_changed(before, applied, after);
    }
    for pod in after.pods.iter() {
        let Some(was) = before.pods.get(&pod.id) else {
            continue;
        };
        assert!(pod.epoch >= was.epoch);
        let moved = pod.node != was.node && pod.node.is_some();
        assert_eq!(moved, pod.epoch > was.epoch, "one assignment, one epoch");
        assert_eq!((pod.address, &pod.tenant), (was.address, &was.tenant));
    }
    everybody_hears(before, applied, after);
    assert!(after.term >= before.term);
    for (id, was) in before.nodes.iter() {
        let Some(is) = after.nodes.get(id) else {
            continue;
        };
        assert!(is.tenure >= was.tenure);
        let comes_in = !was.is_ready() && is.is_ready();
        assert!(
            !comes_in || is.tenure > was.tenure,
            "in again, and the lease is the old one"
        );
    }
    match command {
        Command::Report { node, report, .. } if !may_tell(before, *node, report) => {
            nothing_changed(before, applied, after);
        }
        Command::NodeHealth {
            node,
            health,
            tenure,
            term,
            ..
        } => {
            let Some(was) = before.nodes.get(node) else {
                return assert!(applied.result.is_err());
            };
            let late = was.tenure != *tenure || term.is_some_and(|term| term != before.term);
            assert_eq!(applied.result.is_err(), late);
            let is = &after.nodes[node];
            match (late, *health == Health::Ready) {
                (true, _) => {}
                (false, true) => assert!(is.is_ready() && is.tenure > was.tenure),
                (false, false) => {
                    assert!(!is.is_ready() && is.tenure == was.tenure);
                    assert_eq!(after.pods.leaving(*node).count(), 0);
                }
            }
        }
        Command::RemoveNode { node, .. } if applied.result.is_ok() => {
            let left = after.pods.leaving(*node).chain(after.pods.on(*node));
            assert_eq!(left.count(), 0);
            assert!(after.stored.values().all(|it| !it.nodes.contains(node)));
        }
        Command::Assign { pod, kept, .. } if applied.result.is_ok() => {
            what_was_written_is_kept(before, pod, kept, after);
        }
        _ => {}
    }
}

fn nothing_changed(before: &State, applied: &Applied, after: &State) {
    assert_eq!(applied.changes, []);
    let same = State {
        revision: before.revision + 1,
        ..before.clone()
    };
    assert_eq!(*after, same);
}

/// Whether a node may tell it, told independently of how that is decided.
fn may_tell(state: &State, node: NodeId, report: &Report) -> bool {
    let of_run = |id: &ContainerId, run: &Run| {
        state.placed(id).is_some_and(|placed| {
            placed.pod.node == Some(node)
                && placed.pod.previous.is_none()
                && run.epoch == placed.pod.epoch
                && *run >= placed.status.run
                && run.start <= placed.wanted.start
        })
    };
    match report {
        Report::Started { id, run, .. }
        | Report::StartFailed { id, run, .. }
        | Report::OutOfMemory { id, run, .. }
        | Report::Paused { id, run, .. } => of_run(id, run),
        Report::Exited { id, run, .. } => {
            let leaving = state.placed(id).is_some_and(|placed| {
                placed.pod.previous == Some(node) && placed.status.run == *run
            });
            leaving || of_run(id, run)
        }
        Report::NotStarted { id, start } => state.placed(id).is_some_and(|placed| {
            placed.pod.held() == Some(node) && placed.wanted.start == *start && !placed.wanted.up
        }),
        Report::Released { pod, epoch } => state
            .pods
            .get(pod)
            .is_some_and(|pod| pod.previous == Some(node) && pod.epoch == *epoch),
        Report::Image {
            image,
            contents,
            present,
            ..
        } => {
            let stored = state.stored.get(image);
            let same = stored.is_none_or(|it| it.nodes.is_empty() || it.contents == *contents);
            state.nodes.contains_key(&node) && (!present || same)
        }
    }
}

/// Whoever compares what is wanted with what is, is woken for each container for which that has changed.
fn everybody_hears(before: &State, applied: &Applied, after: &State) {
    let last = |id: &ContainerId| {
        applied.changes.iter().rev().find_map(|change| {
            assert_eq!(change.revision, after.revision);
            match &change.object {
                Object::Container(container) if container.id == *id => {
                    Some((Arc::clone(container), &change.what))
                }
                _ => None,
            }
        })
    };
    use std::sync::Arc;
    for container in after.containers.iter() {
        let place = |state: &State| {
            let placed = state.placed(&container.id)?;
            let pod = placed.pod;
            Some((pod.node, pod.epoch, pod.previous))
        };
        let was = before.containers.get(&container.id);
        let told = last(&container.id);
        if was != Some(container) || place(before) != place(after) {
            let (told, _) = told.expect("a change that nobody hears of");
            assert_eq!(&told, container, "what is told last is how it is");
        }
    }
    for container in before.containers.iter() {
        if after.containers.get(&container.id).is_none() {
            let (_, what) = last(&container.id).expect("a removal that nobody hears of");
            assert_eq!(*what, What::Removed);
        }
    }
}

/// What has run in the epoch that is over has left a layer there, and exactly one container has it.
fn what_was_written_is_kept(before: &State, pod: &PodId, kept: &[ContainerId], after: &State) {
    let (was, is) = (
        before.pods.get(pod).expect("it was assigned"),
        after.pods.get(pod),
    );
    let Some(node) = was.node.filter(|_| is.is_none_or(|is| is.node != was.node)) else {
        return;
    };
    for (id, kept) in was.containers.iter().zip(kept) {
        let container = before.containers.get(id).expect("it was in its pod");
        let layer = container.layer_in(was.epoch);
        let having = after.on_node(node);
        let having = having.filter(|placed| placed.layer_in(placed.pod.epoch) == layer);
        let having: Vec<_> = having.collect();
        let written = container.status.run.epoch == was.epoch || container.layer.is_some();
        if !written {
            assert!(having.is_empty());
            continue;
        }
        assert_eq!(having.len(), 1, "{having:?}");
        assert_eq!(having[0].id, *kept);
        assert!(!having[0].is_up() && having[0].phase() == Phase::Exited);
    }
}
