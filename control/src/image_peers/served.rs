//! What other nodes ask for, over the connection between nodes.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use hearth_image::{Error, Part, Store};

use super::{Exports, PART};
use crate::cluster::service;
use crate::peers::{RecvHalf, Refusal, RefusalKind, SendHalf};
use crate::state::{NodeId, encoding};

/// Answers the members of the cluster with parts of this node's images.
pub struct Served {
    exports: Exports,
}

impl Served {
    /// Of a store.
    pub fn new(store: Store) -> Self {
        Self {
            exports: Exports::new(store),
        }
    }

    async fn answer(
        &self,
        from: NodeId,
        part: Part,
        send: &mut SendHalf,
    ) -> Result<(), Option<Refusal>> {
        let answered = tokio::select! {
            answered = self.exports.answer(from, part) => answered,
            _ = send.gone() => return Err(None),
        };
        let mut chunks = answered.map_err(|error| Some(refused(&error)))?;
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                _ = send.gone() => return Err(None),
            };
            match chunk {
                Some(Ok(chunk)) => send.send(chunk).await.map_err(|_| None)?,
                Some(Err(error)) => {
                    return Err(Some(Refusal::new(RefusalKind::Failed, error.to_string())));
                }
                None => return Ok(()),
            }
        }
    }
}

/// Reads which part is wanted: CBOR, of which later versions may have more variants.
pub(super) fn read(first: &[u8]) -> Result<Part, Refusal> {
    encoding::decode(first).map_err(|error| {
        let words = format!("this node doesn't know such a part of an image: {error}");
        Refusal::new(RefusalKind::Malformed, words)
    })
}

fn refused(error: &Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

#[async_trait]
impl service::Part for Served {
    async fn call(&self, _: NodeId, path: &str, _: Bytes) -> Result<Bytes, Refusal> {
        Err(Refusal::unknown(path))
    }

    async fn open(
        &self,
        from: NodeId,
        path: &str,
        first: Bytes,
        mut send: SendHalf,
        receive: RecvHalf,
    ) {
        // Held: a half that is dropped before the other has ended would end that.
        let _receive = receive;
        let answered = match read(&first) {
            _ if path != PART => Err(Some(Refusal::unknown(path))),
            Ok(part) => self.answer(from, part, &mut send).await,
            Err(refusal) => Err(Some(refusal)),
        };
        // Errors: nobody wants to know any more.
        match answered {
            Ok(()) => drop(send.finish()),
            Err(Some(refusal)) => drop(send.fail(&refusal)),
            Err(None) => {}
        }
    }
}
