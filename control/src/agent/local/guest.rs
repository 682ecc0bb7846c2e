//! Conversations with the guest of one microVM ([`hearth_guest_protocol`]), through its monitor's socket.

use std::path::PathBuf;

use hearth_guest_protocol as protocol;
use protocol::{AGENT_PORT, Acknowledge, FrameError, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read at a time: one full output frame.
const READ_BUFFER: usize = protocol::OUTPUT_CHUNK + 64;

/// Why a guest did not do something.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The connection, or the microVM, is gone or talks nonsense.
    #[error("the microVM does not answer: {0}")]
    Connection(#[from] FrameError),
    /// The guest said no.
    #[error(transparent)]
    Refused(#[from] protocol::Error),
}

impl From<std::io::Error> for GuestError {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// The way to a guest.
#[derive(Debug, Clone)]
pub struct Guest {
    socket: PathBuf,
}

impl Guest {
    /// Through the monitor's socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Opens a connection and makes a request. Waits for as long as the guest boots.
    pub async fn open(&self, request: &Request) -> Result<Conversation, GuestError> {
        let frame = protocol::encode(request)?;
        let stream = UnixStream::connect(&self.socket).await?;
        let (reader, mut writer) = stream.into_split();
        let mut first = AGENT_PORT.to_le_bytes().to_vec();
        first.extend_from_slice(&frame);
        writer.write_all(&first).await?;
        Ok(Conversation {
            reader: BufReader::with_capacity(READ_BUFFER, reader),
            writer,
        })
    }

    /// A request that is answered with one reply.
    pub async fn ask(&self, request: &Request) -> Result<Reply, GuestError> {
        self.open(request).await?.reply().await
    }
}

/// One connection to a guest.
pub struct Conversation {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Conversation {
    /// The next reply; None where the guest has closed the connection. Not to be abandoned half way.
    pub async fn next(&mut self) -> Result<Option<Reply>, FrameError> {
        if tokio::io::AsyncBufReadExt::fill_buf(&mut self.reader)
            .await?
            .is_empty()
        {
            return Ok(None);
        }
        let mut header = [0; 4];
        self.reader.read_exact(&mut header).await?;
        let length = protocol::body_length::<Reply>(header)?;
        // Grows with what really arrives: a guest may claim anything.
        let mut body = Vec::new();
        (&mut self.reader)
            .take(length as u64)
            .read_to_end(&mut body)
            .await?;
        if body.len() < length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        match protocol::decode(&body)? {
            // Queues count pieces of output: none is larger than agreed.
            Reply::Output(output) if output.data.len() > protocol::OUTPUT_CHUNK => {
                let (length, limit) = (output.data.len(), protocol::OUTPUT_CHUNK);
                Err(FrameError::TooLarge { length, limit })
            }
            reply => Ok(Some(reply)),
        }
    }

    /// The next reply, which has to come, and to be no refusal.
    pub async fn reply(&mut self) -> Result<Reply, GuestError> {
        match self.next().await? {
            Some(Reply::Error(refusal)) => Err(refusal.into()),
            Some(reply) => Ok(reply),
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Tell the guest what it need not keep.
    pub async fn acknowledge(&mut self, offset: u64) -> Result<(), GuestError> {
        Ok(self
            .writer
            .write_all(&protocol::encode(&Acknowledge { offset })?)
            .await?)
    }

    /// Send stdin. After [`Request::Input`] only.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), GuestError> {
        Ok(self.writer.write_all(data).await?)
    }

    /// The end of stdin.
    pub async fn finish(&mut self) -> Result<(), GuestError> {
        Ok(self.writer.shutdown().await?)
    }
}

/// All that the host makes of what a guest sends before it closes the connection. What it takes it could have said itself.
#[cfg(feature = "fuzzing")]
pub async fn hear_all(sent: Vec<u8>) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return;
    };
    let (reader, writer) = ours.into_split();
    let mut conversation = Conversation {
        reader: BufReader::with_capacity(READ_BUFFER, reader),
        writer,
    };
    let guest = tokio::spawn(async move { theirs.write_all(&sent).await });
    while let Ok(Some(reply)) = conversation.next().await {
        let frame = protocol::encode(&reply).expect("a reply that was read");
        let again: Reply = protocol::decode(&frame[4..]).expect("a reply that was written");
        assert_eq!(again, reply);
    }
    drop(conversation);
    let _ = guest.await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Output;

    use super::*;

    /// What the host makes of what a guest sends before it closes the connection.
    fn hear(sent: Vec<u8>) -> Result<Option<Reply>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (reader, writer) = ours.into_split();
            let mut conversation = Conversation {
                reader: BufReader::with_capacity(READ_BUFFER, reader),
                writer,
            };
            tokio::spawn(async move { theirs.write_all(&sent).await });
            conversation.next().await
        })
    }

    #[test]
    fn pieces_of_output_are_as_large_as_agreed_and_no_larger() {
        let output = |length| {
            Reply::Output(Output {
                offset: 0,
                stderr: false,
                data: vec![0; length],
            })
        };
        let full = output(protocol::OUTPUT_CHUNK);
        assert_eq!(hear(protocol::encode(&full).unwrap()).unwrap(), Some(full));
        let more = output(protocol::OUTPUT_CHUNK + 1);
        assert!(matches!(
            hear(protocol::encode(&more).unwrap()),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_frame_that_is_claimed_and_not_sent_is_an_error() {
        let claim = (1u32 << 20).to_le_bytes().to_vec();
        assert!(matches!(hear(claim), Err(FrameError::Io(_))));
        assert!(hear(Vec::new()).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_guest_are_a_reply_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = hear(bytes);
        }
    }
}
