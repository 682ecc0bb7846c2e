//! How much of its node's disk a container takes.

use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::state::Placed;

/// As docker shows it (`SizeRw` and `SizeRootFs`), bytes.
pub struct Size {
    /// Of its own layer.
    pub writable: i64,
    /// Of its root file system: its image as well.
    pub root: i64,
}

/// Of one container.
pub async fn of(call: &Call, container: &Placed) -> Result<Size, ApiError> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let writable = match call.controller().agent_of(container) {
        Ok(agent) => agent.written_bytes(&container.id).await?,
        // It is nowhere, and has written nothing.
        Err(_) => 0,
    };
    // One that every node has lost takes nothing of any disk.
    let image = call.controller().image_bytes(&container.image).await?;
    Ok(Size {
        writable: signed(writable),
        root: signed(image.saturating_add(writable)),
    })
}
