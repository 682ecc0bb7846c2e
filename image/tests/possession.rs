//! That the store has some bytes gives nobody a right to them: a digest is a name that anybody may say.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeSet, sync::Arc};

use hearth_image::{Credentials, Error, ImageId, ImageRef, Loaded};
use hearth_tests::{
    archive::{Encoding, OCI_MANIFEST, Stored, digest},
    layer::Layer,
};
use serde_json::json;
use support::{
    Place,
    fake::{Answer, Fake},
    image,
    victim::{place, pull, secret, serving},
};

/// Loads for somebody who has shown that it can read this image.
async fn load(place: &Place, archive: &[u8], shown: ImageId) -> Result<Vec<Loaded>, Error> {
    let (shown, mut loaded) = (BTreeSet::from([shown]), Vec::new());
    place
        .store
        .load(archive, &shown, &mut loaded, &mut |_| {})
        .await?;
    Ok(loaded)
}

/// How many blobs a registry was asked for.
fn blobs_asked(fake: &Fake) -> usize {
    let requests = fake.requests();
    requests
        .iter()
        .filter(|request| request.target.contains("/blobs/"))
        .count()
}

#[tokio::test]
async fn naming_an_image_that_the_store_has_gives_nothing() {
    let stored = secret().stored(Encoding::Gzip);
    let victims = serving(secret().stored(Encoding::Gzip));
    // The attacker knows the manifest, and perhaps the config, and has no layer.
    let config = stored.blobs.last().unwrap().clone();
    for known in [
        vec![],
        vec![config.clone()],
        vec![config, stored.blobs[0].clone()],
    ] {
        let attackers = serving(Stored {
            manifest: stored.manifest.clone(),
            media_type: OCI_MANIFEST,
            blobs: known,
        });
        let place = place(&[&victims, &attackers]).await;
        pull(&place, &victims, &[]).await.unwrap();
        let err = pull(&place, &attackers, &[]).await.unwrap_err();
        assert!(matches!(err, Error::Protocol { .. }), "{err:?}");
        assert_eq!(
            place.store.list().await.unwrap().len(),
            1,
            "it's still the victim's"
        );
    }
}

#[tokio::test]
async fn other_layers_under_the_victims_config_prove_nothing() {
    let stored = secret().stored(Encoding::Gzip);
    let victims = serving(secret().stored(Encoding::Gzip));
    let config = stored.blobs.last().unwrap().clone();
    let junk: Vec<Vec<u8>> = [b"1", b"2"]
        .map(|name| Encoding::Gzip.encode(&Layer::new().file("junk", 0o644, name).finish()))
        .to_vec();
    let layers: Vec<_> = junk
        .iter()
        .map(|layer| {
            json!({ "mediaType": Encoding::Gzip.media_type(), "digest": digest(layer), "size": layer.len() })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": layers,
    });
    let attackers = serving(Stored {
        manifest: manifest.to_string().into_bytes(),
        media_type: OCI_MANIFEST,
        blobs: [junk, vec![config]].concat(),
    });
    let place = place(&[&victims, &attackers]).await;
    pull(&place, &victims, &[]).await.unwrap();
    let err = pull(&place, &attackers, &[]).await.unwrap_err();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
}

#[tokio::test]
async fn a_layer_of_somebody_elses_image_is_not_to_be_had_under_another_config() {
    let stored = secret().stored(Encoding::Gzip);
    let victims = serving(secret().stored(Encoding::Gzip));
    // Another config over the victim's layers, which the attacker knows by their digests alone.
    let other = secret().with_config(json!({ "Cmd": ["cat", "/secret"] }));
    let mut theirs = other.stored(Encoding::Gzip);
    theirs.blobs.retain(|blob| !stored.blobs.contains(blob));
    assert_eq!(theirs.blobs.len(), 1, "the config");
    let attackers = serving(theirs);
    let place = place(&[&victims, &attackers]).await;
    let victims_image = pull(&place, &victims, &[]).await.unwrap().id;
    let err = pull(&place, &attackers, &[]).await.unwrap_err();
    assert!(matches!(err, Error::Protocol { .. }), "{err:?}");
    // Whoever has shown that it can read them needn't bring them again.
    pull(&place, &attackers, &[victims_image]).await.unwrap();
}

#[tokio::test]
async fn whoever_can_read_it_gets_it_and_the_bytes_are_fetched_once_for_each() {
    let place_and = async |encoding| {
        let (one, other) = (
            serving(secret().stored(Encoding::Gzip)),
            serving(secret().stored(encoding)),
        );
        (place(&[&one, &other]).await, one, other)
    };
    // In other bytes it is the same image.
    for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Plain] {
        let (place, one, other) = place_and(encoding).await;
        let id = pull(&place, &one, &[]).await.unwrap().id;
        let files = place.files();
        let again = pull(&place, &other, &[]).await.unwrap();
        assert_eq!((again.id, again.already_present), (id, false));
        assert_eq!(blobs_asked(&other), 3, "config and layers");
        assert_eq!(place.files(), files, "and one copy stays");
        assert!(pull(&place, &other, &[id]).await.unwrap().already_present);
        assert_eq!(blobs_asked(&other), 3, "nothing is fetched again");
    }
}

#[tokio::test]
async fn an_archive_must_contain_what_it_names() {
    let victims = serving(secret().stored(Encoding::Gzip));
    let place = place(&[&victims]).await;
    let id = pull(&place, &victims, &[]).await.unwrap().id;
    let config = secret().config_file();
    // The victim's config over layers of the attacker's.
    let junk = Layer::new().file("junk", 0o644, b"").finish();
    let archive = |layers: &str| {
        let manifest = format!(r#"[{{"Config":"c","RepoTags":["mine:1"],"Layers":{layers}}}]"#);
        Layer::new()
            .file("c", 0o644, &config)
            .file("junk", 0o644, &junk)
            .file("manifest.json", 0o644, manifest.as_bytes())
            .finish()
    };
    for layers in [
        "null",
        "[]",
        r#"["junk"]"#,
        r#"["junk","junk"]"#,
        r#"["gone","gone"]"#,
    ] {
        let err = place.load(&archive(layers)).await.unwrap_err();
        assert!(
            matches!(err, Error::Malformed { .. } | Error::DigestMismatch { .. }),
            "{layers}: {err:?}"
        );
    }
    // An archive that has it all.
    for archive in [
        secret().docker_archive("mine:1"),
        secret().oci_archive("mine:1"),
    ] {
        assert_eq!(place.load(&archive).await.unwrap()[0].id, id);
    }
}

#[test]
fn sixteen_pulls_at_once_need_none_of_the_runtimes_blocking_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let fakes: Vec<Arc<Fake>> = (0..16u8)
            .map(|number| {
                let layers = (0..3u8).map(|layer| Layer::new().file("a", 0o644, &[number, layer]));
                let stored = image(layers.collect()).stored(Encoding::Gzip);
                Arc::new(serving(stored))
            })
            .collect();
        let all: Vec<&Fake> = fakes.iter().map(Arc::as_ref).collect();
        let place = Arc::new(place(&all).await);
        // And sixteen uploads that say nothing.
        let stalled: Vec<_> = (0..16)
            .map(|_| tokio::spawn(stall(place.clone())))
            .collect();
        let pulls: Vec<_> = fakes
            .iter()
            .map(|fake| {
                let (place, fake) = (place.clone(), fake.clone());
                tokio::spawn(async move { pull(&place, &fake, &[]).await })
            })
            .collect();
        for pulled in pulls {
            pulled.await.unwrap().unwrap();
        }
        for stalled in stalled {
            stalled.abort();
        }
        assert_eq!(place.store.list().await.unwrap().len(), 16);
    });
}

/// Loads from a body that says nothing.
async fn stall(place: Arc<Place>) {
    let (_open, body) = tokio::io::duplex(16);
    let loaded = place
        .store
        .load(body, &BTreeSet::new(), &mut Vec::new(), &mut |_| {})
        .await;
    panic!("the body never ends: {loaded:?}");
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let fake = Fake::start(|request| match request.target.as_str() {
        "/v2/app/tags/list" => Answer::ok(r#"{"name":"app","tags":["a","b"]}"#)
            .header("Link", r#"</v2/app/tags/list?last=b&n=2>; rel="next""#),
        "/v2/app/tags/list?last=b&n=2" => Answer::ok(r#"{"name":"app","tags":["c"]}"#),
        _ => Answer::status(404),
    });
    let place = place(&[&fake]).await;
    let repository: ImageRef = format!("{}/app", fake.address).parse().unwrap();
    let tags = place.store.tags(&repository, &Credentials::Anonymous).await;
    assert_eq!(tags.unwrap(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_list_of_tags_without_end_is_cut_off() {
    let fake =
        Fake::start(|_| Answer::ok(r#"{"tags":["a"]}"#).header("Link", r#"<?last=a>; rel="next""#));
    let place = place(&[&fake]).await;
    let repository: ImageRef = format!("{}/app", fake.address).parse().unwrap();
    let err = place.store.tags(&repository, &Credentials::Anonymous).await;
    assert!(matches!(err, Err(Error::TooLarge { .. })), "{err:?}");
}

#[tokio::test]
async fn an_archive_may_leave_out_layers_of_images_that_were_shown_and_no_others() {
    // As Bazel's incremental loader sends images to a docker that has some of their layers.
    let base = secret();
    let derived = base.with_layer(Layer::new().file("new", 0o644, b"new"));
    let config = derived.config_file();
    let list = json!([{ "Config": "c", "RepoTags": ["app:1"], "Layers": ["0", "1", "2"] }]);
    let archive = Layer::new()
        .file("c", 0o644, &config)
        .file("2", 0o644, &derived.layers()[2])
        .file("manifest.json", 0o644, list.to_string().as_bytes())
        .finish();
    for encoding in [Encoding::Plain, Encoding::Gzip] {
        let registry = serving(base.stored(encoding));
        let place = place(&[&registry]).await;
        let pulled = pull(&place, &registry, &[]).await.unwrap();
        let before = place.files();
        let err = place.load(&archive).await.unwrap_err();
        assert!(err.to_string().contains("is missing"), "{err}");
        assert_eq!(place.files(), before, "something was left behind");

        let outside = list.to_string().replace("\"0\"", "\"../0\"");
        let climbing = Layer::new()
            .file("c", 0o644, &config)
            .file("2", 0o644, &derived.layers()[2])
            .file("manifest.json", 0o644, outside.as_bytes());
        let err = load(&place, &climbing.finish(), pulled.id)
            .await
            .unwrap_err();
        assert!(err.to_string().contains("out of the archive"), "{err}");

        let loaded = load(&place, &archive, pulled.id).await.unwrap();
        assert_eq!(loaded[0].id.to_string(), derived.id());
        let paths = support::paths(&place.store.root_file(&loaded[0].id));
        assert_eq!(support::names(&paths), ["/base", "/new", "/secret"]);

        // What lay on the disk is hashed: damage isn't built upon.
        let other = base.with_layer(Layer::new().file("other", 0o644, b"other"));
        let archive = Layer::new()
            .file("c", 0o644, &other.config_file())
            .file("2", 0o644, &other.layers()[2])
            .file("manifest.json", 0o644, list.to_string().as_bytes())
            .finish();
        let kept = digest(&encoding.encode(&base.layers()[1]));
        let kept = kept.split(':').next_back().unwrap();
        let blob = place.files().into_iter().find(|file| file.ends_with(kept));
        let blob = place.dir.path().join(blob.unwrap());
        let mut bytes = std::fs::read(&blob).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&blob, bytes).unwrap();
        load(&place, &archive, pulled.id).await.unwrap_err();
    }
}
