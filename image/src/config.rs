//! The image config document, as far as somebody acts on it (OCI image specification, config.md, and docker's
//! additions to it). Unknown fields are ignored, and the rest is read as Go reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, go_json};

/// The parsed config document of an image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ImageConfig {
    /// RFC 3339 time of creation, as written by the builder.
    #[serde(default)]
    pub created: String,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// CPU architecture in Go's words: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// CPU variant.
    #[serde(default)]
    pub variant: String,
    /// Operating system in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of docker that built it.
    #[serde(default)]
    pub docker_version: String,
    /// A free comment.
    #[serde(default)]
    pub comment: String,
    /// How to run it.
    #[serde(default)]
    pub config: RunConfig,
    /// What it is made of.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it was made, oldest step first.
    #[serde(default)]
    pub history: Vec<History>,
}

/// Defaults for a container of this image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `name`, `uid`, `name:group`, `uid:gid`; empty: root.
    #[serde(default)]
    pub user: String,
    /// `80/tcp` and the like.
    #[serde(default)]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Executable and first arguments.
    #[serde(default, deserialize_with = "words")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command if there is no entry point.
    #[serde(default, deserialize_with = "words")]
    pub cmd: Vec<String>,
    /// Mount points of anonymous volumes.
    #[serde(default)]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Where the process starts; empty: `/`.
    #[serde(default)]
    pub working_dir: String,
    /// Free-form.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end; empty: SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// Shell of the builder's shell form.
    #[serde(default, deserialize_with = "words")]
    pub shell: Vec<String>,
    /// Steps for images built on this one.
    #[serde(default)]
    pub on_build: Vec<String>,
    /// Health check, in docker's form (`Test`, `Interval`, ... in nanoseconds), passed on as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<serde_json::Value>,
    /// Whether the process wants a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Windows' habit: the first argument is a shell's command line.
    #[serde(default)]
    pub args_escaped: bool,
}

/// The layers, by content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Digest of each layer's uncompressed tar, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// One step of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct History {
    /// RFC 3339 time.
    #[serde(default)]
    pub created: String,
    /// The command.
    #[serde(default)]
    pub created_by: String,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// A free comment.
    #[serde(default)]
    pub comment: String,
    /// The step changed no file, and has no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads the document as docker does.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        go_json::from_slice(json)
    }
}

/// A list of words; docker takes a string for one of one word.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Option::<Words>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Words::One(word)) => vec![word],
        Some(Words::Several(words)) => words,
    })
}
