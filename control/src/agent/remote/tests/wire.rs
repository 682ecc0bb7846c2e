//! What is read of what other nodes, and other versions, send.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::container;
use crate::agent::remote::wire::{
    Answer, Asked, Failure, Opening, Output, Question, Size, read, read_record, record_head,
};
use crate::agent::{AgentError, ExecSpec, LogOptions};
use crate::state::{Signal, encoding};

#[test]
fn what_only_a_later_version_knows_is_refused_in_words_that_say_so() {
    let later = encoding::encode(&BTreeMap::from([("Checkpoint", 1)])).unwrap();
    let words = read::<Question>(&later).unwrap_err().words;
    assert!(
        words.contains("Checkpoint") && words.contains("older version"),
        "{words}"
    );
    let later = encoding::encode(&"Freeze").unwrap();
    let words = read::<Opening>(&later).unwrap_err().words;
    assert!(
        words.contains("Freeze") && words.contains("older version"),
        "{words}"
    );
    // What is known and makes no sense is no matter of versions.
    let nonsense = encoding::encode(&BTreeMap::from([("Signal", 1)])).unwrap();
    let words = read::<Question>(&nonsense).unwrap_err().words;
    assert!(!words.contains("version"), "{words}");
    // An error of a later version has its words.
    let mut failure = encoding::encode(&Failure::from(&AgentError::DiskFull)).unwrap();
    let at = failure.windows(8).position(|w| w == b"DiskFull").unwrap();
    failure[at..at + 8].copy_from_slice(b"NewError");
    let error = AgentError::from(encoding::decode::<Failure>(&failure).unwrap());
    assert!(error.to_string().contains("no space left"), "{error}");
}

#[test]
fn the_names_of_all_kinds_are_known() {
    fn check<T: Asked>(all: &[T]) {
        let name = |asked: &T| match ciborium::Value::serialized(asked).unwrap() {
            ciborium::Value::Map(entries) => entries[0].0.as_text().unwrap().to_owned(),
            other => panic!("{other:?}: fields can't be added to what has none"),
        };
        let names: Vec<_> = all.iter().map(name).collect();
        assert_eq!(names, T::KINDS);
    }
    let (container, exec) = (container(1), String::new());
    let size = Size {
        rows: 1,
        columns: 2,
    };
    check(&[
        Question::Signal {
            container,
            signal: Signal::KILL,
        },
        Question::Resize { container, size },
        Question::WrittenBytes { container },
        Question::Processes { container },
        Question::ExecCreate {
            container,
            spec: ExecSpec::default(),
        },
        Question::ExecResize {
            exec: exec.clone(),
            size,
        },
        Question::ExecStatus { exec: exec.clone() },
        Question::Execs { container },
        Question::Node {},
    ]);
    check(&[
        Opening::Attach {
            container,
            stdin: true,
        },
        Opening::ExecStart {
            exec,
            size: Some(size),
        },
        Opening::Logs {
            container,
            options: LogOptions::default(),
        },
        Opening::Happenings {},
    ]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read::<Question>(&bytes);
        let _ = read::<Opening>(&bytes);
        if let Ok(Answer::Failed { failure }) = encoding::decode(&bytes) {
            let _ = AgentError::from(failure);
        }
    }

    #[test]
    fn any_frame_is_read_as_it_was_written_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
        let frame = Bytes::from(bytes.clone());
        if let Ok(output) = Output::read(frame.clone()) {
            let mut again = output.head().to_vec();
            if let Output::Chunk(_, data) = &output {
                again.extend_from_slice(data);
            }
            prop_assert_eq!(&again, &bytes);
        }
        if let Ok(record) = read_record(frame) {
            let mut again = record_head(&record).to_vec();
            again.extend_from_slice(&record.data);
            prop_assert_eq!(&again, &bytes);
        }
    }

    #[test]
    fn damaged_questions_are_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        env in proptest::collection::vec(".*", 0..4),
    ) {
        let spec = ExecSpec { env, ..ExecSpec::default() };
        let question = Question::ExecCreate { container: container(1), spec };
        let mut bytes = encoding::encode(&question).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read::<Question>(&bytes);
    }
}
