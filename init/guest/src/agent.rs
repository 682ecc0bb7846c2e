//! What the host may ask for.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::{Error, Exec, FrameError, ProcessInfo, Reply, Request, Start};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::child::{Furnishing, Place, Spec};
use super::container::{Container, Places};
use super::launch::{Launcher, Namespaces};
use super::process::{Ends, Process, Source, lock};
use super::{follow, input, pod, processes, pty, shutdown, system};

/// The agent. Shared by the threads of all connections.
pub struct Agent {
    places: Places,
    launcher: Launcher,
    /// The pod has been prepared. Held while that is done, so that a second container waits for it.
    prepared: Mutex<bool>,
    /// What exists.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    containers: HashMap<String, Arc<Container>>,
    /// `None`: being started.
    processes: HashMap<String, Option<Arc<Process>>>,
}

impl Agent {
    /// An agent that knows no container yet.
    pub fn new(places: Places) -> io::Result<Self> {
        let launcher = Launcher::new(&places.program)?;
        Ok(Self {
            places,
            launcher,
            prepared: Mutex::new(false),
            table: Mutex::default(),
        })
    }

    /// An agent in a machine whose clock, random pool and network are somebody else's concern, as in a test.
    pub fn without_pod(places: Places) -> io::Result<Self> {
        let agent = Self::new(places)?;
        *lock(&agent.prepared) = true;
        Ok(agent)
    }

    /// Serves one connection to its end. The kind of socket doesn't matter.
    pub fn serve(&self, mut connection: UnixStream) -> Result<(), FrameError> {
        let Some(request) = protocol::read(&mut connection)? else {
            return Ok(());
        };
        let reply = match request {
            Request::Start(start) => match self.start(*start) {
                Ok(process) => return follow::follow(connection, &process, 0),
                Err(error) => Reply::Error(error),
            },
            Request::Exec(exec) => match self.exec(*exec) {
                Ok(process) => return follow::follow(connection, &process, 0),
                Err(error) => Reply::Error(error),
            },
            Request::Follow { process, from } => match self.process(&process) {
                Ok(process) => return follow::follow(connection, &process, from),
                Err(error) => Reply::Error(error),
            },
            Request::Input { process } => match self.process(&process) {
                Ok(process) => {
                    protocol::write(&mut connection, &Reply::Done)?;
                    input::pass_on(connection, &process);
                    return Ok(());
                }
                Err(error) => Reply::Error(error),
            },
            Request::Signal { process, signal } => {
                answer(self.process(&process).and_then(|p| p.signal(signal)))
            }
            Request::Resize {
                process,
                rows,
                columns,
            } => answer(self.process(&process).and_then(|p| p.resize(rows, columns))),
            Request::Processes { container } => match self.processes(&container) {
                Ok(rows) => Reply::Processes(rows),
                Err(error) => Reply::Error(error),
            },
            Request::Forget { process } => answer(self.forget(&process)),
            Request::Shutdown => {
                self.end_everything();
                protocol::write(&mut connection, &Reply::Done)?;
                shutdown::power_off(connection);
                return Ok(());
            }
        };
        protocol::write(&mut connection, &reply)
    }

    fn start(&self, start: Start) -> Result<Arc<Process>, Error> {
        {
            let mut prepared = lock(&self.prepared);
            if !*prepared {
                pod::prepare(&start.pod)?;
                *prepared = true;
            }
        }
        let spec = start.container;
        self.reserve(&spec.process.id)?;
        let result = self.build_and_start(spec);
        self.settle(result)
    }

    fn build_and_start(&self, spec: protocol::Container) -> Result<Arc<Process>, (String, Error)> {
        let process_id = spec.process.id.clone();
        let failed = |error| (process_id.clone(), error);
        if lock(&self.table).containers.contains_key(&spec.id) {
            return Err(failed(Error::Invalid(format!(
                "container {} exists",
                spec.id
            ))));
        }
        let container = Arc::new(Container::build(&self.places, &spec).map_err(failed)?);
        let furnishing = Furnishing {
            root: container.root().to_string_lossy().into_owned(),
            files: container.files().to_string_lossy().into_owned(),
            devpts: container.devpts().as_raw_fd(),
            hostname: spec.hostname,
            read_only: spec.read_only,
            tmpfs: spec.tmpfs,
            shm_bytes: spec.shm_bytes,
            masked_paths: spec.masked_paths,
            readonly_paths: spec.readonly_paths,
            sysctls: spec.sysctls,
            init: spec.init,
        };
        let place = Place::New(Box::new(furnishing));
        match self.launch(&container, None, place, spec.privileged, spec.process) {
            Ok(process) => {
                lock(&self.table).containers.insert(spec.id, container);
                Ok(process)
            }
            Err(error) => {
                container.take_down();
                Err(failed(error))
            }
        }
    }

    fn exec(&self, exec: Exec) -> Result<Arc<Process>, Error> {
        let (container, main) = {
            let table = lock(&self.table);
            let container = table.containers.get(&exec.container);
            let container =
                container.ok_or_else(|| Error::NoSuchProcess(exec.container.clone()))?;
            let main = table.processes.get(&exec.container).cloned().flatten();
            (
                Arc::clone(container),
                main.ok_or_else(|| Error::NoSuchProcess(exec.container.clone()))?,
            )
        };
        if main.has_ended() {
            return Err(Error::Exited(exec.container));
        }
        let id = exec.process.id.clone();
        self.reserve(&id)?;
        let place = Place::Of(main.pidfd().as_raw_fd());
        let launched = self.launch(
            &container,
            Some(&main),
            place,
            exec.privileged,
            exec.process,
        );
        self.settle(launched.map_err(|error| (id, error)))
    }

    /// Takes a name, so that no two processes get it.
    fn reserve(&self, id: &str) -> Result<(), Error> {
        let mut table = lock(&self.table);
        if table.processes.contains_key(id) {
            return Err(Error::Invalid(format!("process {id} exists")));
        }
        table.processes.insert(id.to_owned(), None);
        Ok(())
    }

    /// Enters a process under the name that was reserved, or gives the name back.
    fn settle(&self, result: Result<Arc<Process>, (String, Error)>) -> Result<Arc<Process>, Error> {
        let mut table = lock(&self.table);
        match result {
            Ok(process) => {
                table
                    .processes
                    .insert(process.id.clone(), Some(Arc::clone(&process)));
                Ok(process)
            }
            Err((id, error)) => {
                table.processes.remove(&id);
                Err(error)
            }
        }
    }

    /// Starts a process: the first of its container where there is no `main` yet.
    fn launch(
        &self,
        container: &Arc<Container>,
        main: Option<&Process>,
        place: Place,
        privileged: bool,
        process: protocol::Process,
    ) -> Result<Arc<Process>, Error> {
        let id = process.id.clone();
        let wiring = Wiring::make(container, &process)?;
        let stdio = wiring.child.each_ref().map(|fd| fd.as_raw_fd());
        let terminal = wiring.terminal;
        let mut inherited: Vec<BorrowedFd<'_>> = wiring.child.iter().map(|fd| fd.as_fd()).collect();
        inherited.push(main.map_or(container.devpts(), Process::pidfd));
        // Where the container has its processes in groups below its own, a new one must go where the first is.
        let moved = main.and_then(|main| {
            container
                .cgroup()
                .dir_of_process(&self.places.cgroup, main.pid)
                .ok()
        });
        let cgroup = moved.as_ref().map_or(container.cgroup().dir(), AsFd::as_fd);
        let namespaces = main.map_or(Namespaces::New, |main| Namespaces::Of(main.pidfd()));
        let spec = |report| Spec {
            report,
            process,
            privileged,
            stdio,
            terminal,
            place,
        };
        let launched = self.launcher.launch(namespaces, cgroup, &inherited, spec)?;
        let container = Arc::clone(container);
        Process::watch(id, container, main.is_none(), launched, wiring.ends)
    }

    fn process(&self, id: &str) -> Result<Arc<Process>, Error> {
        let found = lock(&self.table).processes.get(id).cloned().flatten();
        found.ok_or_else(|| Error::NoSuchProcess(id.to_owned()))
    }

    fn processes(&self, container: &str) -> Result<Vec<ProcessInfo>, Error> {
        let found = lock(&self.table).containers.get(container).cloned();
        let container = found.ok_or_else(|| Error::NoSuchProcess(container.to_owned()))?;
        Ok(processes::list(container.cgroup()))
    }

    fn forget(&self, id: &str) -> Result<(), Error> {
        if !self.process(id)?.has_ended() {
            return Err(Error::Invalid(format!("process {id} has not exited")));
        }
        let container = {
            let mut table = lock(&self.table);
            table.processes.remove(id);
            // A main process has its container's name, and takes it along.
            table.containers.remove(id)
        };
        if let Some(container) = container {
            container.take_down();
        }
        Ok(())
    }

    fn end_everything(&self) {
        let (containers, processes): (Vec<_>, Vec<_>) = {
            let mut table = lock(&self.table);
            let containers = table
                .containers
                .drain()
                .map(|(_, container)| container)
                .collect();
            (
                containers,
                table.processes.values().flatten().cloned().collect(),
            )
        };
        shutdown::kill_all();
        for process in processes {
            process.wait(shutdown::KILL_TIMEOUT);
        }
        for container in containers {
            container.take_down();
        }
        rustix::fs::sync();
    }
}

fn answer(result: Result<(), Error>) -> Reply {
    result.map_or_else(Reply::Error, |()| Reply::Done)
}

/// The descriptors between agent and process.
struct Wiring {
    child: [Arc<OwnedFd>; 3],
    ends: Ends,
    terminal: Option<u32>,
}

impl Wiring {
    fn make(container: &Container, process: &protocol::Process) -> Result<Self, Error> {
        if process.tty {
            Self::terminal(container, process.size)
        } else {
            Self::pipes(process.stdin)
        }
    }

    fn terminal(container: &Container, size: Option<(u16, u16)>) -> Result<Self, Error> {
        let terminal = pty::open(container.devpts(), size)?;
        let (master, slave) = (Arc::new(terminal.master), Arc::new(terminal.slave));
        let sources = vec![Source {
            fd: Arc::clone(&master),
            stderr: false,
        }];
        Ok(Self {
            child: [Arc::clone(&slave), Arc::clone(&slave), slave],
            ends: Ends {
                sources,
                stdin: Some(Arc::clone(&master)),
                terminal: Some(master),
            },
            terminal: Some(terminal.number),
        })
    }

    fn pipes(stdin: bool) -> Result<Self, Error> {
        let doing = || system("making pipes");
        let pipe = || -> rustix::io::Result<_> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            Ok((Arc::new(read), Arc::new(write)))
        };
        // Only the agent's ends don't block: the process's are as any program expects them.
        let unblock = |fd: &OwnedFd| rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK);
        let make = || -> Result<Self, Errno> {
            let ((out, child_out), (err, child_err)) = (pipe()?, pipe()?);
            let (child_in, stdin) = if stdin {
                let (read, write) = pipe()?;
                unblock(&write)?;
                (read, Some(write))
            } else {
                let null = File::open("/dev/null")
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
                (Arc::new(OwnedFd::from(null)), None)
            };
            unblock(&out)?;
            unblock(&err)?;
            let sources = vec![
                Source {
                    fd: out,
                    stderr: false,
                },
                Source {
                    fd: err,
                    stderr: true,
                },
            ];
            let ends = Ends {
                sources,
                stdin,
                terminal: None,
            };
            Ok(Self {
                child: [child_in, child_out, child_err],
                ends,
                terminal: None,
            })
        };
        make().map_err(doing())
    }
}
