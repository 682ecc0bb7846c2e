//! Frames of a stream, in the body of an HTTP/2 request or response.
//!
//! ```text
//! +------+--------------+----------+
//! | kind |    length    | payload  |    kind 0: data
//! | 1    | 4, the first | length   |         1: the end, without payload
//! | byte | is highest   | bytes    |         2: an error: two bytes of code (as HTTP's), and words in UTF-8
//! +------+--------------+----------+
//! ```
//!
//! A body that ends without a frame of kind 1 or 2 was cut off.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::Refusal;

/// Largest payload of a frame, bytes. What is begun of one is kept for each stream; and who waits behind one waits for half a millisecond on a
/// gigabit link.
pub const FRAME_MAX: usize = 64 << 10;
/// Kind and length.
pub(super) const HEAD: usize = 5;

const DATA: u8 = 0;
const END: u8 = 1;
const ERROR: u8 = 2;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Some bytes.
    Data(Bytes),
    /// There is no more.
    End,
    /// There would be more.
    Error(Refusal),
}

/// Bytes that are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Longer than may be.
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    /// None that this version knows.
    #[error("a frame of kind {0}, which this version doesn't know")]
    Kind(u8),
    /// Shorter or longer than one of its kind.
    #[error("a frame of kind {0} of {1} bytes")]
    Length(u8, usize),
}

/// Puts the head of a data frame whose payload begins with `prefix` and has `rest` more bytes, and `prefix` itself.
pub(super) fn put_data(buffer: &mut BytesMut, prefix: &[u8], rest: usize) {
    head(buffer, DATA, prefix.len() + rest);
    buffer.extend_from_slice(prefix);
}

/// Puts the end.
pub(super) fn put_end(buffer: &mut BytesMut) {
    head(buffer, END, 0);
}

/// Puts an error.
pub(super) fn put_error(buffer: &mut BytesMut, refusal: &Refusal) {
    let words = refusal.bytes();
    head(buffer, ERROR, 2 + words.len());
    buffer.put_u16(refusal.code());
    buffer.extend_from_slice(words);
}

fn head(buffer: &mut BytesMut, kind: u8, length: usize) {
    buffer.put_u8(kind);
    // No caller has more than FRAME_MAX.
    buffer.put_u32(length as u32);
}

/// Takes frames out of pieces that were cut anywhere. Keeps less than two frames.
#[derive(Default)]
pub(super) struct Reader {
    /// What has come last.
    piece: Bytes,
    /// The beginning of a frame that goes on in `piece`, or in one that has yet to come.
    begun: BytesMut,
}

impl Reader {
    /// The next piece. Legal when [`Self::next`] has said that there is nothing more.
    pub fn push(&mut self, piece: Bytes) {
        self.piece = piece;
    }

    /// A frame begins, and doesn't end, in what has come so far.
    pub fn is_between(&self) -> bool {
        !self.begun.is_empty()
    }

    /// The next frame, if it is whole, and its bytes on the wire.
    pub fn next(&mut self) -> Result<Option<(Frame, usize)>, FrameError> {
        if self.begun.is_empty()
            && let Some((kind, length)) = read_head(&self.piece)?
            && self.piece.len() - HEAD >= length
        {
            self.piece.advance(HEAD);
            let payload = self.piece.split_to(length);
            return Ok(Some((frame(kind, payload)?, HEAD + length)));
        }
        self.fill(HEAD);
        let Some((kind, length)) = read_head(&self.begun)? else {
            return Ok(None);
        };
        let missing = (HEAD + length).saturating_sub(self.begun.len());
        self.begun.reserve(missing);
        self.fill(HEAD + length);
        if self.begun.len() < HEAD + length {
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.begun).freeze();
        whole.advance(HEAD);
        Ok(Some((frame(kind, whole)?, HEAD + length)))
    }

    /// Moves bytes until `begun` has so many, or there are none.
    fn fill(&mut self, to: usize) {
        let missing = to.saturating_sub(self.begun.len()).min(self.piece.len());
        self.begun.extend_from_slice(&self.piece[..missing]);
        self.piece.advance(missing);
    }
}

fn read_head(mut bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    if bytes.len() < HEAD {
        return Ok(None);
    }
    let (kind, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if kind > ERROR {
        return Err(FrameError::Kind(kind));
    }
    if length > FRAME_MAX {
        return Err(FrameError::TooLong(length));
    }
    Ok(Some((kind, length)))
}

fn frame(kind: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    match (kind, payload.len()) {
        (DATA, _) => Ok(Frame::Data(payload)),
        (END, 0) => Ok(Frame::End),
        (ERROR, 2..) => {
            let code = payload.get_u16();
            Ok(Frame::Error(Refusal::read(code, &payload)))
        }
        (kind, length) => Err(FrameError::Length(kind, length)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::peers::RefusalKind;

    /// All frames of some pieces, up to what is none.
    fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Result<bool, FrameError>) {
        let (mut reader, mut frames) = (Reader::default(), Vec::new());
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            loop {
                match reader.next() {
                    Ok(Some((frame, _))) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
                assert!(reader.begun.len() <= HEAD + FRAME_MAX);
            }
        }
        (frames, Ok(reader.is_between()))
    }

    fn cut(bytes: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
        let mut places: Vec<_> = places.iter().map(|at| at % (bytes.len() + 1)).collect();
        places.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for at in places.into_iter().chain([bytes.len()]) {
            pieces.push(bytes[from..at].to_vec());
            from = at;
        }
        pieces
    }

    proptest! {
        #[test]
        fn frames_are_the_same_wherever_they_are_cut(
            payloads in vec(vec(any::<u8>(), 0..300), 0..10),
            places in vec(any::<usize>(), 0..20),
            ending in any::<Option<bool>>(),
        ) {
            let mut bytes = BytesMut::new();
            let mut expected = Vec::new();
            for payload in &payloads {
                let (prefix, rest) = payload.split_at(payload.len() / 2);
                put_data(&mut bytes, prefix, rest.len());
                bytes.extend_from_slice(rest);
                expected.push(Frame::Data(payload.clone().into()));
            }
            match ending {
                Some(true) => {
                    put_end(&mut bytes);
                    expected.push(Frame::End);
                }
                Some(false) => {
                    let refusal = Refusal::new(RefusalKind::Busy, "später");
                    put_error(&mut bytes, &refusal);
                    expected.push(Frame::Error(refusal));
                }
                None => {}
            }
            let pieces = cut(&bytes, &places);
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(read(&pieces), (expected, Ok(false)));
        }

        #[test]
        fn any_bytes_are_frames_or_an_error_wherever_they_are_cut(
            bytes in vec(prop_oneof![Just(0), Just(1), Just(2), any::<u8>()], 0..200),
            places in vec(any::<usize>(), 0..10),
        ) {
            let whole = read(&[&bytes]);
            let pieces = cut(&bytes, &places);
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(read(&pieces), whole);
        }
    }

    #[test]
    fn a_frame_that_has_begun_is_no_end() {
        assert_eq!(read(&[&[0, 0, 0, 0, 2, 7]]), (vec![], Ok(true)));
        assert_eq!(read(&[&[0, 0]]), (vec![], Ok(true)));
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_before_it_has_come() {
        assert_eq!(read(&[&[0, 0, 1, 0, 1]]).1, Err(FrameError::TooLong(65537)));
        assert_eq!(read(&[&[3, 0, 0, 0, 0]]).1, Err(FrameError::Kind(3)));
        assert_eq!(
            read(&[&[1, 0, 0, 0, 1, 0]]).1,
            Err(FrameError::Length(1, 1))
        );
    }
}
