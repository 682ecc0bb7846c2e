//! Disks that come late: behind USB and in card readers the kernel looks for them after it has started init. (What hangs on PCI,
//! SATA and NVMe has been found by then.)

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Where controllers appear that bring disks late.
const CONTROLLERS: [&str; 2] = ["/sys/bus/usb/devices", "/sys/class/mmc_host"];
/// Block devices.
const DISKS: &str = "/sys/class/block";
/// When none has come for so long, none will: usb-storage looks at a stick a second after it has seen it (its `delay_use`), and each
/// hub on the way takes some tenths.
const QUIET: Duration = Duration::from_secs(2);
/// Nothing is waited for longer than this: a disk that has to spin up takes some seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked.
const PERIOD: Duration = Duration::from_millis(50);

/// Looks until something is found, as long as a disk may still come.
pub fn find<T>(look: impl FnMut() -> Option<T>) -> Option<T> {
    find_within(PATIENCE, look)
}

/// As [`find`], and gives up earlier if no disk has come for a while. For what a machine may well do without.
pub fn find_until_quiet<T>(look: impl FnMut() -> Option<T>) -> Option<T> {
    find_within(QUIET, look)
}

/// Looks at once, and after each disk that comes until none has come within `quiet`.
fn find_within<T>(quiet: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    let mut seen = names(DISKS);
    let mut changed = begun;
    let mut found = look();
    while found.is_none()
        && changed.elapsed() < quiet
        && begun.elapsed() < PATIENCE
        && CONTROLLERS.iter().any(|dir| !names(dir).is_empty())
    {
        thread::sleep(PERIOD);
        let now = names(DISKS);
        if now != seen {
            (seen, changed) = (now, Instant::now());
            found = look();
        }
    }
    found
}

fn names(dir: impl AsRef<Path>) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}
