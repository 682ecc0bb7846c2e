//! How good a place is, of those where there is room.
//!
//! Borg found neither of the simple rules good (Verma et al., Large-scale cluster management at Google with Borg, EuroSys 2015,
//! section 3.2). Worst fit, the emptiest machine, leaves headroom for bursts everywhere and room for a large task nowhere. Best fit, the
//! fullest, keeps whole machines free and punishes every wrong estimate. Its hybrid leaves as little as possible stranded: room for one
//! resource that can't be used since another is gone.
//!
//! Ours, in thousandths, with u the share of a resource that is used once the pod is there:
//!
//! - up to [`COMFORT`] the fuller is the better, above it the emptier: best fit among nodes that have room for bursts, worst fit among
//!   those that have less. The value rises in a line from 0 at u = 0 to 1000 at the line, and falls in one to 0 at u = 1000; the mean
//!   of the resources counts.
//! - less what is stranded: the largest u less the smallest, in proportion to the largest, for nothing is out of reach while there is of
//!   everything; and half of it, so that up to the line no imbalance makes an emptier node the better one for the same pod.
//! - and more where the image is there already, in proportion to its size ([`LOCALITY`]).

use super::{Node, Resource, Resources};

/// The whole of a resource.
const WHOLE: u64 = 1000;
/// Up to where a node is filled before another is begun. Half: most asks are guesses or ceilings, and what a burst finds is as much again.
const COMFORT: u64 = 500;
/// What an image is worth that is at least as large as [`LARGE_IMAGE`]. Borg's median start took 25 s, 80 % of it installing packages; yet
/// a fetch is paid once and a bad place as long as the pod lives, so that it never outweighs more than a third of a machine.
const LOCALITY: u64 = 300;
/// A GiB: most images are smaller, and fetching more takes minutes on an ordinary line.
const LARGE_IMAGE: u64 = 1 << 30;

/// The larger, the better.
pub(super) fn score(node: &Node, used: &Resources, asked: &Resources, image: &str) -> i32 {
    let shares = Resource::ALL.map(|resource| {
        let used = used.of(resource).saturating_add(asked.of(resource));
        share(used, node.capacity.of(resource))
    });
    let value: u64 = shares.into_iter().map(fill).sum::<u64>() / shares.len() as u64;
    let largest = shares.into_iter().max().unwrap_or(0);
    let smallest = shares.into_iter().min().unwrap_or(0);
    let stranded = (largest - smallest) * largest / WHOLE / 2;
    let here = node.images.get(image).copied().unwrap_or(0);
    let locality = here.min(LARGE_IMAGE) * LOCALITY / LARGE_IMAGE;
    // Each is a few thousand at most.
    (value + locality) as i32 - stranded as i32
}

/// Thousandths.
fn share(used: u64, of: u64) -> u64 {
    if used >= of {
        // Nothing of nothing is nothing.
        return if used == 0 { 0 } else { WHOLE };
    }
    match used.checked_mul(WHOLE) {
        Some(product) => product / of,
        // So large a divisor has thousandths to spare.
        None => used / (of / WHOLE),
    }
    .min(WHOLE)
}

fn fill(share: u64) -> u64 {
    if share <= COMFORT {
        share * WHOLE / COMFORT
    } else {
        (WHOLE - share) * WHOLE / (WHOLE - COMFORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn resources(memory_gib: u64, cpus: u64) -> Resources {
        Resources {
            memory_bytes: memory_gib * GIB,
            nano_cpus: cpus * 1_000_000_000,
            disk_bytes: 0,
        }
    }

    fn score_at(used: Resources, image: u64) -> i32 {
        let node = Node {
            capacity: resources(100, 100),
            images: [("i".into(), image)].into(),
            ..Node::default()
        };
        score(&node, &used, &resources(1, 1), "i")
    }

    #[test]
    fn nodes_are_filled_to_half_and_then_evenly() {
        assert!(score_at(resources(30, 30), 0) > score_at(resources(10, 10), 0));
        assert!(score_at(resources(49, 49), 0) > score_at(resources(60, 60), 0));
        assert!(score_at(resources(60, 60), 0) > score_at(resources(80, 80), 0));
    }

    #[test]
    fn what_would_be_stranded_counts_against_a_node() {
        assert!(score_at(resources(30, 30), 0) > score_at(resources(50, 10), 0));
    }

    #[test]
    fn a_larger_image_is_worth_more() {
        let [none, some, much] = [0, GIB / 4, 9 * GIB].map(|size| score_at(resources(9, 9), size));
        assert!(none < some && some < much);
        assert_eq!(much - none, LOCALITY as i32);
    }

    #[test]
    fn shares_are_thousandths_of_any_number() {
        assert_eq!(share(0, 0), 0);
        assert_eq!(share(1, 0), WHOLE);
        assert_eq!(share(1, 2), WHOLE / 2);
        assert_eq!(share(u64::MAX / 2, u64::MAX), WHOLE / 2);
        assert_eq!(share(u64::MAX, 7), WHOLE);
    }
}
