//! The real docker CLI, pointed at the node under test.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fmt, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Capture, HUNG};
use crate::terminal::Terminal;

/// A docker CLI with its own configuration folder: no context, no credentials but those a case gives it.
pub struct Docker {
    program: PathBuf,
    endpoint: Vec<OsString>,
    config: TempDir,
}

/// How a finished command ended, and what it said.
#[derive(Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output, as it came.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "the exit code of {self:?}");
        self
    }

    /// Panics unless it failed and said each of `words` on standard error, in whatever case.
    #[track_caller]
    pub fn fails_saying(self, words: &[&str]) -> Self {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "should have failed: {self:?}"
        );
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(
                stderr.contains(&word.to_lowercase()),
                "the error lacks {word:?}: {self:?}"
            );
        }
        self
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self
            .code
            .map_or_else(|| "a signal".into(), |code| code.to_string());
        write!(
            f,
            "`{}` ended with {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.text(),
            self.stderr
        )
    }
}

impl Docker {
    /// `program`, with `endpoint` (`-H …`, TLS files) before every command.
    pub fn new<I>(program: &Path, endpoint: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        Self {
            program: program.to_owned(),
            endpoint: endpoint.into_iter().map(Into::into).collect(),
            config: tempfile::tempdir_in(crate::work_folder())
                .expect("the temporary folder is writable"),
        }
    }

    /// Another CLI at the same endpoint.
    pub fn with_program(&self, program: &Path) -> Self {
        Self::new(program, self.endpoint.clone())
    }

    /// Credentials for `registry`, as `docker login` would have left them.
    pub fn give_credentials(&self, registry: &str, user_and_password: &str) {
        use serde_json::json;
        let auth = base64(user_and_password.as_bytes());
        let config = json!({ "auths": { registry: { "auth": auth } } });
        std::fs::write(self.config.path().join("config.json"), config.to_string())
            .expect("the temporary folder is writable");
    }

    /// The command line, not started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.config.path())
            .env("DOCKER_CONFIG", self.config.path())
            .env("DOCKER_CLI_HINTS", "false")
            .args(&self.endpoint)
            .args(arguments);
        command
    }

    /// Runs a command with nothing on its standard input.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        self.run_with_input(arguments, b"")
    }

    /// Runs a command with `input` on its standard input, then its end.
    #[track_caller]
    pub fn run_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Finished {
        let mut running = self.start(arguments);
        let stdin = running.stdin.take();
        thread::scope(|scope| {
            // A command may end without reading all of its input: that is no failure of this.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            running.finish()
        })
    }

    /// Runs a command that must succeed; its standard output without the last line break.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        self.run(arguments).exits(0).text().trim_end().to_owned()
    }

    /// `docker inspect` of one object.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&["inspect", name]);
        let mut list: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("inspect of {name} isn't a JSON list ({error}): {text}")
        });
        assert_eq!(list.len(), 1, "inspect of {name}: {text}");
        list.remove(0)
    }

    /// Starts a command and leaves it running.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Running {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = spoken(&command);
        let mut child = process::spawn_bound(command)
            .unwrap_or_else(|error| panic!("can't start {}: {error}", self.program.display()));
        let stdout = Capture::of(child.stdout.take().expect("it was asked for"));
        let stderr = Capture::of(child.stderr.take().expect("it was asked for"));
        Running {
            command: line,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
        }
    }

    /// Starts a command on a terminal of its own.
    #[track_caller]
    pub fn start_on_terminal<S: AsRef<OsStr>>(
        &self,
        rows: u16,
        columns: u16,
        arguments: &[S],
    ) -> Terminal {
        let mut command = self.command(arguments);
        command.env("TERM", "xterm");
        Terminal::start(command, rows, columns)
    }

    /// A name for a container that nothing else has; the container is removed when the value is dropped.
    pub fn container(&self, what: &str) -> Container<'_> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Container {
            docker: self,
            name: format!("{what}-{}-{count}", std::process::id()),
        }
    }
}

/// A container's name, which is removed with everything when dropped.
pub struct Container<'a> {
    docker: &'a Docker,
    /// The name.
    pub name: String,
}

impl Container<'_> {
    /// One field of its `inspect`, by JSON pointer.
    #[track_caller]
    pub fn field(&self, pointer: &str) -> Value {
        let object = self.docker.inspect(&self.name);
        object
            .pointer(pointer)
            .unwrap_or_else(|| panic!("inspect of {} has no {pointer}: {object:#}", self.name))
            .clone()
    }

    /// Waits until its state is `status` (`running`, `exited`, …).
    #[track_caller]
    pub fn wait_for_status(&self, status: &str) {
        process::eventually(&format!("{} doesn't become {status}", self.name), || {
            (self.field("/State/Status") == status).then_some(())
        });
    }

    /// Waits until its output has `wanted`, and returns all of its output, stdout then stderr.
    #[track_caller]
    pub fn wait_for_log(&self, wanted: &str) -> String {
        process::eventually(&format!("{} doesn't log {wanted:?}", self.name), || {
            let logs = self.docker.run(&["logs", &self.name]).exits(0);
            let text = logs.text() + &logs.stderr;
            text.contains(wanted).then_some(text)
        })
    }
}

impl AsRef<OsStr> for Container<'_> {
    fn as_ref(&self) -> &OsStr {
        self.name.as_ref()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // The case may have removed it, or failed before it was made.
        let mut command = self.docker.command(&["rm", "-f", "-v", &self.name]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Ok(mut child) = process::spawn_bound(command) {
            process::wait(&mut child, HUNG);
        }
    }
}

/// A command that runs.
pub struct Running {
    command: String,
    child: Child,
    /// Its standard input; dropped, it ends.
    pub stdin: Option<ChildStdin>,
    /// Its standard output.
    pub stdout: Capture,
    /// Its standard error.
    pub stderr: Capture,
}

impl Running {
    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        self.stdin
            .as_mut()
            .and_then(|stdin| stdin.write_all(text.as_bytes()).ok())
            .unwrap_or_else(|| panic!("`{}` doesn't take input any more", self.command));
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the CLI a signal, as a user's Ctrl-C or `kill` would.
    #[track_caller]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let sent = pid.map(|pid| rustix::process::kill_process(pid, signal));
        assert_eq!(sent, Some(Ok(())), "`{}` has ended already", self.command);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        drop(self.stdin.take());
        let status = process::wait(&mut self.child, HUNG);
        let finished = Finished {
            command: self.command.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.wait_end(),
            stderr: String::from_utf8_lossy(&self.stderr.wait_end()).into_owned(),
        };
        assert!(status.is_some(), "hung: {finished:?}");
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, or of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command as somebody would type it, without the endpoint's files.
fn spoken(command: &Command) -> String {
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned())
        .filter(|argument| !argument.starts_with("--tls"))
        .collect();
    format!("docker {}", arguments.join(" "))
}

/// RFC 4648, section 4: what docker's configuration file keeps credentials in.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for position in 0..4 {
            if position <= chunk.len() {
                text.push(char::from(
                    ALPHABET[(word >> (18 - 6 * position)) as usize & 63],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_as_the_rfc_says() {
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
    }
}
