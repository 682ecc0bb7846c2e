//! A QEMU that runs: its monitor, its console, its power.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Gateway, Qmp};

/// How long QEMU may take to open its monitor.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a state is looked at that nothing announces.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A machine that was started, by this process or by another.
#[derive(Debug)]
pub struct Running {
    dir: PathBuf,
    qmp: PathBuf,
    child: Option<Child>,
}

impl Running {
    /// The machine whose files are in `dir`; whether it runs shows when it is spoken to.
    pub fn attach(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            qmp: dir.join("qmp"),
            child: None,
        }
    }

    /// Starts a QEMU whose monitor is `dir`'s, in a process group of its own, so that a Ctrl-C is the caller's to handle.
    pub(super) fn launch(dir: &Path, mut command: Command) -> Result<Self> {
        let mut running = Self::attach(dir);
        if running.qmp.exists() {
            fs::remove_file(&running.qmp)?;
        }
        let log = File::create(dir.join("qemu.log"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting qemu-system-x86_64")?;
        let begun = Instant::now();
        while Qmp::connect(&running.qmp).is_err() {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
                bail!("QEMU didn't start ({status}): {log}");
            }
            if begun.elapsed() > START_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!("QEMU doesn't open its monitor {}", running.qmp.display());
            }
            thread::sleep(LOOK_INTERVAL);
        }
        running.child = Some(child);
        Ok(running)
    }

    /// Whether QEMU answers.
    pub fn is_running(&self) -> bool {
        self.monitor().is_ok()
    }

    /// What the machine wrote to its serial line so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default())
            .into_owned()
    }

    /// A conversation with QEMU's monitor.
    pub fn monitor(&self) -> Result<Qmp> {
        Qmp::connect(&self.qmp)
    }

    /// The way to its ports, if it has a network of its own.
    pub fn gateway(&self) -> Gateway {
        Gateway::by(&self.qmp, None)
    }

    /// Presses the power button and waits; pulls the plug if the machine takes longer than `patience`. Says whether it went
    /// by itself.
    pub fn power_off(mut self, patience: Duration) -> Result<bool> {
        self.monitor()?.execute("system_powerdown", json!({}))?;
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.has_exited()? {
                return Ok(true);
            }
            thread::sleep(LOOK_INTERVAL);
        }
        self.kill()?;
        Ok(false)
    }

    /// Pulls the plug: QEMU ends at once, and what the machine hadn't written to its disk is lost.
    pub fn kill(mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => {
                child.kill()?;
                child.wait()?;
            }
            None => {
                // The connection ends before the answer.
                let _ = self.monitor()?.execute("quit", json!({}));
            }
        }
        Ok(())
    }

    /// The exit status, if QEMU has ended and is this process's child.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// Leaves the machine running when this value goes.
    pub fn detach(mut self) {
        self.child = None;
    }

    fn has_exited(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(!self.is_running()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
