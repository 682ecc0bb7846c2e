//! `GET /images/json`.

use std::collections::HashMap;

use bollard_stubs::models::ImageSummary;
use hearth_image::Image;
use serde_json::json;

use super::lookup::{resolve, tags_of};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::query::Filters;
use crate::api::docker::timestamps;
use crate::api::docker::version::ApiVersion;

/// What may be filtered by.
const FILTERS: [&str; 7] = [
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];
/// What older clients expect in the place of a name where there is none.
const NO_TAG: &str = "<none>:<none>";
/// See [`NO_TAG`].
const NO_DIGEST: &str = "<none>@<none>";

/// The tenant's images, newest first.
pub async fn list(call: &Call) -> Answer {
    let filters = call.query.filters(&FILTERS)?;
    let dangling = filters.truth("dangling")?;
    let until = timestamps::bound("until", filters.values("until").first().map(String::as_str))?;
    let all = summaries(call).await?;
    let created = |name: &str| -> Result<Option<i64>, ApiError> {
        let Some(wanted) = filters.values(name).first() else {
            return Ok(None);
        };
        let id = resolve(&call.controller().state(), &call.tenant, wanted)?;
        Ok(all
            .iter()
            .find(|image| image.id == id)
            .map(|image| image.created))
    };
    let (before, since) = (created("before")?, created("since")?);
    let mut shown = Vec::new();
    for mut image in all {
        let has_no_name = image.repo_tags.is_empty();
        let in_order = before.is_none_or(|at| image.created < at)
            && since.is_none_or(|at| image.created > at)
            && until.is_none_or(|at| image.created < (at / 1_000_000_000) as i64);
        if !in_order
            || dangling.is_some_and(|wanted| wanted != has_no_name)
            || !filters.labels(|key| image.labels.get(key).map(String::as_str))
            || !by_reference(&mut image, &filters)
        {
            continue;
        }
        shown.push(for_version(image, call.version));
    }
    answer::ok(&shown)
}

/// Every image of the tenant.
pub async fn summaries(call: &Call) -> Result<Vec<ImageSummary>, ApiError> {
    let mut own: HashMap<String, (Vec<String>, Vec<String>)> = {
        let state = call.controller().state();
        let own = state
            .images
            .iter()
            .filter(|((owner, _), _)| *owner == call.tenant);
        own.map(|((_, id), record)| {
            let tags = tags_of(&state, &call.tenant, id);
            (id.clone(), (tags, record.repo_digests.clone()))
        })
        .collect()
    };
    let ids: Vec<String> = own.keys().cloned().collect();
    // Those that no node has (any more) can't be described; pulling brings them back.
    let mut shown: Vec<ImageSummary> = Vec::new();
    for image in call.controller().images(&ids).await? {
        if let Some((tags, digests)) = own.remove(&image.id.to_string()) {
            shown.push(summary(&image, tags, digests));
        }
    }
    shown.sort_by(|a, b| (b.created, &a.repo_tags, &a.id).cmp(&(a.created, &b.repo_tags, &b.id)));
    Ok(shown)
}

fn summary(image: &Image, repo_tags: Vec<String>, repo_digests: Vec<String>) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags,
        repo_digests,
        created: timestamps::unix_seconds(image.created()),
        size: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
        shared_size: -1,
        labels: image
            .config
            .config
            .labels
            .clone()
            .into_iter()
            .collect::<HashMap<_, _>>(),
        containers: -1,
        manifests: None,
        descriptor: None,
    }
}

fn for_version(mut image: ImageSummary, version: ApiVersion) -> serde_json::Value {
    if version < ApiVersion::new(1, 43) && image.repo_tags.is_empty() {
        if image.repo_digests.is_empty() {
            image.repo_digests.push(NO_DIGEST.to_owned());
        }
        image.repo_tags.push(NO_TAG.to_owned());
    }
    let mut shown = json!(image);
    if version < ApiVersion::new(1, 44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    shown
}

/// Keeps the names that a `reference` filter means; false where none is left.
fn by_reference(image: &mut ImageSummary, filters: &Filters) -> bool {
    let patterns = filters.values("reference");
    if patterns.is_empty() {
        return true;
    }
    image.repo_tags.retain(|tag| {
        patterns
            .iter()
            .any(|pattern| reference_matches(pattern, tag))
    });
    image.repo_digests.retain(|digest| {
        patterns
            .iter()
            .any(|pattern| reference_matches(pattern, digest))
    });
    !image.repo_tags.is_empty() || !image.repo_digests.is_empty()
}

/// A pattern of `*` and `?` that stop at slashes, for the whole name or the name without its tag.
fn reference_matches(pattern: &str, name: &str) -> bool {
    let repository = match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name
            .rsplit_once(':')
            .map_or(name, |(repository, _)| repository),
    };
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Each row: whether the pattern so far matches the text up to each place. Takes pattern × text steps whatever the pattern.
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for &token in pattern {
        let mut next = vec![false; text.len() + 1];
        next[0] = token == b'*' && row[0];
        for (at, &byte) in text.iter().enumerate() {
            next[at + 1] = match token {
                b'*' => row[at + 1] || (next[at] && byte != b'/'),
                b'?' => row[at] && byte != b'/',
                literal => row[at] && literal == byte,
            };
        }
        row = next;
    }
    row[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_docker() {
        for (pattern, name, matches) in [
            ("busybox", "busybox:latest", true),
            ("busybox:latest", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("*:latest", "busybox:latest", true),
            ("*", "grafana/grafana:latest", false),
            ("*/*", "grafana/grafana:latest", true),
            ("b?sybox", "busybox:1", true),
            ("busybox:2", "busybox:1", false),
            ("localhost:5000/a", "localhost:5000/a:1", true),
        ] {
            assert_eq!(
                reference_matches(pattern, name),
                matches,
                "{pattern} {name}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_matches_itself_and_a_star(text in "[a-z0-9.:-]{0,30}") {
            proptest::prop_assert!(glob(text.as_bytes(), text.as_bytes()) && glob(b"*", text.as_bytes()));
        }
    }
}
