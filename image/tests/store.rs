//! What was acknowledged survives, what was half done doesn't, and nothing damaged is listed or destroyed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeSet, fs};

use hearth_image::{Store, StoreOptions};
use hearth_tests::layer::Layer;
use support::Place;

#[tokio::test]
async fn images_are_there_when_the_store_is_opened_again() {
    let place = Place::new().await;
    let image = support::image(vec![Layer::new().file("a", 0o644, b"a")]);
    place.load(&image.docker_archive("test:1")).await.unwrap();
    let before = place.store.list().await.unwrap();
    let files = place.files();

    let again = Store::open(place.dir.path(), StoreOptions::default())
        .await
        .unwrap();
    assert_eq!(again.list().await.unwrap(), before);
    assert_eq!(place.files(), files);
}

#[tokio::test]
async fn what_a_power_cut_left_is_cleared() {
    let place = Place::new().await;
    let image = support::image(vec![Layer::new().file("a", 0o644, b"a")]);
    place.load(&image.docker_archive("test:1")).await.unwrap();
    let files = place.files();
    let stray = "ab".repeat(32);
    for name in [
        "tmp/x",
        &format!("roots/{stray}.erofs"),
        &format!("blobs/sha256/{stray}"),
    ] {
        fs::write(place.dir.path().join(name), b"half").unwrap();
    }
    fs::create_dir(place.dir.path().join("tmp/dir")).unwrap();
    Store::open(place.dir.path(), StoreOptions::default())
        .await
        .unwrap();
    assert_eq!(place.files(), files);
}

#[tokio::test]
async fn an_image_whose_parts_are_damaged_is_not_listed_and_not_destroyed() {
    let place = Place::new().await;
    let kept = support::image(vec![Layer::new().file("a", 0o644, b"a")]);
    let hurt = support::image(vec![Layer::new().file("b", 0o644, b"b")]);
    let kept = place
        .load(&kept.docker_archive("kept:1"))
        .await
        .unwrap()
        .remove(0)
        .id;
    let hurt = place
        .load(&hurt.docker_archive("hurt:1"))
        .await
        .unwrap()
        .remove(0)
        .id;
    let config = place.dir.path().join("blobs/sha256").join(hurt.hex());
    fs::write(&config, b"{}").unwrap();
    let files = place.files();

    let again = Store::open(place.dir.path(), StoreOptions::default())
        .await
        .unwrap();
    let ids: Vec<_> = again
        .list()
        .await
        .unwrap()
        .iter()
        .map(|image| image.id)
        .collect();
    assert_eq!(ids, [kept]);
    assert_eq!(place.files(), files);
}

#[tokio::test]
async fn a_damaged_image_can_be_loaded_again() {
    let place = Place::new().await;
    let image = support::image(vec![Layer::new().file("a", 0o644, b"a")]);
    let archive = image.docker_archive("test:1");
    let id = place.load(&archive).await.unwrap().remove(0).id;
    fs::remove_file(place.store.root_file(&id)).unwrap();
    let again = Store::open(place.dir.path(), StoreOptions::default())
        .await
        .unwrap();
    assert!(again.list().await.unwrap().is_empty());
    let loaded = support::load(&again, &archive).await;
    loaded.unwrap();
    assert_eq!(again.list().await.unwrap()[0].id, id);
    support::check(&again.root_file(&id));
}

#[tokio::test]
async fn several_images_of_one_archive_are_loaded_with_all_their_names() {
    let place = Place::new().await;
    let layer = Layer::new().file("a", 0o644, b"a").finish();
    let config =
        br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;
    let diff = hearth_tests::archive::digest(&layer);
    let config = String::from_utf8_lossy(config).replace("DIFF", &diff);
    let other = config.replace("{\"os\"", "{\"author\":\"x\",\"os\"");
    let manifest = br#"[
        {"Config":"a.json","RepoTags":["one:1","two:2"],"Layers":["l/layer.tar"]},
        {"Config":"b.json","RepoTags":null,"Layers":["m/layer.tar"]}]"#;
    let archive = Layer::new()
        .file("l/layer.tar", 0o644, &layer)
        .symlink("m/layer.tar", "../l/layer.tar")
        .file("a.json", 0o644, config.as_bytes())
        .file("b.json", 0o644, other.as_bytes())
        .file("manifest.json", 0o644, manifest)
        .finish();
    let loaded = place.load(&archive).await.unwrap();
    let tags: Vec<_> = loaded[0].tags.iter().map(|tag| tag.familiar()).collect();
    assert_eq!(tags, ["one:1", "two:2"]);
    assert!(loaded[1].tags.is_empty());
    assert_eq!(place.store.list().await.unwrap().len(), 2);
    // The layer that both share is kept once, and goes with the last of them.
    let removed = place.store.remove(&loaded[0].id).await.unwrap();
    assert!(removed.layers.is_empty());
    place.store.remove(&loaded[1].id).await.unwrap();
    assert_eq!(place.files(), [""; 0]);
}

#[tokio::test]
async fn what_was_loaded_before_an_image_that_fails_is_told_beside_the_failure() {
    let place = Place::new().await;
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#;
    let manifest = br#"[
        {"Config":"a.json","RepoTags":["one:1"]},
        {"Config":"b.json","RepoTags":["two:2"]}]"#;
    let archive = Layer::new()
        .file("a.json", 0o644, config)
        .file("b.json", 0o644, b"{}")
        .file("manifest.json", 0o644, manifest)
        .finish();
    let store = &place.store;
    let (shown, mut loaded) = (BTreeSet::new(), Vec::new());
    let done = store
        .load(archive.as_slice(), &shown, &mut loaded, &mut |_| {})
        .await;
    assert!(done.is_err());
    assert_eq!(loaded.len(), 1);
    assert_eq!(store.list().await.unwrap()[0].id, loaded[0].id);
}

#[tokio::test]
async fn an_image_without_layers_is_an_empty_root() {
    let place = Place::new().await;
    let paths = place.look(vec![]).await.unwrap();
    assert!(paths.is_empty());
}
