//! Whom to evict, where nothing is free.
//!
//! At one node: from the lowest priority up until there is room, so that the highest that is hit is as low as it can be; then everybody is
//! spared who need not go, the highest first. Of several nodes: that where the highest that is hit is lowest, then where the fewest
//! are, then where the least memory is given up.

use std::cmp::Reverse;

use super::class::{Bounds, Class};
use super::ledger::{Held, Ledger, Slot};
use super::{Request, Resources, Wants, order};
use crate::state::PodId;

/// Those who would have to go, in the order in which they were chosen. None: it doesn't help.
pub(super) fn victims<'a>(slot: &'a Slot, wants: &Wants) -> Option<Vec<&'a Held>> {
    let below = wants.priority.evicts_below();
    let evictable = &slot.held[..slot.held.partition_point(|held| held.priority < below)];
    let fits = |remaining: Resources| slot.node.capacity.minus(remaining).holds(&wants.resources);
    let mut lowest: Vec<&Held> = evictable.iter().collect();
    // The largest first, so that few must go.
    lowest.sort_by_key(|held| (held.priority, Reverse(held.wants.resources), held.pod));
    let mut remaining = slot.used;
    let mut chosen = Vec::new();
    for held in lowest {
        if fits(remaining) {
            break;
        }
        remaining = remaining.minus(held.wants.resources);
        chosen.push(held);
    }
    if !fits(remaining) {
        return None;
    }
    let mut index = chosen.len();
    while index > 0 {
        index -= 1;
        let with = remaining.plus(chosen[index].wants.resources);
        if fits(with) {
            remaining = with;
            chosen.remove(index);
        }
    }
    Some(chosen)
}

/// What counts of an eviction; the smaller, the better.
fn cost(victims: &[&Held]) -> (Option<super::Priority>, usize, u64) {
    let memory = victims
        .iter()
        .map(|held| held.wants.resources.memory_bytes)
        .fold(0, u64::saturating_add);
    let highest = victims.iter().map(|held| held.priority).max();
    (highest, victims.len(), memory)
}

/// Pods, as whoever made the decision needs them.
fn pods(victims: &[&Held]) -> Vec<PodId> {
    victims.iter().map(|held| held.pod).collect()
}

/// At one node.
pub(super) fn at(ledger: &Ledger, slot: u32, request: &Request) -> Option<Vec<PodId>> {
    let at = ledger.at(slot);
    let open = at.node.takes_pods() && request.wants.suit(&at.node);
    let victims = victims(at, &request.wants).filter(|_| open)?;
    Some(pods(&victims))
}

/// At the best of the first nodes where it helps.
pub(super) fn anywhere(
    ledger: &Ledger,
    class: &Class,
    request: &Request,
    bounds: &Bounds,
) -> Option<(u32, Vec<PodId>)> {
    let below = request.wants.priority.evicts_below();
    let from = ledger
        .ring
        .partition_point(|slot| ledger.at(*slot).place < class.start());
    let (before, after) = ledger.ring.split_at(from);
    let start = order::start(&request.pod);
    after
        .iter()
        .chain(before)
        .filter_map(|&slot| {
            let at = ledger.at(slot);
            let worth_it = at.node.takes_pods()
                && at.held.first().is_some_and(|held| held.priority < below)
                && class.suits(slot);
            let victims = worth_it.then(|| victims(at, &request.wants)).flatten()?;
            let avoided = request.avoid.contains(&at.node.id);
            let distance = order::distance(start, at.place);
            Some((slot, victims, (avoided, distance)))
        })
        .take(bounds.evictions)
        .min_by_key(|(_, victims, (avoided, distance))| (*avoided, cost(victims), *distance))
        .map(|(slot, victims, _)| (slot, pods(&victims)))
}
