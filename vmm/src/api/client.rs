//! One connection to the command socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use hearth_vmm_api::Answer;
use vmm_sys_util::epoll::EventSet;

/// Longest line that is looked at; no command comes near. What is longer is answered with an error when it ends.
const LONGEST_LINE: usize = 4096;
/// Answers that may wait for a client to read them before it is listened to again.
const MOST_UNREAD: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    /// The rest of the line is thrown away.
    overlong: bool,
    answers: Vec<u8>,
    /// What it is registered for.
    pub(super) watched: EventSet,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            line: Vec::new(),
            overlong: false,
            answers: Vec::new(),
            watched: EventSet::IN,
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// What should be waited for.
    pub(super) fn wanted(&self) -> EventSet {
        match (self.answers.is_empty(), self.answers.len() < MOST_UNREAD) {
            (true, _) => EventSet::IN,
            (false, true) => EventSet::IN | EventSet::OUT,
            (false, false) => EventSet::OUT,
        }
    }

    /// Reads what is there and answers it. False: the client is gone.
    pub(super) fn serve(&mut self, mut answer: impl FnMut(&[u8]) -> Answer) -> bool {
        let mut alive = self.flush();
        let mut bytes = [0; LONGEST_LINE];
        while alive && self.answers.len() < MOST_UNREAD {
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    self.take(&bytes[..count], &mut answer);
                    alive = self.flush();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        alive
    }

    fn take(&mut self, bytes: &[u8], answer: &mut impl FnMut(&[u8]) -> Answer) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.overlong |= self.line.len() + text.len() > LONGEST_LINE;
            if self.overlong {
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(text);
            }
            if ends {
                let answer = if std::mem::take(&mut self.overlong) {
                    Answer::Error(format!("a line of more than {LONGEST_LINE} bytes"))
                } else {
                    answer(&self.line)
                };
                self.line.clear();
                // An answer holds strings and numbers, which always have a form in JSON.
                if serde_json::to_writer(&mut self.answers, &answer).is_ok() {
                    self.answers.push(b'\n');
                }
            }
        }
    }

    /// Writes what the client takes. False: it is gone.
    fn flush(&mut self) -> bool {
        while !self.answers.is_empty() {
            match self.stream.write(&self.answers) {
                Ok(count) => drop(self.answers.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}
