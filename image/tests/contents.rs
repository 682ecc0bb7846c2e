//! The same layers give the same root file system on every node, and its digest is known from then on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeSet, fs};

use hearth_image::{Contents, Credentials, Error, ImageId, ImageRef, Part, Store, StoreOptions};
use hearth_tests::{
    archive::{Encoding, Image},
    layer::Layer,
};
use serde_json::Value;
use support::{
    Place,
    fake::{Fake, honest},
    image, noise, root_bytes,
};

/// Something of everything, over more than one piece: links, attributes, and contents that later layers replace or take away.
fn various() -> Image {
    image(vec![
        Layer::new()
            .dir("d", 0o755)
            .file("d/gone", 0o644, &noise(3_000_000))
            .file("d/zeros", 0o644, &vec![0; 2_000_000])
            .file("e", 0o644, &noise(20_000))
            .hard_link("f", "e")
            .symlink("g", "d/zeros"),
        Layer::new()
            .file("d/.wh.gone", 0o644, b"")
            .file_with_xattrs("h", 0o644, b"h", &[("user.a", b"b")])
            .file("e", 0o600, &noise(10_000))
            .fifo("i"),
    ])
}

async fn loaded(archive: &[u8]) -> (Place, ImageId) {
    let place = Place::new().await;
    let id = place.load(archive).await.unwrap()[0].id;
    (place, id)
}

async fn pulled(image: &Image, encoding: Encoding) -> (Place, ImageId) {
    let stored = image.stored(encoding);
    let fake = Fake::start(move |request| honest(&stored, request));
    let place = Place::with(StoreOptions {
        insecure_registries: vec![fake.address.clone()],
        ..StoreOptions::default()
    })
    .await;
    let reference: ImageRef = format!("{}/app:1", fake.address).parse().unwrap();
    let (auth, shown) = (Credentials::Anonymous, BTreeSet::new());
    let pulled = place
        .store
        .pull(&reference, &auth, &shown, &mut |_| {})
        .await;
    (place, pulled.unwrap().id)
}

#[tokio::test]
async fn however_an_image_came_its_root_is_the_same_to_the_byte() {
    let image = various();
    let (first, id) = loaded(&image.docker_archive("test:1")).await;
    let contents = first.store.contents(&id).await.unwrap();
    let root = root_bytes(&first.store, &id);
    assert_eq!(contents.root_bytes, root.len() as u64);
    for (place, other) in [
        loaded(&image.docker_archive("test:1")).await,
        loaded(&image.oci_archive("test:1")).await,
        loaded(&Encoding::Zstd.encode(&image.docker_archive("other:2"))).await,
        pulled(&image, Encoding::Plain).await,
        pulled(&image, Encoding::Gzip).await,
        pulled(&image, Encoding::Zstd).await,
    ] {
        assert_eq!(other, id);
        assert!(root_bytes(&place.store, &id) == root);
        assert_eq!(place.store.contents(&id).await.unwrap(), contents);
    }
}

/// Makes a store what an earlier version has left.
fn age(place: &Place, id: &ImageId) {
    let path = place.dir.path().join(format!("images/{}.json", id.hex()));
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("root").unwrap();
    fs::write(path, record.to_string()).unwrap();
    fs::remove_file(pieces(place, id)).unwrap();
}

fn pieces(place: &Place, id: &ImageId) -> std::path::PathBuf {
    place.dir.path().join(format!("roots/{}.pieces", id.hex()))
}

async fn reopen(place: &Place) -> Store {
    Store::open(place.dir.path(), StoreOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_contents_of_an_image_of_an_earlier_version_are_found_out_once() {
    let (place, id) = loaded(&various().docker_archive("test:1")).await;
    let contents = place.store.contents(&id).await.unwrap();
    let files = place.files();
    age(&place, &id);
    let store = reopen(&place).await;
    let (one, other) = tokio::join!(store.contents(&id), store.contents(&id));
    assert_eq!([one.unwrap(), other.unwrap()], [contents; 2]);
    assert_eq!(place.files(), files);
    // From now on the file isn't read for it.
    let store = reopen(&place).await;
    fs::write(store.root_file(&id), b"").unwrap();
    assert_eq!(store.contents(&id).await.unwrap(), contents);
}

#[tokio::test]
async fn a_list_of_pieces_that_is_damaged_is_made_again() {
    let (place, id) = loaded(&various().docker_archive("test:1")).await;
    let description = Part::Description { image: id };
    let list = fs::read(pieces(&place, &id)).unwrap();
    fs::write(pieces(&place, &id), &list[1..]).unwrap();
    drop(place.store.export(description).await.unwrap());
    assert_eq!(fs::read(pieces(&place, &id)).unwrap(), list);
    fs::remove_file(pieces(&place, &id)).unwrap();
    drop(place.store.export(description).await.unwrap());
    assert_eq!(fs::read(pieces(&place, &id)).unwrap(), list);

    // But what isn't the root file system any more gets no list.
    fs::remove_file(pieces(&place, &id)).unwrap();
    fs::write(place.store.root_file(&id), vec![0; 4096]).unwrap();
    let err = place.store.export(description).await.err().unwrap();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
}

#[tokio::test]
async fn contents_are_of_images_that_are_here() {
    let (place, id) = loaded(&various().docker_archive("test:1")).await;
    place.store.remove(&id).await.unwrap();
    let gone: Result<Contents, Error> = place.store.contents(&id).await;
    assert!(matches!(gone, Err(Error::NoSuchImage { .. })), "{gone:?}");
}
