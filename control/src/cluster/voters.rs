//! Which nodes have a vote: decided from what is known, apart from doing it.

use std::collections::BTreeSet;

use crate::state::{Node, NodeId, Role, State};

/// Voters of a cluster of so many nodes that may have a vote. With two, a second voter would only add another whose loss stops
/// everything; five survive the loss of two, and more make each commit wait for more disks.
fn wanted(candidates: usize) -> usize {
    match candidates {
        0..3 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// Who should have a vote. `own`, the leader, keeps its own, unless it may have none any more and another may, who leads then; otherwise who has one and is there comes first, then who is there, then who
/// has one: a voter is replaced when it is down and somebody can take its place.
pub fn choose(state: &State, own: NodeId, present: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let may = |node: &&Node| node.wanted.role == Role::Manager;
    let candidates: Vec<&Node> = state.nodes.values().filter(may).collect();
    let count = wanted(candidates.len());
    let mut ranked: Vec<(bool, bool, bool, NodeId)> = candidates
        .iter()
        .map(|node| {
            let votes = present.contains(&node.id);
            (node.id != own, !node.is_ready(), !votes, node.id)
        })
        .collect();
    ranked.sort_unstable();
    // Somebody has to.
    let last = candidates.is_empty().then_some(own);
    ranked
        .into_iter()
        .map(|(.., id)| id)
        .take(count)
        .chain(last)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Health, NodeIs, NodeWanted};

    fn state(ready: &[bool]) -> State {
        let mut state = State::default();
        for (n, ready) in (1u64..).zip(ready) {
            let health = match ready {
                true => Health::Ready,
                false => Health::Down {
                    reason: String::new(),
                },
            };
            let node = Node {
                id: NodeId(n),
                joined_ns: 0,
                wanted: NodeWanted::default(),
                is: NodeIs::default(),
                health,
                tenure: 0,
                version: 0,
            };
            state.nodes.insert_mut(node.id, node);
        }
        state
    }

    fn chosen(ready: &[bool], own: u64, present: &[u64]) -> Vec<u64> {
        let present = present.iter().copied().map(NodeId).collect();
        let chosen = choose(&state(ready), NodeId(own), &present);
        chosen.into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn one_three_or_five_nodes_vote_and_those_who_do_stay() {
        assert_eq!(chosen(&[true], 1, &[1]), [1]);
        assert_eq!(chosen(&[true; 2], 1, &[1]), [1]);
        assert_eq!(chosen(&[true; 3], 1, &[1]), [1, 2, 3]);
        assert_eq!(chosen(&[true; 4], 4, &[2, 3, 4]), [2, 3, 4]);
        assert_eq!(chosen(&[true; 7], 7, &[2, 5, 7]), [1, 2, 3, 5, 7]);
    }

    #[test]
    fn who_is_down_is_replaced_if_somebody_is_there_to_do_it() {
        let three = [true, false, true];
        assert_eq!(chosen(&three, 1, &[1, 2, 3]), [1, 2, 3]);
        let four = [true, false, true, true];
        assert_eq!(chosen(&four, 1, &[1, 2, 3]), [1, 3, 4]);
        assert_eq!(chosen(&four, 1, &[1, 3, 4]), [1, 3, 4]);
    }

    #[test]
    fn a_worker_never_votes() {
        let mut state = state(&[true; 3]);
        let mut worker = state.nodes[&NodeId(2)].clone();
        worker.wanted.role = Role::Worker;
        state.nodes.insert_mut(NodeId(2), worker);
        assert_eq!(
            choose(&state, NodeId(1), &BTreeSet::from([NodeId(1)])),
            BTreeSet::from([NodeId(1)])
        );
    }

    #[test]
    fn a_leader_that_was_removed_or_may_have_no_vote_gives_its_own_to_another() {
        let mut state = state(&[true; 3]);
        state.nodes.remove_mut(&NodeId(1));
        let present = BTreeSet::from([1, 2, 3].map(NodeId));
        let chosen = choose(&state, NodeId(1), &present);
        assert_eq!(chosen, BTreeSet::from([NodeId(2)]));
        state.nodes.remove_mut(&NodeId(2));
        state.nodes.remove_mut(&NodeId(3));
        let chosen = choose(&state, NodeId(1), &present);
        assert_eq!(chosen, BTreeSet::from([NodeId(1)]));
    }
}
