//! Runs containers from inside the node, for machines whose ports nobody outside can reach, and tells of the machine they ran on.
//!
//! `/side` holds what [`Api`] needs, `image.tar`, and `containers.json`: a list of bodies for `create`, run one after another.
//! The result: `processor` (its vendor), `virtualization` (the node's KVM: `intel` or `amd`), and for each container its
//! exit `code` and its `output`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::api::Api;

/// What frames a piece of a container's output (Engine API, "Attach to a container": stream format).
const FRAME_HEADER: usize = 8;

/// See the module.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    crate::say(&runtime.block_on(all())?);
    Ok(())
}

async fn all() -> Result<Value> {
    let bodies: Vec<Value> = serde_json::from_slice(&fs::read("/side/containers.json")?)?;
    let api = Api::new()?;
    api.wait().await?;
    api.load().await?;
    let mut results = Vec::new();
    for body in bodies {
        results.push(one(&api, &body).await?);
    }
    let kvm = ["intel", "amd"]
        .into_iter()
        .find(|vendor| Path::new(&format!("/sys/module/kvm_{vendor}/parameters/nested")).exists());
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("vendor_id")?.split_once(": "))
        .context("/proc/cpuinfo names the vendor")?
        .1;
    Ok(json!({ "processor": processor, "virtualization": kvm, "containers": results }))
}

async fn one(api: &Api, body: &Value) -> Result<Value> {
    let created = api.call("POST", "/containers/create", Some(body.to_string().into()));
    let created: Value = serde_json::from_slice(&created.await?)?;
    let id = created["Id"]
        .as_str()
        .context("create answers with an Id")?;
    let attach = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let mut stream = api.upgrade(&attach).await?;
    api.call("POST", &format!("/containers/{id}/start"), None)
        .await?;
    let mut output = Vec::new();
    let mut header = [0; FRAME_HEADER];
    // The stream ends between frames.
    while stream.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut data = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut data).await?;
        output.extend(data);
    }
    let wait = format!("/containers/{id}/wait");
    let ended: Value = serde_json::from_slice(&api.call("POST", &wait, None).await?)?;
    api.call("DELETE", &format!("/containers/{id}"), None)
        .await?;
    Ok(json!({ "code": ended["StatusCode"], "output": String::from_utf8_lossy(&output) }))
}
