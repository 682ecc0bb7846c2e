//! `POST /images/load`.

use std::io;

use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::io::StreamReader;

use super::progress::{Lines, answer_with};
use crate::api::docker::answer::Answer;
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::controller::Controller;
use crate::state::Tenant;

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
    let (loaded, done) = controller.load(&tenant, body, &mut tell).await;
    for image in loaded {
        for (name, before) in image.moved {
            let told = format!(
                "The image {name} already exists, renaming the old one with ID {before} to empty string\n"
            );
            lines.value(&json!({ "stream": told }));
        }
        if image.names.is_empty() {
            lines.value(&json!({ "stream": format!("Loaded image ID: {}\n", image.id) }));
        }
        for name in image.names {
            lines.value(&json!({ "stream": format!("Loaded image: {name}\n") }));
        }
    }
    Ok(done?)
}
