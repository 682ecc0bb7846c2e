//! What is known to be wrong with the machine's processor, and what the kernel does about it.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Documentation/ABI/testing/sysfs-devices-system-cpu.
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
/// `1` where processors that share a core (hyper-threads) are in use.
const SIBLINGS: &str = "/sys/devices/system/cpu/smt/active";
/// How the kernel says of a weakness that this processor doesn't have it.
const NOT_AFFECTED: &str = "Not affected";

/// One of the processor's weaknesses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Weakness {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's words: what is done, or that nothing is.
    pub state: String,
}

impl Weakness {
    /// Some of it stays open, whatever the kernel does. Of siblings it says so as well where it can't know that they are kept apart.
    pub fn is_open(&self) -> bool {
        self.state.to_lowercase().contains("vulnerable")
    }
}

/// Those that the processor has, by name.
pub fn weaknesses() -> Vec<Weakness> {
    read(Path::new(VULNERABILITIES))
}

/// Whether processors that share a core are in use. Where the kernel doesn't say, they may be.
pub fn siblings() -> bool {
    fs::read_to_string(SIBLINGS).map_or(true, |active| active.trim() != "0")
}

fn read(directory: &Path) -> Vec<Weakness> {
    let mut found: Vec<Weakness> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
            let name = entry.file_name().into_string().ok()?;
            (state != NOT_AFFECTED).then_some(Weakness { name, state })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// For the console: what stays open in full, the rest by name.
pub fn describe(weaknesses: &[Weakness], siblings: bool) -> Vec<String> {
    let (open, answered): (Vec<_>, Vec<_>) = weaknesses.iter().partition(|known| known.is_open());
    let mut lines: Vec<String> = open
        .iter()
        .map(|known| format!("processor: {}: {}", known.name, known.state))
        .collect();
    if !answered.is_empty() {
        let names: Vec<&str> = answered.iter().map(|known| known.name.as_str()).collect();
        lines.push(format!(
            "processor: answered by the kernel: {}",
            names.join(", ")
        ));
    }
    if siblings {
        lines.push(
            "processor: hyper-threads of a core run containers of one tenant at a time, and not the node beside them"
                .to_owned(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_open_is_told_in_full_and_what_does_not_concern_us_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for (name, state) in [
            ("mds", "Mitigation: Clear CPU buffers; SMT vulnerable\n"),
            ("spectre_v1", "Mitigation: usercopy/swapgs barriers\n"),
            ("meltdown", "Not affected\n"),
            ("retbleed", "Vulnerable\n"),
        ] {
            fs::write(dir.path().join(name), state).unwrap();
        }
        let found = read(dir.path());
        let names: Vec<_> = found.iter().map(|known| known.name.as_str()).collect();
        assert_eq!(names, ["mds", "retbleed", "spectre_v1"]);
        let lines = describe(&found, true);
        assert_eq!(
            lines[..3],
            [
                "processor: mds: Mitigation: Clear CPU buffers; SMT vulnerable",
                "processor: retbleed: Vulnerable",
                "processor: answered by the kernel: spectre_v1",
            ]
        );
        assert!(lines[3].contains("one tenant"));
        assert_eq!(describe(&[], false), [""; 0]);
    }
}
