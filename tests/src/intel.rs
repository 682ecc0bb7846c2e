//! A node on an Intel processor, as Bochs emulates it. Nothing outside reaches it: a process beside PID 1 runs what a case
//! asks for, and tells on the serial line what came of it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::checks::EFI_VARIABLE;
use xtask::identity::{self, Identity};
use xtask::qemu::Boot;
use xtask::{bochs, busybox, prerequisites, side};

use crate::{process, stick};

/// How the side process marks its result.
const RESULT: &str = "side: ";
/// After this long it hangs: it takes a minute and a half on a machine that has nothing else to do.
const HUNG: Duration = Duration::from_secs(1200);
/// How often the serial line is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How much of the console is shown with a failure.
const CONSOLE_LINES: usize = 60;

/// Boots a node with `parameters` on its kernel's command line, has it run containers (bodies for `create`; the image is called
/// `busybox`), and returns what the side process tells (`tests/side/src/containers.rs`) and the console.
pub fn run(parameters: &str, containers: &Value) -> Result<(Value, String)> {
    let efi = std::env::var_os(EFI_VARIABLE)
        .map(PathBuf::from)
        .with_context(|| format!("{EFI_VARIABLE} isn't set: run this by `cargo xtask test`"))?;
    let dir = tempfile::Builder::new()
        .prefix("intel-")
        .tempdir_in(crate::work_folder())?
        .keep();
    let identity = Identity::open(&dir.join("identity"), "hearth-1")?;
    let configuration = dir.join("hearth.toml");
    identity::write_private(&configuration, &identity.configuration(&[]))?;
    let disk = dir.join("disk");
    stick::make_configuration(&disk, &configuration)?;

    let archive = busybox::archive(&prerequisites::busybox()?)?;
    let mut files = vec![
        ("image.tar", archive),
        ("containers.json", containers.to_string().into_bytes()),
    ];
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        files.push((name, fs::read(identity.owner_dir().join(name))?));
    }
    let mut boot = side::boot(&efi, &dir.join("side"), "containers", &files)?;
    if let Boot::Kernel { command_line, .. } = &mut boot {
        command_line.push(' ');
        command_line.push_str(parameters);
    }

    let mut command = bochs::command(&dir, &boot, &disk)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut machine = process::spawn_bound(command).context("starting Bochs")?;
    let begun = Instant::now();
    let read = || {
        let console = fs::read(dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    };
    let console = loop {
        let console = read();
        // The line is whole once another begins or it has ended.
        let said = console.split_once(RESULT);
        if said.is_some_and(|(_, rest)| rest.contains('\n')) {
            break console;
        }
        let ended = machine.try_wait()?;
        if ended.is_some() || begun.elapsed() > HUNG {
            // It has ended already if killing fails.
            let _ = machine.kill();
            let _ = machine.wait();
            let lines: Vec<&str> = console.lines().collect();
            bail!(
                "no result ({ended:?}, {} s); the end of {}:\n{}",
                begun.elapsed().as_secs(),
                dir.join("console").display(),
                lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
            );
        }
        thread::sleep(LOOK_INTERVAL);
    };
    machine.kill()?;
    machine.wait()?;
    let line = console
        .lines()
        .find_map(|line| line.split_once(RESULT))
        .context("the result is in a line")?
        .1;
    let result: Value = serde_json::from_str(line).with_context(|| format!("reading {line:?}"))?;
    ensure!(
        result["error"].is_null(),
        "it failed on the node: {}\n{console}",
        result["error"]
    );
    // Only what a failure needs is kept.
    for file in ["cd.iso", "disk"] {
        fs::remove_file(dir.join(file))?;
    }
    Ok((result, console))
}
