//! The command socket: one [`Command`] a line, one [`Answer`] a line.
//!
//! A connection is kept for as long as its client keeps it, whatever it sends: its end tells the client that the microVM is gone.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;

use hearth_vmm_api::{Answer, Command, Description};
use vmm_sys_util::epoll::EventSet;

use self::client::Client;
use crate::events::Watcher;
use crate::virtio::Token;

mod client;

/// Clients at once; further ones wait in the listener's queue. The controller needs one.
const MOST_CLIENTS: usize = 32;
/// Token of the listener; clients count from 1.
const LISTENER: Token = 0;

/// What can be commanded. Called on the main thread.
pub trait Commands {
    /// Answers [`Command::Describe`].
    fn describe(&self) -> Description;
    /// Does [`Command::Pause`]; paused already: nothing.
    fn pause(&mut self);
    /// Does [`Command::Resume`]; running already: nothing.
    fn resume(&mut self);
    /// Does [`Command::Stop`]; the process ends soon after.
    fn stop(&mut self);
}

/// The socket and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    listening: bool,
    watcher: Watcher,
    clients: HashMap<Token, Client>,
    next: Token,
}

impl Server {
    /// Serves those who connect to `listener`; events for it are to be passed to [`Server::ready`].
    pub fn new(listener: UnixListener, watcher: Watcher) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        watcher.add(&listener, LISTENER, EventSet::IN)?;
        Ok(Self {
            listener,
            listening: true,
            watcher,
            clients: HashMap::new(),
            next: LISTENER + 1,
        })
    }

    /// Something is ready: accepts, reads, does what is asked, answers.
    pub fn ready(&mut self, token: Token, commands: &mut impl Commands) {
        if token == LISTENER {
            self.accept();
            return;
        }
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let alive = client.serve(|line| answer(line, commands));
        if !alive {
            self.watcher.remove(client.stream());
            self.clients.remove(&token);
            if !self.listening {
                self.listening = self
                    .watcher
                    .add(&self.listener, LISTENER, EventSet::IN)
                    .is_ok();
            }
            return;
        }
        let wanted = client.wanted();
        if client.watched != wanted {
            client.watched = wanted;
            let _ = self.watcher.change(client.stream(), token, wanted);
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < MOST_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let token = self.next;
            // Never that of a client that is still there: there are far fewer.
            self.next = self.next.checked_add(1).unwrap_or(LISTENER + 1);
            let Ok(client) = Client::new(stream) else {
                continue;
            };
            if self
                .watcher
                .add(client.stream(), token, client.watched)
                .is_ok()
            {
                self.clients.insert(token, client);
            }
        }
        self.listening = false;
        self.watcher.remove(&self.listener);
    }
}

fn answer(line: &[u8], commands: &mut impl Commands) -> Answer {
    match serde_json::from_slice(line) {
        Ok(Command::Describe) => return Answer::Description(commands.describe()),
        Ok(Command::Pause) => commands.pause(),
        Ok(Command::Resume) => commands.resume(),
        Ok(Command::Stop) => commands.stop(),
        Err(error) => return Answer::Error(format!("not a command: {error}")),
    }
    Answer::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events;
    use proptest::prelude::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use vmm_sys_util::epoll::Epoll;

    #[derive(Default)]
    struct Fake {
        paused: bool,
        stopped: bool,
    }

    impl Commands for Fake {
        fn describe(&self) -> Description {
            Description {
                name: "fake".to_owned(),
                pid: 1,
                paused: self.paused,
                ready: false,
                exits_to_monitor: 2,
                exits: 3,
                running_since_ns: 5,
                reported_free: 4,
            }
        }
        fn pause(&mut self) {
            self.paused = true;
        }
        fn resume(&mut self) {
            self.paused = false;
        }
        fn stop(&mut self) {
            self.stopped = true;
        }
    }

    struct Bench {
        server: Server,
        epoll: Arc<Epoll>,
        path: std::path::PathBuf,
        commands: Fake,
        _directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("api.sock");
            let epoll = Arc::new(Epoll::new().unwrap());
            let listener = UnixListener::bind(&path).unwrap();
            let server = Server::new(listener, Watcher::new(epoll.clone(), 0)).unwrap();
            Self {
                server,
                epoll,
                path,
                commands: Fake::default(),
                _directory: directory,
            }
        }

        fn turn(&mut self) {
            let mut ready = Vec::new();
            loop {
                events::wait(&self.epoll, false, &mut ready).unwrap();
                if ready.is_empty() {
                    return;
                }
                for event in ready.drain(..) {
                    self.server.ready(event.token, &mut self.commands);
                }
            }
        }

        fn ask(&mut self, stream: &mut BufReader<UnixStream>, line: &str) -> Answer {
            stream.get_mut().write_all(line.as_bytes()).unwrap();
            self.turn();
            let mut answer = String::new();
            stream.read_line(&mut answer).unwrap();
            serde_json::from_str(&answer).unwrap()
        }
    }

    #[test]
    fn commands_are_done_and_nonsense_does_not_end_the_connection() {
        let mut bench = Bench::new();
        let mut client = BufReader::new(UnixStream::connect(&bench.path).unwrap());
        assert!(matches!(
            bench.ask(&mut client, "{\"nonsense\": 1}\n"),
            Answer::Error(_)
        ));
        assert!(matches!(
            bench.ask(&mut client, &format!("{}\n", "x".repeat(100_000))),
            Answer::Error(_)
        ));
        assert_eq!(bench.ask(&mut client, "\"pause\"\n"), Answer::Done);
        let Answer::Description(description) = bench.ask(&mut client, "\"describe\"\n") else {
            panic!("no description");
        };
        assert!(description.paused);
        assert_eq!(bench.ask(&mut client, "\"resume\"\n"), Answer::Done);
        assert!(!bench.commands.paused);
        assert_eq!(bench.ask(&mut client, "\"stop\"\n"), Answer::Done);
        assert!(bench.commands.stopped);
        drop(client);
        bench.turn();
        assert!(bench.server.clients.is_empty());
    }

    #[test]
    fn a_client_that_reads_no_answers_is_not_listened_to_for_long() {
        let mut bench = Bench::new();
        let mut client = UnixStream::connect(&bench.path).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut stuck = 0;
        while stuck < 100 {
            match client.write(&b"\"describe\"\n".repeat(100)) {
                Ok(_) => stuck = 0,
                Err(_) => stuck += 1,
            }
            bench.turn();
        }
    }

    proptest! {
        #[test]
        fn any_bytes_leave_the_server_working(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..10)) {
            let mut bench = Bench::new();
            let mut wild = UnixStream::connect(&bench.path).unwrap();
            for piece in pieces {
                wild.write_all(&piece).unwrap();
                bench.turn();
            }
            let mut client = BufReader::new(UnixStream::connect(&bench.path).unwrap());
            prop_assert_eq!(bench.ask(&mut client, "\"resume\"\n"), Answer::Done);
        }
    }
}
