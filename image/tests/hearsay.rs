//! What one store says of an image to another is hearsay: it gives nobody anything.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_image::{Chunks, Contents, Digest, Error, ImageId, Part, Source, SourceError, Store};
use hearth_tests::{
    archive::{Encoding, OCI_MANIFEST, Stored, digest},
    layer::Layer,
};
use serde_json::json;
use support::{
    Place, image,
    source::{Ending, Middle, is_description},
    victim::{place, pull, secret, serving},
};

/// What a store says that lies about which layer is which: for each pair, the second instead of the first.
fn lying(store: &Store, layers: &[(&[u8], &[u8])]) -> Middle {
    let member = |layer: &[u8]| format!("\"digest\":\"{}\"", digest(layer));
    let pairs: Vec<_> = layers
        .iter()
        .map(|(from, to)| (member(from), member(to)))
        .collect();
    Middle::new(store, move |part, bytes| {
        if !is_description(part) {
            return (bytes, Ending::End);
        }
        let mut body = bytes[..bytes.len() - 32].to_vec();
        for (from, to) in &pairs {
            let places: Vec<usize> = body
                .windows(from.len())
                .enumerate()
                .filter(|(_, window)| *window == from.as_bytes())
                .map(|(at, _)| at)
                .collect();
            assert_eq!(places.len(), 2, "in the list of layers and in the manifest");
            for at in places {
                body[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
        }
        let whole = Digest::of(&body);
        body.extend_from_slice(whole.as_bytes());
        (body, Ending::End)
    })
}

async fn import(to: &Place, id: &ImageId, contents: &Contents, source: &dyn Source) {
    let mut import = to.store.import(id, contents).await.unwrap().unwrap();
    import.take(source, &mut |_| {}).await.unwrap();
}

#[tokio::test]
async fn an_image_from_another_store_gives_nothing_to_who_only_names_it() {
    let stored = secret().stored(Encoding::Gzip);
    let victims = serving(secret().stored(Encoding::Gzip));
    let other = place(&[&victims]).await;
    let id = pull(&other, &victims, &[]).await.unwrap().id;
    let contents = other.store.contents(&id).await.unwrap();
    let attackers = serving(Stored {
        manifest: stored.manifest.clone(),
        media_type: OCI_MANIFEST,
        blobs: vec![stored.blobs.last().unwrap().clone()],
    });
    let place = place(&[&victims, &attackers]).await;
    import(&place, &id, &contents, &other.store).await;
    let err = pull(&place, &attackers, &[]).await.unwrap_err();
    assert!(matches!(err, Error::Protocol { .. }), "{err:?}");
    // Who has the bytes can show it.
    pull(&place, &victims, &[]).await.unwrap();
}

#[tokio::test]
async fn a_store_that_lies_about_a_layers_digest_lends_nobody_the_layer() {
    // The attacker's image, whose layers a node says to be the victim's.
    let mine = image(vec![
        Layer::new().file("mine", 0o644, b"mine"),
        Layer::new().file("mine too", 0o644, b"mine"),
    ]);
    let mine_stored = mine.stored(Encoding::Gzip);
    let stored = secret().stored(Encoding::Gzip);
    let victims = serving(secret().stored(Encoding::Gzip));
    let own = serving(mine.stored(Encoding::Gzip));
    let other = place(&[&own]).await;
    let shown = pull(&other, &own, &[]).await.unwrap().id;
    let contents = other.store.contents(&shown).await.unwrap();

    // Another config over the victim's layers, of which the attacker has none.
    let theirs = secret().with_config(json!({ "Cmd": ["cat", "/secret"] }));
    let mut theirs = theirs.stored(Encoding::Gzip);
    theirs.blobs.retain(|blob| !stored.blobs.contains(blob));
    let attackers = serving(theirs);

    let place = place(&[&victims, &attackers]).await;
    pull(&place, &victims, &[]).await.unwrap();
    let pairs = [0, 1].map(|at| (&*mine_stored.blobs[at], &*stored.blobs[at]));
    let liar = lying(&other.store, &pairs);
    import(&place, &shown, &contents, &liar).await;
    let err = pull(&place, &attackers, &[shown]).await.unwrap_err();
    assert!(matches!(err, Error::Protocol { .. }), "{err:?}");
}

#[tokio::test]
async fn a_store_that_lies_about_a_layers_digest_makes_no_proof_of_junk() {
    let stored = secret().stored(Encoding::Plain);
    let victims = serving(secret().stored(Encoding::Plain));
    let other = place(&[&victims]).await;
    let id = pull(&other, &victims, &[]).await.unwrap().id;
    let contents = other.store.contents(&id).await.unwrap();
    let config = stored.blobs.last().unwrap().clone();
    // The attacker has the first layer, and junk that a node says to be the second.
    let junk = Layer::new()
        .file("secret", 0o600, b"what is made up")
        .finish();
    assert_eq!(junk.len(), stored.blobs[1].len());
    let manifest = String::from_utf8(stored.manifest.clone()).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["layers"][1]["digest"] = digest(&junk).into();
    manifest["layers"][1]["size"] = junk.len().into();
    let attackers = serving(Stored {
        manifest: manifest.to_string().into_bytes(),
        media_type: OCI_MANIFEST,
        blobs: vec![stored.blobs[0].clone(), junk.clone(), config],
    });
    let place = place(&[&attackers]).await;
    let liar = lying(&other.store, &[(&stored.blobs[1], &junk)]);
    import(&place, &id, &contents, &liar).await;
    let err = pull(&place, &attackers, &[]).await.unwrap_err();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
    // Nor is the junk taken for the layer when it is brought as one.
    let junk_digest: Digest = digest(&junk).parse().unwrap();
    let from_liar = JunkLayer(junk);
    let err = place
        .store
        .import_layer(&id, &junk_digest, &from_liar)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::SourceLied { .. }), "{err:?}");
}

/// Gives these bytes whatever it is asked for.
struct JunkLayer(Vec<u8>);

impl Source for JunkLayer {
    fn fetch(&self, _: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
        let bytes = bytes::Bytes::from(self.0.clone());
        Box::pin(async move { Ok(stream::iter([Ok(bytes)]).boxed()) })
    }
}
