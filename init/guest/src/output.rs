//! What a process has written and the host has not yet acknowledged.

use std::collections::VecDeque;

use hearth_guest_protocol::{OUTPUT_CHUNK, OUTPUT_WINDOW, Output};

/// Output in the order it was read, numbered by byte over stdout and stderr together.
///
/// Holds at most [`OUTPUT_WINDOW`] bytes; whoever fills it asks [`OutputBuffer::room`] first.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    chunks: VecDeque<Chunk>,
    /// Offset of the first byte held.
    start: u64,
    /// Offset after the last byte held.
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    stderr: bool,
    data: Vec<u8>,
}

impl OutputBuffer {
    /// Bytes that may be pushed.
    pub fn room(&self) -> usize {
        // The difference is at most the window, as `push` sees to.
        OUTPUT_WINDOW.saturating_sub((self.end - self.start) as usize)
    }

    /// Appends what was read. More than there is room for is cut off, which a caller that asked doesn't see.
    pub fn push(&mut self, stderr: bool, data: &[u8]) {
        let mut data = &data[..data.len().min(self.room())];
        // A process that writes byte by byte must not cost a chunk for each.
        if let Some(last) = self.chunks.back_mut().filter(|last| last.stderr == stderr) {
            let (fits, rest) =
                data.split_at(data.len().min(OUTPUT_CHUNK.saturating_sub(last.data.len())));
            last.data.extend_from_slice(fits);
            self.end += fits.len() as u64;
            data = rest;
        }
        for piece in data.chunks(OUTPUT_CHUNK) {
            self.chunks.push_back(Chunk {
                offset: self.end,
                stderr,
                data: piece.to_vec(),
            });
            self.end += piece.len() as u64;
        }
    }

    /// Forgets everything before `offset`. Returns whether that made room.
    pub fn acknowledge(&mut self, offset: u64) -> bool {
        let offset = offset.min(self.end);
        if offset <= self.start {
            return false;
        }
        self.start = offset;
        while self
            .chunks
            .front()
            .is_some_and(|first| first.end() <= offset)
        {
            self.chunks.pop_front();
        }
        true
    }

    /// The next message for a follower that has everything before `offset`; `None` when there is nothing more yet. A follower
    /// that asks for what is no longer held goes on with the first byte that is.
    pub fn next(&self, offset: u64) -> Option<Output> {
        let offset = offset.max(self.start);
        let at = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let chunk = self.chunks.get(at)?;
        // Within the chunk: its end lies behind `offset`, and chunks leave no gap.
        let skip = (offset - chunk.offset) as usize;
        Some(Output {
            offset,
            stderr: chunk.stderr,
            data: chunk.data[skip..].to_vec(),
        })
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(buffer: &OutputBuffer, mut from: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(output) = buffer.next(from) {
            assert_eq!(output.offset, from);
            assert!(output.data.len() <= OUTPUT_CHUNK);
            from += output.data.len() as u64;
            if output.stderr { &mut err } else { &mut out }.extend(output.data);
        }
        assert_eq!(from, buffer.end);
        (out, err)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_from_any_offset(
            writes in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..40),
            cut in 0u64..12_000,
        ) {
            let mut buffer = OutputBuffer::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for (stderr, data) in &writes {
                buffer.push(*stderr, data);
                if *stderr { &mut err } else { &mut out }.extend_from_slice(data);
            }
            prop_assert_eq!(read_all(&buffer, 0), (out.clone(), err.clone()));
            let cut = cut.min(buffer.end);
            let (late_out, late_err) = read_all(&buffer, cut);
            prop_assert!(out.ends_with(&late_out) && err.ends_with(&late_err));
            buffer.acknowledge(cut);
            prop_assert_eq!(read_all(&buffer, cut), (late_out, late_err));
            prop_assert_eq!(buffer.room() as u64, OUTPUT_WINDOW as u64 - (buffer.end - cut));
        }
    }

    #[test]
    fn a_full_window_takes_nothing_until_something_is_acknowledged() {
        let mut buffer = OutputBuffer::default();
        buffer.push(false, &vec![1; OUTPUT_WINDOW + 5]);
        assert_eq!((buffer.room(), buffer.end), (0, OUTPUT_WINDOW as u64));
        buffer.push(true, b"lost, because nobody asked for room");
        assert_eq!(buffer.end, OUTPUT_WINDOW as u64);
        assert!(buffer.acknowledge(10));
        assert!(
            !buffer.acknowledge(10),
            "the second acknowledgement of the same bytes makes no room"
        );
        assert_eq!(buffer.room(), 10);
    }

    #[test]
    fn an_acknowledgement_beyond_the_end_is_one_of_the_end() {
        let mut buffer = OutputBuffer::default();
        buffer.push(false, b"abc");
        buffer.acknowledge(u64::MAX);
        assert_eq!((buffer.room(), buffer.next(0)), (OUTPUT_WINDOW, None));
        buffer.push(false, b"d");
        assert_eq!(buffer.next(0).unwrap().offset, 3);
    }

    #[test]
    fn single_bytes_share_a_chunk() {
        let mut buffer = OutputBuffer::default();
        for _ in 0..1000 {
            buffer.push(false, b"x");
        }
        assert_eq!(buffer.chunks.len(), 1);
    }
}
