//! `POST /containers/prune`.

use bollard_stubs::models::ContainerPruneResponse;

use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::controller::Error;
use crate::state::Refusal;

/// What may be filtered by.
const FILTERS: [&str; 3] = ["label", "label!", "until"];

/// Removes every container that isn't up.
pub async fn prune(call: &Call) -> Answer {
    let filters = call.query.filters(&FILTERS)?;
    let until = match filters.values("until") {
        [] => None,
        [until] => timestamps::bound("until", Some(until))?,
        _ => {
            return Err(ApiError::bad_request(
                "more than one until filter specified",
            ));
        }
    };
    let containers: Vec<_> = {
        let state = call.controller().state();
        let gone = state.of_tenant(&call.tenant).filter(|container| {
            !container.is_up()
                && super::describe::state(container) != "restarting"
                && until.is_none_or(|until| container.created_ns < until)
                && filters.labels(|key| container.spec.labels.get(key).map(String::as_str))
        });
        gone.collect()
    };
    let (mut deleted, mut freed) = (Vec::new(), 0);
    for container in containers {
        let size = super::size::of(call, &container).await?;
        match call.controller().remove(&container.id, false).await {
            Ok(()) => {
                deleted.push(container.id.to_string());
                freed += size.writable;
            }
            // Started or removed by somebody else meanwhile: not ours to prune.
            Err(Error::Refused(Refusal::Running(_) | Refusal::NoSuchContainer(_))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    answer::ok(&ContainerPruneResponse {
        containers_deleted: Some(deleted),
        space_reclaimed: Some(freed),
    })
}
