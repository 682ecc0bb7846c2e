//! An agent that is asked over the wire does as if it were asked at home.

mod process;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::*;
use crate::agent::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, Happening, Happenings, LogOptions,
    LogRecord, LogStream, NodeInfo, OutputChunk, ProcessInfo, Stream,
};
use crate::peers::tests::{Pair, TWO, pair, run};
use crate::peers::{RecvHalf, Refusal, SendHalf, Service};
use crate::state::{ContainerId, NodeId, Signal, What};

/// What a test has of a process that a client is attached to.
struct Process {
    output: mpsc::Sender<OutputChunk>,
    input: Option<mpsc::Receiver<Bytes>>,
}

/// An agent whose processes are played by the test.
struct Stage {
    /// Each client that attaches, or starts an exec.
    attached: mpsc::UnboundedSender<Process>,
    /// What it was asked that has no answer but "done".
    asked: Mutex<Vec<String>>,
    execs: Mutex<BTreeMap<ExecId, ExecStatus>>,
}

impl Stage {
    fn attach(&self, stdin: bool) -> Attached {
        // One piece each, so that whoever is slow is noticed.
        let (to, output) = mpsc::channel(1);
        let (input, from) = stdin.then(|| mpsc::channel(1)).unzip();
        let process = Process {
            output: to,
            input: from,
        };
        let _ = self.attached.send(process);
        Attached {
            output,
            input,
            broken: None,
        }
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

fn container(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

#[async_trait]
impl Agent for Stage {
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        if *id != container(1) {
            return Err(AgentError::NotRunning(*id));
        }
        self.note(format!("signal {}", signal.number()));
        Ok(())
    }
    async fn resize(&self, _: &ContainerId, rows: u16, columns: u16) -> Result<(), AgentError> {
        self.note(format!("resize {rows}×{columns}"));
        Ok(())
    }
    async fn written_bytes(&self, _: &ContainerId) -> Result<u64, AgentError> {
        Ok(u64::MAX)
    }
    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Attached, AgentError> {
        if *id != container(1) {
            return Err(AgentError::TooMany {
                container: *id,
                what: "clients".into(),
                limit: 7,
            });
        }
        Ok(self.attach(stdin))
    }
    async fn logs(&self, _: &ContainerId, options: LogOptions) -> Result<LogStream, AgentError> {
        let record = |n: usize| LogRecord {
            at_ns: n as u64,
            stream: if n.is_multiple_of(3) {
                Stream::Stderr
            } else {
                Stream::Stdout
            },
            data: vec![n as u8; n % 5000].into(),
        };
        let lines = futures_util::stream::iter((0..options.tail.unwrap_or(0)).map(record).map(Ok));
        Ok(match options.follow {
            // Broken after its last line.
            true => Box::pin(lines.chain(futures_util::stream::once(async {
                Err(std::io::Error::other("the disk says no"))
            }))),
            false => Box::pin(lines),
        })
    }
    async fn processes(&self, _: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        Ok(vec![process_row()])
    }
    async fn exec_create(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecId, AgentError> {
        let exec = "e".repeat(64);
        let status = ExecStatus {
            id: exec.clone(),
            container: *id,
            spec,
            running: false,
            exit_code: Some(126),
            pid: 3,
        };
        self.execs.lock().unwrap().insert(exec.clone(), status);
        Ok(exec)
    }
    async fn exec_start(
        &self,
        exec: &ExecId,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, AgentError> {
        let status = self.exec_status(exec).await?;
        self.note(format!("start {size:?}"));
        Ok(self.attach(status.spec.stdin))
    }
    async fn exec_resize(&self, exec: &ExecId, _: u16, _: u16) -> Result<(), AgentError> {
        Err(AgentError::ExecStarted(exec.clone()))
    }
    async fn exec_status(&self, exec: &ExecId) -> Result<ExecStatus, AgentError> {
        let execs = self.execs.lock().unwrap();
        let status = execs.get(exec).cloned();
        status.ok_or_else(|| AgentError::NoSuchExec(exec.clone()))
    }
    async fn execs(&self, _: &ContainerId) -> Vec<ExecId> {
        self.execs.lock().unwrap().keys().cloned().collect()
    }
    async fn node(&self) -> NodeInfo {
        NodeInfo {
            name: "two".into(),
            memory_bytes: 7,
            ..NodeInfo::default()
        }
    }
    async fn happenings(&self) -> Result<Happenings, AgentError> {
        let happening = |code| Happening {
            container: container(code),
            what: What::ExecDied {
                exec: "exec".into(),
                code,
            },
            at_ns: code.into(),
        };
        let all = (0..200).map(happening).map(Ok);
        let broken = Err(std::io::Error::other("it was too much"));
        Ok(Box::pin(futures_util::stream::iter(all.chain([broken]))))
    }
}

fn process_row() -> ProcessInfo {
    ProcessInfo {
        uid: 1,
        pid: 2,
        ppid: 3,
        started_ns: 4,
        cpu_ns: 5,
        tty: "pts/0".into(),
        command: "sh".into(),
    }
}

#[async_trait]
impl Service for Stage {
    fn is_for_strangers(&self, _: &str) -> bool {
        false
    }
    async fn call(&self, _: Option<NodeId>, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        match path {
            ASK => call(self, &body).await,
            path => Err(Refusal::unknown(path)),
        }
    }
    async fn open(
        &self,
        _: Option<NodeId>,
        path: &str,
        first: Bytes,
        send: SendHalf,
        receive: RecvHalf,
    ) {
        match path {
            OPEN => open(self, &first, send, receive).await,
            path => drop(send.fail(&Refusal::unknown(path))),
        }
    }
}

struct Theatre {
    remote: RemoteAgent,
    stage: Arc<Stage>,
    attached: mpsc::UnboundedReceiver<Process>,
    pair: Pair,
}

async fn theatre() -> Theatre {
    let (to, attached) = mpsc::unbounded_channel();
    let stage = Arc::new(Stage {
        attached: to,
        asked: Mutex::default(),
        execs: Mutex::default(),
    });
    let pair = pair(Arc::<Stage>::clone(&stage)).await;
    Theatre {
        remote: RemoteAgent {
            peers: pair.one.clone(),
            node: TWO,
            address: pair.address.clone(),
        },
        stage,
        attached,
        pair,
    }
}

fn chunk(stream: Stream, data: impl Into<Bytes>) -> OutputChunk {
    let data = data.into();
    OutputChunk { stream, data }
}

#[test]
fn questions_and_their_answers_are_the_same_as_at_home() {
    run(async {
        let t = theatre().await;
        let id = container(1);
        t.remote.signal(&id, Signal::TERM).await.unwrap();
        t.remote.resize(&id, 24, 80).await.unwrap();
        assert_eq!(
            *t.stage.asked.lock().unwrap(),
            ["signal 15", "resize 24×80"]
        );
        assert_eq!(t.remote.written_bytes(&id).await.unwrap(), u64::MAX);
        assert_eq!(t.remote.processes(&id).await.unwrap(), [process_row()]);
        let spec = ExecSpec {
            args: vec!["sh".into(), "é".into()],
            tty: true,
            ..ExecSpec::default()
        };
        let exec = t.remote.exec_create(&id, spec.clone()).await.unwrap();
        assert_eq!(t.remote.execs(&id).await, [exec.as_str()]);
        let status = t.remote.exec_status(&exec).await.unwrap();
        assert_eq!(status, t.stage.exec_status(&exec).await.unwrap());
        assert_eq!(status.spec, spec);
        assert_eq!(t.remote.node().await, t.stage.node().await);
    });
}

#[test]
fn errors_keep_their_kind() {
    run(async {
        let t = theatre().await;
        let other = container(9);
        let error = t.remote.signal(&other, Signal::KILL).await;
        assert_eq!(error, Err(AgentError::NotRunning(other)));
        let exec = "x".to_owned();
        let error = t.remote.exec_status(&exec).await.unwrap_err();
        assert_eq!(error, AgentError::NoSuchExec(exec.clone()));
        let error = t.remote.exec_resize(&exec, 1, 1).await.unwrap_err();
        assert_eq!(error, AgentError::ExecStarted(exec));
        let error = t.remote.attach(&other, true).await.err().unwrap();
        assert!(
            matches!(&error, AgentError::TooMany { what, limit: 7, .. } if what == "clients"),
            "{error}"
        );
    });
}
