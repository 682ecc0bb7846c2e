//! One command a connection, one line; the answer is text up to the end of the connection.
//!
//! ```text
//! pids NAME        process ids, space-separated
//! kill NAME        SIGKILL to all of that name; how many there were
//! overhead         for each monitor: pid and resident KiB beside the guest's memory
//! cookies NAME     of each process of that name: pid, core-scheduling cookie, points to end by when memory is short
//! meminfo FIELD    KiB
//! list PATH        names in a folder, one a line
//! read PATH        a file
//! kmsg             the kernel's log, where init and control write too
//! processor N      control and microVMs run on that processor of the node alone
//! freeze PID       stops a process, PID 1 included, as no signal could
//! hostile-guest    runs a monitor with a hostile guest; "survived" where that went well
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_hostile_guest::trial;

use crate::processes;

/// TCP port, on all addresses.
pub const PORT: u16 = 9;

/// Answers for ever.
pub fn run() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    loop {
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        thread::spawn(move || {
            if let Err(error) = converse(&client) {
                let _ = writeln!(&client, "error: {error:#}");
            }
        });
    }
}

fn converse(client: &TcpStream) -> Result<()> {
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let answer = match words.as_slice() {
        ["pids", name] => processes::named(name)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        ["kill", name] => processes::kill(name)?.to_string(),
        ["overhead"] => {
            let mut lines = String::new();
            for pid in processes::named("vmm") {
                lines += &format!("{pid} {}\n", processes::overhead_kib(pid)?);
            }
            lines
        }
        ["cookies", name] => {
            let mut lines = String::new();
            for pid in processes::named(name) {
                let (cookie, score) = (processes::cookie(pid)?, processes::oom_score(pid)?);
                lines += &format!("{pid} {cookie:x} {score}\n");
            }
            lines
        }
        ["meminfo", field] => processes::meminfo_kib(field)?.to_string(),
        ["list", path] => {
            let mut names = Vec::new();
            for entry in fs::read_dir(path).with_context(|| format!("listing {path}"))? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            names.join("\n")
        }
        ["read", path] => fs::read_to_string(path).with_context(|| format!("reading {path}"))?,
        ["kmsg"] => processes::kernel_log()?.join(""),
        ["processor", number] => {
            for group in ["pods", "control"] {
                fs::write(format!("/sys/fs/cgroup/{group}/cpuset.cpus"), number)?;
            }
            "set".to_owned()
        }
        ["freeze", pid] => {
            let group = "/sys/fs/cgroup/frozen";
            fs::create_dir(group)?;
            fs::write(format!("{group}/cgroup.procs"), pid)?;
            fs::write(format!("{group}/cgroup.freeze"), "1")?;
            "frozen".to_owned()
        }
        ["hostile-guest"] => {
            let folder = Path::new("/run/hostile-guest");
            fs::create_dir_all(folder)?;
            trial::run(
                Path::new("/usr/lib/hearth/vmm"),
                folder,
                Some(trial::tun()?),
            )?;
            "survived".to_owned()
        }
        _ => bail!("no such command: {line:?}"),
    };
    let mut client = client;
    Ok(client.write_all(answer.as_bytes())?)
}
