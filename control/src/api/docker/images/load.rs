//! `POST /images/load`.

use std::io;

use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::io::StreamReader;

use super::lookup::tag_of;
use super::progress::{Lines, answer_with};
use crate::api::docker::answer::Answer;
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::controller::Controller;
use crate::state::{Command, Tenant};

/// What `docker save` wrote, or an OCI layout as a tar.
pub async fn load(call: Call) -> Answer {
    let (controller, tenant) = (call.controller().clone(), call.tenant.clone());
    let quiet = call.query.flag("quiet");
    let body = call.take_body();
    answer_with(move |lines| job(controller, tenant, body, quiet, lines)).await
}

async fn job(
    controller: Controller,
    tenant: Tenant,
    body: Incoming,
    quiet: bool,
    lines: Lines,
) -> Result<(), ApiError> {
    let body = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let mut tell = |progress| {
        if !quiet {
            lines.progress(&progress);
        }
    };
    for loaded in controller.images().load(body, &mut tell).await? {
        let id = loaded.id.to_string();
        let names: Vec<String> = loaded.tags.iter().map(tag_of).collect();
        for name in &names {
            let before = controller
                .state()
                .tags
                .get(&(tenant.clone(), name.clone()))
                .map(|tag| tag.image.clone());
            if let Some(before) = before.filter(|before| *before != id) {
                let told = format!(
                    "The image {name} already exists, renaming the old one with ID {before} to empty string\n"
                );
                lines.value(&json!({ "stream": told }));
            }
        }
        let command = Command::AddImage {
            tenant: tenant.clone(),
            at_ns: timestamps::now_ns(),
            image: id.clone(),
            names: names.clone(),
            repo_digest: None,
            action: "load".to_owned(),
        };
        // By a task of its own: a client that goes now must not leave an image that nobody has.
        let to = controller.clone();
        tokio::spawn(async move { to.propose(command).await })
            .await
            .map_err(|e| ApiError::internal(format!("committing the image: {e}")))??;
        if names.is_empty() {
            lines.value(&json!({ "stream": format!("Loaded image ID: {id}\n") }));
        }
        for name in names {
            lines.value(&json!({ "stream": format!("Loaded image: {name}\n") }));
        }
    }
    Ok(())
}
