//! Output, stdin and logs of processes on another node.

use bytes::Bytes;
use futures_util::StreamExt;

use super::{chunk, container, theatre};
use crate::agent::{Agent, ExecSpec, LogOptions, Stream};
use crate::peers::tests::{ONE, run};

#[test]
fn an_attached_client_and_a_process_hear_each_other_in_order() {
    run(async {
        let mut t = theatre().await;
        let mut attached = t.remote.attach(&container(1), true).await.unwrap();
        let mut process = t.attached.recv().await.unwrap();
        let (sink, mut stdin) = (
            attached.input.take().unwrap(),
            process.input.take().unwrap(),
        );
        for n in 0..20u8 {
            // More than a frame, too.
            let data = vec![n; usize::from(n) * 10_000 + 1];
            let sent = data.clone();
            let echo = async {
                let mut heard = Vec::new();
                while heard.len() < data.len() {
                    heard.extend(stdin.recv().await.unwrap());
                }
                let stream = [Stream::Stdout, Stream::Stderr][usize::from(n) % 2];
                process.output.send(chunk(stream, heard)).await.unwrap();
                stream
            };
            let listen = async {
                let mut heard = Vec::new();
                let mut from = None;
                while heard.len() < data.len() {
                    let chunk = attached.output.recv().await.unwrap();
                    from = Some(chunk.stream);
                    heard.extend(chunk.data);
                }
                assert!(heard == data);
                from.unwrap()
            };
            let say = async { sink.send(sent.into()).await.unwrap() };
            let (said, heard, ()) = tokio::join!(echo, listen, say);
            assert_eq!(said, heard);
        }
        // Half of it ends, the other goes on.
        drop(sink);
        assert_eq!(stdin.recv().await, None);
        let last = chunk(Stream::Stdout, "last");
        process.output.send(last).await.unwrap();
        assert_eq!(attached.output.recv().await.unwrap().data, "last");
        drop(process);
        assert!(attached.output.recv().await.is_none());
        assert!(attached.broken.unwrap().await.is_err());
    });
}

#[test]
fn the_output_of_an_exec_comes_to_its_last_byte_however_slowly_it_is_read() {
    run(async {
        let mut t = theatre().await;
        let spec = ExecSpec {
            stdin: true,
            ..ExecSpec::default()
        };
        let exec = t.remote.exec_create(&container(1), spec).await.unwrap();
        for _ in 0..3 {
            let started = t.remote.exec_start(&exec, Some((2, 3))).await;
            let mut attached = started.unwrap();
            let process = t.attached.recv().await.unwrap();
            // Says all it has to say and is gone, with its stdin never read.
            let say = async move {
                for n in 0..100u8 {
                    let said = chunk(Stream::Stdout, vec![n; 32 << 10]);
                    process.output.send(said).await.unwrap();
                }
            };
            let hear = async {
                let mut heard = 0;
                while let Some(chunk) = attached.output.recv().await {
                    for byte in chunk.data {
                        assert_eq!(usize::from(byte), heard / (32 << 10));
                        heard += 1;
                    }
                    tokio::task::yield_now().await;
                }
                assert_eq!(heard, 100 * (32 << 10));
            };
            tokio::join!(say, hear);
            assert!(attached.broken.unwrap().await.is_err());
            // Whoever still speaks to it is told.
            let sink = attached.input.unwrap();
            while sink.send(Bytes::from_static(b"x")).await.is_ok() {}
        }
        assert_eq!(t.stage.asked.lock().unwrap()[0], "start Some((2, 3))");
    });
}

#[test]
fn a_client_that_goes_is_let_go_at_once_and_what_it_had_said_arrives_with_its_end() {
    run(async {
        let mut t = theatre().await;
        // Without stdin, of a process that says nothing.
        let attached = t.remote.attach(&container(1), false).await.unwrap();
        let process = t.attached.recv().await.unwrap();
        assert!(attached.input.is_none() && process.input.is_none());
        drop(attached);
        process.output.closed().await;
        // With much to say to a process that has yet to hear it.
        let attached = t.remote.attach(&container(1), true).await.unwrap();
        let mut process = t.attached.recv().await.unwrap();
        let mut stdin = process.input.take().unwrap();
        let sink = attached.input.as_ref().unwrap();
        for _ in 0..10 {
            sink.send(vec![1; 30_000].into()).await.unwrap();
        }
        drop(attached);
        let mut heard = 0;
        while let Some(data) = stdin.recv().await {
            heard += data.len();
        }
        assert_eq!(heard, 300_000);
        drop(stdin);
        process.output.closed().await;
    });
}

#[test]
fn a_process_that_closes_its_stdin_goes_on_speaking() {
    run(async {
        let mut t = theatre().await;
        let mut attached = t.remote.attach(&container(1), true).await.unwrap();
        let mut process = t.attached.recv().await.unwrap();
        drop(process.input.take());
        let sink = attached.input.take().unwrap();
        for _ in 0..100 {
            sink.send(vec![1; 30_000].into()).await.unwrap();
        }
        let said = chunk(Stream::Stderr, "still here");
        process.output.send(said).await.unwrap();
        let heard = attached.output.recv().await.unwrap();
        assert_eq!(
            (heard.stream, &heard.data[..]),
            (Stream::Stderr, &b"still here"[..])
        );
    });
}

#[test]
fn a_lost_connection_is_no_end_of_the_output() {
    run(async {
        let mut t = theatre().await;
        let mut attached = t.remote.attach(&container(1), true).await.unwrap();
        let process = t.attached.recv().await.unwrap();
        t.pair.two.close(ONE);
        assert!(attached.output.recv().await.is_none());
        let error = attached.broken.unwrap().await.unwrap();
        assert!(error.to_string().contains("incomplete"), "{error}");
        // The process's node has let go as well.
        process.output.closed().await;
    });
}

#[test]
fn a_log_comes_whole_and_an_error_in_it_is_one() {
    run(async {
        let t = theatre().await;
        for follow in [false, true] {
            let options = LogOptions {
                follow,
                tail: Some(3000),
                ..LogOptions::default()
            };
            let read = async |agent: &dyn Agent| {
                let log = agent.logs(&container(1), options.clone()).await.unwrap();
                let records: Vec<_> = log.collect().await;
                let records = records.into_iter().map(|record| match record {
                    Ok(record) => (record.at_ns, record.stream == Stream::Stderr, record.data),
                    Err(error) => {
                        assert!(error.to_string().contains("the disk says no"), "{error}");
                        (0, true, Bytes::new())
                    }
                });
                records.collect::<Vec<_>>()
            };
            let (here, there) = (read(&*t.stage).await, read(&t.remote).await);
            assert_eq!(here.len(), 3000 + usize::from(follow));
            assert!(here == there);
        }
    });
}

#[test]
fn what_happens_on_a_node_is_told_in_order_and_that_it_cannot_be_told_any_more() {
    run(async {
        let t = theatre().await;
        let told = async |agent: &dyn Agent| {
            let all = agent.happenings().await.unwrap();
            let all: Vec<_> = all.map(|it| it.map_err(|e| e.to_string())).collect().await;
            all
        };
        let (here, there) = (told(&*t.stage).await, told(&t.remote).await);
        assert_eq!(here.len(), 201);
        assert_eq!(here[..200], there[..200]);
        assert!(
            there[200]
                .as_ref()
                .is_err_and(|e| e.contains("it was too much"))
        );
    });
}
