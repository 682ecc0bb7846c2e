//! Streams of a process between two nodes: its output in order, and stdin with an end of its own.
//!
//! A client that goes is told to the process's node at once, so that nobody waits for it there: its output is dropped. What it had said
//! before, and the end of that, is still passed on, as if it were on the same node.

use std::pin::pin;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::wire::{self, DATA_MAX, Output};
use crate::agent::{
    AgentError, Attached, Happenings, InputSink, LogRecord, LogStream, OutputChunk,
};
use crate::peers::{FRAME_MAX, PeerError, RecvHalf, Refusal, RefusalKind, SendHalf};
use crate::state::encoding;

/// Pieces that wait for a client, or for the way to the other node. Each is at most a frame.
const QUEUE: usize = 16;

/// The process's node: until its output has ended, or its client is gone and all that it had said is passed on.
pub async fn serve(attached: Attached, mut send: SendHalf, mut receive: RecvHalf) {
    let Attached {
        mut output, input, ..
    } = attached;
    let (taken, mut is_taken) = oneshot::channel();
    let talk = async move {
        let mut told = false;
        loop {
            let output = tokio::select! {
                chunk = output.recv() => match chunk {
                    Some(chunk) => Output::from(chunk),
                    // An error: the client is gone as well.
                    None => return send.finish().is_ok(),
                },
                taken = &mut is_taken, if !told => {
                    told = true;
                    match taken {
                        Ok(()) => Output::InputTaken,
                        Err(_) => continue,
                    }
                }
                _ = send.gone() => return false,
            };
            if say(&mut send, output).await.is_err() {
                return false;
            }
        }
    };
    let listen = async move {
        let mut input = input;
        loop {
            match receive.recv().await {
                Ok(Some(data)) => {
                    if let Some(sink) = &input
                        && sink.send(data).await.is_err()
                    {
                        // The process has ended or closed its stdin. The rest is read and dropped.
                        input = None;
                    }
                }
                Ok(None) => {
                    drop(input);
                    // An error: nobody is left to be told.
                    let _ = taken.send(());
                    // Held: a half that is dropped before the other has ended would end that.
                    return receive;
                }
                Err(_) => return receive,
            }
        }
    };
    let (mut talk, mut listen) = (pin!(talk), pin!(listen));
    tokio::select! {
        finished = &mut talk => if !finished {
            listen.await;
        },
        _receive = &mut listen => {
            talk.await;
        }
    }
}

async fn say(send: &mut SendHalf, output: Output) -> Result<(), PeerError> {
    let head = output.head();
    let mut data = match output {
        Output::Chunk(_, data) => data,
        Output::InputTaken => Bytes::new(),
    };
    loop {
        let piece = data.split_to(data.len().min(DATA_MAX));
        send.feed(&head, piece).await?;
        if data.is_empty() {
            return send.flush().await;
        }
    }
}

/// The client's node: what is behind an [`Attached`].
pub fn attached(input: bool, send: SendHalf, receive: RecvHalf) -> Attached {
    let (to, output) = mpsc::channel(QUEUE);
    let (input, from): (Option<InputSink>, _) = input.then(|| mpsc::channel(QUEUE)).unzip();
    let (broken, told) = oneshot::channel();
    // Ends with the output, or with its client.
    tokio::spawn(async move {
        let mut listen = pin!(listen(receive, &to, from.is_some()));
        let mut speak = pin!(speak(send, from));
        let ended = tokio::select! {
            ended = &mut listen => ended,
            // Finished, or there is nobody any more who listens to it.
            () = &mut speak => listen.await,
        };
        if let Err(error) = ended {
            // An error: nobody wants to know.
            let _ = broken.send(error);
        }
    });
    Attached {
        output,
        input,
        broken: Some(told),
    }
}

/// Until the output's end; or until its client is gone, and all that it had said has come through.
async fn listen(
    mut receive: RecvHalf,
    to: &mpsc::Sender<OutputChunk>,
    speaks: bool,
) -> Result<(), AgentError> {
    let (mut is_wanted, mut is_taken) = (true, !speaks);
    while is_wanted || !is_taken {
        let frame = tokio::select! {
            frame = receive.recv() => frame.map_err(|e| lost(&e))?,
            () = to.closed(), if is_wanted => {
                is_wanted = false;
                continue;
            }
        };
        let Some(frame) = frame else {
            return Ok(());
        };
        match Output::read(frame).map_err(|e| lost(&e))? {
            Output::InputTaken => is_taken = true,
            Output::Chunk(stream, data) => {
                is_wanted &= to.send(OutputChunk { stream, data }).await.is_ok();
            }
        }
    }
    Ok(())
}

/// Until the client has said all, or nobody listens any more.
async fn speak(mut send: SendHalf, from: Option<mpsc::Receiver<Bytes>>) {
    let said = async {
        if let Some(mut from) = from {
            while let Some(mut data) = from.recv().await {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(DATA_MAX));
                    send.send(piece).await?;
                }
            }
        }
        send.finish()
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "stdin of a process on another node");
    }
}

fn lost(error: &dyn std::error::Error) -> AgentError {
    AgentError::Failed {
        doing: "the output is incomplete".to_owned(),
        reason: error.to_string(),
    }
}

/// The container's node: until the log's end, or its reader's.
pub async fn serve_log(mut log: LogStream, mut send: SendHalf, receive: RecvHalf) {
    // Held until this side has finished: a half that is dropped before ends both.
    let _receive = receive;
    loop {
        let record = match log.next().now_or_never() {
            Some(record) => record,
            None => {
                // Those that are there leave together.
                if send.flush().await.is_err() {
                    return;
                }
                tokio::select! {
                    record = log.next() => record,
                    _ = send.gone() => return,
                }
            }
        };
        let given = match record {
            Some(Ok(record)) => give(&mut send, record).await,
            Some(Err(error)) => return end(send, Err(error)),
            None => return end(send, Ok(())),
        };
        if given.is_err() {
            return;
        }
    }
}

/// What was told is whole, or isn't. Errors: nobody reads it any more.
fn end(send: SendHalf, told: std::io::Result<()>) {
    let _ = match told {
        Ok(()) => send.finish(),
        Err(error) => send.fail(&Refusal::new(RefusalKind::Failed, error.to_string())),
    };
}

async fn give(send: &mut SendHalf, record: LogRecord) -> Result<(), PeerError> {
    let head = wire::record_head(&record);
    let mut data = record.data;
    loop {
        let piece = data.split_to(data.len().min(DATA_MAX));
        send.feed(&head, piece).await?;
        if data.is_empty() {
            return Ok(());
        }
    }
}

/// The reader's node.
pub fn log(receive: RecvHalf) -> LogStream {
    let records = futures_util::stream::unfold(Some(receive), |receive| async {
        let mut receive = receive?;
        let record = match receive.recv().await {
            Ok(None) => return None,
            Ok(Some(frame)) => wire::read_record(frame).map_err(std::io::Error::other),
            Err(error) => Err(std::io::Error::other(error)),
        };
        let more = record.is_ok().then_some(receive);
        Some((record, more))
    });
    Box::pin(records)
}

/// The node where things happen: until its control ends, or nobody listens any more.
pub async fn serve_happenings(mut all: Happenings, mut send: SendHalf, receive: RecvHalf) {
    let _receive = receive;
    loop {
        let happening = tokio::select! {
            happening = all.next() => happening,
            _ = send.gone() => return,
        };
        let told = match happening {
            Some(Ok(happening)) => match encoding::encode(&happening) {
                Ok(frame) if frame.len() <= FRAME_MAX => send.send(frame.into()).await,
                // A command line that is too long: whoever asks on its own node sees it.
                _ => continue,
            },
            Some(Err(error)) => return end(send, Err(error)),
            None => return end(send, Ok(())),
        };
        if told.is_err() {
            return;
        }
    }
}

/// The node that listens.
pub fn happenings(receive: RecvHalf) -> Happenings {
    let all = futures_util::stream::unfold(Some(receive), |receive| async {
        let mut receive = receive?;
        loop {
            match receive.recv().await {
                Ok(None) => return None,
                Ok(Some(frame)) => {
                    // What only a later version knows has no word here.
                    if let Ok(happening) = encoding::decode(&frame) {
                        return Some((Ok(happening), Some(receive)));
                    }
                }
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            }
        }
    });
    Box::pin(all)
}
