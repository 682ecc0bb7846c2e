//! `DELETE /images/{name}` and `POST /images/prune`.

use std::collections::BTreeSet;

use bollard_stubs::models::{ImageDeleteResponseItem, ImagePruneResponse};
use hearth_image::ImageRef;

use super::lookup::{find, tags_of};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::clock;
use crate::controller::key_of;
use crate::state::{Command, Placed, State, Tenant};

/// What `prune` may be filtered by.
const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];
/// Digits of an id in messages.
const SHORT: usize = 12;

fn untagged(name: &str) -> ImageDeleteResponseItem {
    ImageDeleteResponseItem {
        untagged: Some(name.to_owned()),
        deleted: None,
    }
}

fn deleted(id: &str) -> ImageDeleteResponseItem {
    ImageDeleteResponseItem {
        untagged: None,
        deleted: Some(id.to_owned()),
    }
}

fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..SHORT).unwrap_or(digits)
}

/// A name goes; with the last one the image goes.
pub async fn remove(call: &Call, name: &str) -> Answer {
    let force = call.query.flag("force");
    let id = find(call, name)?;
    let plan = plan(&call.controller().state(), &call.tenant, name, &id, force)?;
    answer::ok(&carry_out(call, &id, plan).await?)
}

/// What a removal comes to.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    untag: Vec<String>,
    delete: bool,
    force: bool,
}

fn plan(
    state: &State,
    tenant: &Tenant,
    name: &str,
    id: &str,
    force: bool,
) -> Result<Plan, ApiError> {
    let names = names_of(state, tenant, id);
    let own = state.of_image(id).filter(|c| c.tenant == *tenant);
    let (up, down): (Vec<Placed>, Vec<Placed>) = own.partition(|container| container.is_up());
    let key = name.parse::<ImageRef>().ok().map(|name| key_of(&name));
    if let Some(key) = key.filter(|key| names.contains(key)) {
        if let (true, Some(container), false) =
            (is_single(&names), up.first().or(down.first()), force)
        {
            return Err(ApiError::conflict(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
                container.id.short(),
                short(id)
            )));
        }
        // With the last tag of a repository its digests go, as nobody sees them any more.
        let repository = repository_of(&key);
        let with_it = |other: &&String| repository_of(other) == repository;
        let last_tag = !key.contains('@')
            && !names
                .iter()
                .filter(with_it)
                .any(|other| *other != key && !other.contains('@'));
        let goes = |other: &String| *other == key || (last_tag && with_it(&other));
        let (untag, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(goes);
        return Ok(Plan {
            untag,
            // A running container keeps its image, which loses its name.
            delete: kept.is_empty() && up.is_empty(),
            force,
        });
    }
    let conflict = |needs: &str, why: String| {
        Err(ApiError::conflict(format!(
            "conflict: unable to delete {} ({needs}) - {why}",
            short(id)
        )))
    };
    if let Some(container) = up.first() {
        return conflict(
            "cannot be forced",
            format!(
                "image is being used by running container {}",
                container.id.short()
            ),
        );
    }
    let repositories: BTreeSet<_> = names.iter().map(|name| repository_of(name)).collect();
    if repositories.len() > 1 && !force {
        return conflict(
            "must be forced",
            "image is referenced in multiple repositories".to_owned(),
        );
    }
    if let (Some(container), false) = (down.first(), force) {
        return conflict(
            "must be forced",
            format!(
                "image is being used by stopped container {}",
                container.id.short()
            ),
        );
    }
    Ok(Plan {
        untag: names,
        delete: true,
        force,
    })
}

/// Tags and digests of an image.
fn names_of(state: &State, tenant: &Tenant, id: &str) -> Vec<String> {
    let mut names = tags_of(state, tenant, id);
    let record = state.images.get(&(tenant.clone(), id.to_owned()));
    names.extend(
        record
            .into_iter()
            .flat_map(|record| record.repo_digests.clone()),
    );
    names
}

/// The name without tag or digest.
fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Whether the names are one to a user: of one repository, with one tag at most.
fn is_single(names: &[String]) -> bool {
    let repositories: BTreeSet<_> = names.iter().map(|name| repository_of(name)).collect();
    let tags = names.iter().filter(|name| !name.contains('@')).count();
    repositories.len() == 1 && tags <= 1
}

async fn carry_out(
    call: &Call,
    id: &str,
    plan: Plan,
) -> Result<Vec<ImageDeleteResponseItem>, ApiError> {
    let controller = call.controller();
    let mut done = Vec::new();
    for name in plan.untag {
        let command = Command::Untag {
            tenant: call.tenant.clone(),
            at_ns: clock::now_ns(),
            name: name.clone(),
        };
        controller.propose(command).await?;
        done.push(untagged(&name));
    }
    if !plan.delete {
        return Ok(done);
    }
    let command = Command::RemoveImage {
        tenant: call.tenant.clone(),
        at_ns: clock::now_ns(),
        image: id.to_owned(),
        force: plan.force,
    };
    controller.propose(command).await?;
    let gone = controller.collect_image(id).await?;
    done.push(deleted(id));
    done.extend(
        gone.iter()
            .filter(|digest| *digest != id)
            .map(|digest| deleted(digest)),
    );
    Ok(done)
}

/// Removes images without a name, or with `dangling=false` all that no container uses.
pub async fn prune(call: &Call) -> Answer {
    let filters = call.query.filters(&PRUNE_FILTERS)?;
    let only_dangling = filters.truth("dangling")?.unwrap_or(true);
    let until = timestamps::bound("until", filters.values("until").first().map(String::as_str))?;
    let mut done = Vec::new();
    let mut freed = 0;
    for image in super::summaries(call).await? {
        let plan = {
            let state = call.controller().state();
            let used = state
                .containers
                .of_image(&image.id)
                .any(|c| c.tenant == call.tenant);
            let tags = tags_of(&state, &call.tenant, &image.id);
            let old = until.is_none_or(|until| image.created < (until / 1_000_000_000) as i64);
            let meant = filters.labels(|key| image.labels.get(key).map(String::as_str));
            if used || !old || !meant || (only_dangling && !tags.is_empty()) {
                continue;
            }
            Plan {
                untag: names_of(&state, &call.tenant, &image.id),
                delete: true,
                force: false,
            }
        };
        done.extend(carry_out(call, &image.id, plan).await?);
        freed += image.size;
    }
    answer::ok(&ImagePruneResponse {
        images_deleted: Some(done),
        space_reclaimed: Some(freed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ImageRecord, TagRecord};

    fn state(tags: &[&str]) -> (State, Tenant, String) {
        with_digests(tags, &[])
    }

    fn with_digests(tags: &[&str], digests: &[&str]) -> (State, Tenant, String) {
        let mut state = State::default();
        let tenant: Tenant = "acme".parse().unwrap();
        let id = format!("sha256:{}", "ab".repeat(32));
        state.images.insert_mut(
            (tenant.clone(), id.clone()),
            ImageRecord {
                repo_digests: digests.iter().map(|name| (*name).to_owned()).collect(),
                arrived_ns: 1,
            },
        );
        for tag in tags {
            state.tags.insert_mut(
                (tenant.clone(), (*tag).to_owned()),
                TagRecord { image: id.clone() },
            );
        }
        (state, tenant, id)
    }

    #[test]
    fn the_last_name_takes_the_image_along() {
        let (state, tenant, id) = state(&["a:1"]);
        let plan = plan(&state, &tenant, "a:1", &id, false).unwrap();
        assert_eq!(
            plan,
            Plan {
                untag: vec!["a:1".into()],
                delete: true,
                force: false
            }
        );
    }

    #[test]
    fn a_digest_goes_without_its_tag_and_the_last_tag_with_its_digest() {
        let digest = format!("a@sha256:{}", "cd".repeat(32));
        let (state, tenant, id) = with_digests(&["a:1"], &[&digest]);
        let by = |name: &str| plan(&state, &tenant, name, &id, false).unwrap();
        for name in [digest.clone(), digest.replace("a@", "a:moved@")] {
            let plan = by(&name);
            assert_eq!((plan.untag, plan.delete), (vec![digest.clone()], false));
        }
        let plan = by("a:1");
        assert_eq!(
            (plan.untag, plan.delete),
            (vec!["a:1".into(), digest.clone()], true)
        );
        // Another repository's digest is another name.
        let other = digest.replace("a@", "b:5000/b@");
        let (state, tenant, id) = with_digests(&["a:1"], &[&digest, &other]);
        let plan = super::plan(&state, &tenant, "a:1", &id, false).unwrap();
        assert_eq!(
            (plan.untag, plan.delete),
            (vec!["a:1".into(), digest], false)
        );
    }

    #[test]
    fn one_name_of_several_goes_alone() {
        let (state, tenant, id) = state(&["a:1", "b:1"]);
        let untag = plan(&state, &tenant, "a:1", &id, false).unwrap();
        assert_eq!(
            untag,
            Plan {
                untag: vec!["a:1".into()],
                delete: false,
                force: false
            }
        );
        let conflict = plan(&state, &tenant, "abababab", &id, false).unwrap_err();
        assert_eq!(
            conflict.message(),
            "conflict: unable to delete abababababab (must be forced) - image is referenced in multiple repositories"
        );
        assert!(plan(&state, &tenant, "abababab", &id, true).unwrap().delete);
    }
}
