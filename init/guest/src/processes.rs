//! The processes of a container, for `top`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use hearth_guest_protocol::{COMMANDS_MAX, PROCESSES_MAX, ProcessInfo};
use rustix::time::{ClockId, clock_gettime};

use super::cgroup::Cgroup;

/// `USER_HZ`: the unit of times in /proc, on every architecture of ours.
const TICKS_PER_SECOND: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;
/// Bytes of a command line that are reported at most; `top` is for people.
const COMMAND_MAX: usize = 4096;

/// The processes of the group, as many as fit into an answer; with many of them command lines are cut shorter. One that ends meanwhile is
/// left out.
pub fn list(cgroup: &Cgroup) -> Vec<ProcessInfo> {
    let booted_ns = booted_ns();
    let mut pids = cgroup.processes();
    pids.truncate(PROCESSES_MAX);
    let command_max = COMMAND_MAX.min(COMMANDS_MAX / pids.len().max(1));
    pids.into_iter()
        .filter_map(|pid| describe(pid, booted_ns, command_max))
        .collect()
}

fn describe(pid: u32, booted_ns: u64, command_max: usize) -> Option<ProcessInfo> {
    let directory = format!("/proc/{pid}");
    let uid = fs::metadata(&directory).ok()?.uid();
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    let mut command = Vec::new();
    // A process's arguments may be megabytes.
    fs::File::open(format!("{directory}/cmdline"))
        .and_then(|file| file.take(command_max as u64).read_to_end(&mut command))
        .ok()?;
    let mut info = parse(pid, uid, &stat, &command, booted_ns)?;
    // What is no UTF-8 has become longer.
    info.command
        .truncate(info.command.floor_char_boundary(command_max));
    Some(info)
}

/// proc_pid_stat(5).
fn parse(pid: u32, uid: u32, stat: &str, command: &[u8], booted_ns: u64) -> Option<ProcessInfo> {
    // The name may hold spaces and parentheses; the fields follow the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // Numbered from 1 in the manual; `tail` begins with number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    let ticks_to_ns =
        |ticks: i64| (ticks.max(0) as u64).saturating_mul(NANOSECONDS / TICKS_PER_SECOND);
    let command = if command.is_empty() {
        format!("[{}]", head.split_once('(').map_or("", |(_, name)| name))
    } else {
        let words = command.strip_suffix(&[0]).unwrap_or(command);
        String::from_utf8_lossy(words).replace('\0', " ")
    };
    Some(ProcessInfo {
        uid,
        pid,
        ppid: u32::try_from(field(4)?).ok()?,
        started_ns: booted_ns.saturating_add(ticks_to_ns(field(22)?)),
        cpu_ns: ticks_to_ns(field(14)?.saturating_add(field(15)?)),
        tty: terminal(field(7)?),
        command,
    })
}

/// The name of a terminal by its device number.
fn terminal(number: i64) -> String {
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xf_ff00),
    );
    // Documentation/admin-guide/devices.txt: Unix98 terminals are majors 136 to 143.
    if (136..=143).contains(&major) {
        format!("pts/{}", (major - 136) * 256 + minor)
    } else {
        "?".to_owned()
    }
}

fn booted_ns() -> u64 {
    let ns = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * NANOSECONDS + time.tv_nsec as u64
    };
    ns(ClockId::Realtime).saturating_sub(ns(ClockId::Boottime))
}

/// What a container's process says of itself.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// Its state, and behind a line's end its command line.
    pub fn process(bytes: &[u8]) {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (stat, command) = bytes.split_at(end.unwrap_or(bytes.len()));
        let _ = super::parse(1, 0, &String::from_utf8_lossy(stat), command, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 7 42 42 34817 42 4194304 1 0 0 0 150 50 0 0 20 0 1 0 300 1 1";
        let info = parse(42, 5, stat, b"sleep\0" as &[u8], 1000).unwrap();
        assert_eq!(
            (info.ppid, info.cpu_ns, info.tty.as_str()),
            (7, 2_000_000_000, "pts/1")
        );
        assert_eq!(
            (info.started_ns, info.command.as_str()),
            (3_000_001_000, "sleep")
        );
        assert_eq!(parse(42, 5, stat, b"", 0).unwrap().command, "[a) b (c]");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_process_or_none(stat in ".{0,200}", command in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = parse(1, 0, &stat, &command, 0);
        }
    }
}
