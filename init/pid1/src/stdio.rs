//! Descriptors 0 to 2, which the kernel leaves closed where it has no console.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

/// Opens /dev/null for each of the three that is closed.
pub fn fill() -> io::Result<()> {
    loop {
        let null: OwnedFd = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // It is one of the three now, for good.
        std::mem::forget(null);
    }
}
