//! From what a user calls an image to the image.

use hearth_image::{Image, ImageRef};

use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::controller::key_of;
use crate::state::{State, Tenant};

/// Fewest digits of an id that are taken as its beginning.
const ID_DIGITS_MIN: usize = 4;

/// The id (`sha256:…`) of a tenant's image by name, by digest, by id or by the beginning of an id.
pub fn resolve(state: &State, tenant: &Tenant, name: &str) -> Result<String, ApiError> {
    let own = || {
        state
            .images
            .iter()
            .filter(|((owner, _), _)| owner == tenant)
            .map(|((_, id), record)| (id, record))
    };
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !digits.is_empty()
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let by_id = || -> Result<Option<String>, ApiError> {
        if !is_hex || digits.len() < ID_DIGITS_MIN {
            return Ok(None);
        }
        let mut found = own().map(|(id, _)| id).filter(|id| {
            id.strip_prefix("sha256:")
                .is_some_and(|id| id.starts_with(digits))
        });
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(ApiError::not_found(format!(
                "ambiguous reference: {name}: more than one image's id begins so"
            ))),
            (one, _) => Ok(one.cloned()),
        }
    };
    let none = || ApiError::no_such_image(&familiar(name));
    if is_hex && (digits.len() == 64 || digits.len() < name.len()) {
        return by_id()?.ok_or_else(none);
    }
    let reference: ImageRef = name.parse()?;
    let key = key_of(&reference);
    // A tag beside a digest says nothing: it may have moved, and the digest can't.
    if reference.digest().is_some() {
        let named = own().find(|(_, record)| record.repo_digests.contains(&key));
        return named.map(|(id, _)| id.clone()).ok_or_else(none);
    }
    if let Some(tag) = state.tags.get(&(tenant.clone(), key)) {
        return Ok(tag.image.clone());
    }
    by_id()?.ok_or_else(none)
}

/// A name as docker repeats it in messages: with the tag that was meant.
fn familiar(name: &str) -> String {
    name.parse::<ImageRef>()
        .map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// The id of the caller's image.
pub fn find(call: &Call, name: &str) -> Result<String, ApiError> {
    resolve(&call.controller().state(), &call.tenant, name)
}

/// What the store of some node tells about an image that the state has.
pub async fn from_store(call: &Call, id: &str) -> Result<Image, ApiError> {
    let image = call.controller().image(id).await?;
    image.ok_or_else(|| {
        ApiError::not_found(format!(
            "No such image: {id} (it is known, and no node that is there has it: pull it again)"
        ))
    })
}

/// Names (`busybox:latest`) of an image, sorted.
pub fn tags_of(state: &State, tenant: &Tenant, id: &str) -> Vec<String> {
    let own = state
        .tags
        .iter()
        .filter(|((owner, _), tag)| owner == tenant && tag.image == id);
    own.map(|((_, name), _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ImageRecord, TagRecord};

    fn state() -> State {
        let mut state = State::default();
        let tenant: Tenant = "acme".parse().unwrap();
        let id = format!("sha256:{}", "ab".repeat(32));
        let digest = format!("busybox@sha256:{}", "cd".repeat(32));
        state.images.insert_mut(
            (tenant.clone(), id.clone()),
            ImageRecord {
                repo_digests: vec![digest],
                arrived_ns: 1,
            },
        );
        state.tags.insert_mut(
            (tenant, "busybox:latest".to_owned()),
            TagRecord { image: id },
        );
        state
    }

    fn found(tenant: &str, name: &str) -> Result<String, String> {
        resolve(&state(), &tenant.parse().unwrap(), name).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn an_image_goes_by_name_digest_and_id() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let digest = format!("busybox@sha256:{}", "cd".repeat(32));
        let long = "ab".repeat(32);
        for name in [
            "busybox",
            "busybox:latest",
            "docker.io/library/busybox",
            "abababababab",
            "sha256:abab",
            &id,
            &long,
            &digest,
        ] {
            assert_eq!(found("acme", name).as_ref(), Ok(&id), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_its_tag() {
        assert_eq!(
            found("acme", "nosuch").unwrap_err(),
            "No such image: nosuch:latest"
        );
        assert_eq!(
            found("acme", "busybox:1").unwrap_err(),
            "No such image: busybox:1"
        );
        assert_eq!(
            found("acme", "cdcdcdcd").unwrap_err(),
            "No such image: cdcdcdcd:latest"
        );
        assert!(
            found("acme", "Bad Name")
                .unwrap_err()
                .contains("invalid reference format")
        );
    }

    #[test]
    fn a_digest_beside_a_tag_is_what_counts() {
        let id = format!("sha256:{}", "ab".repeat(32));
        let digest = format!("sha256:{}", "cd".repeat(32));
        // The tag names another image, or none, by now.
        for tag in ["latest", "moved"] {
            assert_eq!(
                found("acme", &format!("busybox:{tag}@{digest}")).as_ref(),
                Ok(&id)
            );
        }
        let unknown = format!("sha256:{}", "ef".repeat(32));
        assert!(found("acme", &format!("busybox:latest@{unknown}")).is_err());
    }

    #[test]
    fn another_tenants_images_are_not_there() {
        assert!(found("other", "busybox").is_err());
        assert!(found("other", &"ab".repeat(32)).is_err());
    }
}
