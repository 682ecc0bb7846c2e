//! How nodes speak to each other: requests with one answer, and streams of frames in both directions.
//!
//! ```text
//! Peers ──▶ one connection to each node ═══ HTTP/2 over mutual TLS, port 2377 ═══▶ Server ──▶ Service
//!  call                                                                                        call
//!  open ◀═══════════════════════════════ frames, both ways ═══════════════════════════════════▶ open
//! ```
//!
//! A connection is made when it is first needed and kept; a broken one is replaced by the next request. Each direction has its own: who
//! asks has dialled. Requests and streams share it and don't wait for each other: each stream has a window ([`STREAM_WINDOW`]), and all of
//! them together fit into the connection's.
//!
//! Networks and TLS are handed in ([`Dial`], [`Listen`], [`Greet`], [`Receive`]): a simulation has others.
//!
//! A peer with a valid certificate may still send nonsense, and whoever has none may be anybody. Both have bounds, of connections
//! (`admission`), of what is kept for them, and of time.

mod admission;
mod client;
mod connection;
mod error;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gather;
mod handshake;
mod liveness;
mod server;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod wire;

pub use client::{Peers, ask_stranger};
pub use error::{PeerError, Refusal, RefusalKind};
pub use frames::FRAME_MAX;
pub use handshake::{AsStranger, Greet, HandshakeError, MutualTls, Receive, Trust, any_name};
pub use server::{Server, Service};
pub use stream::{RecvHalf, SendHalf};
pub use wire::{Dial, Listen, Tcp, Wire, WireStream};

use std::time::Duration;

/// Where nodes listen for each other: docker's own port for that.
pub const PORT: u16 = 2377;
/// Largest body of a request or an answer, bytes. Entries of the log travel in bodies, many at a time.
pub const CALL_MAX: usize = 64 << 20;
/// What a stream's reader may be behind, bytes: with two milliseconds from node to node it is what a gigabit link carries meanwhile. A slow
/// client at another node costs as much there.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// Requests and streams at the same time from one node: as many as there may be clients of its API, since each may be attached to something.
pub const STREAMS_MAX: u32 = 1024;

/// All streams' windows: so none that is not read can take another's room.
const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// HTTP/2's own frames, bytes: a whole [`FRAME_MAX`] and what is before it, so that it isn't cut.
const HTTP_FRAME_MAX: u32 = FRAME_MAX as u32 + 1024;
/// Of one stream, bytes that wait for the connection: two frames, so that one is made while the other leaves.
const SEND_BUFFER: usize = 2 * HTTP_FRAME_MAX as usize;
/// How long a stream is remembered that this side has reset: what was on its way for it, over a slow link, is no error of the other side.
const RESET_REMEMBERED: Duration = Duration::from_secs(30);
/// Headers of a request: a path and a length.
const HEADERS_MAX: u32 = 4 << 10;
/// To connect, and to know each other: two round trips and some milliseconds of arithmetic, or a node that isn't there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries of the log travel within this, or are asked for again by who sent them. Longer than a leader's patience with any of them.
const RAFT_DEADLINE: Duration = Duration::from_secs(20);
