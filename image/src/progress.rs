//! What a pull or load reports on the way, one value for each line that docker would show.

use std::fmt;

/// One event of a pull or a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// "Pulling from library/busybox", with the tag or digest as id.
    PullingFrom {
        /// Repository as docker shows it here: path without the registry.
        repository: String,
        /// Tag, or digest if there is no tag.
        id: String,
    },
    /// Something happened to a layer.
    Layer {
        /// The layer's short id: 12 hex digits.
        id: String,
        /// What.
        state: LayerState,
    },
    /// A line about the whole image: "Digest: sha256:...", "Status: Downloaded newer image for ...".
    Status(String),
}

/// Where a layer is. `Display` gives docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Known, not begun.
    PullingFsLayer,
    /// Queued behind others.
    Waiting,
    /// Bytes are coming.
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// All bytes came; the digest is compared.
    VerifyingChecksum,
    /// All bytes came and are right.
    DownloadComplete,
    /// Being unpacked into the root file system.
    Extracting {
        /// Compressed bytes so far.
        current: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// Done.
    PullComplete,
    /// Nothing to do: the store has it.
    AlreadyExists,
    /// `docker load` is reading it.
    Loading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl LayerState {
    /// Current and total bytes, for the states that count.
    pub fn counts(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Downloading { current, total }
            | Self::Extracting { current, total }
            | Self::Loading { current, total } => Some((current, total)),
            _ => None,
        }
    }
}

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading { .. } => "Downloading",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Loading { .. } => "Loading layer",
        })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PullingFrom { repository, .. } => write!(f, "Pulling from {repository}"),
            Self::Layer { state, .. } => state.fmt(f),
            Self::Status(text) => f.write_str(text),
        }
    }
}
