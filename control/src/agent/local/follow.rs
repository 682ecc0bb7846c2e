//! A process in a guest, followed to its end over as many connections as that takes.

use std::time::Duration;

use bytes::Bytes;
use hearth_guest_protocol::{Error as Refusal, Exit, Reply, Request};
use tokio_util::sync::CancellationToken;

use super::entry::Run;
use super::guest::{Conversation, Guest, GuestError};

/// Output between two acknowledgements: a quarter of what the guest keeps, so that it never waits for one.
const ACKNOWLEDGE_BYTES: u64 = (hearth_guest_protocol::OUTPUT_WINDOW / 4) as u64;
/// Connections in a row that bring no answer, before a guest that is there is given up. One that answers may drop the line as often as it
/// likes.
const UNANSWERED_MAX: u32 = 5;
/// Between two connections; also how long the end of a monitor may lag behind the end of its connections.
const RECONNECTION_PAUSE: Duration = Duration::from_millis(200);

/// What is told of a process.
pub enum Told {
    /// It has written something: each byte once, in order.
    Output {
        /// Of the first byte, in all it has written.
        offset: u64,
        /// To stderr.
        stderr: bool,
        /// What.
        data: Bytes,
    },
    /// Processes of its container that the kernel has killed for want of memory so far.
    OutOfMemory(u64),
    /// It has ended, and that was its last byte.
    Exited(Exit),
}

/// Follows one process.
pub struct Follower {
    guest: Guest,
    gone: CancellationToken,
    process: String,
    conversation: Conversation,
    /// `Started` has come on this connection, and comes once.
    answered: bool,
    /// Connections without an answer, one after the other.
    unanswered: u32,
    /// Next byte.
    next: u64,
    acknowledged: u64,
}

impl Follower {
    /// `conversation` is the first, which may have been answered already, and begins at the byte `from`.
    pub fn new(run: &Run, process: String, conversation: Conversation, from: u64) -> Self {
        Self {
            guest: run.guest.clone(),
            gone: run.monitor.gone.clone(),
            process,
            conversation,
            answered: false,
            unanswered: 0,
            next: from,
            acknowledged: from,
        }
    }

    /// What comes next. Output that was returned before counts as safe with the caller. None: the process is lost, with its guest or in it.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            match self.hear().await {
                Ok(Some(told)) => return Some(told),
                Err(GuestError::Refused(Refusal::NoSuchProcess(_))) => return None,
                Ok(None) => {}
                Err(error) => tracing::debug!(process = self.process, %error, "guest"),
            }
            if self.unanswered == UNANSWERED_MAX {
                return None;
            }
            tokio::select! {
                () = self.gone.cancelled() => return None,
                () = tokio::time::sleep(RECONNECTION_PAUSE) => {}
            }
            self.unanswered += 1;
            let follow = Request::Follow {
                process: self.process.clone(),
                from: self.next,
            };
            match self.guest.open(&follow).await {
                Ok(conversation) => {
                    self.conversation = conversation;
                    self.answered = false;
                    self.acknowledged = self.next;
                }
                Err(error) => {
                    tracing::warn!(process = self.process, %error, "the guest does not answer");
                }
            }
        }
    }

    /// None: the connection has ended before the process.
    async fn hear(&mut self) -> Result<Option<Told>, GuestError> {
        if self.next - self.acknowledged >= ACKNOWLEDGE_BYTES {
            self.conversation.acknowledge(self.next).await?;
            self.acknowledged = self.next;
        }
        while let Some(reply) = self.conversation.next().await? {
            match reply {
                Reply::Started { .. } if !self.answered => {
                    self.answered = true;
                    self.unanswered = 0;
                }
                Reply::Output(output) => {
                    let known = self.next;
                    if let Some((offset, data)) = unknown(known, output.offset, output.data.into())
                    {
                        self.next = offset + data.len() as u64;
                        return Ok(Some(Told::Output {
                            offset,
                            stderr: output.stderr,
                            data,
                        }));
                    }
                }
                Reply::OutOfMemory { kills } => return Ok(Some(Told::OutOfMemory(kills))),
                Reply::Exited(exit) => return Ok(Some(Told::Exited(exit))),
                Reply::Error(refusal) => return Err(refusal.into()),
                Reply::Started { .. } | Reply::Done | Reply::Processes(_) => {
                    return Err(std::io::Error::other("a reply that nobody has asked for").into());
                }
            }
        }
        Ok(None)
    }
}

/// What lies behind the `known` bytes, and its offset. Counted here: a guest that leaps ahead has nobody follow. None: all of it is here
/// already, should a guest repeat itself, or there can't be so many bytes.
fn unknown(known: u64, offset: u64, data: Bytes) -> Option<(u64, Bytes)> {
    let repeated = usize::try_from(known.saturating_sub(offset)).ok()?;
    let rest = data.len().checked_sub(repeated).filter(|rest| *rest > 0)?;
    known.checked_add(rest as u64)?;
    Some((known, data.slice(repeated..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..300, u64::MAX - 300..=u64::MAX]
    }

    proptest! {
        #[test]
        fn whatever_a_guest_claims_no_byte_is_taken_twice_and_offsets_only_grow(
            known in offsets(), offset in offsets(), data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let length = data.len();
            if let Some((first, rest)) = unknown(known, offset, data.clone().into()) {
                prop_assert!(first >= known && !rest.is_empty());
                prop_assert!(first.checked_add(rest.len() as u64).is_some());
                prop_assert_eq!(&rest[..], &data[length - rest.len()..]);
            } else {
                prop_assert!(length == 0 || offset.checked_add(length as u64).is_none_or(|end| end <= known));
            }
        }
    }
}
