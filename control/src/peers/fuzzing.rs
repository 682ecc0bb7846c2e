//! Frames of a stream, as a peer may send them.

use bytes::Bytes;

use super::frames::Reader;

/// All frames, up to what is none: the same however they are cut. The first byte says how.
pub fn peer_frames(bytes: &[u8]) {
    let Some((&every, bytes)) = bytes.split_first() else {
        return;
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut reader, mut frames) = (Reader::default(), Vec::new());
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            loop {
                match reader.next() {
                    Ok(Some((frame, _))) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let whole = read(&mut std::iter::once(bytes));
    let cut = read(&mut bytes.chunks(usize::from(every) + 1));
    assert_eq!(whole, cut);
}
