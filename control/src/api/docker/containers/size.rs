//! How much of its node's disk a container takes.

use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::state::Container;

/// As docker shows it (`SizeRw` and `SizeRootFs`), bytes.
pub struct Size {
    /// Of its own layer.
    pub writable: i64,
    /// Of its root file system: its image as well.
    pub root: i64,
}

/// Of one container.
pub async fn of(call: &Call, container: &Container) -> Result<Size, ApiError> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let writable = call
        .controller()
        .agent()
        .written_bytes(&container.id)
        .await?;
    // One that this node has lost takes nothing of its disk.
    let image = call.controller().image(&container.image).await?;
    let image = image.map_or(0, |image| image.size_bytes);
    Ok(Size {
        writable: signed(writable),
        root: signed(image.saturating_add(writable)),
    })
}
