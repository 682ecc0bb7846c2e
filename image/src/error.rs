//! What can go wrong with an image, told so that the reader knows what to do next.

use std::io;

/// Everything that fails in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no image reference.
    #[error(
        "invalid reference format: {reference:?} ({reason}); write it as [registry/]repository[:tag][@sha256:digest]"
    )]
    InvalidReference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is no `sha256:<64 hex digits>`.
    #[error("invalid digest {digest:?}: must be sha256: followed by 64 lowercase hex digits")]
    InvalidDigest {
        /// What was given.
        digest: String,
    },
    /// The registry has no such repository, tag or digest.
    #[error(
        "manifest for {reference} not found: check the name and the tag, or log in if the repository is private"
    )]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The registry wants (other) credentials.
    #[error(
        "pull access denied for {reference}: the repository does not exist or may require 'docker login {registry}' ({reason})"
    )]
    Unauthorized {
        /// What was asked for.
        reference: String,
        /// Who refused.
        registry: String,
        /// In the registry's words.
        reason: String,
    },
    /// No answer: name, route, port, TLS, or silence for too long.
    #[error(
        "registry {registry} can't be reached: {reason}; check its name and this node's network (plain HTTP must be allowed in hearth.toml under [registries] insecure)"
    )]
    Unreachable {
        /// Host and port of the registry.
        registry: String,
        /// The innermost cause.
        reason: String,
    },
    /// The registry stopped serving (rate limits, 5xx).
    #[error("registry {registry} answered {status}: {reason}; try again later")]
    Registry {
        /// Host and port of the registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// In the registry's words.
        reason: String,
    },
    /// The registry's answer makes no sense.
    #[error("registry {registry} broke the protocol: {reason}")]
    Protocol {
        /// Host and port of the registry.
        registry: String,
        /// What was expected and what came.
        reason: String,
    },
    /// Bytes are not those that were promised.
    #[error(
        "{what}: verification failed, expected digest {expected} but got {actual}: the content was damaged or tampered with on its way; nothing of it was kept"
    )]
    DigestMismatch {
        /// Manifest, config, layer ...
        what: String,
        /// The digest that was promised.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// The image has nothing for linux/amd64.
    #[error(
        "no matching manifest for linux/amd64 in the manifest list entries of {reference}: this node runs nothing else (offered: {offered})"
    )]
    UnsupportedPlatform {
        /// What was asked for.
        reference: String,
        /// What there is.
        offered: String,
    },
    /// A manifest, config or layer of a kind that this store can't use.
    #[error("unsupported media type {media_type} for {what}: rebuild or convert the image")]
    UnsupportedMediaType {
        /// Which part.
        what: String,
        /// Its media type.
        media_type: String,
    },
    /// An archive or one of its layers is broken or malicious.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// Which archive, layer, entry or document.
        what: String,
        /// Why it can't be accepted.
        reason: String,
    },
    /// More than this store is willing to take from strangers.
    #[error("{what} is over the limit of {limit}: build a smaller image")]
    TooLarge {
        /// What was counted.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// Whoever asked for it has gone.
    #[error("cancelled: nobody waits for the result any more")]
    Cancelled,
    /// The data disk is full.
    #[error("no space left on the data disk: remove images or containers and try again")]
    NoSpace,
    /// The store that was asked for a part of an image doesn't have it, can't be reached, or has stopped in the middle.
    #[error("{what} could not be had from there: {reason}")]
    SourceFailed {
        /// Which part of which image.
        what: String,
        /// In the words of whoever failed.
        reason: String,
    },
    /// The store that was asked for a part of an image has sent something else.
    #[error("{what} is not what it must be: {reason}; nothing of it was kept")]
    SourceLied {
        /// Which part of which image.
        what: String,
        /// What was expected and what came.
        reason: String,
    },
    /// No such image in this store.
    #[error("no such image: {id}")]
    NoSuchImage {
        /// The identifier asked for.
        id: String,
    },
    /// The data disk failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, on which file.
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done; a full disk becomes [`Error::NoSpace`].
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io {
                action: action.into(),
                source,
            },
        }
    }

    /// For errors of reading an archive: what a reader of ours put inside, or damage to the data, or a failing source.
    pub(crate) fn reading(what: &str, err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => Self::malformed(what, "the archive is cut short"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Self::malformed(what, format!("the compressed data is damaged: {err}"))
            }
            _ => match err.downcast::<Self>() {
                Ok(own) => own,
                Err(err) => Self::io(format!("reading {what}"))(err),
            },
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
