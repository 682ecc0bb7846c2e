//! Pulls from registries that do what Debian's doesn't: tokens, no ranges, lies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hearth_image::{Credentials, Error, ImageRef, Pulled, StoreOptions};
use hearth_tests::{
    archive::{Encoding, Stored, digest},
    layer::Layer,
};
use serde_json::json;
use support::{
    Place,
    fake::{Answer, Fake, Request, honest},
    noise,
};

fn stored(encoding: Encoding) -> Arc<Stored> {
    let layer = Layer::new().file("a", 0o644, &noise(200_000));
    Arc::new(support::image(vec![layer]).stored(encoding))
}

async fn pull(fake: &Fake, credentials: &Credentials) -> (Result<Pulled, Error>, Place) {
    let options = StoreOptions {
        insecure_registries: vec![fake.address.clone()],
        ..StoreOptions::default()
    };
    let place = Place::with(options).await;
    let reference: ImageRef = format!("{}/team/app:1", fake.address).parse().unwrap();
    (
        place
            .store
            .pull(&reference, credentials, &BTreeSet::new(), &mut |_| {})
            .await,
        place,
    )
}

async fn refusal(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Error {
    let fake = Fake::start(answer);
    let (pulled, place) = pull(&fake, &Credentials::Anonymous).await;
    assert_eq!(place.files(), [""; 0], "something was left behind");
    pulled.unwrap_err()
}

/// A registry that wants a token from its own `/token`.
fn with_tokens(stored: Arc<Stored>) -> Fake {
    Fake::start(move |request| {
        if request.target.starts_with("/token") {
            return Answer::ok(r#"{"token":"","access_token":"opensesame"}"#);
        }
        if request.headers.get("authorization").map(String::as_str) != Some("Bearer opensesame") {
            let realm = format!("http://{}/token", request.headers["host"]);
            return Answer::status(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#),
            );
        }
        honest(&stored, request)
    })
}

#[tokio::test]
async fn tokens_are_fetched_with_whatever_the_user_has() {
    let fake = with_tokens(stored(Encoding::Gzip));
    let basic = Credentials::Basic {
        username: "me".to_owned(),
        password: "pass".to_owned(),
    };
    let identity = Credentials::IdentityToken("refresh+me".to_owned());
    for credentials in [Credentials::Anonymous, basic, identity] {
        pull(&fake, &credentials).await.0.unwrap();
    }
    let asked: Vec<_> = fake
        .requests()
        .into_iter()
        .filter(|request| request.target.starts_with("/token"))
        .collect();
    assert_eq!(asked.len(), 3, "one token for a whole pull");
    assert_eq!(
        asked[0].target,
        "/token?scope=repository%3Ateam%2Fapp%3Apull&service=reg"
    );
    assert!(!asked[0].headers.contains_key("authorization"));
    assert!(asked[1].target.contains("account=me"));
    assert_eq!(asked[1].headers["authorization"], "Basic bWU6cGFzcw==");
    assert_eq!(asked[2].method, "POST");
    assert!(
        asked[2].body.contains("grant_type=refresh_token"),
        "{}",
        asked[2].body
    );
    assert!(
        asked[2].body.contains("refresh_token=refresh%2Bme"),
        "{}",
        asked[2].body
    );
}

#[tokio::test]
async fn a_token_service_that_refuses_or_talks_nonsense_is_reported() {
    let challenge = |request: &Request| {
        let realm = format!("http://{}/token", request.headers["host"]);
        Answer::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    };
    let refused = refusal(move |request| match request.target.starts_with("/token") {
        true => Answer::status(401),
        false => challenge(request),
    });
    assert!(matches!(refused.await, Error::Unauthorized { .. }));
    for body in ["{}", "garbage", r#"{"token":"a\nb"}"#] {
        let err = refusal(move |request| match request.target.starts_with("/token") {
            true => Answer::ok(body),
            false => challenge(request),
        });
        let err = err.await;
        assert!(matches!(err, Error::Protocol { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_again_from_the_start() {
    let stored = stored(Encoding::Gzip);
    let cut = AtomicBool::new(false);
    let fake = Fake::start({
        let stored = stored.clone();
        move |request| {
            let mut answer = honest(&stored, request);
            if answer.body.len() > 100_000 && !cut.swap(true, Ordering::SeqCst) {
                // Promises more than comes.
                let whole = answer.body.len();
                answer.body.truncate(50_000);
                return answer.header("Content-Length", whole.to_string());
            }
            answer
        }
    });
    pull(&fake, &Credentials::Anonymous).await.0.unwrap();
}

#[tokio::test]
async fn documents_that_do_not_match_their_digest_are_refused() {
    let stored = stored(Encoding::Gzip);
    let wrong_manifest = {
        let stored = stored.clone();
        refusal(move |request| {
            let answer = honest(&stored, request);
            match request.target.contains("/manifests/") {
                true => answer.header("Docker-Content-Digest", digest(b"another")),
                false => answer,
            }
        })
    };
    let err = wrong_manifest.await;
    assert!(
        matches!(&err, Error::DigestMismatch { what, .. } if what.contains("manifest")),
        "{err:?}"
    );
    let config = digest(stored.blobs.last().unwrap());
    let wrong_config = refusal(move |request| {
        let mut answer = honest(&stored, request);
        if request.target.ends_with(&config) {
            answer.body.push(b' ');
        }
        answer
    });
    let err = wrong_config.await;
    assert!(
        matches!(&err, Error::DigestMismatch { what, .. } if what.contains("config")),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_layer_that_is_longer_than_promised_is_refused() {
    let stored = stored(Encoding::Gzip);
    let err = refusal(move |request| {
        let mut answer = honest(&stored, request);
        if answer.body.len() > 100_000 {
            answer.body.extend([0; 1000]);
        }
        answer
    });
    assert!(matches!(err.await, Error::DigestMismatch { .. }));
}

#[tokio::test]
async fn a_manifest_whose_blobs_are_missing_is_the_registrys_fault() {
    let stored = stored(Encoding::Gzip);
    let err = refusal(move |request| match request.target.contains("/blobs/") {
        true => Answer::status(404),
        false => honest(&stored, request),
    });
    assert!(matches!(err.await, Error::Protocol { .. }));
}

#[tokio::test]
async fn another_platform_is_refused_by_name() {
    let list = json!({
        "schemaVersion": 2,
        "manifests": [
            { "mediaType": "x", "digest": digest(b""), "size": 1,
              "platform": { "os": "linux", "architecture": "arm64" } },
            { "mediaType": "x", "digest": digest(b""), "size": 1,
              "platform": { "os": "windows", "architecture": "amd64" } },
        ],
    });
    let err = refusal(move |_| Answer::ok(list.to_string())).await;
    assert!(
        matches!(&err, Error::UnsupportedPlatform { offered, .. } if offered == "linux/arm64, windows/amd64"),
        "{err:?}"
    );
}

#[tokio::test]
async fn documents_of_other_kinds_are_refused() {
    for (document, expected) in [
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "unsupported"),
        (r#"{"layers":[],"manifests":[]}"#, "at once"),
        (r#"{"layers":[]}"#, "malformed"),
        ("[]", "unsupported"),
        ("<html>", "malformed"),
    ] {
        let err = refusal(move |_| Answer::ok(document)).await;
        assert!(err.to_string().contains(expected), "{document}: {err}");
    }
}

#[tokio::test]
async fn a_foreign_layer_is_asked_of_its_registry_and_of_nobody_else() {
    let stored = stored(Encoding::Gzip);
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let elsewhere = Fake::start(|_| Answer::status(500));
        let mut manifest: serde_json::Value = serde_json::from_slice(&stored.manifest).unwrap();
        manifest["layers"][0]["mediaType"] = json!(foreign);
        manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", elsewhere.address)]);
        manifest["config"]["mediaType"] = json!("application/octet-stream");
        let fake = Fake::start({
            let stored = stored.clone();
            move |request| match request.target.contains("/manifests/") {
                true => Answer::ok(manifest.to_string()),
                false => honest(&stored, request),
            }
        });
        pull(&fake, &Credentials::Anonymous).await.0.unwrap();
        assert!(elsewhere.requests().is_empty());
    }
}

#[tokio::test]
async fn a_layer_is_known_by_its_bytes_and_not_by_its_media_type() {
    let stored = stored(Encoding::Gzip);
    for (media_type, taken) in [
        (json!("application/vnd.oci.image.layer.v1.tar+zstd"), true),
        (json!("application/vnd.oci.image.layer.v1.tar"), true),
        (
            json!("application/vnd.oci.image.serialization.rootfs.tar.gzip"),
            true,
        ),
        (
            json!("application/vnd.docker.container.image.rootfs.diff+x-gtar"),
            true,
        ),
        (json!("application/octet-stream"), true),
        (json!(""), true),
        (json!(null), true),
        (
            json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            false,
        ),
        (json!("application/vnd.in-toto+json"), false),
        (json!("text/plain"), false),
    ] {
        let mut manifest: serde_json::Value = serde_json::from_slice(&stored.manifest).unwrap();
        for entry in ["/layers/0", "/config"] {
            let entry = manifest
                .pointer_mut(entry)
                .unwrap()
                .as_object_mut()
                .unwrap();
            entry.remove("mediaType");
        }
        if !media_type.is_null() {
            manifest["layers"][0]["mediaType"] = media_type.clone();
        }
        let fake = Fake::start({
            let stored = stored.clone();
            move |request| match request.target.contains("/manifests/") {
                true => Answer::ok(manifest.to_string()),
                false => honest(&stored, request),
            }
        });
        match pull(&fake, &Credentials::Anonymous).await.0 {
            Ok(_) => assert!(taken, "{media_type}"),
            Err(Error::UnsupportedMediaType { .. }) => assert!(!taken, "{media_type}"),
            Err(other) => panic!("{media_type}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_manifest_of_endless_layers_is_refused() {
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest(b""),
        "size": 0,
    });
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest(b""),
        "size": 0,
    });
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": vec![layer; 10_000] });
    let err = refusal(move |_| Answer::ok(manifest.to_string())).await;
    assert!(matches!(err, Error::TooLarge { .. }), "{err:?}");
}

#[tokio::test]
async fn a_document_without_end_is_cut_off() {
    let err = refusal(|_| Answer::ok(vec![b' '; 5 << 20])).await;
    assert!(matches!(err, Error::TooLarge { .. }), "{err:?}");
}

#[tokio::test]
async fn limits_of_the_registry_are_passed_on_in_its_words() {
    let err = refusal(|_| Answer {
        status: 429,
        body: br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.to_vec(),
        ..Answer::default()
    });
    let err = err.await;
    assert!(
        matches!(err, Error::Registry { status: 429, .. }),
        "{err:?}"
    );
    assert!(err.to_string().contains("slow down"));
}
