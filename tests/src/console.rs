//! What nodes said, shown with the case that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// How much of a console is shown with a failure.
const LINES: usize = 60;

/// The folders of the nodes that live. It is held for no longer than a look, and only whole paths are put in.
static SHOWN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn shown() -> MutexGuard<'static, Vec<PathBuf>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of the console in a node's folder.
pub fn tail(dir: &Path) -> String {
    let console = fs::read(dir.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!(
        "--- the end of {}:\n{}\n",
        dir.join("console").display(),
        last.join("\n")
    )
}

/// From now on a failing case shows the console in a node's folder.
pub fn show_with_failures(dir: &Path) {
    static HOOKED: Once = Once::new();
    shown().push(dir.to_owned());
    HOOKED.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |information| {
            default(information);
            // Which of them it was about, only the case knows.
            for dir in shown().iter() {
                eprintln!("{}", tail(dir));
            }
        }));
    });
}

/// Not any more.
pub fn hide(dir: &Path) {
    shown().retain(|other| other != dir);
}
