//! `POST /images/{name}/tag`.

use hearth_image::ImageRef;
use hyper::StatusCode;

use super::lookup::find;
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::clock;
use crate::controller::key_of;
use crate::state::{Command, Stored, Telling};

/// Another name for an image.
pub async fn tag(call: &Call, name: &str) -> Answer {
    let repository = call
        .query
        .get("repo")
        .ok_or_else(|| ApiError::bad_request("repo is missing: the name to give to the image"))?;
    let mut reference: ImageRef = repository.parse()?;
    if reference.digest().is_some() {
        return Err(ApiError::bad_request(
            "refusing to create a tag with a digest reference",
        ));
    }
    if let Some(tag) = call.query.get("tag") {
        reference = reference.with_tag(tag)?;
    }
    let image = find(call, name)?;
    call.controller()
        .propose(Command::AddImage {
            tenant: call.tenant.clone(),
            at_ns: clock::now_ns(),
            image,
            names: vec![key_of(&reference)],
            repo_digest: None,
            telling: Telling::Tag,
            stored: Stored::default(),
        })
        .await?;
    answer::status(StatusCode::CREATED)
}
