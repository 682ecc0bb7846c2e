//! What the controller is told about the machine: `/run/hearth/node.toml`.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::processor::Weakness;

/// Directory of the files between init and controller.
pub const DIRECTORY: &str = "/run/hearth";

/// The file's contents. It is replaced as a whole whenever one of them changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Hearth's version.
    pub version: String,
    /// The node's name.
    pub hostname: String,
    /// `disk` or `ram`.
    pub storage: String,
    /// The device of the data disk; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_device: Option<String>,
    /// Why data is kept in RAM; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_note: Option<String>,
    /// With prefix length; empty as long as the node has none.
    pub addresses: Vec<String>,
    /// Next hop; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// The link that has the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Processors that share a core are in use.
    pub siblings: bool,
    /// The processor's.
    pub weaknesses: Vec<Weakness>,
}

impl Facts {
    /// Replaces the file; a reader sees the old or the new one.
    pub fn write(&self) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let path = Path::new(DIRECTORY).join("node.toml");
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text)?;
        fs::rename(fresh, path)
    }
}
