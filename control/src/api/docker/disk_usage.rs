//! `GET /system/df`: what a tenant's images and containers take.

use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::call::Call;
use super::errors::ApiError;
use super::version::ApiVersion;
use super::{containers, images};

/// From this version on there is a summary for each kind of thing, and what it is made of only where `verbose` asks for it.
const SUMMARISED: ApiVersion = ApiVersion::new(1, 52);
/// From this version on, clients say what they want to know.
const CHOSEN: ApiVersion = ApiVersion::new(1, 42);
/// Until this version images have their size twice.
const SIZED_ONCE: ApiVersion = ApiVersion::new(1, 44);
/// Values of `type`.
const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// Answers `GET /system/df`.
pub async fn show(call: &Call) -> Answer {
    let wanted = wanted(call)?;
    let wants = |kind: &str| wanted.contains(&kind);
    let images = if wants("image") {
        images(call).await?
    } else {
        Vec::new()
    };
    let containers = if wants("container") {
        listed(containers::summaries(call).await?)
    } else {
        Vec::new()
    };
    Ok(answer::json(
        hyper::StatusCode::OK,
        &describe(
            call.version,
            call.query.flag("verbose"),
            &wanted,
            images,
            containers,
        ),
    ))
}

fn wanted(call: &Call) -> Result<Vec<&str>, ApiError> {
    let asked: Vec<&str> = call.query.all("type").collect();
    if call.version < CHOSEN || asked.is_empty() {
        return Ok(KINDS.to_vec());
    }
    match asked.iter().find(|kind| !KINDS.contains(kind)) {
        Some(kind) => Err(ApiError::bad_request(format!(
            "unknown object type: {kind}"
        ))),
        None => Ok(asked),
    }
}

/// The tenant's images, each with the number of containers made of it.
async fn images(call: &Call) -> Result<Vec<Value>, ApiError> {
    let mut images = images::summaries(call).await?;
    let state = call.controller().state();
    for image in &mut images {
        let users = state
            .containers
            .of_image(&image.id)
            .filter(|c| c.tenant == call.tenant);
        image.containers = users.count() as i64;
    }
    let mut images = listed(images);
    if call.version < SIZED_ONCE {
        for image in &mut images {
            image["VirtualSize"] = image["Size"].clone();
        }
    }
    Ok(images)
}

fn listed(items: impl IntoIterator<Item = impl serde::Serialize>) -> Vec<Value> {
    items.into_iter().map(|item| json!(item)).collect()
}

/// Both forms beside each other where a client may know only one: docker-py asks without a version.
fn describe(
    version: ApiVersion,
    verbose: bool,
    wanted: &[&str],
    images: Vec<Value>,
    containers: Vec<Value>,
) -> Value {
    let mut shown = json!({});
    for (kind, summary, list, items, size, in_use) in [
        (
            "image",
            "ImageUsage",
            "Images",
            images,
            "Size",
            (|image| image["Containers"] != 0) as fn(&Value) -> bool,
        ),
        (
            "container",
            "ContainerUsage",
            "Containers",
            containers,
            "SizeRw",
            |container| container["State"] == "running" || container["State"] == "paused",
        ),
        ("volume", "VolumeUsage", "Volumes", Vec::new(), "", |_| true),
        (
            "build-cache",
            "BuildCacheUsage",
            "BuildCache",
            Vec::new(),
            "",
            |_| true,
        ),
    ] {
        if !wanted.contains(&kind) {
            continue;
        }
        let sum = |of: &dyn Fn(&&Value) -> bool| -> i64 {
            items
                .iter()
                .filter(of)
                .filter_map(|item| item[size].as_i64())
                .sum()
        };
        let total = sum(&|_| true);
        if version >= SUMMARISED {
            shown[summary] = json!({
                "ActiveCount": items.iter().filter(|item| in_use(item)).count(),
                "TotalCount": items.len(),
                "Reclaimable": sum(&|item| !in_use(item)),
                "TotalSize": total,
            });
            if verbose {
                shown[summary]["Items"] = json!(items);
                continue;
            }
        }
        if kind == "image" {
            shown["LayersSize"] = json!(total);
        }
        shown[list] = json!(items);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(minor: u16, verbose: bool, wanted: &[&str]) -> Value {
        let images = vec![
            json!({ "Id": "a", "Size": 10, "Containers": 2 }),
            json!({ "Id": "b", "Size": 5, "Containers": 0 }),
        ];
        let containers = vec![json!({ "Id": "c", "State": "exited", "SizeRw": 3 })];
        describe(
            ApiVersion::new(1, minor),
            verbose,
            wanted,
            images,
            containers,
        )
    }

    #[test]
    fn each_client_finds_the_form_that_it_knows() {
        let old = shown(41, false, &KINDS);
        assert_eq!(old["LayersSize"], 15);
        assert_eq!(old["Images"][1]["Id"], "b");
        assert_eq!(old["BuildCache"], json!([]));
        assert!(old.get("ImageUsage").is_none());
        let both = shown(52, false, &KINDS);
        let summary =
            json!({ "ActiveCount": 1, "TotalCount": 2, "Reclaimable": 5, "TotalSize": 15 });
        assert_eq!(both["ImageUsage"], summary);
        assert_eq!(both["ContainerUsage"]["Reclaimable"], 3);
        assert_eq!(both["Images"], old["Images"]);
        let new = shown(53, true, &KINDS);
        assert_eq!(new["ImageUsage"]["Items"], old["Images"]);
        assert!(new.get("Images").is_none());
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let shown = shown(52, false, &["image"]);
        assert!(shown.get("ImageUsage").is_some() && shown.get("Images").is_some());
        assert!(shown.get("ContainerUsage").is_none() && shown.get("Volumes").is_none());
    }
}
