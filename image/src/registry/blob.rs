//! Fetching a layer, with as many requests as it takes.

use std::{fs::File, io::SeekFrom, time::Duration};

use futures_util::StreamExt;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncSeekExt, AsyncWriteExt, BufWriter},
    sync::mpsc::Sender,
};

use super::Registry;
use crate::{Digest, Error, LayerState, Progress};

/// Requests in a row that bring not one byte before a layer is given up.
const MAX_FRUITLESS_REQUESTS: u32 = 5;

/// Requests for one layer in all. A line that drops after each megabyte gets a common layer through.
const MAX_REQUESTS: u32 = 200;

/// Pause after a request that failed; doubled with each fruitless one.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 512 << 10;

/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 512 << 10;

/// A blob that is wanted.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// How progress names it.
    pub(crate) short_id: String,
    pub(crate) events: Sender<Progress>,
}

impl Fetch {
    async fn tell(&self, state: LayerState) {
        // Nobody listens: the blob is wanted all the same.
        let _ = self
            .events
            .send(Progress::Layer {
                id: self.short_id.clone(),
                state,
            })
            .await;
    }
}

/// What came so far.
struct Partial {
    file: BufWriter<tokio::fs::File>,
    hasher: Sha256,
    received: u64,
    reported: u64,
}

impl Partial {
    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        self.file.get_ref().set_len(0).await?;
        self.hasher = Sha256::new();
        self.received = 0;
        self.reported = 0;
        Ok(())
    }
}

/// How a request went wrong.
enum Failure {
    /// Another may go better.
    Passing(Error),
    Final(Error),
}

impl Registry {
    /// Writes a verified blob to `file`.
    pub(crate) async fn fetch_blob(&self, fetch: &Fetch, file: File) -> Result<(), Error> {
        let mut partial = Partial {
            file: BufWriter::with_capacity(WRITE_BYTES, tokio::fs::File::from_std(file)),
            hasher: Sha256::new(),
            received: 0,
            reported: 0,
        };
        let mut resumed = false;
        let mut fruitless = 0;
        for _ in 0..MAX_REQUESTS {
            let before = partial.received;
            resumed |= before > 0;
            match self.fetch_more(fetch, &mut partial).await {
                Ok(()) => {
                    fetch.tell(LayerState::VerifyingChecksum).await;
                    let actual = Digest::finish(std::mem::take(&mut partial.hasher));
                    if actual == fetch.digest {
                        partial
                            .file
                            .flush()
                            .await
                            .map_err(Error::io("writing a layer"))?;
                        fetch.tell(LayerState::DownloadComplete).await;
                        return Ok(());
                    }
                    if !resumed {
                        return Err(Error::DigestMismatch {
                            what: "layer".to_owned(),
                            expected: fetch.digest.to_string(),
                            actual: actual.to_string(),
                        });
                    }
                    // Perhaps the parts were not of one thing: once more in one piece.
                    resumed = false;
                    partial
                        .restart()
                        .await
                        .map_err(Error::io("writing a layer"))?;
                }
                Err(Failure::Final(err)) => return Err(err),
                Err(Failure::Passing(err)) => {
                    fruitless = if partial.received > before {
                        0
                    } else {
                        fruitless + 1
                    };
                    tracing::debug!(layer = %fetch.digest, received = partial.received, %err, "layer interrupted");
                    if fruitless >= MAX_FRUITLESS_REQUESTS {
                        return Err(err);
                    }
                    tokio::time::sleep(RETRY_PAUSE * (1 << fruitless)).await;
                }
            }
        }
        Err(Error::Unreachable {
            registry: self.name().to_owned(),
            reason: format!("the connection dropped {MAX_REQUESTS} times in one layer"),
        })
    }

    /// One request, from where the last one ended.
    async fn fetch_more(&self, fetch: &Fetch, partial: &mut Partial) -> Result<(), Failure> {
        if partial.received == fetch.size_bytes && partial.received > 0 {
            return Ok(());
        }
        let response = self
            .get(&format!("blobs/{}", fetch.digest), None, partial.received)
            .await
            .map_err(|err| match err {
                Error::Unreachable { .. } => Failure::Passing(err),
                err => Failure::Final(err),
            })?;
        let write = |err| Failure::Final(Error::io("writing a layer")(err));
        match response.status() {
            // A registry that knows no ranges begins again.
            StatusCode::OK if partial.received > 0 => partial.restart().await.map_err(write)?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if starts_at(&response, partial.received) => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(Failure::Final(
                    self.broken("it sent another part than was asked for"),
                ));
            }
            status => {
                let err = self.blob_refused(response, &fetch.digest).await;
                let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                return Err(if passing {
                    Failure::Passing(err)
                } else {
                    Failure::Final(err)
                });
            }
        }
        // OCI distribution specification, "Pulling blobs": a range may be asked for, and the digest is the client's to check.
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|err| Failure::Passing(self.unreachable(&err)))?;
            let received = partial.received + chunk.len() as u64;
            if received > fetch.size_bytes {
                return Err(Failure::Final(Error::DigestMismatch {
                    what: "layer".to_owned(),
                    expected: format!("{} of {} bytes", fetch.digest, fetch.size_bytes),
                    actual: "more bytes".to_owned(),
                }));
            }
            partial.hasher.update(&chunk);
            partial.file.write_all(&chunk).await.map_err(write)?;
            partial.received = received;
            if received >= partial.reported + REPORT_BYTES {
                partial.reported = received;
                let total = fetch.size_bytes;
                fetch
                    .tell(LayerState::Downloading {
                        current: received,
                        total,
                    })
                    .await;
            }
        }
        if partial.received < fetch.size_bytes {
            return Err(Failure::Passing(Error::Unreachable {
                registry: self.name().to_owned(),
                reason: format!(
                    "the connection ended after {} of {} bytes",
                    partial.received, fetch.size_bytes
                ),
            }));
        }
        Ok(())
    }

    /// As [`Registry::refused`], for a blob that a manifest has promised.
    pub(super) async fn blob_refused(&self, response: Response, digest: &Digest) -> Error {
        match self.refused(response).await {
            Error::NotFound { .. } => self.broken(format!(
                "its manifest names the blob {digest}, which it doesn't have"
            )),
            err => err,
        }
    }
}

/// Whether `Content-Range: bytes <from>-<to>/<size>` is about what was asked for.
fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .and_then(|(start, _)| start.trim().parse::<u64>().ok());
    start == Some(offset)
}
