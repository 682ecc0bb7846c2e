//! Credentials go to the registry that they were given for, and to its own token service; nowhere else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::BTreeSet, sync::Arc};

use hearth_image::{Credentials, Error, ImageRef, Pulled, StoreOptions};
use hearth_tests::{
    archive::{Encoding, Stored},
    layer::Layer,
};
use support::{
    Place,
    fake::{Answer, Fake, Request, honest},
};

/// The secrets as they are on the wire.
const BASIC: &str = "Basic bWU6cGFzcw==";
const TOKEN: &str = "refresh-me";

fn secrets() -> [Credentials; 2] {
    [
        Credentials::Basic {
            username: "me".to_owned(),
            password: "pass".to_owned(),
        },
        Credentials::IdentityToken(TOKEN.to_owned()),
    ]
}

fn stored() -> Arc<Stored> {
    let layer = Layer::new().file("a", 0o644, b"content");
    Arc::new(support::image(vec![layer]).stored(Encoding::Gzip))
}

/// Pulls from `fake`, which alone may be spoken to in the clear, and `others`.
async fn pull(fake: &Fake, others: &[&Fake], auth: &Credentials) -> Result<Pulled, Error> {
    let mut insecure_registries = vec![fake.address.clone()];
    insecure_registries.extend(others.iter().map(|other| other.address.clone()));
    let place = Place::with(StoreOptions {
        insecure_registries,
        ..StoreOptions::default()
    })
    .await;
    let reference: ImageRef = format!("{}/team/app:1", fake.address).parse().unwrap();
    place
        .store
        .pull(&reference, auth, &BTreeSet::new(), &mut |_| {})
        .await
}

#[track_caller]
fn assert_has_no_secret(fake: &Fake) {
    for request in fake.requests() {
        let said = format!("{request:?}");
        let secret = [BASIC, TOKEN, "opensesame", "authorization"]
            .into_iter()
            .find(|secret| said.contains(secret));
        assert_eq!(secret, None, "{said}");
    }
}

fn bearer(realm: &str) -> Answer {
    Answer::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
}

/// Sends everything that isn't `/v2/` plainly to `to`.
fn redirecting(to: &Fake) -> impl Fn(&Request) -> Answer + Send + Sync + use<> {
    let to = to.address.clone();
    move |request: &Request| {
        Answer::status(307).header("Location", format!("http://{to}{}", request.target))
    }
}

#[tokio::test]
async fn a_challenge_from_a_redirects_target_is_never_answered() {
    for challenge in ["Basic realm=\"x\"", "bearer"] {
        let thief = Fake::start(|_| Answer::ok(r#"{"token":"opensesame"}"#));
        let realm = format!("http://{}/token", thief.address);
        let target = Fake::start(move |_| match challenge {
            "bearer" => bearer(&realm),
            basic => Answer::status(401).header("WWW-Authenticate", basic),
        });
        let registry = Fake::start(redirecting(&target));
        for credentials in secrets() {
            let err = pull(&registry, &[&thief, &target], &credentials)
                .await
                .unwrap_err();
            assert!(matches!(err, Error::Unauthorized { .. }), "{err:?}");
        }
        assert!(thief.requests().is_empty(), "the realm was asked");
        assert_has_no_secret(&target);
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_authorization_along() {
    let stored = stored();
    let store = Fake::start({
        let stored = stored.clone();
        move |request| honest(&stored, request)
    });
    let elsewhere = redirecting(&store);
    let registry = Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return Answer::ok(r#"{"token":"opensesame"}"#);
        }
        match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer opensesame") if request.target.contains("/blobs/") => elsewhere(request),
            Some("Bearer opensesame") => honest(&stored, request),
            _ => bearer(&format!("http://{}/token", request.headers["host"])),
        }
    });
    for credentials in secrets() {
        pull(&registry, &[], &credentials).await.unwrap();
    }
    assert!(!store.requests().is_empty());
    assert_has_no_secret(&store);
}

#[tokio::test]
async fn a_token_services_redirect_takes_no_secret_elsewhere() {
    let thief = Fake::start(|_| Answer::ok(r#"{"token":"opensesame"}"#));
    let elsewhere = redirecting(&thief);
    let registry = Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return elsewhere(request);
        }
        bearer(&format!("http://{}/token", request.headers["host"]))
    });
    for credentials in secrets() {
        pull(&registry, &[&thief], &credentials).await.unwrap_err();
    }
    assert!(thief.requests().is_empty(), "the redirect was followed");
}

#[tokio::test]
async fn no_password_goes_in_the_clear_to_a_host_that_is_not_declared_insecure() {
    let realm = Fake::start(|_| Answer::ok(r#"{"token":"opensesame"}"#));
    let address = realm.address.clone();
    let stored = stored();
    let registry = Fake::start(move |request| match request.headers.get("authorization") {
        Some(token) if token == "Bearer opensesame" => honest(&stored, request),
        _ => bearer(&format!("http://{address}/token")),
    });
    for credentials in secrets() {
        let err = pull(&registry, &[], &credentials).await.unwrap_err();
        assert!(err.to_string().contains("TLS"), "{err}");
    }
    assert!(realm.requests().is_empty());
    // Its owner has said that it may be.
    for credentials in secrets() {
        pull(&registry, &[&realm], &credentials).await.unwrap();
    }
    // And whoever has no password has nothing to lose.
    pull(&registry, &[], &Credentials::Anonymous).await.unwrap();
}
