//! A look into a node that has no shell: `hearth-side`, beside the shipped init and never part of what ships.
//!
//! Such a node isn't started by firmware: see [`xtask::side`].

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::process::{HUNG, eventually};

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
