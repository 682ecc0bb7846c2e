//! A look into a node that has no shell: `hearth-side`, beside the shipped init and never part of what ships.
//!
//! Such a node isn't started by firmware: QEMU starts the image's own kernel with the image's own initial RAM disk, to
//! which one more archive is appended, and the kernel is told to start `hearth-side` first, which becomes the shipped
//! init and leaves a child behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::cpio::Writer;
use xtask::qemu::Boot;

use crate::process::{HUNG, eventually};
use crate::unified::Parts;

/// Names the executable `hearth-side` to the tests.
pub const SIDE: &str = "HEARTH_SIDE";

/// The port it listens on, on the node.
pub const PORT: u16 = 9;

/// The conversation with a node's side.
pub struct Side {
    port: u16,
}

impl Side {
    /// The one that is forwarded to `port` of loopback.
    pub fn on(port: u16) -> Self {
        Self { port }
    }

    /// Asks one thing.
    #[track_caller]
    pub fn ask(&self, question: &str) -> String {
        eventually(
            &format!("the node's side doesn't answer {question:?}"),
            || {
                let answer = self.converse(question).ok()?;
                // QEMU accepts a connection before it knows whether the node does.
                (!answer.is_empty() || question.starts_with("pids") || question.starts_with("list"))
                    .then_some(answer)
            },
        )
    }

    /// Process ids of that name.
    #[track_caller]
    pub fn pids(&self, name: &str) -> Vec<String> {
        self.ask(&format!("pids {name}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    /// Kills every process of that name with SIGKILL; at least one.
    #[track_caller]
    pub fn kill(&self, name: &str) {
        let killed = self.ask(&format!("kill {name}"));
        assert!(
            killed.parse::<u32>().is_ok_and(|count| count > 0),
            "no {name} to kill: {killed:?}"
        );
    }

    fn converse(&self, question: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(HUNG))?;
        writeln!(stream, "{question}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// How a node with a side is started.
pub(crate) fn boot(parts: &Parts, dir: &Path) -> Result<Boot> {
    let executable = std::env::var_os(SIDE).map(PathBuf::from).with_context(|| {
        format!("{SIDE} isn't set: run the end-to-end tests by `cargo xtask test`")
    })?;
    let program =
        fs::read(&executable).with_context(|| format!("reading {}", executable.display()))?;
    let mut initramfs = fs::read(&parts.initramfs)?;
    // The kernel skips zeros between archives, and wants each to begin at a multiple of four
    // (Documentation/driver-api/early-userspace/buffer-format.rst).
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    let mut archive = Writer::new(&mut initramfs);
    archive.directory("side", 0o755)?;
    archive.file("side/init", 0o755, &program)?;
    archive.finish()?;
    let path = dir.join("initramfs");
    fs::write(&path, initramfs)?;
    Ok(Boot::Kernel {
        kernel: parts.kernel.clone(),
        initramfs: Some(path),
        command_line: format!("{} rdinit=/side/init side=serve", parts.command_line),
    })
}
