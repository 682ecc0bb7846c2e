//! Lines for the kernel's log, which is the one place that a PID 1 without a console can write to.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// Longest line, bytes: the kernel takes a record of about a thousand and refuses what is longer.
const LINE_MAX: usize = 900;

static KMSG: OnceLock<Option<File>> = OnceLock::new();

/// Writes one line. Where there is no kernel log (in a test) it goes to stderr.
pub fn log(message: &str) {
    let mut line = message.replace('\n', " ");
    if line.len() > LINE_MAX {
        let end = (0..=LINE_MAX)
            .rev()
            .find(|&i| line.is_char_boundary(i))
            .unwrap_or(0);
        line.truncate(end);
    }
    line.push('\n');
    let kmsg = KMSG.get_or_init(|| OpenOptions::new().write(true).open("/dev/kmsg").ok());
    let written = match kmsg {
        // One write is one record.
        Some(file) => { file }.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    // Nobody is left to be told that telling failed.
    let _ = written;
}

/// From here on a panic is one line of the kernel's log that begins with `name`, and the thread's end.
pub fn log_panics(name: &'static str) {
    std::panic::set_hook(Box::new(move |panic| log(&format!("{name}: {panic}"))));
}
