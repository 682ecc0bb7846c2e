//! What an image's root file system is, in digests.

use std::fs;

use super::{
    Shared, Store,
    build::blocking,
    record::{Held, Record, RootRecord},
};
use crate::{Contents, Digest, Error, ImageId, pieces::Pieces};

impl Store {
    /// What the image's root file system is: what another store needs to know, from a trusted source, to import the image. Every store that
    /// has built the image from its layers says the same. Known since it was built; where an earlier version did that, the whole file
    /// is read when this is asked for the first time.
    pub async fn contents(&self, id: &ImageId) -> Result<Contents, Error> {
        let mut held = self.expect(id)?;
        if held.record.root.is_none() {
            self.pieces(id).await?;
            held = self.expect(id)?;
        }
        let root = held.record.root.ok_or_else(|| no_such_image(id))?;
        Ok(Contents {
            root: root.digest,
            root_bytes: root.size_bytes,
            size_bytes: held.record.size_bytes,
        })
    }

    pub(super) fn expect(&self, id: &ImageId) -> Result<Held, Error> {
        self.shared.held(id).ok_or_else(|| no_such_image(id))
    }

    /// The digests of the root file system's pieces: those that were kept, or made again.
    pub(super) async fn pieces(&self, id: &ImageId) -> Result<Pieces, Error> {
        let known = self.expect(id)?.record.root;
        if let Some(root) = known
            && let Some(pieces) = self.kept_pieces(*id, root).await
        {
            return Ok(pieces);
        }
        // One reads for all who ask.
        let turn = self.shared.imports.claim(id.digest());
        let _turn = turn.lock().await;
        let known = self.expect(id)?.record.root;
        if let Some(root) = known
            && let Some(pieces) = self.kept_pieces(*id, root).await
        {
            return Ok(pieces);
        }
        let (shared, image) = (self.shared.clone(), *id);
        let work = move || {
            Pieces::of(&shared.open_root(&image)?).map_err(Error::io("reading a root file system"))
        };
        let pieces = self.shared.transfers.run(work).await?;
        let actual = RootRecord::from(&pieces);
        if let Some(known) = known.filter(|known| *known != actual) {
            return Err(Error::DigestMismatch {
                what: format!("the root file system of image {id}, on this node's disk"),
                expected: known.digest.to_string(),
                actual: actual.digest.to_string(),
            });
        }
        let list = pieces.list().clone();
        self.amend(id, move |shared, record| {
            shared
                .layout
                .keep_bytes(&list, &shared.layout.pieces(&image))?;
            record.root = Some(actual);
            Ok(())
        })
        .await?;
        Ok(pieces)
    }

    async fn kept_pieces(&self, id: ImageId, root: RootRecord) -> Option<Pieces> {
        let path = self.shared.layout.pieces(&id);
        let read = blocking(move || fs::read(path).map_err(Error::io("reading a list of pieces")));
        let pieces = Pieces::new(root.size_bytes, read.await.ok()?.into())?;
        (pieces.root() == root.digest).then_some(pieces)
    }

    /// Changes the record of an image that is here, in memory when that is on the disk.
    pub(super) async fn amend(
        &self,
        id: &ImageId,
        change: impl FnOnce(&Shared, &mut Record) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let claim = self.shared.claims.claim(id.digest());
        let guard = claim.lock_owned().await;
        let (shared, id) = (self.shared.clone(), *id);
        blocking(move || {
            let _guard = guard;
            let mut held = shared.held(&id).ok_or_else(|| no_such_image(&id))?;
            change(&shared, &mut held.record)?;
            let path = shared.layout.record(&id);
            shared.layout.keep_bytes(&held.record.to_json(), &path)?;
            shared.insert(held);
            Ok(())
        })
        .await
    }
}

impl Shared {
    /// Whether some image here has shown that these two are one layer's.
    pub(super) fn has_seen(&self, digest: &Digest, diff_id: &Digest) -> bool {
        let images = self
            .images
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        images
            .values()
            .flat_map(|held| &held.record.layers)
            .any(|layer| layer.seen && layer.digest == *digest && layer.diff_id == *diff_id)
    }

    /// The root file system, to be read; whoever has it open goes on reading when the image is removed.
    pub(super) fn open_root(&self, id: &ImageId) -> Result<fs::File, Error> {
        fs::File::open(self.layout.root(id)).map_err(|err| match err.kind() {
            std::io::ErrorKind::NotFound => no_such_image(id),
            _ => Error::io("opening a root file system")(err),
        })
    }
}

pub(super) fn no_such_image(id: &ImageId) -> Error {
    Error::NoSuchImage { id: id.to_string() }
}
