//! `POST /containers/{id}/wait`.

use futures_util::stream;
use serde_json::json;

use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::controller::WaitCondition;

/// The headers go out at once: the client starts the container only when it has them. So the watch must be there before they are.
pub fn wait(call: &Call, name: &str) -> Answer {
    let condition = match call.query.get("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "invalid condition: {other:?}"
            )));
        }
    };
    let container = call.container(name)?;
    let exit = call.controller().wait(&container.id, condition);
    let body = stream::once(async move {
        Ok(answer::line(&match exit.await {
            Ok(exit) => json!({ "StatusCode": exit.code, "Error": null }),
            Err(error) => json!({ "StatusCode": -1, "Error": { "Message": error.to_string() } }),
        }))
    });
    Ok(answer::stream(answer::JSON, body))
}
