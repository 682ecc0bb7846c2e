//! Whose image it is, and how somebody else would get it.

use std::collections::BTreeSet;

use hearth_image::{Credentials, Error, ImageId, ImageRef, Pulled, StoreOptions};
use hearth_tests::{
    archive::{Image, Stored},
    layer::Layer,
};

use super::{
    Place,
    fake::{Fake, honest},
    image, noise,
};

/// The victim's image, two layers.
pub fn secret() -> Image {
    image(vec![
        Layer::new().file("base", 0o644, &noise(50_000)),
        Layer::new().file("secret", 0o600, b"the victim's"),
    ])
}

pub fn serving(stored: Stored) -> Fake {
    Fake::start(move |request| honest(&stored, request))
}

pub async fn place(fakes: &[&Fake]) -> Place {
    let insecure_registries = fakes.iter().map(|fake| fake.address.clone()).collect();
    Place::with(StoreOptions {
        insecure_registries,
        ..StoreOptions::default()
    })
    .await
}

pub async fn pull(place: &Place, fake: &Fake, shown: &[ImageId]) -> Result<Pulled, Error> {
    let reference: ImageRef = format!("{}/app:1", fake.address).parse().unwrap();
    let shown: BTreeSet<ImageId> = shown.iter().copied().collect();
    let auth = Credentials::Anonymous;
    place
        .store
        .pull(&reference, &auth, &shown, &mut |_| {})
        .await
}
