//! The node that asks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::wire::{Answer, Asked, Opening, Question, Size};
use super::{ASK, OPEN, carry};
use crate::agent::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, Happenings, LogOptions, LogStream,
    NodeInfo, ProcessInfo,
};
use crate::peers::{PeerError, Peers, RecvHalf, SendHalf};
use crate::state::{ContainerId, NodeId, Signal, encoding};

/// An answer comes within this: a signal waits for a container that is being started, and the whole of a writable layer is counted. A node
/// that is gone is noticed far earlier.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// The agent of another node.
pub struct RemoteAgent {
    /// The way.
    pub peers: Peers,
    /// To this node.
    pub node: NodeId,
    /// Where it is, as the cluster's state has it.
    pub address: String,
}

impl RemoteAgent {
    /// What keeps it from answering, for users.
    fn out_of_reach(&self, error: &PeerError) -> AgentError {
        AgentError::OutOfReach {
            node: self.node.to_string(),
            why: error.to_string(),
        }
    }

    /// It has answered something else.
    fn odd(&self) -> AgentError {
        AgentError::Failed {
            doing: format!("asking node {:x}", self.node.0),
            reason: "it has answered something that this node doesn't understand".to_owned(),
        }
    }

    fn write(&self, asked: &impl Asked) -> Result<Bytes, AgentError> {
        let written = encoding::encode(asked).map(Bytes::from);
        written.map_err(|e| failed(&e))
    }

    fn read(&self, answer: &[u8]) -> Result<Answer, AgentError> {
        match encoding::decode(answer) {
            Ok(Answer::Failed { failure }) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.odd()),
        }
    }

    async fn ask<T>(
        &self,
        question: Question,
        take: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, AgentError> {
        let question = self.write(&question)?;
        let answer = self
            .peers
            .call(self.node, &self.address, ASK, question, ANSWER_PATIENCE)
            .await
            .map_err(|e| self.out_of_reach(&e))?;
        take(self.read(&answer)?).ok_or_else(|| self.odd())
    }

    /// Returns whether there is stdin, and the halves.
    async fn open(&self, opening: Opening) -> Result<(bool, SendHalf, RecvHalf), AgentError> {
        let first = self.write(&opening)?;
        let opened = async {
            let opened = self
                .peers
                .open(self.node, &self.address, OPEN, first, ANSWER_PATIENCE);
            let (send, mut receive) = opened.await?;
            let answer = receive.recv().await?;
            Ok((send, receive, answer))
        };
        let opened = timeout(ANSWER_PATIENCE, opened).await.unwrap_or_else(|_| {
            Err(PeerError::TimedOut {
                peer: format!("node {:x}", self.node.0),
                within: ANSWER_PATIENCE,
            })
        });
        let (send, receive, answer) = opened.map_err(|e| self.out_of_reach(&e))?;
        match self.read(&answer.unwrap_or_default())? {
            Answer::Open { input } => Ok((input, send, receive)),
            _ => Err(self.odd()),
        }
    }
}

fn failed(error: &dyn std::error::Error) -> AgentError {
    AgentError::Failed {
        doing: "asking another node".to_owned(),
        reason: error.to_string(),
    }
}

fn done(answer: Answer) -> Option<()> {
    matches!(answer, Answer::Done {}).then_some(())
}

#[async_trait]
impl Agent for RemoteAgent {
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        let container = *id;
        self.ask(Question::Signal { container, signal }, done).await
    }

    async fn resize(&self, id: &ContainerId, rows: u16, columns: u16) -> Result<(), AgentError> {
        let (container, size) = (*id, Size { rows, columns });
        self.ask(Question::Resize { container, size }, done).await
    }

    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, AgentError> {
        let container = *id;
        self.ask(
            Question::WrittenBytes { container },
            |answer| match answer {
                Answer::Bytes { bytes } => Some(bytes),
                _ => None,
            },
        )
        .await
    }

    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Attached, AgentError> {
        let container = *id;
        let (input, send, receive) = self.open(Opening::Attach { container, stdin }).await?;
        Ok(carry::attached(input, send, receive))
    }

    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream, AgentError> {
        let container = *id;
        let (_, send, receive) = self.open(Opening::Logs { container, options }).await?;
        // An error comes with the records, too.
        let _ = send.finish();
        Ok(carry::log(receive))
    }

    async fn happenings(&self) -> Result<Happenings, AgentError> {
        let (_, send, receive) = self.open(Opening::Happenings {}).await?;
        // An error comes with what happens, too.
        let _ = send.finish();
        Ok(carry::happenings(receive))
    }

    async fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        let container = *id;
        self.ask(Question::Processes { container }, |answer| match answer {
            Answer::Processes { processes } => {
                Some(processes.into_iter().map(Into::into).collect())
            }
            _ => None,
        })
        .await
    }

    async fn exec_create(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecId, AgentError> {
        let container = *id;
        let question = Question::ExecCreate { container, spec };
        self.ask(question, |answer| match answer {
            Answer::Exec { exec } => Some(exec),
            _ => None,
        })
        .await
    }

    async fn exec_start(
        &self,
        exec: &ExecId,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, AgentError> {
        let (exec, size) = (
            exec.clone(),
            size.map(|(rows, columns)| Size { rows, columns }),
        );
        let (input, send, receive) = self.open(Opening::ExecStart { exec, size }).await?;
        Ok(carry::attached(input, send, receive))
    }

    async fn exec_resize(&self, exec: &ExecId, rows: u16, columns: u16) -> Result<(), AgentError> {
        let (exec, size) = (exec.clone(), Size { rows, columns });
        self.ask(Question::ExecResize { exec, size }, done).await
    }

    async fn exec_status(&self, exec: &ExecId) -> Result<ExecStatus, AgentError> {
        let exec = exec.clone();
        self.ask(Question::ExecStatus { exec }, |answer| match answer {
            Answer::ExecStatus { status } => Some(status),
            _ => None,
        })
        .await
    }

    /// None, where the node can't be asked.
    async fn execs(&self, id: &ContainerId) -> Vec<ExecId> {
        let container = *id;
        let asked = self.ask(Question::Execs { container }, |answer| match answer {
            Answer::Execs { execs } => Some(execs),
            _ => None,
        });
        asked.await.unwrap_or_else(|error| {
            tracing::warn!(node = format!("{:x}", self.node.0), %error, "asking for execs");
            Vec::new()
        })
    }

    /// No more than its id, where the node can't be asked.
    async fn node(&self) -> NodeInfo {
        let asked = self.ask(Question::Node {}, |answer| match answer {
            Answer::Node { node } => Some(node),
            _ => None,
        });
        asked.await.unwrap_or_else(|error| {
            let name = format!("{:016x}", self.node.0);
            tracing::warn!(node = name, %error, "asking for the node's facts");
            NodeInfo {
                name,
                ..NodeInfo::default()
            }
        })
    }
}
