//! A second process beside PID 1, for tests and benchmarks that must look into a node that has no shell.
//!
//! It is never part of what ships: the tests append an archive with it to the initramfs of a node that they boot directly, and name it
//! on the kernel's command line (`rdinit=/side/init`). As PID 1 it starts itself as a child and becomes the shipped `/init` in
//! the same breath, so everything else on the node is what users get. The child does what `side=` on the command line says:
//!
//! - `side=serve`: answers the commands of [`serve`] on TCP port [`serve::PORT`].
//! - `side=bench`: runs [`bench`] against the node's own API and prints its result as a line `side: {…}` on the console.
//! - `side=containers`: runs the containers that a file describes, and prints what came of them, as such a line ([`containers`]).

mod api;
mod bench;
mod containers;
mod processes;
mod serve;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where the archive puts this executable.
const SELF: &str = "/side/init";

fn main() {
    if std::process::id() == 1 {
        // PID 1's child outlives the exec; nobody has to wait for it but the shipped init, which reaps everybody.
        if let Err(error) = Command::new(SELF).arg("child").spawn() {
            eprintln!("side: can't start: {error}");
        }
        let error = Command::new("/init").exec();
        eprintln!("side: can't become /init: {error}");
        return;
    }
    let result = enter_root().and_then(|command_line| {
        match command_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("side="))
        {
            Some("serve") => serve::run(),
            Some("bench") => bench::run(),
            Some("containers") => containers::run(),
            other => anyhow::bail!("side={other:?} is none of serve, bench and containers"),
        }
    });
    if let Err(error) = result {
        say(&serde_json::json!({ "error": format!("{error:#}") }));
    }
}

/// Prints a result on the console. It is opened for that: when PID 1 began there was none to inherit.
fn say(result: &serde_json::Value) {
    let console = OpenOptions::new().write(true).open("/dev/console");
    // Who waits for the result gives up some day; there is nowhere else to say it.
    let _ = console.and_then(|mut console| writeln!(console, "side: {result}"));
}

/// Enters the root that the shipped init has mounted over the first one, and returns the kernel's command line.
///
/// A process that was there before sees the first root still; only `..` at its root leads to what is mounted above. /proc is
/// mounted there, and only there.
fn enter_root() -> anyhow::Result<String> {
    while !Path::new("/../proc/cmdline").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    rustix::process::chroot("/..")?;
    rustix::process::chdir("/")?;
    Ok(std::fs::read_to_string("/proc/cmdline")?)
}
