//! Bad luck: a full disk, a client that goes away.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeSet, process::Command};

use hearth_image::{Credentials, Error, ImageRef, LayerState, Progress, Store, StoreOptions};
use hearth_tests::{
    archive::Encoding,
    faults::{Fault, Proxy},
    layer::Layer,
    registry::Registry,
};
use support::{Place, image, noise};
use tokio::sync::Notify;

#[tokio::test]
async fn a_full_disk_is_said_plainly_and_leaves_room_for_a_smaller_image() {
    let dir = tempfile::TempDir::new().unwrap();
    let mounted = rustix::process::geteuid().is_root()
        && Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        support::skipped("mounting a small disk needs root");
        return;
    }
    let registry = Registry::start();
    let large = image(vec![Layer::new().file("a", 0o644, &noise(5_000_000))]);
    let middle = image(vec![Layer::new().file("a", 0o644, &noise(2_000_000))]);
    let small = image(vec![Layer::new().file("a", 0o644, &noise(20_000))]);
    registry.push("large", "1", &large, Encoding::Gzip);
    let name = format!("127.0.0.1:{}", registry.port());
    let options = StoreOptions {
        insecure_registries: vec![name.clone()],
        ..StoreOptions::default()
    };
    let store = Store::open(dir.path(), options).await.unwrap();
    let reference: ImageRef = format!("{name}/large:1").parse().unwrap();
    let pulled = store
        .pull(
            &reference,
            &Credentials::Anonymous,
            &BTreeSet::new(),
            &mut |_| {},
        )
        .await;
    // Its archive fits, but not its root file system as well.
    let archive = middle.docker_archive("middle:1");
    let loaded = support::load(&store, &archive).await;
    let archive = small.docker_archive("small:1");
    let fits = support::load(&store, &archive).await;
    let listed = store.list().await.unwrap().len();
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    assert!(matches!(pulled, Err(Error::NoSpace)), "{pulled:?}");
    assert!(matches!(loaded, Err(Error::NoSpace)), "{loaded:?}");
    assert!(fits.is_ok(), "{fits:?}");
    assert_eq!(listed, 1);
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing_in_the_way_of_the_next() {
    let registry = Registry::start();
    let image = image(vec![Layer::new().file("a", 0o644, &noise(3_000_000))]);
    registry.push("slow", "1", &image, Encoding::Gzip);
    let proxy = Proxy::start(registry.port(), Fault::Slow);
    let insecure_registries = [proxy.port(), registry.port()]
        .map(|port| format!("127.0.0.1:{port}"))
        .to_vec();
    let place = Place::with(StoreOptions {
        insecure_registries,
        ..StoreOptions::default()
    })
    .await;
    let reference = |port| -> ImageRef { format!("127.0.0.1:{port}/slow:1").parse().unwrap() };

    let begun = Notify::new();
    let mut hear = |event| {
        if let Progress::Layer {
            state: LayerState::Downloading { .. },
            ..
        } = event
        {
            begun.notify_one();
        }
    };
    let slow = reference(proxy.port());
    let shown = BTreeSet::new();
    tokio::select! {
        pulled = place.store.pull(&slow, &Credentials::Anonymous, &shown, &mut hear) => {
            panic!("it was meant to be slow: {pulled:?}");
        }
        () = begun.notified() => {}
    }
    let pulled = place
        .store
        .pull(
            &reference(registry.port()),
            &Credentials::Anonymous,
            &BTreeSet::new(),
            &mut |_| {},
        )
        .await;
    assert_eq!(pulled.unwrap().id.to_string(), image.id());
    support::paths(
        &place
            .store
            .root_file(&place.store.list().await.unwrap()[0].id),
    );
}
