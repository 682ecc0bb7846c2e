//! One entry of the log, and one write to the disk, for all commands that arrive while the entry before is written.
//!
//! openraft writes entries one after the other and waits for the disk each time, so that a thousand clients would wait for a thousand
//! writes. A command that comes alone waits for nobody.

use openraft::Raft;
use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{ReplicaError, Types};
use crate::state::{Command, Outcome, Refusal, encoding};

/// Commands in one entry: at about 10 µs each to apply, what one of them waits for the others stays below a disk's write.
const COMMANDS_MAX: usize = 256;
/// Bytes in one entry, but for a command that is larger by itself: entries go to other nodes whole.
const BYTES_MAX: usize = 1 << 20;

/// What the state machine said to a command.
pub(crate) type Verdict = Result<Outcome, Refusal>;

/// What an entry holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Batch(pub Vec<Command>);

/// What applying an entry gave, for each of its commands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answers(pub Vec<Verdict>);

struct Proposal {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Verdict, ReplicaError>>,
}

/// Where commands go in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Proposals(mpsc::UnboundedSender<Proposal>);

impl Proposals {
    /// Hands over what is proposed to `raft` until the last clone is gone.
    pub fn to(raft: Raft<Types>) -> Self {
        // Each waits for its answer: there are as many as requests that the API admits, and agents' reports.
        let (sender, proposals) = mpsc::unbounded_channel();
        tokio::spawn(propose_all(raft, proposals));
        Self(sender)
    }

    /// Returns once the command is on disk and applied here.
    pub async fn propose(&self, command: Command) -> Result<Verdict, ReplicaError> {
        let bytes =
            encoding::size(&command).map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal {
            command,
            bytes,
            answer,
        };
        let stopped = || ReplicaError::Unavailable("raft has stopped".into());
        self.0.send(proposal).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

async fn propose_all(raft: Raft<Types>, mut proposals: mpsc::UnboundedReceiver<Proposal>) {
    let mut held = None;
    loop {
        let first = match held.take() {
            Some(proposal) => proposal,
            None => match proposals.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let mut bytes = first.bytes;
        let (mut commands, mut answers) = (vec![first.command], vec![first.answer]);
        while commands.len() < COMMANDS_MAX {
            let Ok(next) = proposals.try_recv() else {
                break;
            };
            bytes += next.bytes;
            if bytes > BYTES_MAX {
                held = Some(next);
                break;
            }
            commands.push(next.command);
            answers.push(next.answer);
        }
        match raft.client_write(Batch(commands)).await {
            Ok(written) => {
                for (answer, verdict) in answers.into_iter().zip(written.data.0) {
                    // Whoever proposed it may have gone: what it did stands.
                    let _ = answer.send(Ok(verdict));
                }
            }
            Err(error) => {
                let why = why(error);
                for answer in answers {
                    let _ = answer.send(Err(ReplicaError::Unavailable(why.clone())));
                }
            }
        }
    }
}

fn why(error: RaftError<u64, ClientWriteError<u64, openraft::BasicNode>>) -> String {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            let leader = forward
                .leader_id
                .map_or_else(|| "nobody".into(), |id| format!("node {id:x}"));
            format!("this node does not lead, {leader} does")
        }
        error => error.to_string(),
    }
}
