//! `DELETE /images/{name}` and `POST /images/prune`.

use bollard_stubs::models::{ImageDeleteResponseItem, ImagePruneResponse};
use hearth_image::ImageRef;

use super::lookup::{find, tag_of, tags_of};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::state::{Command, Container, State, Tenant};

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
    let tags = tags_of(state, tenant, id);
    let own = state
        .containers
        .values()
        .filter(|c| c.tenant == *tenant && c.image == id);
    let (up, down): (Vec<&Container>, Vec<&Container>) =
        own.partition(|container| container.is_up());
    let by_name = name
        .parse::<ImageRef>()
        .ok()
        .map(|reference| tag_of(&reference))
        .filter(|tag| tags.contains(tag));
    if let Some(tag) = by_name {
        if tags.len() > 1 {
            return Ok(Plan {
                untag: vec![tag],
                delete: false,
                force,
            });
        }
        return match (up.first().or(down.first()), force) {
            (Some(container), false) => Err(ApiError::conflict(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
                container.id.short(),
                short(id)
            ))),
            // A running container keeps its image, which loses its name.
            _ => Ok(Plan {
                untag: vec![tag],
                delete: up.is_empty(),
                force,
            }),
        };
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
    let repositories: std::collections::BTreeSet<_> = tags
        .iter()
        .filter_map(|tag| tag.rsplit_once(':'))
        .map(|(name, _)| name)
        .collect();
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
        untag: tags,
        delete: true,
        force,
    })
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
            at_ns: timestamps::now_ns(),
            name: name.clone(),
        };
        controller.propose(command).await?;
        done.push(untagged(&name));
    }
    if !plan.delete {
        return Ok(done);
    }
    let digests = {
        let state = controller.state();
        state
            .images
            .get(&(call.tenant.clone(), id.to_owned()))
            .map(|record| record.repo_digests.clone())
            .unwrap_or_default()
    };
    done.extend(digests.iter().map(|digest| untagged(digest)));
    let command = Command::RemoveImage {
        tenant: call.tenant.clone(),
        at_ns: timestamps::now_ns(),
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
                .values()
                .any(|c| c.tenant == call.tenant && c.image == image.id);
            let tags = tags_of(&state, &call.tenant, &image.id);
            let old = until.is_none_or(|until| image.created < (until / 1_000_000_000) as i64);
            let meant = filters.labels(|key| image.labels.get(key).map(String::as_str));
            if used || !old || !meant || (only_dangling && !tags.is_empty()) {
                continue;
            }
            Plan {
                untag: tags,
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
        let mut state = State::default();
        let tenant: Tenant = "acme".parse().unwrap();
        let id = format!("sha256:{}", "ab".repeat(32));
        state.images.insert(
            (tenant.clone(), id.clone()),
            ImageRecord {
                repo_digests: Vec::new(),
                arrived_ns: 1,
            },
        );
        for tag in tags {
            state.tags.insert(
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
