//! Pulls from the distribution's docker-registry, also through a line that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;

use hearth_image::{Credentials, Error, ImageId, ImageRef, Pulled, StoreOptions};
use hearth_tests::{
    archive::{Encoding, digest},
    faults::{Fault, Proxy},
    layer::Layer,
    registry::{CREDENTIALS, Registry, free_port},
};
use support::{Place, Said, image, noise};

/// A store that may speak plain HTTP to these ports.
async fn place(ports: &[u16]) -> Place {
    let insecure_registries = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    Place::with(StoreOptions {
        insecure_registries,
        ..StoreOptions::default()
    })
    .await
}

fn reference(port: u16, name: &str) -> ImageRef {
    format!("127.0.0.1:{port}/{name}").parse().unwrap()
}

async fn pull(place: &Place, port: u16, name: &str) -> (Result<Pulled, Error>, Said) {
    pull_as(place, port, name, &Credentials::Anonymous).await
}

/// As somebody who has shown that these images can be read.
async fn pull_again(
    place: &Place,
    port: u16,
    name: &str,
    shown: &[ImageId],
) -> (Result<Pulled, Error>, Said) {
    let mut said = Said::default();
    let reference = reference(port, name);
    let (auth, shown) = (Credentials::Anonymous, shown.iter().copied().collect());
    let mut hear = |event| said.hear(event);
    let pulled = place.store.pull(&reference, &auth, &shown, &mut hear).await;
    (pulled, said)
}

async fn pull_as(
    place: &Place,
    port: u16,
    name: &str,
    credentials: &Credentials,
) -> (Result<Pulled, Error>, Said) {
    let mut said = Said::default();
    let reference = reference(port, name);
    let mut hear = |event| said.hear(event);
    let pulled = place
        .store
        .pull(&reference, credentials, &BTreeSet::new(), &mut hear)
        .await;
    (pulled, said)
}

#[tokio::test]
async fn every_encoding_gives_the_same_root_and_the_progress_docker_shows() {
    let registry = Registry::start();
    let layers = || {
        vec![
            Layer::new().file("a", 0o644, b"one"),
            Layer::new().file("b", 0o644, b"two"),
        ]
    };
    let image = image(layers());
    let mut roots = Vec::new();
    for (tag, encoding) in [
        ("plain", Encoding::Plain),
        ("gzip", Encoding::Gzip),
        ("zstd", Encoding::Zstd),
    ] {
        let pushed = registry.push("test/image", tag, &image, encoding);
        let place = place(&[registry.port()]).await;
        let (pulled, said) = pull(&place, registry.port(), &format!("test/image:{tag}")).await;
        let pulled = pulled.unwrap();
        assert_eq!(pulled.id.to_string(), image.id());
        assert_eq!(pulled.digest.to_string(), pushed);
        assert!(!pulled.already_present);
        assert_eq!(said.0[0], "Pulling from test/image");
        for state in ["Pulling fs layer", "Download complete", "Pull complete"] {
            assert_eq!(said.count(state), 2, "{state}: {:?}", said.0);
        }
        assert_eq!(said.count(&format!("Digest: {pushed}")), 1);
        assert!(
            said.0
                .last()
                .unwrap()
                .starts_with("Status: Downloaded newer image for 127.0.0.1")
        );
        let held = place.store.image(&pulled.id).await.unwrap().unwrap();
        assert_eq!(held.manifest_digest, pulled.digest);
        roots.push(support::root_bytes(&place.store, &pulled.id));
        support::paths(&place.store.root_file(&pulled.id));

        let name = format!("test/image:{tag}");
        let (again, said) = pull_again(&place, registry.port(), &name, &[pulled.id]).await;
        assert!(again.unwrap().already_present);
        assert_eq!(said.count("Already exists"), 2);
        assert!(
            said.0
                .last()
                .unwrap()
                .starts_with("Status: Image is up to date for")
        );
    }
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn of_a_list_the_image_for_this_platform_is_taken_by_tag_and_by_digest() {
    let registry = Registry::start();
    let ours = image(vec![Layer::new().file("ours", 0o644, b"")]);
    let theirs = image(vec![Layer::new().file("theirs", 0o644, b"")]);
    let list = registry.push_list("multi", "1", &ours, &theirs);
    let place = place(&[registry.port()]).await;
    for name in ["multi:1".to_owned(), format!("multi@{list}")] {
        let (pulled, _) = pull(&place, registry.port(), &name).await;
        let pulled = pulled.unwrap();
        assert_eq!(pulled.id.to_string(), ours.id());
        assert_eq!(pulled.digest.to_string(), list);
    }
}

#[tokio::test]
async fn a_shared_layer_is_fetched_once_and_stays_while_it_is_shared() {
    let registry = Registry::start();
    let base = image(vec![Layer::new().file("base", 0o644, &noise(100_000))]);
    let more = base.with_layer(Layer::new().file("more", 0o644, b"more"));
    registry.push("base", "1", &base, Encoding::Gzip);
    registry.push("more", "1", &more, Encoding::Gzip);
    let place = place(&[registry.port()]).await;
    let first = pull(&place, registry.port(), "base:1").await.0.unwrap();
    let (second, said) = pull_again(&place, registry.port(), "more:1", &[first.id]).await;
    let second = second.unwrap();
    assert_eq!(said.count("Already exists"), 1, "{:?}", said.0);
    assert_eq!(said.count("Download complete"), 1);

    let removed = place.store.remove(&first.id).await.unwrap();
    assert!(removed.layers.is_empty(), "the layer is shared");
    assert!(removed.freed_bytes > 0);
    assert!(place.store.image(&first.id).await.unwrap().is_none());
    assert!(!place.store.root_file(&first.id).exists());
    let paths = support::paths(&place.store.root_file(&second.id));
    assert_eq!(support::names(&paths), ["/base", "/more"]);

    let removed = place.store.remove(&second.id).await.unwrap();
    assert_eq!(removed.layers.len(), 2);
    assert_eq!(place.files(), [""; 0], "something was left behind");
    assert!(matches!(
        place.store.remove(&second.id).await,
        Err(Error::NoSuchImage { .. })
    ));
}

#[tokio::test]
async fn of_pulls_of_one_image_at_once_one_copy_stays() {
    let registry = Registry::start();
    let image = image(vec![Layer::new().file("a", 0o644, &noise(300_000))]);
    registry.push("same", "1", &image, Encoding::Gzip);
    let place = place(&[registry.port()]).await;
    let (one, two) = tokio::join!(
        pull(&place, registry.port(), "same:1"),
        pull(&place, registry.port(), "same:1")
    );
    // Neither waits for the other's network.
    assert_eq!(one.0.unwrap(), two.0.unwrap());
    assert_eq!(place.store.list().await.unwrap().len(), 1);
    // The config, the manifest, the layer, the root file system with the list of its pieces, and the record.
    assert_eq!(place.files().len(), 6, "{:?}", place.files());
}

#[tokio::test]
async fn a_dropped_connection_is_resumed_where_it_broke() {
    let registry = Registry::start();
    let image = image(vec![Layer::new().file("a", 0o644, &noise(2_000_000))]);
    registry.push("big", "1", &image, Encoding::Gzip);
    let proxy = Proxy::start(registry.port(), Fault::Drops { times: 2 });
    let place = place(&[proxy.port()]).await;
    let pulled = pull(&place, proxy.port(), "big:1").await.0.unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    let ranges = proxy.ranges();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges.iter().all(|range| range != "bytes=0-"));
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_of_them_stays() {
    let registry = Registry::start();
    let image = image(vec![Layer::new().file("a", 0o644, &noise(500_000))]);
    registry.push("big", "1", &image, Encoding::Gzip);
    let proxy = Proxy::start(registry.port(), Fault::WrongBytes);
    let place = place(&[proxy.port()]).await;
    let err = pull(&place, proxy.port(), "big:1").await.0.unwrap_err();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
    assert_eq!(place.files(), [""; 0], "something was left behind");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let registry = Registry::start();
    registry.push("there", "1", &image(vec![Layer::new()]), Encoding::Gzip);
    let place = place(&[registry.port()]).await;
    for name in [
        "there:2",
        "nowhere:1",
        &format!("there@{}", digest(b"nothing")),
    ] {
        let err = pull(&place, registry.port(), name).await.0.unwrap_err();
        assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
        assert!(err.to_string().contains("not found"));
    }
}

#[tokio::test]
async fn a_private_registry_wants_the_right_password() {
    let registry = Registry::start_private();
    let image = image(vec![Layer::new().file("a", 0o644, b"secret")]);
    registry.push("private", "1", &image, Encoding::Gzip);
    let place = place(&[registry.port()]).await;
    let (username, password) = CREDENTIALS.split_once(':').unwrap();
    let basic = |password: &str| Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    };
    for wrong in [
        Credentials::Anonymous,
        basic("wrong"),
        Credentials::IdentityToken("x".into()),
    ] {
        let err = pull_as(&place, registry.port(), "private:1", &wrong)
            .await
            .0
            .unwrap_err();
        assert!(matches!(err, Error::Unauthorized { .. }), "{err:?}");
        assert!(
            !format!("{err}{err:?}").contains("wrong"),
            "secrets stay out of messages"
        );
    }
    let pulled = pull_as(&place, registry.port(), "private:1", &basic(password))
        .await
        .0;
    assert_eq!(pulled.unwrap().id.to_string(), image.id());
}

#[tokio::test]
async fn a_registry_that_is_not_there_or_not_named_as_insecure_is_unreachable() {
    let port = free_port().unwrap();
    let err = pull(&place(&[port]).await, port, "x:1")
        .await
        .0
        .unwrap_err();
    assert!(matches!(err, Error::Unreachable { .. }), "{err:?}");

    let registry = Registry::start();
    registry.push("x", "1", &image(vec![Layer::new()]), Encoding::Gzip);
    let err = pull(&place(&[]).await, registry.port(), "x:1")
        .await
        .0
        .unwrap_err();
    assert!(matches!(err, Error::Unreachable { .. }), "{err:?}");
    assert!(err.to_string().contains("insecure"), "{err}");
}

#[tokio::test]
async fn a_broken_registry_says_so() {
    let proxy = Proxy::start(free_port().unwrap(), Fault::Broken);
    let err = pull(&place(&[proxy.port()]).await, proxy.port(), "x:1")
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(err, Error::Registry { status: 500, .. }),
        "{err:?}"
    );
}

#[tokio::test]
async fn without_keeping_layers_only_the_root_and_the_documents_stay() {
    let registry = Registry::start();
    let image = image(vec![Layer::new().file("a", 0o644, &noise(50_000))]);
    registry.push("x", "1", &image, Encoding::Gzip);
    let place = Place::with(StoreOptions {
        insecure_registries: vec![format!("127.0.0.1:{}", registry.port())],
        keep_layers: false,
        ..StoreOptions::default()
    })
    .await;
    pull(&place, registry.port(), "x:1").await.0.unwrap();
    // Config, manifest, record, root file system and the list of its pieces.
    assert_eq!(place.files().len(), 5, "{:?}", place.files());
}
