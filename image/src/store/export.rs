//! Handing out parts of images to other stores.

use std::{fs, fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, Stream},
};

use super::{Shared, Store, build::blocking};
use crate::{
    CHUNK_BYTES, Chunks, Digest, Error, ImageId, Part, Source, SourceError,
    exchange::{description, packed},
    pieces::PIECE_BYTES,
};

/// Pieces of one stream that are being made ready or wait to be sent: one is packed while the one before leaves.
const AHEAD: usize = 2;

impl Store {
    /// A part of an image that this store has, for another store. Whoever calls this knows who asks, and bounds how many streams there
    /// are: each holds up to 8 MiB.
    ///
    /// An image that is removed meanwhile ends no stream.
    pub async fn export(&self, part: Part) -> Result<Chunks, Error> {
        match part {
            Part::Description { image } => self.export_description(image).await,
            Part::Root { image, root, from } => self.export_root(image, root, from).await,
            Part::Layer { image, digest } => self.export_layer(image, digest).await,
        }
    }

    async fn export_description(&self, image: ImageId) -> Result<Chunks, Error> {
        let pieces = self.pieces(&image).await?;
        let (record, shared) = (self.expect(&image)?.record, self.shared.clone());
        let document = blocking(move || {
            let read = |digest: &Digest| {
                fs::read(shared.layout.blob(digest)).map_err(Error::io("reading a document"))
            };
            let (config, manifest) = (read(image.digest())?, read(&record.manifest)?);
            let layers = &record.layers;
            Ok(description::to_bytes(layers, &config, &manifest, &pieces))
        });
        Ok(chunks(document.await?).boxed())
    }

    async fn export_root(&self, image: ImageId, root: Digest, from: u32) -> Result<Chunks, Error> {
        let pieces = self.pieces(&image).await?;
        if pieces.root() != root {
            return Err(Error::DigestMismatch {
                what: format!("the root file system of image {image}"),
                expected: root.to_string(),
                actual: pieces.root().to_string(),
            });
        }
        let shared = self.shared.clone();
        let file = Arc::new(blocking(move || shared.open_root(&image)).await?);
        let pieces = Arc::new(pieces);
        let first = pieces.next(from as usize);
        let wanted = {
            let pieces = pieces.clone();
            std::iter::successors(first, move |&piece| pieces.next(piece + 1))
        };
        let shared = self.shared.clone();
        let packing = wanted.map(move |piece| {
            let (file, pieces) = (file.clone(), pieces.clone());
            read(&shared, move || packed::pack(&file, &pieces, piece))
        });
        Ok(sending(packing))
    }

    async fn export_layer(&self, image: ImageId, digest: Digest) -> Result<Chunks, Error> {
        let held = self.expect(&image)?;
        let layer = held
            .record
            .layers
            .iter()
            .find(|layer| layer.digest == digest);
        let missing = move || Error::NotFound {
            reference: format!("{image}, layer {digest}"),
        };
        let size_bytes = layer.ok_or_else(missing)?.size_bytes;
        let path = self.shared.layout.blob(&digest);
        let file = blocking(move || File::open(path).map_err(|_| missing()));
        let file = Arc::new(file.await?);
        let shared = self.shared.clone();
        let starts = (0..size_bytes).step_by(PIECE_BYTES as usize);
        let reading = starts.map(move |start| {
            let file = file.clone();
            let length = PIECE_BYTES.min(size_bytes - start);
            read(&shared, move || {
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            })
        });
        Ok(sending(reading))
    }
}

/// A store asks itself, or one in the same process.
impl Source for Store {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
        let exported = self.export(part);
        async move { exported.await.map_err(|err| SourceError(err.to_string())) }.boxed()
    }
}

type Reading = BoxFuture<'static, Result<Bytes, SourceError>>;

fn read(
    shared: &Arc<Shared>,
    work: impl FnOnce() -> std::io::Result<Bytes> + Send + 'static,
) -> Reading {
    let shared = shared.clone();
    async move {
        let work = move || work().map_err(Error::io("reading a part of an image"));
        let read = shared.transfers.run(work).await;
        read.map_err(|err| SourceError(err.to_string()))
    }
    .boxed()
}

fn sending(readings: impl Iterator<Item = Reading> + Send + 'static) -> Chunks {
    stream::iter(readings)
        .buffered(AHEAD)
        .map_ok(chunks)
        .try_flatten()
        .boxed()
}

fn chunks(mut bytes: Bytes) -> impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static {
    let chunks = std::iter::from_fn(move || {
        let chunk = bytes.split_to(CHUNK_BYTES.min(bytes.len()));
        (!chunk.is_empty()).then_some(Ok(chunk))
    });
    stream::iter(chunks)
}
