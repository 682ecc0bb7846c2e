//! The hardware watchdog: a machine whose init no longer runs is reset.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use crate::kmsg;

/// How long init may be silent, seconds: longer than any disk's worst hiccup, shorter than anybody's patience.
const TIMEOUT_S: libc::c_int = 60;
/// How often init makes itself heard.
pub const PERIOD: Duration = Duration::from_secs(20);
/// `_IOWR('W', 6, int)`, `linux/watchdog.h`.
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;

/// An armed watchdog.
pub struct Watchdog(File);

impl Watchdog {
    /// Arms it; none where the machine has none.
    pub fn open() -> Option<Self> {
        let file = candidates().into_iter().find_map(|name| {
            OpenOptions::new()
                .write(true)
                .open(Path::new("/dev").join(name))
                .ok()
        })?;
        let mut timeout_s = TIMEOUT_S;
        // SAFETY: the request reads and writes one int.
        if unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut timeout_s) } < 0 {
            kmsg::log("init: the watchdog keeps its own timeout");
        }
        Some(Self(file))
    }

    /// Says that init is alive.
    pub fn ping(&mut self) {
        let _ = self.0.write_all(b"\0");
    }

    /// Disarms it, for an orderly end (Documentation/watchdog/watchdog-api.rst, "magic close").
    pub fn disarm(mut self) {
        let _ = self.0.write_all(b"V");
    }
}

/// Names of the machine's watchdogs, the kernel's own last: it doesn't outlive a kernel that hangs, and has no device behind it.
fn candidates() -> Vec<OsString> {
    let entries = fs::read_dir("/sys/class/watchdog")
        .into_iter()
        .flatten()
        .flatten();
    let mut watchdogs: Vec<_> = entries
        .map(|entry| (!entry.path().join("device").exists(), entry.file_name()))
        .collect();
    watchdogs.sort();
    watchdogs.into_iter().map(|(_, name)| name).collect()
}
