//! A store that has an image, and one that wants it.

use hearth_image::{Contents, Error, ImageId, Source, Store};
use hearth_tests::{archive::Image, layer::Layer};

use super::{Place, image, noise, root_bytes};

/// An image of one piece.
pub fn small() -> Image {
    image(vec![
        Layer::new().dir("d", 0o755).file("d/a", 0o644, b"a"),
        Layer::new()
            .file("b", 0o644, &noise(9000))
            .symlink("c", "d/a"),
    ])
}

pub async fn built(image: &Image) -> (Place, ImageId, Contents) {
    let place = Place::new().await;
    let loaded = place.load(&image.docker_archive("test:1")).await.unwrap();
    let id = loaded[0].id;
    let contents = place.store.contents(&id).await.unwrap();
    (place, id, contents)
}

pub async fn import(
    to: &Store,
    id: &ImageId,
    contents: &Contents,
    from: &dyn Source,
) -> Result<(), Error> {
    match to.import(id, contents).await? {
        Some(mut import) => import.take(from, &mut |_| {}).await,
        None => Ok(()),
    }
}

/// Both stores have the same image.
pub async fn assert_same(one: &Store, other: &Store, id: &ImageId) {
    let (mut image, copy) = (
        one.image(id).await.unwrap().unwrap(),
        other.image(id).await.unwrap().unwrap(),
    );
    assert!(copy.disk_bytes <= image.disk_bytes, "holes stay holes");
    image.disk_bytes = copy.disk_bytes;
    assert_eq!(image, copy);
    assert!(root_bytes(one, id) == root_bytes(other, id));
    assert_eq!(
        one.contents(id).await.unwrap(),
        other.contents(id).await.unwrap()
    );
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
