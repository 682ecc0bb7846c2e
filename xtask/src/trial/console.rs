//! What a node says on its serial line, for whoever waits for it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// How often the console is looked at for new lines.
const INTERVAL: Duration = Duration::from_millis(200);

/// A console line without what moves cursors and sets colours.
pub(super) fn readable(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A control sequence ends with its first letter.
            for inner in characters.by_ref() {
                if inner.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if !character.is_control() {
            text.push(character);
        }
    }
    text.trim().to_owned()
}

/// The end of what a console said.
pub(super) fn end(lines: &[&str]) -> String {
    /// Enough to see a kernel's last words.
    const LINES: usize = 30;
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Copies a growing console to stderr until it is dropped.
pub(super) struct Console {
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Console {
    /// The one in that file, from its beginning.
    pub(super) fn follow(path: PathBuf) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut at = 0;
                loop {
                    let last = ended.load(Ordering::Relaxed);
                    // Shown as an extra; a console that can't be read is no reason to stop a trial.
                    at = copy(&path, at).unwrap_or(at);
                    if last {
                        return;
                    }
                    thread::sleep(INTERVAL);
                }
            }
        });
        Self {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only if stderr is gone.
            let _ = thread.join();
        }
    }
}

fn copy(path: &Path, at: u64) -> Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut fresh = Vec::new();
    file.read_to_end(&mut fresh)?;
    std::io::stderr().write_all(&fresh)?;
    Ok(at + fresh.len() as u64)
}
