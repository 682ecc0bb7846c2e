//! In which order pods get their turn.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Request;
use crate::state::Tenant;

/// The highest priority first. Within one, tenants take turns, so that nobody waits behind another's thousand (Borg, EuroSys 2015,
/// section 3.2); who has waited longest begins, and a tenant's own pods keep their order.
pub(super) fn order(waiting: impl IntoIterator<Item = Request>) -> Vec<Request> {
    let mut queue: Vec<(usize, Request)> = waiting.into_iter().enumerate().collect();
    let mut turns: BTreeMap<(u16, &Tenant), (usize, usize)> = BTreeMap::new();
    let keys: Vec<_> = queue
        .iter()
        .map(|(index, request)| {
            let priority = request.wants.priority;
            let tenant = &request.wants.group.tenant;
            let (turn, first) = turns
                .entry((priority.into(), tenant))
                .or_insert((0, *index));
            *turn += 1;
            (Reverse(priority), *turn, *first)
        })
        .collect();
    queue.sort_by_key(|(index, _)| keys[*index]);
    queue.into_iter().map(|(_, request)| request).collect()
}
