//! A command on a pseudo terminal: what a person at a keyboard sees, types and resizes.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::{self, Capture, HUNG};

/// A command whose standard streams are one terminal.
pub struct Terminal {
    keyboard: File,
    child: Child,
    /// What the terminal shows.
    pub screen: Capture,
}

impl Terminal {
    /// Starts `command` on a terminal of `rows` × `columns`.
    #[track_caller]
    pub fn start(command: Command, rows: u16, columns: u16) -> Self {
        let (master, slave) =
            open().unwrap_or_else(|error| panic!("can't open a terminal: {error}"));
        resize(&master, rows, columns);
        // setsid(1) makes its standard input the controlling terminal: the size's changes then reach the command as SIGWINCH.
        let mut on_terminal = Command::new("setsid");
        on_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        on_terminal.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                on_terminal.env(name, value);
            }
        }
        let another = || {
            slave
                .try_clone()
                .map(Stdio::from)
                .expect("a descriptor is free")
        };
        on_terminal
            .stdin(another())
            .stdout(another())
            .stderr(another());
        let child = process::spawn_bound(on_terminal)
            .unwrap_or_else(|error| panic!("can't start setsid (package util-linux): {error}"));
        let keyboard = File::from(master);
        let screen = Capture::of(keyboard.try_clone().expect("a descriptor is free"));
        Self {
            keyboard,
            child,
            screen,
        }
    }

    /// Types `text`.
    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        self.keyboard
            .write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("the terminal takes no input: {error}"));
    }

    /// Gives the terminal another size.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.keyboard, rows, columns);
    }

    /// Waits until the shell in it knows this size.
    #[track_caller]
    pub fn wait_for_size(&mut self, rows: u16, columns: u16) {
        let wanted = format!("size {rows} {columns}.");
        for question in 1.. {
            // What is typed is shown as well: only the answer has the numbers in it.
            self.type_in(&format!("echo size $(stty size). asked $(({question}))\n"));
            let shown = self.screen.wait_for(&format!(". asked {question}"));
            if shown.contains(&wanted) {
                return;
            }
        }
    }

    /// Waits until the command ends; its exit code and everything that was shown.
    #[track_caller]
    pub fn finish(mut self) -> (Option<i32>, String) {
        let status = process::wait(&mut self.child, HUNG);
        let shown = self.screen.text();
        let Some(status) = status else {
            panic!("hung; the terminal shows:\n{shown}")
        };
        (
            status.code(),
            String::from_utf8_lossy(&self.screen.wait_end()).into_owned(),
        )
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, or of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    Ok((master, slave))
}

#[track_caller]
fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size)
        .unwrap_or_else(|error| panic!("can't resize the terminal: {error}"));
}
