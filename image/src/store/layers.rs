//! Layers of images that came from another store: taken over later, one by one, by those who keep layers.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use super::{Store, build::blocking};
use crate::{
    Digest, Error, ImageId, Part, Source,
    exchange::received::{PATIENCE, Received, lied},
    pieces::PIECE_BYTES,
    unpack::{self, LayerFile},
};

impl Store {
    /// Layers of an image that this store would keep and doesn't have, by their digests. None where it keeps no layers.
    pub async fn missing_layers(&self, id: &ImageId) -> Result<Vec<Digest>, Error> {
        let held = self.expect(id)?;
        if !self.shared.options.keep_layers {
            return Ok(Vec::new());
        }
        let shared = self.shared.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for layer in held.record.layers {
                let is_here = layer.seen && shared.layout.blob(&layer.digest).exists();
                if !is_here && !missing.contains(&layer.digest) {
                    missing.push(layer.digest);
                }
            }
            Ok(missing)
        })
        .await
    }

    /// Takes a layer of an image that is here from another store, as it came, and verifies it by both of its digests.
    pub async fn import_layer(
        &self,
        id: &ImageId,
        digest: &Digest,
        source: &dyn Source,
    ) -> Result<(), Error> {
        let held = self.expect(id)?;
        let layer = held
            .record
            .layers
            .into_iter()
            .find(|layer| layer.digest == *digest);
        let layer = layer.ok_or_else(|| Error::NotFound {
            reference: format!("{id}, layer {digest}"),
        })?;
        // While a claim lives, nobody removes the layer.
        let _claim = self.shared.claims.claim(digest);
        let part = Part::Layer {
            image: *id,
            digest: *digest,
        };
        let layout = self.shared.layout.clone();
        let file = blocking(move || layout.temporary()).await?;
        let mut received = Received::of(source, part, PATIENCE).await?;
        let (mut hasher, mut left) = (Sha256::new(), layer.size_bytes);
        let mut writer = file.reopen().map_err(Error::io("opening a layer's file"))?;
        while left > 0 {
            let bytes = received.take(left.min(PIECE_BYTES) as usize).await?;
            left -= bytes.len() as u64;
            let work = move || {
                hasher.update(&bytes);
                writer
                    .write_all(&bytes)
                    .map_err(Error::io("writing a layer"))?;
                Ok((hasher, writer))
            };
            (hasher, writer) = self.shared.transfers.run(work).await?;
        }
        let actual = Digest::finish(hasher);
        if actual != *digest {
            return Err(lied(&part, format!("it has the digest {actual}")));
        }
        let plain = LayerFile {
            file: file.reopen().map_err(Error::io("opening a layer's file"))?,
            size_bytes: layer.size_bytes,
            diff_id: layer.diff_id,
            verified: Some(actual),
        };
        let verified = self
            .shared
            .pool
            .run(move || unpack::verify(&plain, &mut |_| true));
        // What it is told to be isn't a fault of this disk or this node.
        verified.await.map_err(|err| match err {
            Error::DigestMismatch { .. } | Error::Malformed { .. } | Error::TooLarge { .. } => {
                lied(&part, err.to_string())
            }
            other => other,
        })?;
        self.amend(id, move |shared, record| {
            let blob = shared.layout.blob(&layer.digest);
            if !blob.exists() {
                shared.layout.keep(file, &blob)?;
            }
            for known in &mut record.layers {
                known.seen |= known.digest == layer.digest && known.diff_id == layer.diff_id;
            }
            Ok(())
        })
        .await
    }
}
