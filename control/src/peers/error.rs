//! Why a peer was not reached, or did not do what it was asked.

use std::time::Duration;

/// Longest words of a refusal, bytes: a message for people, also where a peer sends something else.
const WORDS_MAX: usize = 4 << 10;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// There is no connection, and nothing was sent.
    #[error("{peer} can't be reached: {reason}")]
    Unreachable {
        /// Which, and where.
        peer: String,
        /// The network's words, or TLS's.
        reason: String,
    },
    /// Somebody else is there. Nothing was sent.
    #[error("{peer} can't be reached: {found} answers there")]
    AnotherNode {
        /// Which, and where.
        peer: String,
        /// Who is there instead.
        found: String,
    },
    /// The connection was lost. What was asked may have been done.
    #[error("the connection to {peer} is lost: {reason}")]
    Broken {
        /// Which, and where.
        peer: String,
        /// What is known of it.
        reason: String,
    },
    /// No answer in time. What was asked may have been done.
    #[error("{peer} has not answered within {within:?}")]
    TimedOut {
        /// Which, and where.
        peer: String,
        /// The caller's patience.
        within: Duration,
    },
    /// The other side won't.
    #[error("{peer}: {refusal}")]
    Refused {
        /// Which, and where.
        peer: String,
        /// Why.
        refusal: Refusal,
    },
    /// It is more than may be sent. Nothing was sent.
    #[error("{bytes} bytes for {peer} are more than the {limit} that are sent at once")]
    TooLarge {
        /// Which, and where.
        peer: String,
        /// How much it is.
        bytes: usize,
        /// How much it may be.
        limit: usize,
    },
    /// The other side has let go of the stream before its end.
    #[error("{peer} has let go")]
    Cancelled {
        /// Which, and where.
        peer: String,
    },
    /// It has sent what no node of any version sends.
    #[error("{peer} has sent nonsense: {reason}")]
    Nonsense {
        /// Which, and where.
        peer: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A no, for people, and for programs its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Refusal {
    /// Which kind.
    pub kind: RefusalKind,
    /// Why, and what to do.
    pub words: String,
}

/// Kinds of refusals; on the wire the status codes of HTTP that mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense.
    Malformed,
    /// Not for whoever asks.
    Forbidden,
    /// This node doesn't know what is asked for.
    Unknown,
    /// It takes too long to say what is wanted.
    Slow,
    /// The request is too large.
    TooLarge,
    /// There is no room now; later there may be.
    Busy,
    /// Anything else.
    Failed,
}

const CODES: [(RefusalKind, u16); 7] = [
    (RefusalKind::Malformed, 400),
    (RefusalKind::Forbidden, 403),
    (RefusalKind::Unknown, 404),
    (RefusalKind::Slow, 408),
    (RefusalKind::TooLarge, 413),
    (RefusalKind::Failed, 500),
    (RefusalKind::Busy, 503),
];

impl Refusal {
    /// Of a kind, in some words.
    pub fn new(kind: RefusalKind, words: impl Into<String>) -> Self {
        Self {
            kind,
            words: words.into(),
        }
    }

    /// What this node doesn't know, another version may.
    pub fn unknown(what: &str) -> Self {
        Self::new(
            RefusalKind::Unknown,
            format!("this node doesn't know how to do {what:?}: it is an older version"),
        )
    }

    pub(super) fn code(&self) -> u16 {
        let mut codes = CODES.iter();
        codes
            .find(|(kind, _)| *kind == self.kind)
            .map_or(500, |(_, code)| *code)
    }

    /// As somebody else has written it, who may be of another version, or not mean well.
    pub(super) fn read(code: u16, words: &[u8]) -> Self {
        let kind = CODES.iter().find(|(_, known)| *known == code);
        let words = &words[..words.len().min(WORDS_MAX)];
        Self {
            kind: kind.map_or(RefusalKind::Failed, |(kind, _)| *kind),
            words: String::from_utf8_lossy(words)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let end = self.words.floor_char_boundary(WORDS_MAX);
        &self.words.as_bytes()[..end]
    }
}
