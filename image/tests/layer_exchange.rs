//! The layers of an image that came from another store follow when somebody wants them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::{Error, Part, Store, StoreOptions};
use proptest::prelude::*;
use support::{
    Place,
    exchange::{built, import, runtime, small},
    source::{Middle, all, is_layer},
};

#[tokio::test]
async fn layers_come_when_they_are_asked_for() {
    let (from, id, contents) = built(&small()).await;
    let to = Place::new().await;
    import(&to.store, &id, &contents, &from.store)
        .await
        .unwrap();
    let missing = to.store.missing_layers(&id).await.unwrap();
    assert_eq!(missing.len(), 2);
    for layer in &missing {
        to.store
            .import_layer(&id, layer, &from.store)
            .await
            .unwrap();
    }
    assert!(to.store.missing_layers(&id).await.unwrap().is_empty());
    assert_eq!(to.files(), from.files());
    let again = Store::open(to.dir.path(), StoreOptions::default())
        .await
        .unwrap();
    assert!(again.missing_layers(&id).await.unwrap().is_empty());
    assert_eq!(to.files(), from.files());
    again.remove(&id).await.unwrap();
    assert_eq!(to.files(), [""; 0]);

    let options = StoreOptions {
        keep_layers: false,
        ..StoreOptions::default()
    };
    let sparing = Place::with(options).await;
    import(&sparing.store, &id, &contents, &from.store)
        .await
        .unwrap();
    assert!(sparing.store.missing_layers(&id).await.unwrap().is_empty());
    // It has none to give either.
    let reader = Place::new().await;
    import(&reader.store, &id, &contents, &sparing.store)
        .await
        .unwrap();
    let err = reader
        .store
        .import_layer(&id, &missing[0], &sparing.store)
        .await;
    assert!(matches!(err, Err(Error::SourceFailed { .. })), "{err:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_layer_that_was_touched_or_cut_is_refused(at in any::<prop::sample::Index>(), cut in any::<bool>()) {
        runtime().block_on(async move {
            let (from, id, contents) = built(&small()).await;
            let to = Place::new().await;
            import(&to.store, &id, &contents, &from.store).await.unwrap();
            let files = to.files();
            let layer = to.store.missing_layers(&id).await.unwrap()[0];
            let part = Part::Layer { image: id, digest: layer };
            let at = at.index(all(from.store.export(part).await.unwrap()).await.unwrap().len());
            let source = match cut {
                true => Middle::cut(&from.store, is_layer, at),
                false => Middle::flip(&from.store, is_layer, at, 1),
            };
            let err = to.store.import_layer(&id, &layer, &source).await.unwrap_err();
            assert!(matches!(err, Error::SourceLied { .. } | Error::SourceFailed { .. }), "{err:?}");
            assert_eq!(to.files(), files);
        });
    }
}
