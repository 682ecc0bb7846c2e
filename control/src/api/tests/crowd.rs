//! Nobody keeps the others out: neither strangers by numbers, nor a tenant by connections.

use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::node::{run, server};
use crate::api::admission::TENANT_MAX;

/// Far more strangers than there are places.
const CROWD: usize = 600;

#[test]
fn strangers_who_say_nothing_or_little_delay_no_client() {
    run(async {
        let server = std::sync::Arc::new(server().await);
        let mut strangers = Vec::new();
        for number in 0..CROWD {
            let mut stranger = server.tcp().await.unwrap();
            if number % 2 == 0 {
                // The beginning of a TLS record.
                let _ = stranger.write_all(&[0x16, 3, 1]).await;
            }
            strangers.push(stranger);
        }
        // Each that is closed comes again.
        let again: Vec<_> = (0..8)
            .map(|_| {
                let server = std::sync::Arc::clone(&server);
                AbortOnDropHandle::new(tokio::spawn(async move {
                    while let Ok(mut stranger) = server.tcp().await {
                        let _ = stranger.read(&mut [0]).await;
                    }
                }))
            })
            .collect();
        for _ in 0..20 {
            let mut client = server.client("acme").await;
            assert_eq!(client.get("/version").await.0, StatusCode::OK);
        }
        drop(again);
        // Room was made by those who came first.
        let mut first = strangers.swap_remove(0);
        assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)));
    });
}

#[test]
fn a_tenant_that_holds_all_it_can_is_told_so_and_keeps_nobody_else_out() {
    run(async {
        let server = server().await;
        let mut held = Vec::new();
        for _ in 0..TENANT_MAX {
            let mut client = server.client("acme").await;
            let answer = client.send(Method::GET, "/events", "", &[]).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            held.push((client, answer));
        }
        let mut client = server.client("acme").await;
        let (status, answer) = client.get("/version").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            answer["message"]
                .as_str()
                .unwrap()
                .starts_with("too many connections")
        );
        for tenant in ["owner", "other"] {
            let mut client = server.client(tenant).await;
            assert_eq!(client.get("/version").await.0, StatusCode::OK);
        }
        // Those at work were left alone.
        let (_, answer) = &mut held[0];
        let event = answer.body_mut().frame();
        let loaded = async {
            let mut owner = server.client("owner").await;
            owner.get("/version").await
        };
        tokio::select! {
            frame = event => panic!("the stream has ended: {frame:?}"),
            (status, _) = loaded => assert_eq!(status, StatusCode::OK),
        }
    });
}

#[test]
fn an_idle_connection_makes_room_for_the_tenants_next() {
    run(async {
        let server = server().await;
        let mut idle = Vec::new();
        for _ in 0..TENANT_MAX {
            let mut client = server.client("acme").await;
            assert_eq!(client.get("/version").await.0, StatusCode::OK);
            idle.push(client);
        }
        for _ in 0..3 {
            let mut client = server.client("acme").await;
            assert_eq!(client.get("/version").await.0, StatusCode::OK);
            idle.push(client);
        }
        let first = idle[0].send(Method::GET, "/version", "", &[]).await;
        assert!(first.is_err(), "{first:?}");
        assert_eq!(idle[10].get("/version").await.0, StatusCode::OK);
    });
}
