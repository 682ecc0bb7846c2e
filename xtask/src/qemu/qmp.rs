//! QEMU's monitor protocol: one JSON object a line over a Unix socket (QEMU manual, "QMP"). QEMU serves one connection at
//! a time, so each conversation here is short.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer. It answers at once unless its main loop is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A conversation with a running QEMU.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| {
            format!(
                "no QEMU answers on {}: is the node running?",
                socket.display()
            )
        })?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!(
                    "QEMU refuses {command}: {}",
                    error["desc"].as_str().unwrap_or("without saying why")
                );
            }
            // Events come in between and are nobody's answer.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Runs a command of the monitor for people, whose complaints are what it prints.
    pub fn monitor(&mut self, line: &str) -> Result<()> {
        let printed = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        match printed.as_str().unwrap_or_default().trim() {
            "" => Ok(()),
            complaint => bail!("{complaint}"),
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self
            .stream
            .read_line(&mut line)
            .context("QEMU doesn't answer")?
            == 0
        {
            bail!("QEMU is gone");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
