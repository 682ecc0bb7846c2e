//! `docker load`: an archive's images, one after the other.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc::{self, Receiver, Sender},
};

use super::{
    Shared, Store, WAITING_EVENTS,
    build::{self, Building, Plan, Ready, Words, blocking},
    claims::Claim,
    pool,
    record::{Held, LayerRecord},
    remove,
};
use crate::{
    Digest, Error, ImageConfig, ImageId, Loaded, Progress,
    archive::{self, FoundImage, FoundLayer},
    compression::{Compression, compression_of},
};

/// Bytes of a body that are handed on at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Silence in a body after which it's given up. A client that packs while it sends may think for a while, and a line
/// that is gone isn't always told.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Bytes that are taken of a body whose archive was refused already: what a client has under way, not all it has.
const MAX_DRAINED_BYTES: u64 = 256 << 20;

/// Chunks that wait for the thread that takes the archive apart.
const WAITING_CHUNKS: usize = 8;

impl Store {
    /// `docker load`: the body is a tar of `docker save`, of any age, or of an OCI layout, plain or compressed by gzip, zstd, bzip2
    /// or xz.
    ///
    /// The images of the archive must be wholly in it, whatever the store has; only those that the caller has `shown`
    /// to be able to read, and their layers, may be named and left out. Callers bound how many loads go on: each has a thread that
    /// waits for its body, which may be silent for a minute and no longer.
    ///
    /// An archive of several images is loaded image by image; what was loaded before one that fails stays. Each is told in
    /// `loaded` as soon as it is stored, so that the caller knows it though a later one fails, or the future is dropped.
    pub async fn load(
        &self,
        body: impl AsyncRead + Send + Unpin,
        shown: &BTreeSet<ImageId>,
        loaded: &mut Vec<Loaded>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), Error> {
        let (events, receiver) = mpsc::channel(WAITING_EVENTS);
        let work = self.load_telling(body, shown, loaded, events);
        build::relay(work, receiver, progress).await
    }

    async fn load_telling(
        &self,
        body: impl AsyncRead + Send + Unpin,
        shown: &BTreeSet<ImageId>,
        loaded: &mut Vec<Loaded>,
        events: Sender<Progress>,
    ) -> Result<(), Error> {
        let (chunks, receiver) = mpsc::channel(WAITING_CHUNKS);
        let layout = self.shared.layout.clone();
        let reading = pool::thread("image-load", move || {
            let source = ChunkReader {
                chunks: receiver,
                rest: Bytes::new(),
            };
            let spool = archive::spool(source, &layout)?;
            let images = archive::images(&spool)?;
            Ok((spool, images))
        });
        let (fed, read) = tokio::join!(feed(body, chunks, MAX_SILENCE), reading);
        let (spool, images) = match (fed, read) {
            // The archive ended where the body broke off, or before that; what is wrong with the body comes first.
            (Err(err), Err(_)) => return Err(err),
            (_, read) => read?,
        };
        for image in images {
            loaded.push(self.load_image(image, shown, &events).await?);
        }
        // Removing the files may take a moment.
        let work = move || {
            drop(spool);
            Ok(())
        };
        self.shared.pool.run(work).await
    }

    async fn load_image(
        &self,
        found: FoundImage,
        shown: &BTreeSet<ImageId>,
        events: &Sender<Progress>,
    ) -> Result<Loaded, Error> {
        let name = found
            .tags
            .first()
            .map_or("the image".to_owned(), |tag| tag.familiar());
        let (id, config) = build::read_config(&found.config_json, &name)?;
        let tags = found.tags.clone();
        let claim = self.shared.claims.claim(id.digest());
        if shown.contains(&id) && self.shared.held(&id).is_some() {
            return Ok(Loaded { id, tags });
        }
        if config.rootfs.diff_ids.len() != found.layers.len() {
            return Err(Error::malformed(
                format!("image {name}"),
                format!(
                    "its config has {} layers and the archive {}",
                    config.rootfs.diff_ids.len(),
                    found.layers.len()
                ),
            ));
        }
        let (found_layers, _kept) = self.find_layers(&name, &config, found.layers, shown)?;
        let layers: Vec<LayerRecord> = found_layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .map(|(layer, diff_id)| LayerRecord {
                digest: layer.digest,
                size_bytes: layer.size_bytes,
                diff_id: *diff_id,
                // Unpacking will see it, or fail.
                seen: true,
            })
            .collect();
        if let Some(held) = self.shared.held(&id) {
            self.prove_found(&layers, &found_layers, &held, events)
                .await?;
            let _whole = claim.lock().await;
            return match self.shared.held(&id) {
                Some(_) => Ok(Loaded { id, tags }),
                None => Err(Error::NoSuchImage { id: id.to_string() }),
            };
        }
        let manifest_json = match found.manifest_json {
            Some(json) => json,
            None => make_manifest(&found.config_json, &layers, &found_layers)?,
        };
        let plan = Plan {
            id,
            config,
            config_json: found.config_json,
            manifest_json,
            layers,
        };
        let built = self
            .unpack_found(id, &plan.layers, &found_layers, events)
            .await?;

        let _committing = claim.lock().await;
        if self.shared.held(&id).is_some() {
            return Ok(Loaded { id, tags });
        }
        // While a claim lives, nobody removes the layer.
        let digests: Vec<Digest> = plan.layers.iter().map(|layer| layer.digest).collect();
        let claims: Vec<_> = digests
            .iter()
            .map(|layer| self.shared.claims.claim(layer))
            .collect();
        let shared = self.shared.clone();
        let work = move || {
            if shared.options.keep_layers {
                keep_layers(&shared, &found_layers)?;
            }
            build::commit(&shared, plan, built)
        };
        let committed = self.shared.pool.run(work).await;
        drop(claims);
        if committed.is_err() {
            let shared = self.shared.clone();
            blocking(move || {
                remove::drop_unneeded(&shared, &digests);
                Ok(())
            })
            .await?;
        }
        committed.map(|()| Loaded { id, tags })
    }

    /// Each layer's file: the archive's, or that of an image which the caller has shown to be able to read, with claims
    /// on those.
    fn find_layers(
        &self,
        name: &str,
        config: &ImageConfig,
        found: Vec<Option<FoundLayer>>,
        shown: &BTreeSet<ImageId>,
    ) -> Result<(Vec<FoundLayer>, Vec<Claim>), Error> {
        let mut claims = Vec::new();
        let mut kept = |diff_id| {
            let known = self.shared.layer_of(shown, diff_id)?;
            claims.push(self.shared.claims.claim(&known.digest));
            let path = self.shared.layout.blob(&known.digest);
            path.exists().then_some(FoundLayer {
                path,
                digest: known.digest,
                size_bytes: known.size_bytes,
                // What lay on the disk for a while is hashed again.
                verified: false,
            })
        };
        let layers = found
            .into_iter()
            .zip(&config.rootfs.diff_ids)
            .map(|(layer, diff_id)| {
                layer.or_else(|| kept(diff_id)).ok_or_else(|| {
                    Error::malformed(
                        format!("image {name}"),
                        format!(
                            "its layer {diff_id} is missing in the archive, and in the images that are here"
                        ),
                    )
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok((layers, claims))
    }

    async fn unpack_found(
        &self,
        id: ImageId,
        layers: &[LayerRecord],
        found: &[FoundLayer],
        events: &Sender<Progress>,
    ) -> Result<build::Built, Error> {
        let shared = &self.shared;
        let mut building = Building::begin(shared, Words::Load, events.clone())?;
        for (record, found) in layers.iter().zip(found) {
            let layer = found.open(record.diff_id)?;
            let short_id = Some(record.diff_id.short());
            building = building.add(shared, Ready { layer, short_id }).await?;
        }
        building.finish(shared, id).await
    }

    /// The store has the image, from somebody else: the archive must have all of it too.
    async fn prove_found(
        &self,
        layers: &[LayerRecord],
        found: &[FoundLayer],
        held: &Held,
        events: &Sender<Progress>,
    ) -> Result<(), Error> {
        for ((record, found), known) in layers.iter().zip(found).zip(&held.record.layers) {
            // It was hashed while it was put aside.
            if record.digest != known.digest || !known.seen {
                let layer = found.open(record.diff_id)?;
                build::verify(&self.shared, layer, events.clone()).await?;
            }
        }
        Ok(())
    }
}

/// Moves layers from where they were put aside to where they stay. They are on the same file system.
fn keep_layers(shared: &Shared, layers: &[FoundLayer]) -> Result<(), Error> {
    for layer in layers {
        let path = shared.layout.blob(&layer.digest);
        if !path.exists() {
            shared.layout.keep_copy(&layer.path, &path)?;
        }
    }
    Ok(())
}

fn make_manifest(
    config_json: &[u8],
    layers: &[LayerRecord],
    found: &[FoundLayer],
) -> Result<Vec<u8>, Error> {
    let typed = layers
        .iter()
        .zip(found)
        .map(|(layer, found)| Ok((layer.clone(), media_type(&found.path)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(build::make_manifest(config_json, &typed))
}

fn media_type(layer: &Path) -> Result<&'static str, Error> {
    Ok(match compression_of(layer)? {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        // No specification has one; this is what tools write.
        Compression::Bzip2 => "application/vnd.oci.image.layer.v1.tar+bzip2",
        Compression::Xz => "application/vnd.oci.image.layer.v1.tar+xz",
    })
}

/// Hands the body on until it ends or nobody wants more.
async fn feed(
    mut body: impl AsyncRead + Send + Unpin,
    chunks: Sender<io::Result<Bytes>>,
    max_silence: Duration,
) -> Result<(), Error> {
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        let read = tokio::time::timeout(max_silence, body.read_buf(&mut chunk)).await;
        match read.unwrap_or_else(|_| Err(silence(max_silence))) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                if chunks.send(Ok(chunk.freeze())).await.is_err() {
                    return drain(body, max_silence).await;
                }
            }
            Err(err) => {
                let told = io::Error::new(err.kind(), err.to_string());
                let _ = chunks.send(Err(told)).await;
                return Err(Error::malformed(
                    "image archive",
                    format!("sending it failed: {err}"),
                ));
            }
        }
    }
}

/// Takes what a client still sends, so that it gets to read our answer rather than a broken pipe.
async fn drain(
    mut body: impl AsyncRead + Send + Unpin,
    max_silence: Duration,
) -> Result<(), Error> {
    let mut sink = vec![0; CHUNK_BYTES];
    let mut left = MAX_DRAINED_BYTES;
    while left > 0 {
        match tokio::time::timeout(max_silence, body.read(&mut sink)).await {
            Ok(Ok(count @ 1..)) => left = left.saturating_sub(count as u64),
            _ => break,
        }
    }
    Ok(())
}

fn silence(max: Duration) -> io::Error {
    let reason = format!("nothing came for {} s", max.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

/// The body, for a thread that may block.
struct ChunkReader {
    chunks: Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_silent_for_too_long_is_given_up() {
        let (_open, body) = tokio::io::duplex(16);
        let (chunks, mut receiver) = mpsc::channel(WAITING_CHUNKS);
        let err = feed(body, chunks, Duration::from_millis(1)).await;
        assert!(err.unwrap_err().to_string().contains("nothing came for"));
        let told = receiver.recv().await.unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
        assert!(receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_refused_body_is_taken_for_a_bounded_while() {
        let (chunks, receiver) = mpsc::channel(WAITING_CHUNKS);
        drop(receiver);
        let endless = tokio::io::repeat(0);
        feed(endless, chunks, MAX_SILENCE).await.unwrap();
    }
}
