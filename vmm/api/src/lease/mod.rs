//! A node's lease: until when its pods may run. Somebody else may start them after that, so the monitors end themselves.
//!
//! All monitors of a node share one page of a file in RAM. `control` maps it for writing and extends the lease of them all by one
//! store; a monitor inherits it for reading only, and maps it before it jails itself. Monitors outlive `control`: with nobody
//! left to extend it, the deadline comes.
//!
//! ```text
//!  0   8 bytes   what this is, and the layout's version: "hearth", 0, 1
//!  8   u64       deadline, nanoseconds of CLOCK_BOOTTIME; all ones: none
//! 16   16 bytes  the boot that the deadline's clock counts from (random(4), boot_id)
//! 32             zero, to the end of the page
//! ```
//!
//! Numbers are little-endian. The deadline is the one word that is ever written again, and it only grows, with one exception: when
//! a cluster of one takes in a second node, "none" becomes a time. Whoever sleeps without a deadline doesn't see that, so it is
//! told by the signal [`LOOK_AGAIN`].
//!
//! A page is one lease. Where the others have given a node up and take it in again, that is a new page: a monitor of before, had it
//! slept through its end, still has the old one before it, which nobody extends any more.
//!
//! [`keep`] is how a process keeps to it.

use std::time::Duration;

mod keeper;
mod page;

pub use keeper::{end_if_over, keep};
pub use page::{Page, PageError};

/// Size of the file, bytes: an ordinary page.
pub const PAGE_BYTES: usize = 4096;
/// Where the deadline is, bytes from the beginning.
pub const DEADLINE_AT: usize = 8;
/// The deadline of a lease that doesn't end.
pub const NO_DEADLINE: u64 = u64::MAX;
/// The signal after which a process looks at its page again. One that is ignored where there is no handler: a monitor that
/// has none yet has not looked at the page yet either. It means out-of-band data to others (socket(7)), which nobody has here.
pub const LOOK_AGAIN: i32 = libc::SIGURG;
/// Exit status of a process whose lease is over. Beside those of the monitor's other ends.
pub const STATUS_OVER: i32 = 103;

/// What the page begins with.
const MAGIC: [u8; 8] = *b"hearth\0\x01";
const BOOT_AT: usize = 16;
const BOOT_BYTES: usize = 16;

// The deadline is loaded and stored as the processor's own number.
const _: () = assert!(cfg!(target_endian = "little"));

/// A new page: a lease until `deadline_ns` of the boot that has this id.
pub fn encode(boot: [u8; BOOT_BYTES], deadline_ns: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    page[..MAGIC.len()].copy_from_slice(&MAGIC);
    page[DEADLINE_AT..][..8].copy_from_slice(&deadline_ns.to_le_bytes());
    page[BOOT_AT..][..BOOT_BYTES].copy_from_slice(&boot);
    page
}

/// Of which boot a page is; None: it is no page of this layout.
pub fn boot_of(page: &[u8]) -> Option<[u8; BOOT_BYTES]> {
    if page.len() != PAGE_BYTES || page[..MAGIC.len()] != MAGIC {
        return None;
    }
    page[BOOT_AT..][..BOOT_BYTES].try_into().ok()
}

/// `CLOCK_BOOTTIME` now, nanoseconds. It counts what the machine sleeps, and nobody can set it.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call fills a `timespec`. It fails for clocks that there are not, and every Linux since 2.6.39 has this one.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    // The clock begins at zero, and nanoseconds are a part of a second.
    now.tv_sec as u64 * NS_PER_S + now.tv_nsec as u64
}

const NS_PER_S: u64 = Duration::from_secs(1).as_nanos() as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_says_what_it_was_made_with(boot: [u8; 16], deadline: u64) {
            let page = encode(boot, deadline);
            prop_assert_eq!(boot_of(&page), Some(boot));
            prop_assert_eq!(&page[DEADLINE_AT..DEADLINE_AT + 8], deadline.to_le_bytes());
        }

        #[test]
        fn any_bytes_are_a_page_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..=PAGE_BYTES + 1)) {
            prop_assert_eq!(boot_of(&bytes), None);
        }
    }
}
