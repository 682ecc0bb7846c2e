//! What a log promises its writer and its readers.

use std::io::Write;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;

use super::record::{Kind, Record};
use super::{FILE_BYTES_MAX, Log};
use crate::agent::{LogOptions, Stream};

fn all() -> LogOptions {
    LogOptions {
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn read(log: &Log, options: LogOptions) -> Vec<(Stream, Vec<u8>)> {
    runtime().block_on(async {
        let lines: Vec<_> = log.read(options).collect().await;
        lines
            .into_iter()
            .map(|line| line.map(|line| (line.stream, line.data.to_vec())).unwrap())
            .collect()
    })
}

/// Pieces of output as a guest sends them.
fn pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let byte = prop_oneof![4 => Just(b'x'), 1 => Just(b'\n')];
    proptest::collection::vec(
        (any::<bool>(), proptest::collection::vec(byte, 1..20)),
        0..40,
    )
}

fn write(log: &Log, pieces: &[(bool, Vec<u8>)], mut offset: u64) -> u64 {
    for (at, (stderr, data)) in pieces.iter().enumerate() {
        let stream = if *stderr {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        log.append(stream, at as u64, offset, Bytes::copy_from_slice(data))
            .unwrap();
        offset += data.len() as u64;
    }
    offset
}

fn joined(lines: &[(Stream, Vec<u8>)], stream: Stream) -> Vec<u8> {
    lines
        .iter()
        .filter(|line| line.0 == stream)
        .flat_map(|line| line.1.clone())
        .collect()
}

fn of(pieces: &[(bool, Vec<u8>)], stderr: bool) -> Vec<u8> {
    pieces
        .iter()
        .filter(|piece| piece.0 == stderr)
        .flat_map(|piece| piece.1.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read_stream_by_stream_and_line_by_line(pieces in pieces()) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path());
        log.begin_run(0).unwrap();
        write(&log, &pieces, 0);
        log.end_run();
        let lines = read(&log, all());
        prop_assert_eq!(joined(&lines, Stream::Stdout), of(&pieces, false));
        prop_assert_eq!(joined(&lines, Stream::Stderr), of(&pieces, true));
        for (_, line) in &lines {
            let newlines = line.iter().filter(|byte| **byte == b'\n').count();
            prop_assert!(newlines == 0 || (newlines == 1 && line.ends_with(b"\n")));
        }
    }

    #[test]
    fn the_tail_is_the_end_of_the_whole(pieces in pieces(), tail in 0usize..12, stdout in any::<bool>(), limit in 100u64..2000, cut in 0usize..28) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_limit(dir.path(), limit);
        log.begin_run(0).unwrap();
        // Text without a newline comes last in a whole log, however early it was written.
        let ends = [(false, b"\n".to_vec()), (true, b"\n".to_vec())];
        let pieces = [pieces.as_slice(), &ends].concat();
        write(&log, &pieces, 0);
        log.end_run();
        // What a machine that lost power was about to write.
        let mut last = Vec::new();
        Record { kind: Kind::Stdout, at_ns: 0, offset: 0, data: Bytes::new() }.write(&mut last);
        let mut file = std::fs::OpenOptions::new().append(true).open(dir.path().join("log")).unwrap();
        file.write_all(&last[..cut]).unwrap();
        let whole = read(&log, LogOptions { stdout, ..all() });
        let end = read(&log, LogOptions { tail: Some(tail), stdout, ..all() });
        prop_assert_eq!(end.len(), tail.min(whole.len()));
        prop_assert_eq!(&whole[whole.len() - end.len()..], &end[..]);
    }

    #[test]
    fn a_log_goes_on_exactly_where_another_process_left_it(pieces in pieces(), more in pieces(), cut in 0u64..40, limit in 200u64..4000) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_limit(dir.path(), limit);
        log.begin_run(0).unwrap();
        let end = write(&log, &pieces, 0);
        drop(log);
        let again = Log::with_limit(dir.path(), limit);
        prop_assert_eq!(again.resume_run().unwrap(), end);
        drop(again);
        // A record cut short is dropped, and the guest asked for it again.
        let path = dir.path().join("log");
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length.saturating_sub(cut)).unwrap();
        let again = Log::with_limit(dir.path(), limit);
        let from = again.resume_run().unwrap();
        prop_assert!(from <= end);
        write(&again, &more, from);
        again.end_run();
        let _ = read(&again, all());
    }

    #[test]
    fn any_bytes_are_a_log_or_an_empty_one(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = if magic { super::MAGIC.to_vec() } else { Vec::new() };
        contents.extend(bytes);
        std::fs::write(dir.path().join("log"), contents).unwrap();
        let log = Log::new(dir.path());
        let _ = read(&log, LogOptions { tail: Some(3), ..all() });
        log.resume_run().unwrap();
        log.append(Stream::Stdout, 1, 0, Bytes::from_static(b"mine\n")).unwrap();
        log.end_run();
        let lines = read(&log, LogOptions { tail: Some(1), ..all() });
        prop_assert_eq!(lines, vec![(Stream::Stdout, b"mine\n".to_vec())]);
    }
}

#[test]
fn a_log_never_takes_more_than_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::with_limit(dir.path(), 1000);
    log.begin_run(0).unwrap();
    let mut offset = 0;
    for n in 0..200 {
        let line = Bytes::from(format!("line {n}\n"));
        log.append(Stream::Stdout, n, offset, line.clone()).unwrap();
        offset += line.len() as u64;
    }
    let sizes: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert!(sizes <= 2000 && std::fs::read_dir(dir.path()).unwrap().count() == 2);
    assert_eq!(
        Log::with_limit(dir.path(), 1000).resume_run().unwrap(),
        offset
    );
    log.end_run();
    let lines = read(&log, all());
    assert_eq!(lines.last().unwrap().1, b"line 199\n");
    assert!(lines.len() > 20);
    assert_eq!(FILE_BYTES_MAX, 64 << 20);
    let record = Record {
        kind: Kind::Run,
        at_ns: 0,
        offset: 0,
        data: Bytes::new(),
    };
    assert_eq!(record.size(), 28);
}

#[test]
fn a_follower_sees_everything_and_ends_with_the_run_also_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::with_limit(dir.path(), 100_000);
    runtime().block_on(async {
        log.begin_run(0).unwrap();
        let mut stream = log.read(LogOptions {
            follow: true,
            ..all()
        });
        for n in 0..50u64 {
            let line = Bytes::from(format!("line {n}\n"));
            log.append(Stream::Stdout, n, 0, line.clone()).unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap().data, line);
        }
        log.append(Stream::Stderr, 99, 0, Bytes::from_static(b"no newline"))
            .unwrap();
        log.end_run();
        assert_eq!(
            &stream.next().await.unwrap().unwrap().data[..],
            b"no newline"
        );
        assert!(stream.next().await.is_none());
    });
}
