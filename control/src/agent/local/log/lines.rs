//! Records into lines.

use bytes::{Bytes, BytesMut};

use super::record::{Kind, Record};
use crate::agent::{LogRecord, Stream};

/// A line longer than this comes in several records: docker's own limit, and what bounds this process's memory.
pub(super) const LINE_MAX: usize = 16 << 10;

/// Puts lines together that came in pieces, for each stream apart.
#[derive(Default)]
pub(super) struct Lines {
    partial: [Option<Partial>; 2],
}

struct Partial {
    at_ns: u64,
    data: BytesMut,
}

impl Lines {
    /// The lines that a record completes.
    pub fn push(&mut self, record: &Record, out: &mut Vec<LogRecord>) {
        let stream = match record.kind {
            Kind::Stdout => Stream::Stdout,
            Kind::Stderr => Stream::Stderr,
            // What the run before left without a newline will not get one.
            Kind::Run => return self.flush(out),
            Kind::Continued => return,
        };
        let slot = &mut self.partial[stream as usize];
        let mut rest = record.data.clone();
        while !rest.is_empty() {
            let held = slot.as_ref().map_or(0, |partial| partial.data.len());
            let room = LINE_MAX - held;
            let window = &rest[..rest.len().min(room)];
            let (take, complete) = match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            let piece = rest.split_to(take);
            let (at_ns, data) = match slot.take() {
                None => (record.at_ns, piece),
                Some(mut partial) => {
                    partial.data.extend_from_slice(&piece);
                    (partial.at_ns, partial.data.freeze())
                }
            };
            if complete {
                out.push(LogRecord {
                    at_ns,
                    stream,
                    data,
                });
            } else {
                *slot = Some(Partial {
                    at_ns,
                    data: BytesMut::from(data),
                });
            }
        }
    }

    /// What has no newline and won't get one.
    pub fn flush(&mut self, out: &mut Vec<LogRecord>) {
        let mut left: Vec<LogRecord> = [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter_map(|stream| {
                let partial = self.partial[stream as usize].take()?;
                Some(LogRecord {
                    at_ns: partial.at_ns,
                    stream,
                    data: Bytes::from(partial.data),
                })
            })
            .collect();
        left.sort_by_key(|line| line.at_ns);
        out.append(&mut left);
    }
}
