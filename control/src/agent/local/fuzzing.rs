//! Guests' answers, and logs as they are found on the disk.

use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};

use super::guest;
use super::log::Log;
use crate::agent::{LogOptions, Stream};

/// Longest piece of a line that a reader is given: docker's.
const LINE_MAX: usize = 16 << 10;

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the machine that fuzzes has room for a runtime")
}

/// What a guest sends, up to its end or to what is no reply.
pub fn reply(bytes: &[u8]) {
    runtime().block_on(guest::hear_all(bytes.to_vec()));
}

/// Both of a container's files, with anything in them. It is written on, and all of it, or its last lines, can be read.
pub fn log(bytes: &[u8]) {
    let (head, rest) = bytes.split_at(bytes.len().min(3));
    let head: Vec<usize> = head.iter().map(|byte| (*byte).into()).collect();
    let [how, tail, cut] = <[usize; 3]>::try_from(head).unwrap_or_default();
    let (older, newer) = rest.split_at(rest.len() * cut / 256);
    let dir = tempfile::tempdir().expect("the machine that fuzzes has room for a folder");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes)
            .expect("the machine that fuzzes has room for a file");
    };
    if how & 1 != 0 {
        write("log.1", older);
    }
    write("log", newer);
    let log = Log::new(dir.path());
    let last = b"the last line\n";
    let mut written = false;
    if how & 2 != 0 {
        let at = log.resume_run().expect("a log that can be written to");
        // Who follows a process takes no more than can be counted.
        written = at.checked_add(last.len() as u64).is_some();
        if written {
            log.append(Stream::Stdout, 7, at, last[..].into())
                .expect("a log that can be written to");
        }
        log.end_run();
    }
    let options = LogOptions {
        follow: false,
        stdout: true,
        stderr: how & 4 != 0,
        since_ns: None,
        until_ns: None,
        tail: (how & 8 != 0).then_some(tail),
    };
    let lines: Vec<_> = runtime().block_on(async { log.read(options).collect().await });
    let lines = lines
        .into_iter()
        .map(|line| line.expect("a log that can be read"));
    let lines: Vec<_> = lines.collect();
    assert!(lines.iter().all(|line| line.data.len() <= LINE_MAX));
    if how & 8 != 0 {
        assert!(lines.len() <= tail, "{} lines of {tail}", lines.len());
    }
    // Behind it there may be what the other stream's lines lack an end. From the beginning, nobody reads on over what is no record.
    if written && how & 8 != 0 && tail >= 2 {
        let mut ends = lines.iter().rev().take(2);
        assert!(ends.any(|line| line.data.ends_with(last)), "{lines:?}");
    }
}
