//! The API as a client meets it: over TLS, with everything behind it real down to the monitor, whose place
//! a stand-in takes.

mod closing;
mod crowd;
mod elsewhere;
mod locked;
mod node;
mod revocation;
mod roles;
mod round_trip;
mod specification;
mod swarm;

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::SetOnce;

use self::node::{read, run, server};
use super::HEAD_MAX;
use super::docker::Docker;

#[test]
fn clients_negotiate_by_the_headers_of_ping() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        for method in [Method::HEAD, Method::GET] {
            let answer = client.send(method, "/_ping", "", &[]).await.unwrap();
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("api-version"), &bollard_stubs::BASE_PATH[2..]);
            assert_eq!(header("ostype"), "linux");
            assert_eq!(header("builder-version"), "1");
            assert_eq!(header("swarm"), "inactive");
            answer.into_body().collect().await.unwrap();
        }
        assert_eq!(
            client.get("/v1.39/version").await.0,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(client.get("/v1.40/version").await.0, StatusCode::OK);
        let (_, info) = client.get("/info").await;
        assert!(info["Warnings"][0].as_str().unwrap().contains("RAM"));
    });
}

#[test]
fn what_a_processor_is_known_for_is_told_and_what_stays_open_is_a_warning() {
    run(async {
        let server = server().await;
        let (_, info) = server.client("owner").await.get("/info").await;
        let warnings: Vec<_> = info["Warnings"].as_array().unwrap().iter().collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let open = warnings[1].as_str().unwrap();
        assert!(open.contains("mds") && open.contains("tenants don't share a core"));
        let options = info["SecurityOptions"].as_array().unwrap();
        assert!(options.contains(&"name=core-scheduling".into()));
        let mds = "name=processor-mds,profile=Mitigation: Clear CPU buffers; SMT vulnerable";
        assert!(options.contains(&mds.into()), "{options:?}");
    });
}

#[test]
fn what_is_too_large_is_refused_with_the_status_that_says_so() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        let body = vec![b' '; (4 << 20) + 1];
        let answer = client
            .send(Method::POST, "/containers/create", body, &[])
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut client = server.client("owner").await;
        let huge = "x".repeat(2 * HEAD_MAX);
        let answer = client
            .send(Method::GET, "/_ping", "", &[("x-huge", &huge)])
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    });
}

#[test]
fn a_client_runs_a_container_as_docker_run_does() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "OpenStdin": true, "StdinOnce": true }))
            .await;

        let mut attaching = server.client("owner").await;
        let upgrade = [("connection", "Upgrade"), ("upgrade", "tcp")];
        let path = format!("/v1.43/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let answer = attaching
            .send(Method::POST, &path, "", &upgrade)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let kind = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "application/vnd.docker.multiplexed-stream");
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());

        // Answered before the container is even started: the client blocks on it.
        let mut waiting = server.client("owner").await;
        let path = format!("/v1.43/containers/{id}/wait?condition=next-exit");
        let wait = waiting.send(Method::POST, &path, "", &[]).await.unwrap();
        assert_eq!(wait.status(), StatusCode::OK);

        let start = format!("/v1.43/containers/{id}/start");
        assert_eq!(
            client.post(&start, json!({})).await.0,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            client.post(&start, json!({})).await.0,
            StatusCode::NOT_MODIFIED
        );
        stream.write_all(b"to stdin and back").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut output = Vec::new();
        stream.read_to_end(&mut output).await.unwrap();
        let text: Vec<u8> = frames(&output).concat();
        assert_eq!(text, b"to stdin and back");
        assert_eq!(read(wait).await.1["StatusCode"], 0);

        let (_, shown) = client.get(&format!("/v1.43/containers/{id}/json")).await;
        assert_eq!(shown["State"]["Status"], "exited");
        assert_eq!(shown["Config"]["Labels"]["of"], "image");
        let logs = client
            .send(
                Method::GET,
                &format!("/v1.43/containers/{id}/logs?stdout=1&stderr=1"),
                "",
                &[],
            )
            .await
            .unwrap();
        let logs = logs.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(frames(&logs).concat(), b"to stdin and back");
    });
}

#[test]
fn what_was_begun_goes_on_without_its_client_and_ends_with_the_api() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let docker = Docker::new(Arc::new(SetOnce::new_with(Some(
            node::controller(dir.path()).await,
        ))));
        let api = docker.until_dropped();
        let (done, heard) = tokio::sync::oneshot::channel();
        drop(docker.begin(async move { done.send(()) }));
        heard.await.unwrap();
        let endless = docker.begin(std::future::pending::<()>());
        drop(api);
        assert_eq!(endless.await.unwrap(), None);
    });
}

/// What stands in frames, by frame.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        found.push(bytes[8..8 + length].to_vec());
        bytes = &bytes[8 + length..];
    }
    found
}

#[test]
fn a_missing_program_is_told_in_the_words_that_make_it_127() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "Cmd": ["nosuch"] }))
            .await;
        let path = format!("/v1.43/containers/{id}/start");
        let (status, answer) = client.post(&path, json!({})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.contains("\"nosuch\": executable file not found in $PATH"),
            "{message}"
        );
    });
}

#[test]
fn an_exec_brings_its_output_and_its_exit_code() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "Cmd": ["wait"] }))
            .await;
        let exec = json!({ "Cmd": ["say", "it"], "AttachStdout": true, "AttachStderr": true });
        let path = format!("/containers/{id}/exec");
        let (status, _) = client.post(&path, exec.clone()).await;
        assert_eq!(status, StatusCode::CONFLICT, "it isn't running yet");
        client
            .post(&format!("/containers/{id}/start"), json!({}))
            .await;
        let mut last = String::new();
        // Whether output is framed is said at the start (ExecStart), whatever was said at creation.
        for (created_with, started_with) in [(false, false), (true, false), (false, true)] {
            let mut asked = exec.clone();
            asked["Tty"] = json!(created_with);
            let (_, created) = client.post(&path, asked).await;
            last = created["Id"].as_str().unwrap().to_owned();
            // Its connection is the stream's from then on.
            let mut streaming = server.client("owner").await;
            let start = format!("/exec/{last}/start");
            let answer = streaming
                .send(
                    Method::POST,
                    &start,
                    json!({ "Tty": started_with }).to_string(),
                    &[],
                )
                .await
                .unwrap();
            let output = answer.into_body().collect().await.unwrap().to_bytes();
            if started_with {
                assert_eq!(&output[..], b"say it");
            } else {
                assert_eq!(frames(&output).concat(), b"say it");
            }
            let (_, shown) = client.get(&format!("/exec/{last}/json")).await;
            assert_eq!(
                (&shown["ExitCode"], &shown["Running"]),
                (&json!(7), &json!(false))
            );
        }
        let exec = last;
        let mut foreign = server.client("other").await;
        assert_eq!(
            foreign.get(&format!("/exec/{exec}/json")).await.0,
            StatusCode::NOT_FOUND
        );
        client
            .send(
                Method::DELETE,
                &format!("/containers/{id}?force=1"),
                "",
                &[],
            )
            .await
            .unwrap();
    });
}

#[test]
fn events_until_before_since_are_refused_in_dockers_words() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        let (status, answer) = client.get("/v1.43/events?since=20&until=10").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(
            answer["message"],
            "`since` time (20) cannot be after `until` time (10)"
        );
    });
}

#[test]
fn a_prune_removes_what_its_filters_mean_and_says_what_that_has_freed() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let labelled = json!({ "Image": "tiny", "Labels": { "gone": "1" } });
        let gone = client.create(labelled).await;
        let kept = client.create(json!({ "Image": "tiny" })).await;
        let layer = server.containers().join(&gone).join("writable.ext4");
        // It is made a moment after the answer.
        let mut layer = loop {
            match std::fs::OpenOptions::new().append(true).open(&layer) {
                Ok(layer) => break layer,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        std::io::Write::write_all(&mut layer, &[1; 1 << 20]).unwrap();
        layer.sync_all().unwrap();
        let filters = "filters=%7B%22label%22%3A%5B%22gone%22%5D%7D";
        let path = format!("/v1.43/containers/prune?{filters}");
        let (status, answer) = client.post(&path, json!({})).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["ContainersDeleted"], json!([gone]));
        assert!(answer["SpaceReclaimed"].as_u64().unwrap() >= 1 << 20);
        assert_eq!(
            client.get(&format!("/containers/{kept}/json")).await.0,
            StatusCode::OK
        );
    });
}

#[test]
fn an_exec_that_nobody_listens_to_tells_of_itself_in_order_and_how_it_ended() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "Cmd": ["wait"] }))
            .await;
        client
            .post(&format!("/containers/{id}/start"), json!({}))
            .await;
        let mut watching = server.client("owner").await;
        let filters = "filters=%7B%22event%22%3A%5B%22exec_create%22%2C%22exec_start%22%2C%22exec_die%22%5D%7D";
        let path = format!("/v1.43/events?{filters}");
        let answer = watching.send(Method::GET, &path, "", &[]).await.unwrap();
        let mut events = answer.into_body();
        let (_, created) = client
            .post(
                &format!("/containers/{id}/exec"),
                json!({ "Cmd": ["say", "it"] }),
            )
            .await;
        let exec = created["Id"].as_str().unwrap().to_owned();
        let start = json!({ "Detach": true });
        let (status, _) = client.post(&format!("/exec/{exec}/start"), start).await;
        assert_eq!(status, StatusCode::OK);
        for (action, code) in [
            ("exec_create: say it", None),
            ("exec_start: say it", None),
            ("exec_die", Some("7")),
        ] {
            let line = events.frame().await.unwrap().unwrap().into_data().unwrap();
            let event: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(event["Action"], action);
            let attributes = &event["Actor"]["Attributes"];
            assert_eq!(attributes["execID"], exec.as_str());
            assert_eq!(attributes.get("exitCode").and_then(Value::as_str), code);
            assert_eq!(attributes["image"], "tiny");
        }
        client
            .send(
                Method::DELETE,
                &format!("/containers/{id}?force=1"),
                "",
                &[],
            )
            .await
            .unwrap();
    });
}

#[test]
fn between_two_runs_of_its_policy_a_container_can_only_be_ended() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({
                "Image": "tiny", "Cmd": ["sh", "-c", "exit 1"],
                "HostConfig": { "RestartPolicy": { "Name": "always" } }
            }))
            .await;
        client
            .post(&format!("/containers/{id}/start"), json!({}))
            .await;
        // By then the pauses are longer than what follows takes.
        let between = async |client: &mut node::Client| {
            loop {
                let (_, shown) = client.get(&format!("/containers/{id}/json")).await;
                if shown["State"]["Restarting"] == true && shown["RestartCount"].as_u64() >= Some(5)
                {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        between(&mut client).await;
        let words = format!("Container {id} is restarting, wait until the container is running");
        for (method, path, body) in [
            (Method::POST, "exec", json!({ "Cmd": ["say"] })),
            (Method::POST, "attach?stdout=1&stream=1", json!({})),
            (Method::GET, "top", json!({})),
        ] {
            let path = format!("/v1.43/containers/{id}/{path}");
            let answer = client.send(method, &path, body.to_string(), &[]).await;
            let (status, answer) = read(answer.unwrap()).await;
            assert_eq!(status, StatusCode::CONFLICT, "{path}");
            assert_eq!(answer["message"], words.as_str(), "{path}");
        }
        let path = format!("/v1.43/containers/{id}");
        let answer = client.send(Method::DELETE, &path, "", &[]).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        answer.into_body().collect().await.unwrap();
        let (status, _) = client
            .post(&format!("/containers/{id}/kill"), json!({}))
            .await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let (_, shown) = client.get(&format!("/containers/{id}/json")).await;
        assert_eq!(shown["State"]["Status"], "exited");
        let answer = client.send(Method::DELETE, &path, "", &[]).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    });
}

#[test]
fn tenants_see_nothing_of_each_other() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client.create(json!({ "Image": "tiny" })).await;
        let mut foreign = server.client("other").await;
        assert_eq!(foreign.get("/images/json").await.1, json!([]));
        assert_eq!(foreign.get("/containers/json?all=1").await.1, json!([]));
        for (method, path) in [
            (Method::GET, format!("/containers/{id}/json")),
            (Method::GET, format!("/containers/{id}/logs?stdout=1")),
            (Method::POST, format!("/containers/{id}/start")),
            (
                Method::POST,
                format!("/containers/{id}/attach?stdout=1&stream=1"),
            ),
            (Method::POST, format!("/containers/{id}/wait")),
            (Method::DELETE, format!("/containers/{id}?force=1")),
            (Method::GET, "/images/tiny/json".to_owned()),
            (Method::DELETE, "/images/tiny?force=1".to_owned()),
        ] {
            let answer = foreign.send(method, &path, "", &[]).await.unwrap();
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
            answer.into_body().collect().await.unwrap();
        }
        let (status, _) = foreign
            .post("/containers/create", json!({ "Image": "tiny" }))
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (_, seen) = foreign.get("/events?since=1&until=1&filters=%7B%7D").await;
        assert_eq!(seen, Value::Null);
    });
}
