//! Taking an image over from another store, all of it or nothing.
//!
//! Done for the node and nobody else: that the image is here afterwards gives no tenant anything, just as with one that somebody else has
//! pulled.

use std::{fs::File, sync::Arc, time::Duration};

use tempfile::NamedTempFile;
use tokio::sync::OwnedMutexGuard;

use super::{
    Store,
    build::{self, Built, Plan, blocking},
    claims::Claim,
};
use crate::{
    Contents, Error, ImageId, Part, Source,
    erofs::{BLOCK_BYTES, MAX_IMAGE_BYTES},
    exchange::{
        description::Description,
        packed::{self, Head},
        received::{PATIENCE, Received, lied},
    },
    pieces::Pieces,
};

/// An image on its way from other stores. What came and was verified stays when a source fails, and the next goes on where it stopped.
/// Dropped before it is complete, it leaves nothing.
pub struct Import {
    store: Store,
    id: ImageId,
    contents: Contents,
    patience: Duration,
    description: Option<Description>,
    root: Option<Root>,
    /// Nobody removes what is being made.
    claim: Claim,
    /// Others who want the image wait for this.
    _turn: OwnedMutexGuard<()>,
}

/// A root file system that isn't complete.
struct Root {
    temporary: NamedTempFile,
    file: Arc<File>,
    /// All pieces before this one are written, and were verified.
    next: usize,
}

impl Store {
    /// Begins to import an image; `None`: it's here. While another import of the same image goes on, this waits for it.
    ///
    /// `contents` are told by whoever knows them from a node that has built the image ([`Store::contents`]), not by those who are asked for its
    /// bytes.
    pub async fn import(&self, id: &ImageId, contents: &Contents) -> Result<Option<Import>, Error> {
        let turn = self.shared.imports.claim(id.digest()).lock_owned().await;
        if self.shared.held(id).is_some() {
            return Ok(None);
        }
        let root_bytes = contents.root_bytes;
        if root_bytes == 0
            || root_bytes > MAX_IMAGE_BYTES
            || !root_bytes.is_multiple_of(BLOCK_BYTES)
        {
            return Err(Error::malformed(
                format!("contents of image {id}"),
                format!("no root file system has {root_bytes} bytes"),
            ));
        }
        Ok(Some(Import {
            store: self.clone(),
            id: *id,
            contents: *contents,
            patience: PATIENCE,
            description: None,
            root: None,
            claim: self.shared.claims.claim(id.digest()),
            _turn: turn,
        }))
    }
}

impl Import {
    /// Bytes of the root file system that are here, holes included.
    pub fn done_bytes(&self) -> u64 {
        match (&self.description, &self.root) {
            (Some(description), Some(root)) => description
                .pieces
                .range(root.next)
                .start
                .min(self.contents.root_bytes),
            _ => 0,
        }
    }

    /// Takes what is missing from another store, and lists the image. [`Error::SourceFailed`] and [`Error::SourceLied`] are that store's
    /// fault: ask another one. Anything else would be the same with every store.
    ///
    /// `progress` hears how much is done, as [`Import::done_bytes`].
    pub async fn take(
        &mut self,
        source: &dyn Source,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Error> {
        if self.store.shared.held(&self.id).is_some() {
            return Ok(());
        }
        let description = match self.description.take() {
            Some(description) => description,
            None => self.describe(source).await?,
        };
        let description = self.description.insert(description);
        let root = match self.root.take() {
            Some(root) => root,
            None => begin(&self.store, self.contents.root_bytes).await?,
        };
        let root = self.root.insert(root);
        let part = Part::Root {
            image: self.id,
            root: self.contents.root,
            from: root.next as u32,
        };
        let ways = Ways {
            store: &self.store,
            source,
            part,
            patience: self.patience,
        };
        ways.fetch(root, &description.pieces, progress).await?;
        self.list().await
    }

    async fn describe(&self, source: &dyn Source) -> Result<Description, Error> {
        let part = Part::Description { image: self.id };
        let mut received = Received::of(source, part, self.patience).await?;
        let described = Description::receive(&mut received, &self.id, &self.contents);
        let mut description = described.await?;
        for layer in &mut description.layers {
            layer.seen = self.store.shared.has_seen(&layer.digest, &layer.diff_id);
        }
        Ok(description)
    }

    async fn list(&mut self) -> Result<(), Error> {
        let committing = self.claim.clone().lock_owned().await;
        let shared = self.store.shared.clone();
        if shared.held(&self.id).is_some() {
            return Ok(());
        }
        // Where this fails, the next source begins anew.
        let (Some(description), Some(root)) = (self.description.take(), self.root.take()) else {
            return Err(Error::Cancelled);
        };
        let plan = Plan {
            id: self.id,
            config: description.config,
            config_json: description.config_json,
            manifest_json: description.manifest_json,
            layers: description.layers,
        };
        let built = Built {
            root: root.temporary,
            pieces: description.pieces,
            size_bytes: self.contents.size_bytes,
        };
        let work = move || {
            let _committing = committing;
            build::commit(&shared, plan, built)
        };
        self.store.shared.transfers.run(work).await
    }
}

async fn begin(store: &Store, root_bytes: u64) -> Result<Root, Error> {
    let layout = store.shared.layout.clone();
    blocking(move || {
        let temporary = layout.temporary()?;
        let making = || Error::io("making a root file system");
        let file = temporary.reopen().map_err(making())?;
        file.set_len(root_bytes).map_err(making())?;
        Ok(Root {
            temporary,
            file: Arc::new(file),
            next: 0,
        })
    })
    .await
}

/// One source of a root file system.
struct Ways<'a> {
    store: &'a Store,
    source: &'a dyn Source,
    part: Part,
    patience: Duration,
}

impl Ways<'_> {
    async fn fetch(
        &self,
        root: &mut Root,
        pieces: &Pieces,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Error> {
        let mut wanted = pieces.next(root.next);
        if wanted.is_none() {
            return Ok(());
        }
        let mut received = Received::of(self.source, self.part, self.patience).await?;
        // A piece is unpacked and written while the next one comes.
        let mut came: Option<(usize, Head, Vec<u8>)> = None;
        while wanted.is_some() || came.is_some() {
            let receiving = async {
                let Some(piece) = wanted else { return Ok(None) };
                let range = pieces.range(piece);
                let (head, body) = received.piece((range.end - range.start) as usize).await?;
                Ok(Some((piece, head, body)))
            };
            let before = came.take();
            let keeping = async {
                let Some((piece, head, body)) = before else {
                    return Ok(None);
                };
                self.keep(root.file.clone(), pieces, piece, head, body)
                    .await?;
                Ok::<_, Error>(Some(piece))
            };
            let (received, kept) = tokio::join!(receiving, keeping);
            if let Some(piece) = kept? {
                root.next = piece + 1;
                progress(pieces.range(piece).end);
            }
            came = received?;
            wanted = came.as_ref().and_then(|(piece, ..)| pieces.next(piece + 1));
        }
        Ok(())
    }

    async fn keep(
        &self,
        file: Arc<File>,
        pieces: &Pieces,
        piece: usize,
        head: Head,
        body: Vec<u8>,
    ) -> Result<(), Error> {
        let (part, pieces, range) = (self.part, pieces.clone(), pieces.range(piece));
        let work = move || {
            let plain = packed::unpack(head, body, (range.end - range.start) as usize)
                .map_err(|err| lied(&part, format!("piece {piece}: {err}")))?;
            if !pieces.is(piece, &plain) {
                return Err(lied(&part, format!("piece {piece} has another digest")));
            }
            packed::write(&file, range.start, &plain)
                .map_err(Error::io("writing a root file system"))
        };
        self.store.shared.transfers.run(work).await
    }
}
