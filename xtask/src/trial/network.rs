//! What connects the nodes of a trial: a process of its own, since nodes may outlive the one that started them.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::qemu::{Running, Segment};

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The network of a trial. It ends with this value, unless it was detached.
pub(super) struct Network {
    dir: PathBuf,
    /// None once it was detached.
    way_out: Option<Running>,
    /// The process, if this one has started it.
    switch: Option<Child>,
}

impl Network {
    /// Starts it. What an earlier trial has left of its own is ended.
    pub(super) fn start(segment: &Segment, dir: &Path) -> Result<Self> {
        let left = Running::attach(dir);
        if left.is_running() {
            left.kill()?;
        }
        let log = File::create(dir.join("switch.log"))?;
        let ports = segment.ports();
        let mut switch = Command::new(std::env::current_exe()?)
            .arg("switch")
            .arg(dir)
            .args(ports.iter().map(u16::to_string))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting the switch")?;
        let begun = Instant::now();
        while !Running::attach(dir).is_running() {
            if let Some(status) = switch.try_wait()? {
                let log = std::fs::read_to_string(dir.join("switch.log")).unwrap_or_default();
                bail!("the switch ended ({status}): {log}");
            }
            if begun.elapsed() > START_TIMEOUT {
                switch.kill()?;
                switch.wait()?;
                bail!("the switch doesn't start");
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let mut network = Self::attach(dir);
        network.switch = Some(switch);
        Ok(network)
    }

    /// The one whose files are in `dir`.
    pub(super) fn attach(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            way_out: Some(Running::attach(dir)),
            switch: None,
        }
    }

    /// Where its files are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves it running when this value goes.
    pub(super) fn detach(mut self) {
        self.way_out = None;
        self.switch = None;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The switch goes with its way out, which has gone already if it can't be told to.
        if let Some(way_out) = self.way_out.take() {
            let _ = way_out.kill();
        }
        if let Some(mut switch) = self.switch.take() {
            let _ = switch.wait();
        }
    }
}

/// The process itself: switches for as long as its way out runs.
pub fn serve(dir: &Path, ports: &[u16]) -> Result<()> {
    let segment = Segment::of(dir, ports)?;
    let _switch = segment.switch()?;
    let mut way_out = segment.start_way_out()?;
    while way_out.try_wait()?.is_none() {
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}
