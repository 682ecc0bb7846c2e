//! `GET /images/{name}/json` and `/history`.

use hearth_image::{Image, RunConfig};
use serde_json::{Map, Value, json};

use super::lookup::{find, from_store, tags_of};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::version::ApiVersion;
use crate::api::docker::{system, timestamps};

/// What docker shows for a step whose image has no id of its own.
const MISSING: &str = "<missing>";

/// All there is to know about one.
pub async fn inspect(call: &Call, name: &str) -> Answer {
    let id = find(call, name)?;
    let image = from_store(call, &id).await?;
    let (tags, digests) = {
        let state = call.controller().state();
        let record = state.images.get(&(call.tenant.clone(), id.clone()));
        (
            tags_of(&state, &call.tenant, &id),
            record
                .map(|record| record.repo_digests.clone())
                .unwrap_or_default(),
        )
    };
    answer::ok(&describe(&image, tags, digests, call.version))
}

fn describe(image: &Image, tags: Vec<String>, digests: Vec<String>, version: ApiVersion) -> Value {
    let config = &image.config;
    let mut shown = json!({
        "Id": image.id.to_string(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": config.comment,
        "Created": if config.created.is_empty() { timestamps::rfc3339(0) } else { config.created.clone() },
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": run_config(&config.config),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": { "Name": system::DRIVER, "Data": {} },
        "RootFS": {
            "Type": "layers",
            "Layers": image.diff_ids().iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "Metadata": { "LastTagTime": timestamps::rfc3339(0) },
    });
    if !config.variant.is_empty() {
        shown["Variant"] = json!(config.variant);
    }
    if version < ApiVersion::new(1, 44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    shown
}

/// Defaults for containers. Lists and maps that are empty are null, as docker writes them; the rest of docker's fields are there
/// because clients read them without asking.
fn run_config(config: &RunConfig) -> Value {
    let list = |list: &Vec<String>| {
        if list.is_empty() {
            Value::Null
        } else {
            json!(list)
        }
    };
    let map = |map: Map<String, Value>| {
        if map.is_empty() {
            Value::Null
        } else {
            Value::Object(map)
        }
    };
    let keys = |map: &std::collections::BTreeMap<String, Value>| {
        map.keys().map(|key| (key.clone(), json!({}))).collect()
    };
    let mut shown = json!({
        "Hostname": "",
        "Domainname": "",
        "User": config.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": list(&config.env),
        "Cmd": list(&config.cmd),
        "Image": "",
        "Volumes": map(keys(&config.volumes)),
        "WorkingDir": config.working_dir,
        "Entrypoint": list(&config.entrypoint),
        "OnBuild": list(&config.on_build),
        "Labels": map(config.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect()),
    });
    if !config.exposed_ports.is_empty() {
        shown["ExposedPorts"] = map(keys(&config.exposed_ports));
    }
    if !config.stop_signal.is_empty() {
        shown["StopSignal"] = json!(config.stop_signal);
    }
    if !config.shell.is_empty() {
        shown["Shell"] = json!(config.shell);
    }
    if let Some(healthcheck) = &config.healthcheck {
        shown["Healthcheck"] = healthcheck.clone();
    }
    shown
}

/// The steps of its making, newest first. Sizes of single layers are not kept: the whole is told for the topmost.
pub async fn history(call: &Call, name: &str) -> Answer {
    let id = find(call, name)?;
    let image = from_store(call, &id).await?;
    let tags = tags_of(&call.controller().state(), &call.tenant, &id);
    let mut steps: Vec<Value> = image
        .config
        .history
        .iter()
        .rev()
        .map(|step| {
            json!({
                "Id": MISSING,
                "Created": timestamps::unix_seconds(&step.created),
                "CreatedBy": step.created_by,
                "Tags": null,
                "Size": 0,
                "Comment": step.comment,
            })
        })
        .collect();
    if steps.is_empty() {
        let created = timestamps::unix_seconds(image.created());
        steps.push(json!({ "Id": MISSING, "Created": created, "CreatedBy": "", "Tags": null, "Size": 0, "Comment": "" }));
    }
    steps[0]["Id"] = json!(id);
    steps[0]["Tags"] = if tags.is_empty() {
        Value::Null
    } else {
        json!(tags)
    };
    steps[0]["Size"] = json!(image.size_bytes);
    answer::ok(&steps)
}
