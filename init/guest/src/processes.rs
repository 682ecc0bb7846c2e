//! The processes of a container, for `top`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use hearth_guest_protocol::ProcessInfo;
use rustix::time::{ClockId, clock_gettime};

use super::cgroup::Cgroup;

/// `USER_HZ`: the unit of times in /proc, on every architecture of ours.
const TICKS_PER_SECOND: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;
/// Bytes of a command line that are reported; `top` is for people.
const COMMAND_MAX: usize = 4096;

/// All processes of the group. One that ends meanwhile is left out.
pub fn list(cgroup: &Cgroup) -> Vec<ProcessInfo> {
    let booted_ns = booted_ns();
    cgroup
        .processes()
        .into_iter()
        .filter_map(|pid| describe(pid, booted_ns))
        .collect()
}

fn describe(pid: u32, booted_ns: u64) -> Option<ProcessInfo> {
    let directory = format!("/proc/{pid}");
    let uid = fs::metadata(&directory).ok()?.uid();
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    let command = fs::read(format!("{directory}/cmdline")).ok()?;
    parse(pid, uid, &stat, &command, booted_ns)
}

/// proc_pid_stat(5).
fn parse(pid: u32, uid: u32, stat: &str, command: &[u8], booted_ns: u64) -> Option<ProcessInfo> {
    // The name may hold spaces and parentheses; the fields follow the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // Numbered from 1 in the manual; `tail` begins with number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    let ticks_to_ns = |ticks: i64| ticks.max(0) as u64 * (NANOSECONDS / TICKS_PER_SECOND);
    let command = if command.is_empty() {
        format!("[{}]", head.split_once('(').map_or("", |(_, name)| name))
    } else {
        let words = command[..command.len().min(COMMAND_MAX)]
            .strip_suffix(&[0])
            .unwrap_or(command);
        String::from_utf8_lossy(words).replace('\0', " ")
    };
    Some(ProcessInfo {
        uid,
        pid,
        ppid: u32::try_from(field(4)?).ok()?,
        started_ns: booted_ns + ticks_to_ns(field(22)?),
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
