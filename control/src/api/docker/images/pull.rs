//! `POST /images/create`: pulling.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::FutureExt;
use hearth_image::{Credentials, ImageRef, Progress};
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::json;

use super::progress::{Lines, answer_with};
use crate::api::docker::answer::Answer;
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::controller::Controller;
use crate::state::Tenant;

/// Clients write the credentials with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Pulls, telling of it as it goes.
pub async fn pull(call: Call) -> Answer {
    let query = &call.query;
    if query.get("fromSrc").is_some() {
        return Err(ApiError::unsupported(
            "importing a file system as an image is",
        ));
    }
    check_platform(query.get("platform"))?;
    let name = query
        .get("fromImage")
        .ok_or_else(|| ApiError::bad_request("fromImage is missing: the image to pull"))?;
    let wanted = wanted(name, query.get("tag"))?;
    let credentials = credentials(&call.headers)?;
    let (controller, tenant) = (call.controller().clone(), call.tenant.clone());
    answer_with(move |lines| job(controller, tenant, wanted, credentials, lines)).await
}

/// What a client asks for.
#[derive(Debug, PartialEq)]
enum Wanted {
    One(ImageRef),
    /// Every tag of the repository: the name has neither tag nor digest.
    All(ImageRef),
}

async fn job(
    controller: Controller,
    tenant: Tenant,
    wanted: Wanted,
    credentials: Credentials,
    lines: Lines,
) -> Result<(), ApiError> {
    let (name, references) = match wanted {
        Wanted::One(reference) => (reference.familiar(), vec![reference]),
        Wanted::All(repository) => {
            let tags = controller.tags(&repository, &credentials).boxed().await?;
            let tagged = tags.iter().map(|tag| repository.with_tag(tag));
            (
                repository.familiar_name(),
                tagged.collect::<Result<Vec<_>, _>>()?,
            )
        }
    };
    let mut had_all = true;
    for reference in references {
        // Said when the registry is known to have it: what fails before is the answer's status.
        let mut from = None;
        let mut tell = |progress| match progress {
            Progress::PullingFrom { .. } => from = Some(progress),
            progress => {
                from.take().inspect(|from| lines.progress(from));
                lines.progress(&progress);
            }
        };
        let pulled = controller
            .pull(&tenant, &reference, &credentials, &mut tell)
            .boxed()
            .await?;
        had_all &= pulled.had_it;
        lines.value(&json!({ "status": format!("Digest: {}", pulled.digest) }));
    }
    let what = if had_all {
        "Image is up to date"
    } else {
        "Downloaded newer image"
    };
    lines.value(&json!({ "status": format!("Status: {what} for {name}") }));
    Ok(())
}

/// `tag` is a tag or a digest. Without either in the name or beside it, every tag is meant; the CLI says `latest` itself.
fn wanted(name: &str, tag: Option<&str>) -> Result<Wanted, ApiError> {
    // Clients have written `name:` for all tags.
    let name = name.strip_suffix(':').unwrap_or(name);
    let named: ImageRef = name.parse()?;
    let last = name.rsplit('/').next().unwrap_or(name);
    Ok(match tag {
        None if last.contains([':', '@']) => Wanted::One(named),
        None => Wanted::All(named),
        Some(digest) if digest.contains(':') => {
            let text = format!("{}/{}@{digest}", named.registry(), named.repository());
            Wanted::One(text.parse()?)
        }
        // A digest in the name can't be made into something else by a tag.
        Some(tag) => {
            let tagged = named.with_tag(tag)?;
            Wanted::One(if named.digest().is_some() {
                named
            } else {
                tagged
            })
        }
    })
}

/// Refuses platforms that no node has.
pub fn check_platform(platform: Option<&str>) -> Result<(), ApiError> {
    match platform {
        None | Some("linux" | "amd64" | "linux/amd64") => Ok(()),
        // Newer clients send it as an OCI platform.
        Some(text) if text.starts_with('{') => {
            let platform: Platform = serde_json::from_str(text)
                .map_err(|e| ApiError::bad_request(format!("invalid platform {text:?}: {e}")))?;
            let name = format!("{}/{}", platform.os, platform.architecture);
            check_platform(Some(name.trim_end_matches('/')))
        }
        Some(other) => Err(ApiError::not_found(format!(
            "no matching manifest for {other}: nodes of this cluster run linux/amd64 and nothing else"
        ))),
    }
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// docker's `X-Registry-Auth`.
#[derive(Deserialize, Default)]
struct RegistryAuth {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    /// `username:password` in base64, for clients that keep it so.
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

fn credentials(headers: &HeaderMap) -> Result<Credentials, ApiError> {
    let bad = || {
        ApiError::bad_request(
            "X-Registry-Auth can't be read: base64url of a JSON object is expected",
        )
    };
    let Some(header) = headers
        .get("x-registry-auth")
        .filter(|header| !header.is_empty())
    else {
        return Ok(Credentials::Anonymous);
    };
    // Some clients use the alphabet of ordinary base64.
    let text = header
        .to_str()
        .map_err(|_| bad())?
        .replace('+', "-")
        .replace('/', "_");
    let json = BASE64.decode(text).map_err(|_| bad())?;
    if json.iter().all(u8::is_ascii_whitespace) || json == b"null" {
        return Ok(Credentials::Anonymous);
    }
    let auth: RegistryAuth = serde_json::from_slice(&json).map_err(|_| bad())?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = given(auth.identitytoken) {
        return Ok(Credentials::IdentityToken(token));
    }
    if let Some(username) = given(auth.username) {
        return Ok(Credentials::Basic {
            username,
            password: auth.password.unwrap_or_default(),
        });
    }
    let Some(pair) = given(auth.auth) else {
        return Ok(Credentials::Anonymous);
    };
    let pair = BASE64
        .decode(pair.replace('+', "-").replace('/', "_"))
        .map_err(|_| bad())?;
    let pair = String::from_utf8(pair).map_err(|_| bad())?;
    let (username, password) = pair.split_once(':').ok_or_else(bad)?;
    Ok(Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

/// What a client wants to have pulled.
#[cfg(feature = "fuzzing")]
pub fn understand(name: &str, tag: Option<&str>) {
    let _ = wanted(name, tag);
}

/// The credentials for it.
#[cfg(feature = "fuzzing")]
pub fn read_credentials(headers: &HeaderMap) {
    let _ = credentials(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_digests_are_put_together() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let one = |name: &str, tag: Option<&str>| match wanted(name, tag).unwrap() {
            Wanted::One(reference) => reference.familiar(),
            Wanted::All(_) => panic!("{name} means every tag"),
        };
        assert_eq!(one("busybox:2", None), "busybox:2");
        assert_eq!(one("busybox", Some("1")), "busybox:1");
        assert_eq!(one("busybox:1", Some("2")), "busybox:2");
        assert_eq!(one("localhost:5000/a", Some("1")), "localhost:5000/a:1");
        let by_digest = format!("busybox@{digest}");
        assert_eq!(one("busybox", Some(&digest)), by_digest);
        assert_eq!(one("busybox:1", Some(&digest)), by_digest);
        assert_eq!(one(&by_digest, Some("latest")), by_digest);
        assert!(wanted("Busybox", None).is_err());
        assert!(wanted("busybox", Some("no tag")).is_err());
    }

    #[test]
    fn without_tag_and_digest_every_tag_is_meant() {
        for name in ["busybox", "busybox:", "localhost:5000/a", "a/b/c"] {
            assert!(matches!(wanted(name, None), Ok(Wanted::All(_))), "{name}");
        }
    }

    fn read(json: &str) -> Credentials {
        let mut headers = HeaderMap::new();
        let text = base64::engine::general_purpose::URL_SAFE.encode(json);
        headers.insert("x-registry-auth", text.parse().unwrap());
        credentials(&headers).unwrap()
    }

    #[test]
    fn credentials_are_read_in_each_form() {
        let basic = Credentials::Basic {
            username: "me".into(),
            password: "p?>".into(),
        };
        assert_eq!(
            read(r#"{"username":"me","password":"p?>","serveraddress":"x"}"#),
            basic
        );
        assert_eq!(read(r#"{"auth":"bWU6cD8+"}"#), basic);
        assert_eq!(
            read(r#"{"identitytoken":"t","username":"<token>"}"#),
            Credentials::IdentityToken("t".into())
        );
        assert_eq!(read("{}"), Credentials::Anonymous);
        assert_eq!(
            credentials(&HeaderMap::new()).unwrap(),
            Credentials::Anonymous
        );
    }

    #[test]
    fn other_platforms_are_refused() {
        assert!(check_platform(Some("linux/amd64")).is_ok());
        assert!(check_platform(Some(r#"{"architecture":"amd64","os":"linux"}"#)).is_ok());
        assert!(check_platform(Some("linux/arm64")).is_err());
        assert!(check_platform(Some(r#"{"architecture":"arm64","os":"linux"}"#)).is_err());
        assert!(check_platform(Some("{")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in "[ -~]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.insert("x-registry-auth", text.parse().unwrap());
            let _ = credentials(&headers);
        }
    }
}
