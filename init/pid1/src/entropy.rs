//! Feeding the kernel's random pool.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW('R', 0x03, int[2])`, `linux/random.h`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`, `linux/random.h`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Mixes `seed` into the kernel's pool, credits it with its full length, and has the generator reseed itself at once, so that
/// nothing that is drawn afterwards could also be drawn by somebody who knows the state before.
pub fn add(seed: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` of `linux/random.h` with room for one seed.
    #[repr(C)]
    struct RandPoolInfo {
        entropy_count_bits: libc::c_int,
        size_bytes: libc::c_int,
        bytes: [u8; 32],
    }
    let info = RandPoolInfo {
        entropy_count_bits: 256,
        size_bytes: 32,
        bytes: *seed,
    };
    let device = File::open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads a rand_pool_info and `size_bytes` bytes behind its header, which is what `info` is.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &info) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
