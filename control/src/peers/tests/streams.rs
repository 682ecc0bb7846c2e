//! Streams: order, ends, and what each side learns of the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::service::{Desk, Event};
use super::{pair, run};
use crate::peers::{FRAME_MAX, PeerError, RefusalKind, STREAM_WINDOW};

#[test]
fn a_stream_that_is_not_read_holds_up_its_sender_and_nobody_else() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(Arc::<Desk>::clone(&desk)).await;
        let mut slow = Vec::new();
        for _ in 0..50 {
            slow.push(pair.open("/flood").await);
        }
        let body = vec![3; 5 << 20];
        for _ in 0..10 {
            assert_eq!(pair.call("/echo", body.clone()).await.unwrap(), body);
        }
        // What fits into the windows, and what waits for the connection.
        let most = slow.len() * (STREAM_WINDOW as usize + 4 * FRAME_MAX);
        assert!(desk.sent.load(Ordering::SeqCst) <= most);
        for (_, receive) in &mut slow {
            for _ in 0..10 {
                let data = receive.recv().await.unwrap().unwrap();
                assert!(data.len() == 60_000 && data.iter().all(|byte| *byte == 7));
            }
        }
    });
}

#[test]
fn each_half_that_is_dropped_before_its_end_cancels_the_other_side() {
    run(async {
        let (desk, mut events) = Desk::new();
        let pair = pair(desk).await;
        // What is received.
        let (send, mut receive) = pair.open("/flood").await;
        assert_eq!(receive.recv().await.unwrap().unwrap().len(), 60_000);
        drop(receive);
        assert_eq!(events.recv().await, Some(Event::Cancelled));
        drop(send);
        // What is sent.
        let (send, mut receive) = pair.open("/echo").await;
        assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
        drop(send);
        assert_eq!(events.recv().await, Some(Event::Cancelled));
        assert!(receive.recv().await.is_err());
        // Both, while the other side reads nothing, so that nothing more can be sent.
        let (mut send, receive) = pair.open("/deaf").await;
        assert_eq!(events.recv().await, Some(Event::Begun));
        let data = Bytes::from(vec![0; FRAME_MAX]);
        loop {
            tokio::select! {
                biased;
                sent = send.send(data.clone()) => sent.unwrap(),
                () = tokio::task::yield_now() => if pair.call("/echo", "x").await.is_ok() {
                    break;
                }
            }
        }
        drop((send, receive));
        assert_eq!(events.recv().await, Some(Event::Cancelled));
        // The side that answers.
        let (mut send, mut receive) = pair.open("/vanish").await;
        assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
        send.send(data).await.unwrap();
        let lost = receive.recv().await.unwrap_err();
        assert!(matches!(lost, PeerError::Cancelled { .. }), "{lost}");
        assert!(matches!(send.gone().await, PeerError::Cancelled { .. }));
        assert_eq!(pair.connections(), 1);
    });
}

#[test]
fn an_error_in_the_middle_is_told_as_one_after_what_came_before() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (_send, mut receive) = pair.open("/fail").await;
        assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
        match receive.recv().await {
            Err(PeerError::Refused { refusal, .. }) => {
                assert_eq!(refusal.kind, RefusalKind::Busy);
                assert_eq!(refusal.words, "no more");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn what_was_said_before_the_end_arrives_though_the_other_half_is_dropped_at_once() {
    run(async {
        let (desk, mut events) = Desk::new();
        let pair = pair(desk).await;
        for _ in 0..5 {
            let (mut send, mut receive) = pair.open("/say").await;
            // Reads on only when the other side has nothing to do with it any more, but for what can't be sent yet.
            for n in 0..50u8 {
                let long = receive.recv().await.unwrap().unwrap();
                assert!(long.len() == 50_001 && long.iter().all(|byte| *byte == n));
                assert_eq!(receive.recv().await.unwrap().unwrap(), vec![n; 6]);
            }
            assert_eq!(receive.recv().await.unwrap(), None);
            assert_eq!(events.recv().await, Some(Event::Finished));
            // It hears no more.
            send.gone().await;
            assert!(send.send(Bytes::from_static(b"x")).await.is_err());
        }
    });
}

#[test]
fn one_half_ends_and_the_other_goes_on() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (mut send, mut receive) = pair.open("/hear").await;
        for _ in 0..100 {
            send.send(vec![1; 10_000].into()).await.unwrap();
            send.feed(&[1], Bytes::from_static(b"234")).await.unwrap();
        }
        send.finish().unwrap();
        assert_eq!(receive.recv().await.unwrap().unwrap(), "1000400");
        assert_eq!(receive.recv().await.unwrap(), None);
    });
}

#[test]
fn a_frame_that_is_too_long_is_not_sent_and_the_stream_goes_on() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (mut send, mut receive) = pair.open("/hear").await;
        let sent = send.send(vec![0; FRAME_MAX + 1].into()).await;
        assert!(matches!(sent, Err(PeerError::TooLarge { .. })));
        send.send(vec![0; FRAME_MAX].into()).await.unwrap();
        send.finish().unwrap();
        assert_eq!(
            receive.recv().await.unwrap().unwrap(),
            FRAME_MAX.to_string()
        );
    });
}
