//! Random bytes, as they go into commands and to guests.

use rustix::rand::{GetRandomFlags, getrandom};

/// Most bytes that the kernel gives in one piece, uninterrupted (getrandom(2)).
const WHOLE_MAX: usize = 256;

/// From the kernel's pool.
pub fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= WHOLE_MAX) };
    let mut bytes = [0; N];
    #[cfg(feature = "simulation")]
    if crate::simulation::hooks::fill(&mut bytes) {
        return bytes;
    }
    getrandom(&mut bytes, GetRandomFlags::empty())
        .expect("the kernel waits until its pool is ready, and then gives so few bytes whole");
    bytes
}
