//! `GET /containers/{id}/logs`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;

use super::logging;
use crate::agent::{LogOptions, LogRecord, Stream};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::{frames, timestamps};

/// What it has written, and with `follow` what it writes until its run ends.
pub async fn logs(call: &Call, name: &str) -> Answer {
    let query = &call.query;
    let options = LogOptions {
        follow: query.flag("follow"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since_ns: timestamps::bound("since", query.get("since"))?,
        until_ns: timestamps::bound("until", query.get("until"))?,
        tail: tail(query.get("tail"))?,
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::bad_request(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let container = call.container(name)?;
    logging::check_readable(&container)?;
    let tty = container.spec.tty;
    let records = call
        .controller()
        .agent_of(&container)?
        .logs(&container.id, options)
        .await?;
    let mut lines = query.flag("timestamps").then(Lines::default);
    let pieces = records.map(move |record| {
        let record = record?;
        let data = match &mut lines {
            Some(lines) => lines.stamp(&record),
            None => record.data,
        };
        Ok::<Bytes, io::Error>(frames::encode(tty, record.stream, data))
    });
    // The headers go out with the first poll of the body, whatever the log holds.
    Ok(answer::stream(
        frames::content_type(tty, call.version),
        pieces,
    ))
}

/// `all`, or a number of lines; a negative one is all.
fn tail(text: Option<&str>) -> Result<Option<usize>, ApiError> {
    match text {
        None | Some("all") => Ok(None),
        Some(text) => text
            .parse::<i64>()
            .map(|lines| usize::try_from(lines).ok())
            .map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid value for tail: {text:?} is neither \"all\" nor a number"
                ))
            }),
    }
}

/// Knows for each stream whether its next record begins a line: a long line comes in several, and only its first has a timestamp.
#[derive(Default)]
struct Lines {
    inside: [bool; 2],
}

impl Lines {
    fn stamp(&mut self, record: &LogRecord) -> Bytes {
        let inside = &mut self.inside[usize::from(record.stream == Stream::Stderr)];
        let begins = !*inside;
        *inside = !record.data.ends_with(b"\n");
        if !begins {
            return record.data.clone();
        }
        let stamp = timestamps::aligned(record.at_ns);
        let mut stamped = BytesMut::with_capacity(stamp.len() + 1 + record.data.len());
        stamped.put_slice(stamp.as_bytes());
        stamped.put_u8(b' ');
        stamped.put_slice(&record.data);
        stamped.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_one_timestamp() {
        let mut lines = Lines::default();
        let mut stamp = |stream, text: &'static str| {
            let record = LogRecord {
                at_ns: 1_000_000_000,
                stream,
                data: Bytes::from_static(text.as_bytes()),
            };
            String::from_utf8(lines.stamp(&record).to_vec()).unwrap()
        };
        assert_eq!(
            stamp(Stream::Stdout, "begin"),
            "1970-01-01T00:00:01.000000000Z begin"
        );
        assert_eq!(
            stamp(Stream::Stderr, "x\n"),
            "1970-01-01T00:00:01.000000000Z x\n"
        );
        assert_eq!(stamp(Stream::Stdout, "end\n"), "end\n");
        assert_eq!(
            stamp(Stream::Stdout, "new\n"),
            "1970-01-01T00:00:01.000000000Z new\n"
        );
    }

    #[test]
    fn tail_is_a_number_or_everything() {
        assert_eq!(tail(Some("all")).unwrap(), None);
        assert_eq!(tail(Some("-1")).unwrap(), None);
        assert_eq!(tail(Some("0")).unwrap(), Some(0));
        assert!(tail(Some("few")).is_err());
    }
}
