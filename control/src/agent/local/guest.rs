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
        let mut body = vec![0; protocol::body_length(header)?];
        self.reader.read_exact(&mut body).await?;
        Ok(Some(protocol::decode(&body)?))
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
