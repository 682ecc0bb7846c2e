//! Leaving the file system that the kernel starts with.

use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};

/// Makes what is mounted at `new` the root, by moving it over the old one. The kernel's first root is mounted on nothing, and can neither be
/// unmounted nor left with pivot_root(2), by this process or any after it: a new root on top of it can.
pub fn move_over(new: &str) -> rustix::io::Result<()> {
    chdir(new)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}
