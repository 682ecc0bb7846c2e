//! An image goes from one store to another: whole and verified, or not at all.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use hearth_image::{
    Chunks, Contents, Error, Part, Source, SourceError, Store, StoreOptions, describe,
};
use hearth_tests::{archive::Image, layer::Layer};
use proptest::prelude::*;
use support::{
    Place,
    exchange::{assert_same, built, import, runtime, small},
    image, noise,
    source::{Ending, Middle, all, is_description, is_root},
};

/// An image of three pieces; the second is a hole.
fn large() -> Image {
    image(vec![
        Layer::new()
            .file("a", 0o644, &noise(300_000))
            .file("zeros", 0o644, &vec![0; 9_000_000]),
        Layer::new().file("b", 0o644, &noise(1_500_000)),
    ])
}

#[tokio::test]
async fn what_is_imported_is_what_was_exported() {
    for case in [small(), large(), image(vec![])] {
        let (from, id, contents) = built(&case).await;
        let to = Place::new().await;
        let source = Middle::honest(&from.store);
        import(&to.store, &id, &contents, &source).await.unwrap();
        assert_same(&from.store, &to.store, &id).await;
        support::check(&to.store.root_file(&id));

        // It outlives the store, and goes on to a third.
        let again = Store::open(to.dir.path(), StoreOptions::default())
            .await
            .unwrap();
        assert_same(&from.store, &again, &id).await;
        let third = Place::new().await;
        import(&third.store, &id, &contents, &again).await.unwrap();
        assert_same(&from.store, &third.store, &id).await;

        // Where it is, nobody is asked.
        let asked = source.asked().len();
        import(&to.store, &id, &contents, &source).await.unwrap();
        assert_eq!(source.asked().len(), asked);
        // And it goes without a trace.
        to.store.remove(&id).await.unwrap();
        assert_eq!(to.files(), [""; 0]);
    }
}

#[tokio::test]
async fn an_image_of_another_store_is_described_as_it_is_there() {
    let (from, id, contents) = built(&small()).await;
    let there = from.store.image(&id).await.unwrap().unwrap();
    let told = describe(&id, &contents, &from.store).await.unwrap();
    assert_eq!(
        told,
        hearth_image::Image {
            disk_bytes: contents.root_bytes,
            ..there
        }
    );
    assert_eq!(Contents::from_bytes(&contents.to_bytes()), Some(contents));
    assert_eq!(Contents::from_bytes(&contents.to_bytes()[1..]), None);
    // Its size is not the other store's to tell, nor its config.
    let length = all(from
        .store
        .export(Part::Description { image: id })
        .await
        .unwrap());
    let length = length.await.unwrap().len();
    for at in 0..length {
        let liar = Middle::flip(&from.store, is_description, at, 1);
        let told = describe(&id, &contents, &liar).await;
        assert!(told.is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn holes_are_neither_sent_nor_stored() {
    let (from, id, contents) = built(&large()).await;
    let part = Part::Root {
        image: id,
        root: contents.root,
        from: 0,
    };
    let sent = all(from.store.export(part).await.unwrap()).await.unwrap();
    assert!(sent.len() < 2_000_000, "{}", sent.len());
    let to = Place::new().await;
    import(&to.store, &id, &contents, &from.store)
        .await
        .unwrap();
    let stored = fs::metadata(to.store.root_file(&id)).unwrap();
    assert_eq!(stored.len(), contents.root_bytes);
    assert!(stored.blocks() * 512 < 3_000_000, "{}", stored.blocks());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_flipped_bit_is_refused_wherever_it_is(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        runtime().block_on(async move {
            let (from, id, contents) = built(&small()).await;
            let root = Part::Root { image: id, root: contents.root, from: 0 };
            for (part, is) in [
                (Part::Description { image: id }, is_description as fn(&Part) -> bool),
                (root, is_root),
            ] {
                let length = all(from.store.export(part).await.unwrap()).await.unwrap().len();
                let source = Middle::flip(&from.store, is, at.index(length), 1 << bit);
                let to = Place::new().await;
                match import(&to.store, &id, &contents, &source).await {
                    // Some bits of a packed piece mean nothing.
                    Ok(()) => {
                        assert!(is(&root));
                        assert_same(&from.store, &to.store, &id).await;
                    }
                    Err(err) => {
                        assert!(
                            matches!(err, Error::SourceLied { .. } | Error::SourceFailed { .. }),
                            "{err:?}"
                        );
                        assert_eq!(to.files(), [""; 0]);
                        assert!(to.store.list().await.unwrap().is_empty());
                        import(&to.store, &id, &contents, &from.store).await.unwrap();
                        assert_same(&from.store, &to.store, &id).await;
                    }
                }
            }
        });
    }

    #[test]
    fn whatever_is_sent_instead_of_a_part_ends_and_leaves_nothing(
        junk in prop::collection::vec(any::<u8>(), 0..3000),
        keep in any::<prop::sample::Index>(),
        endless in any::<bool>(),
        which in any::<bool>(),
    ) {
        runtime().block_on(async move {
            let (from, id, contents) = built(&small()).await;
            let is = if which { is_root } else { is_description };
            let to = Place::new().await;
            let source = Middle::new(&from.store, move |part, mut bytes| {
                if !is(part) {
                    return (bytes, Ending::End);
                }
                bytes.truncate(keep.index(bytes.len()));
                bytes.extend_from_slice(&junk);
                (bytes, if endless { Ending::Endless } else { Ending::End })
            });
            if import(&to.store, &id, &contents, &source).await.is_ok() {
                assert_same(&from.store, &to.store, &id).await;
            } else {
                assert_eq!(to.files(), [""; 0]);
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn cut_anywhere_it_goes_on_with_another(at in any::<prop::sample::Index>(), of_root in any::<bool>()) {
        runtime().block_on(async move {
            let (from, id, contents) = built(&large()).await;
            let root = Part::Root { image: id, root: contents.root, from: 0 };
            let (part, is): (_, fn(&Part) -> bool) = match of_root {
                true => (root, is_root),
                false => (Part::Description { image: id }, is_description),
            };
            let whole = all(from.store.export(part).await.unwrap()).await.unwrap();
            let broken = Middle::cut(&from.store, is, at.index(whole.len()));
            let honest = Middle::honest(&from.store);
            let to = Place::new().await;
            let mut import = to.store.import(&id, &contents).await.unwrap().unwrap();
            let err = import.take(&broken, &mut |_| {}).await.unwrap_err();
            assert!(matches!(err, Error::SourceFailed { .. }), "{err:?}");
            assert!(to.store.list().await.unwrap().is_empty());
            let done = import.done_bytes();
            let mut told = Vec::new();
            import.take(&honest, &mut |done| told.push(done)).await.unwrap();
            assert_same(&from.store, &to.store, &id).await;
            // What had come isn't asked for again.
            assert!(told.iter().all(|&now| now > done), "{told:?} after {done}");
            assert_eq!(told.last(), Some(&contents.root_bytes));
            assert_eq!(honest.roots_asked().len(), 1);
            assert_eq!(honest.asked().len(), if of_root { 1 } else { 2 });
        });
    }
}

#[tokio::test]
async fn what_came_before_a_lie_stays() {
    let (from, id, contents) = built(&large()).await;
    let part = Part::Root {
        image: id,
        root: contents.root,
        from: 0,
    };
    let whole = all(from.store.export(part).await.unwrap()).await.unwrap();
    let liar = Middle::flip(&from.store, is_root, whole.len() - 1000, 1);
    let honest = Middle::honest(&from.store);
    let to = Place::new().await;
    let mut import = to.store.import(&id, &contents).await.unwrap().unwrap();
    let err = import.take(&liar, &mut |_| {}).await.unwrap_err();
    assert!(matches!(err, Error::SourceLied { .. }), "{err:?}");
    let done = import.done_bytes();
    assert!(done > 0);
    import.take(&honest, &mut |_| {}).await.unwrap();
    assert_eq!(honest.roots_asked(), [(done / (4 << 20)) as u32]);
    assert_same(&from.store, &to.store, &id).await;
}

#[tokio::test]
async fn an_import_that_is_given_up_leaves_nothing() {
    let (from, id, contents) = built(&large()).await;
    let to = Place::new().await;
    let mut import = to.store.import(&id, &contents).await.unwrap().unwrap();
    let part = Part::Root {
        image: id,
        root: contents.root,
        from: 0,
    };
    let whole = all(from.store.export(part).await.unwrap()).await.unwrap();
    let broken = Middle::cut(&from.store, is_root, whole.len() - 1);
    import.take(&broken, &mut |_| {}).await.unwrap_err();
    assert!(import.done_bytes() > 0);
    drop(import);
    assert_eq!(to.files(), [""; 0]);
}

#[tokio::test]
async fn two_who_want_the_same_image_share_the_work() {
    let (from, id, contents) = built(&large()).await;
    let to = Place::new().await;
    let source = Middle::honest(&from.store);
    let (one, other) = tokio::join!(
        import(&to.store, &id, &contents, &source),
        import(&to.store, &id, &contents, &source)
    );
    one.unwrap();
    other.unwrap();
    assert_eq!(source.asked().len(), 2, "a description and a root");
}

/// Another who wants it isn't left behind by one who gives up.
#[tokio::test]
async fn the_next_takes_over_from_one_who_gives_up() {
    let (from, id, contents) = built(&small()).await;
    let to = Place::new().await;
    let first = to.store.import(&id, &contents).await.unwrap().unwrap();
    let mut second = Box::pin(import(&to.store, &id, &contents, &from.store));
    assert!((&mut second).now_or_never().is_none(), "it waits");
    drop(first);
    second.await.unwrap();
    assert_same(&from.store, &to.store, &id).await;
}

#[tokio::test]
async fn a_load_of_the_image_meanwhile_is_as_good() {
    let (from, id, contents) = built(&small()).await;
    let to = Place::new().await;
    let mut import = to.store.import(&id, &contents).await.unwrap().unwrap();
    to.load(&small().docker_archive("test:1")).await.unwrap();
    import.take(&from.store, &mut |_| {}).await.unwrap();
    drop(import);
    assert_same(&from.store, &to.store, &id).await;
}

/// Removes the image from its store while that is asked.
struct Removing {
    store: Store,
    /// When the stream has begun; else when a root is asked for.
    midway: bool,
}

impl Source for Removing {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
        async move {
            if !is_root(&part) {
                return self.store.fetch(part).await;
            }
            let id = *part.image();
            if !self.midway {
                self.store.remove(&id).await.unwrap();
                return self.store.fetch(part).await;
            }
            let mut chunks = self.store.fetch(part).await?;
            let first = chunks.next().await;
            self.store.remove(&id).await.unwrap();
            Ok(futures_util::stream::iter(first).chain(chunks).boxed())
        }
        .boxed()
    }
}

#[tokio::test]
async fn an_image_that_is_removed_at_its_source_comes_whole_or_from_elsewhere() {
    for midway in [false, true] {
        let (from, id, contents) = built(&large()).await;
        let (other, ..) = built(&large()).await;
        let to = Place::new().await;
        let source = Removing {
            store: from.store.clone(),
            midway,
        };
        let mut import = to.store.import(&id, &contents).await.unwrap().unwrap();
        let taken = import.take(&source, &mut |_| {}).await;
        match midway {
            true => taken.unwrap(),
            false => {
                let err = taken.unwrap_err();
                assert!(matches!(err, Error::SourceFailed { .. }), "{err:?}");
                import.take(&other.store, &mut |_| {}).await.unwrap();
            }
        }
        assert_same(&other.store, &to.store, &id).await;
        assert_eq!(from.files(), [""; 0]);
    }
}

#[tokio::test]
async fn a_store_with_another_root_is_told_from_one_with_the_right_one() {
    let (from, id, contents) = built(&small()).await;
    let to = Place::new().await;
    let mut wrong = contents;
    wrong.root = *id.digest();
    let err = import(&to.store, &id, &wrong, &from.store)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::SourceLied { .. }), "{err:?}");
    for root_bytes in [0, 1, u64::MAX, 1 << 41] {
        wrong.root_bytes = root_bytes;
        let err = import(&to.store, &id, &wrong, &from.store)
            .await
            .unwrap_err();
        assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
    }
    // Of a part that nobody has.
    let other = image(vec![]).id().parse().unwrap();
    let err = import(&to.store, &other, &contents, &from.store)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::SourceFailed { .. }), "{err:?}");
}

#[tokio::test]
async fn a_full_disk_is_this_stores_own_fault_and_leaves_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let mounted = rustix::process::geteuid().is_root()
        && Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        support::skipped("mounting a small disk needs root");
        return;
    }
    let (from, id, contents) = built(&large()).await;
    let (other, fits, fitting) = built(&small()).await;
    let store = Store::open(dir.path(), StoreOptions::default())
        .await
        .unwrap();
    let full = import(&store, &id, &contents, &from.store).await;
    let left = fs::read_dir(dir.path().join("tmp")).unwrap().count();
    let done = import(&store, &fits, &fitting, &other.store).await;
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    assert!(matches!(full, Err(Error::NoSpace)), "{full:?}");
    assert_eq!(left, 0);
    assert!(done.is_ok(), "{done:?}");
}
