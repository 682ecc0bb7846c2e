//! A client's conversation with a process over a connection that has stopped being HTTP.
//!
//! With `Upgrade: tcp` the connection is the client's from the 101 on: its bytes are stdin, its half-close is the end of stdin,
//! and the process's output comes back in frames, or raw from a terminal. Without the upgrade the same goes through the bodies of the
//! request and the response.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

use super::answer::{self, Answer, Response};
use super::call::Call;
use super::detach::DetachKeys;
use super::frames;
use crate::agent::{Attached, InputSink, LogStream, Stream};
use crate::api::linger::Lingering;

/// Read from a client at a time, bytes.
const READ_SIZE: usize = 32 << 10;
/// Between the process and the response's body where the connection isn't upgraded, bytes.
const PIPE_SIZE: usize = 64 << 10;
/// How long a client may take to close after us. Closing first, with its bytes unread, would have the kernel send a reset that
/// overtakes the end of the output.
const LINGER: Duration = Duration::from_secs(5);

/// Silence of a client that sends nothing more, before it is asked whether it is still there. A client that was killed looks like one
/// that has closed its half, and often has nobody write to it; its kernel answers the probe with a reset.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(5);

/// How a conversation goes.
pub(super) struct Manner {
    /// The process has a terminal: no frames, and detach keys count.
    pub tty: bool,
    /// The client wants stdout.
    pub stdout: bool,
    /// The client wants stderr.
    pub stderr: bool,
    /// Keys that end the conversation.
    pub detach_keys: Option<DetachKeys>,
    /// Output of before, shown first.
    pub before: Option<LogStream>,
    /// Run once the conversation has ended.
    pub afterwards: Box<dyn FnOnce(Ending) + Send>,
}

/// Why a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The process's output did.
    Output,
    /// The client's connection did.
    Gone,
    /// The client typed the detach keys.
    Detached,
}

/// Answers the request, and has client and process talk.
pub(super) fn begin(call: Call, attached: Attached, manner: Manner) -> Answer {
    let content_type = frames::content_type(manner.tty, call.version);
    let (session, upgrade, body) = call.into_parts();
    let Some(upgrade) = upgrade else {
        return Ok(through_bodies(body, content_type, attached, manner));
    };
    session.set_upgraded(Box::pin(async move {
        match upgrade.await {
            Ok(stream) => match stream.downcast::<TokioIo<Lingering>>() {
                Ok(parts) => {
                    let stream = parts.io.into_inner().into_inner();
                    let broken = broken(stream.get_ref().0);
                    let (reader, writer) = tokio::io::split(stream);
                    // What the client sent right behind its request was read along with it.
                    let reader = io::Cursor::new(parts.read_buf).chain(reader);
                    converse(reader, writer, broken, attached, manner).await;
                }
                Err(_) => error!("an upgraded connection is not the one that was accepted"),
            },
            Err(error) => debug!(%error, "a client went before its connection was upgraded"),
        }
    }));
    let mut response = Response::new(answer::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    // docker's own word behind 101; old clients compare it.
    response
        .extensions_mut()
        .insert(hyper::ext::ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

fn through_bodies(
    body: hyper::body::Incoming,
    content_type: &'static str,
    attached: Attached,
    manner: Manner,
) -> Response {
    let (near, far) = tokio::io::duplex(PIPE_SIZE);
    let input = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    // The conversation ends with the response: hyper drops the body when the client has gone.
    let task = AbortOnDropHandle::new(tokio::spawn(converse(
        input,
        near,
        std::future::pending(),
        attached,
        manner,
    )));
    let output = ReaderStream::with_capacity(far, READ_SIZE).map(move |piece| {
        let _ = &task;
        piece
    });
    answer::stream(content_type, output)
}

/// Returns once the connection has failed: reset, or dead by the keep-alive probes. That nothing more is read from it, which is the usual
/// state of a client without stdin, must not keep it for as long as the process is silent. Waited for only then.
fn broken(stream: &TcpStream) -> impl Future<Output = ()> + Send + use<> {
    let watched = rustix::io::dup(stream)
        .map_err(io::Error::from)
        .and_then(|copy| TcpStream::from_std(copy.into()));
    async move {
        match watched {
            Ok(stream) => {
                if let Err(error) = sockopt::set_tcp_keepidle(&stream, HALF_CLOSED_IDLE) {
                    warn!(%error, "a client that is silent is asked later whether it is there");
                }
                let _ = stream.ready(Interest::ERROR).await;
            }
            Err(error) => {
                warn!(%error, "a client's connection can't be watched");
                std::future::pending().await
            }
        }
    }
}

/// Carries bytes until one side has had enough, or the connection is `broken`.
async fn converse<R, W>(
    mut reader: R,
    mut writer: W,
    broken: impl Future<Output = ()> + Send,
    attached: Attached,
    manner: Manner,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Manner {
        tty,
        stdout,
        stderr,
        detach_keys,
        before,
        afterwards,
    } = manner;
    let Attached { output, input, .. } = attached;
    let ending = {
        let mut talk = pin!(send_output(&mut writer, output, before, |stream, data| {
            let wanted = match stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            };
            wanted.then(|| frames::encode(tty, stream, data))
        }));
        let mut listen = pin!(take_input(&mut reader, input, detach_keys));
        tokio::select! {
            sent = &mut talk => end_of_output(sent),
            heard = &mut listen => match heard {
                Heard::End => tokio::select! {
                    sent = &mut talk => end_of_output(sent),
                    () = broken => Ending::Gone,
                },
                Heard::Gone => Ending::Gone,
                Heard::DetachKeys => Ending::Detached,
            },
        }
    };
    afterwards(ending);
    let close = async {
        writer.shutdown().await?;
        let mut rest = BytesMut::with_capacity(READ_SIZE);
        while reader.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        Ok::<(), io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, close).await {
        debug!(%error, "closing an attached connection");
    }
}

fn end_of_output(sent: io::Result<()>) -> Ending {
    match sent {
        Ok(()) => Ending::Output,
        Err(error) => {
            debug!(%error, "an attached client has gone");
            Ending::Gone
        }
    }
}

async fn send_output<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut output: tokio::sync::mpsc::Receiver<crate::agent::OutputChunk>,
    before: Option<LogStream>,
    encode: impl Fn(Stream, Bytes) -> Option<Bytes>,
) -> io::Result<()> {
    if let Some(mut before) = before {
        while let Some(record) = before.try_next().await? {
            if let Some(bytes) = encode(record.stream, record.data) {
                writer.write_all(&bytes).await?;
            }
        }
        writer.flush().await?;
    }
    while let Some(chunk) = output.recv().await {
        if let Some(bytes) = encode(chunk.stream, chunk.data) {
            writer.write_all(&bytes).await?;
        }
        if output.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}

/// How a client's input ended.
enum Heard {
    /// Properly: the end of stdin.
    End,
    /// The connection broke.
    Gone,
    /// By the detach keys.
    DetachKeys,
}

/// Passes input on. Dropping the sink on return is the end of stdin, where the process's settings say so.
async fn take_input<R: AsyncRead + Unpin>(
    reader: &mut R,
    mut sink: Option<InputSink>,
    mut keys: Option<DetachKeys>,
) -> Heard {
    let mut buffer = BytesMut::with_capacity(READ_SIZE);
    loop {
        buffer.reserve(READ_SIZE);
        let mut piece = match reader.read_buf(&mut buffer).await {
            Ok(0) => return Heard::End,
            Ok(_) => buffer.split().freeze(),
            // The TCP connection was closed in this direction without TLS's farewell: some clients' way to end stdin (docker-py's
            // among them), and a killed client's as well. The next output, or probe, tells which.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Heard::End,
            Err(error) => {
                debug!(%error, "reading from an attached client");
                return Heard::Gone;
            }
        };
        let mut detached = false;
        if let Some(keys) = &mut keys {
            let (passed, complete) = keys.pass(&piece);
            piece = passed.into();
            detached = complete;
        }
        if let Some(to) = &sink
            && !piece.is_empty()
            && to.send(piece).await.is_err()
        {
            // The process has ended or closed its stdin; its output may go on. The rest of the input is read and dropped.
            sink = None;
        }
        if detached {
            return Heard::DetachKeys;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::agent::OutputChunk;

    struct Talk {
        client: DuplexStream,
        output: mpsc::Sender<OutputChunk>,
        input: mpsc::Receiver<Bytes>,
        ending: Arc<Mutex<Option<Ending>>>,
        task: JoinHandle<()>,
    }

    fn talk(tty: bool) -> Talk {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (output, output_end) = mpsc::channel(8);
        let (input_end, input) = mpsc::channel(8);
        let ending = Arc::new(Mutex::new(None));
        let told = Arc::clone(&ending);
        let manner = Manner {
            tty,
            stdout: true,
            stderr: true,
            detach_keys: tty.then(|| DetachKeys::parse(None).unwrap()),
            before: None,
            afterwards: Box::new(move |ending| *told.lock().unwrap() = Some(ending)),
        };
        let (reader, writer) = tokio::io::split(server);
        let attached = Attached {
            output: output_end,
            input: Some(input_end),
            broken: None,
        };
        let task = tokio::spawn(converse(
            reader,
            writer,
            std::future::pending(),
            attached,
            manner,
        ));
        Talk {
            client,
            output,
            input,
            ending,
            task,
        }
    }

    fn chunk(stream: Stream, text: &'static str) -> OutputChunk {
        OutputChunk {
            stream,
            data: Bytes::from_static(text.as_bytes()),
        }
    }

    #[tokio::test]
    async fn a_half_close_ends_stdin_and_output_still_comes() {
        let mut t = talk(false);
        t.client.write_all(b"hello").await.unwrap();
        t.client.shutdown().await.unwrap();
        assert_eq!(t.input.recv().await.unwrap(), "hello");
        assert_eq!(t.input.recv().await, None);
        t.output.send(chunk(Stream::Stderr, "bye")).await.unwrap();
        drop(t.output);
        let mut seen = Vec::new();
        t.client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"\x02\0\0\0\0\0\0\x03bye");
        t.task.await.unwrap();
        assert_eq!(*t.ending.lock().unwrap(), Some(Ending::Output));
    }

    #[tokio::test]
    async fn detach_keys_end_the_conversation_and_not_the_process() {
        let mut t = talk(true);
        t.client.write_all(b"ls\n\x10\x11").await.unwrap();
        let mut seen = Vec::new();
        t.client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(t.input.recv().await.unwrap(), "ls\n");
        assert_eq!(*t.ending.lock().unwrap(), Some(Ending::Detached));
        drop(t.client);
        t.task.await.unwrap();
        assert!(t.output.is_closed());
    }

    #[tokio::test]
    async fn a_reset_is_noticed_while_nothing_is_read_and_a_half_close_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut broken = pin!(broken(&server));
        let (_, mut half) = client.into_split();
        half.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(futures_util::poll!(&mut broken).is_pending());
        // A client that was killed leaves no other sign than its kernel's answer to a probe.
        assert_eq!(sockopt::tcp_keepidle(&server).unwrap(), HALF_CLOSED_IDLE);
        // Nobody reads what is sent: the close of such a socket is a reset.
        server.write_all(b"unread").await.unwrap();
        drop(half);
        broken.await;
    }

    #[tokio::test]
    async fn input_after_the_process_closed_its_stdin_does_not_stop_its_output() {
        let mut t = talk(false);
        drop(t.input);
        t.client.write_all(&[b'x'; 5000]).await.unwrap();
        t.output
            .send(chunk(Stream::Stdout, "still here"))
            .await
            .unwrap();
        drop(t.output);
        t.client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        t.client.read_to_end(&mut seen).await.unwrap();
        assert!(seen.ends_with(b"still here"));
        t.task.await.unwrap();
    }
}
