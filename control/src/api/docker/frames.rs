//! How stdout and stderr share one connection: `[stream, 0, 0, 0, length as big-endian u32]` before each piece, from server to client
//! only. A terminal has one stream and no frames.

use bytes::{BufMut, Bytes, BytesMut};

use super::version::ApiVersion;
use crate::agent::Stream;

/// Bytes of a frame's header.
const HEADER: usize = 8;
/// Content type of a connection without frames, and of one with frames before clients could be told apart.
pub const RAW: &str = "application/vnd.docker.raw-stream";
/// Content type of a connection with frames, since API 1.42.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// The content type of a stream.
pub fn content_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version >= ApiVersion::new(1, 42) {
        MULTIPLEXED
    } else {
        RAW
    }
}

/// A piece of output as it goes over the wire.
pub fn encode(tty: bool, stream: Stream, data: Bytes) -> Bytes {
    if tty {
        return data;
    }
    let mut framed =
        BytesMut::with_capacity(data.len() + HEADER * (data.len() / (u32::MAX as usize) + 1));
    for piece in data.chunks(u32::MAX as usize) {
        framed.put_u8(match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        });
        framed.put_bytes(0, 3);
        framed.put_u32(piece.len() as u32);
        framed.put_slice(piece);
    }
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_holds_what_was_put_in(data in proptest::collection::vec(any::<u8>(), 1..300), stderr in any::<bool>()) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let framed = encode(false, stream, Bytes::from(data.clone()));
            prop_assert_eq!(framed[0], 1 + u8::from(stderr));
            prop_assert_eq!(&framed[1..4], &[0, 0, 0]);
            prop_assert_eq!(u32::from_be_bytes(framed[4..8].try_into().unwrap()) as usize, data.len());
            prop_assert_eq!(&framed[8..], &data);
        }
    }

    #[test]
    fn a_terminal_has_no_frames() {
        assert_eq!(
            encode(true, Stream::Stdout, Bytes::from_static(b"hi")),
            "hi"
        );
    }

    #[test]
    fn only_newer_clients_are_told_of_frames() {
        assert_eq!(content_type(false, ApiVersion::new(1, 41)), RAW);
        assert_eq!(content_type(false, ApiVersion::new(1, 42)), MULTIPLEXED);
        assert_eq!(content_type(true, ApiVersion::new(1, 42)), RAW);
    }
}
