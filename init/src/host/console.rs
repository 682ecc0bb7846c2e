//! What the person in front of the machine sees.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::kmsg;

/// The console, or what stands in for it.
pub struct Console {
    file: Option<File>,
}

impl Console {
    /// Opens /dev/console. A machine may have none; then the kernel's log must do.
    pub fn open() -> Self {
        // Not blocking: a serial line that nobody reads must not hold up PID 1.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        Self {
            file: OpenOptions::new()
                .write(true)
                .custom_flags(flags)
                .open("/dev/console")
                .ok(),
        }
    }

    /// A fact, in a few words.
    pub fn say(&self, message: &str) {
        let mut lines = String::new();
        for line in message.lines() {
            lines.push_str("hearth: ");
            lines.push_str(line);
            lines.push_str("\r\n");
        }
        let written = self
            .file
            .as_ref()
            .map(|mut file| file.write_all(lines.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            kmsg::log(&format!("init: {message}"));
        }
    }

    /// A failure: what, and what to do about it.
    pub fn warn(&self, message: &str) {
        self.say(&format!("PROBLEM: {message}"));
    }
}
