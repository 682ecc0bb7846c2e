//! The nodes of a cluster, and what runs on them.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{OTHER, OWN, THIRD, delete, message, three};
use crate::api::tests::node::{Client, run};
use crate::state::{Availability, Command, NodeId, Refusal, Role};

#[test]
fn nodes_are_told_as_they_are_and_found_by_id_name_and_beginning() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let (_, own) = client.get(&format!("/nodes/{OWN}")).await;
        assert_eq!(own["Description"]["Hostname"], "one");
        assert_eq!(
            own["Description"]["Resources"]["NanoCPUs"],
            4_000_000_000_u64
        );
        assert_eq!(own["Spec"]["Role"], "manager");
        assert_eq!(
            own["Status"],
            json!({ "State": "ready", "Addr": "192.0.2.1" })
        );
        let manager =
            json!({ "Leader": true, "Reachability": "reachable", "Addr": "192.0.2.1:2377" });
        assert_eq!(own["ManagerStatus"], manager);
        let (_, info) = client.get("/info").await;
        assert_eq!(
            own["Description"]["TLSInfo"],
            info["Swarm"]["Cluster"]["TLSInfo"]
        );
        let (_, third) = client.get("/nodes/THREE").await;
        assert_eq!(third["ID"], THIRD.to_string());
        assert_eq!(third["Status"]["State"], "down");
        assert_eq!(third["Status"]["Message"], "its plug was pulled");
        assert_eq!(third["ManagerStatus"]["Reachability"], "unreachable");
        let (_, other) = client.get("/nodes/000000000000abc").await;
        assert_eq!(other["ID"], OTHER.to_string());
        let (status, answer) = client.get("/nodes/000000000000ab").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(
            message(&answer),
            "node 000000000000ab is ambiguous (2 matches found)"
        );
        let (status, answer) = client.get("/nodes/nosuch").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(message(&answer), "node nosuch not found");
    });
}

#[test]
fn filters_choose_nodes_as_swarm_chooses() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        for (filters, count) in [
            ("{}", 3),
            (r#"{"name":["t"]}"#, 2),
            (r#"{"name":["ONE"]}"#, 1),
            (r#"{"id":["000000000000ab"]}"#, 2),
            (r#"{"role":["manager"]}"#, 3),
            (r#"{"role":["worker"]}"#, 0),
            (r#"{"membership":["accepted"]}"#, 3),
            (r#"{"membership":["pending"]}"#, 0),
            (r#"{"label":["zone=two"]}"#, 1),
            (r#"{"label":["zone"]}"#, 3),
            (r#"{"node.label":["zone"]}"#, 0),
        ] {
            let query: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
            let (status, found) = client.get(&format!("/nodes?filters={query}")).await;
            assert_eq!(status, StatusCode::OK, "{filters}");
            assert_eq!(found.as_array().unwrap().len(), count, "{filters}");
        }
        for filters in [
            r#"{"role":["boss"]}"#,
            r#"{"membership":["x"]}"#,
            r#"{"x":["y"]}"#,
        ] {
            let query: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
            let (status, _) = client.get(&format!("/nodes?filters={query}")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{filters}");
        }
    });
}

#[test]
fn what_is_wanted_of_a_node_changes_from_what_was_looked_at() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let (_, node) = client.get("/nodes/two").await;
        let path = format!("/nodes/two/update?version={}", node["Version"]["Index"]);
        let mut spec = node["Spec"].clone();
        spec["Labels"]["disk"] = json!("ssd");
        spec["Availability"] = json!("drain");
        assert_eq!(client.post(&path, spec.clone()).await.0, StatusCode::OK);
        let wanted = known.controller.state().nodes[&OTHER].wanted.clone();
        assert_eq!(wanted.availability, Availability::Drain);
        assert_eq!(wanted.labels["disk"], "ssd");
        let (status, answer) = client.post(&path, spec.clone()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(message(&answer).contains("update out of sequence"));
        let (_, shown) = client.get("/nodes/two").await;
        assert_eq!(shown["Spec"], spec);
        for (path, spec, refusal) in [
            ("/nodes/two/update", json!({}), "invalid node version ''"),
            (
                "/nodes/two/update?version=1",
                json!({ "Role": "boss" }),
                "invalid Role",
            ),
            (
                "/nodes/two/update?version=1",
                json!({ "Role": "worker" }),
                "invalid Availability",
            ),
        ] {
            let (status, answer) = client.post(path, spec).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(message(&answer).starts_with(refusal), "{answer}");
        }
    });
}

async fn set_role(client: &mut Client, name: &str, role: &str) -> (StatusCode, Value) {
    let (_, node) = client.get(&format!("/nodes/{name}")).await;
    let path = format!("/nodes/{name}/update?version={}", node["Version"]["Index"]);
    let mut spec = node["Spec"].clone();
    spec["Role"] = json!(role);
    client.post(&path, spec).await
}

#[test]
fn the_last_manager_is_not_demoted_and_a_worker_manages_nothing() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        for name in ["two", "three"] {
            assert_eq!(
                set_role(&mut client, name, "worker").await.0,
                StatusCode::OK
            );
        }
        let (_, shown) = client.get("/nodes/two").await;
        assert!(shown.get("ManagerStatus").is_none());
        let (status, answer) = set_role(&mut client, "one", "worker").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(message(&answer), Refusal::LastManager.to_string());
        assert_eq!(
            set_role(&mut client, "two", "manager").await.0,
            StatusCode::OK
        );
        assert_eq!(
            set_role(&mut client, "one", "worker").await.0,
            StatusCode::OK
        );
        assert_eq!(
            known.controller.state().nodes[&OWN].wanted.role,
            Role::Worker
        );
        let (status, answer) = client.get("/nodes").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(message(&answer).contains("Worker nodes can't be used"));
        let (_, info) = client.get("/info").await;
        assert_eq!(info["Swarm"]["ControlAvailable"], false);
        // A worker goes without being forced to.
        assert_eq!(
            client.post("/swarm/leave", json!({})).await.0,
            StatusCode::OK
        );
        assert_eq!(*known.asked.lock().unwrap(), ["leave false"]);
    });
}

#[test]
fn a_node_that_is_there_is_removed_by_force_only_and_never_by_itself() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let (status, answer) = delete(&mut client, "/nodes/two").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(message(&answer).contains("is not down and can't be removed"));
        assert_eq!(
            delete(&mut client, "/nodes/two?force=1").await.0,
            StatusCode::OK
        );
        assert_eq!(delete(&mut client, "/nodes/three").await.0, StatusCode::OK);
        assert_eq!(
            delete(&mut client, "/nodes/three").await.0,
            StatusCode::NOT_FOUND
        );
        let (status, answer) = delete(&mut client, "/nodes/one?force=1").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(message(&answer).contains("docker swarm leave"));
        let left: Vec<NodeId> = known.controller.state().nodes.keys().copied().collect();
        assert_eq!(left, [OWN]);
    });
}

#[test]
fn tasks_are_listed_by_their_node() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "Cmd": ["wait"] }))
            .await;
        client
            .post(&format!("/containers/{id}/start"), json!({}))
            .await;
        for (filters, count) in [
            (format!(r#"{{"node":["{OWN}"]}}"#), 1),
            (r#"{"node":["one"]}"#.to_owned(), 1),
            (r#"{"node":["two"]}"#.to_owned(), 0),
            (r#"{"desired-state":["running"]}"#.to_owned(), 1),
            (r#"{"desired-state":["shutdown"]}"#.to_owned(), 0),
        ] {
            let query: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
            let (status, tasks) = client.get(&format!("/tasks?filters={query}")).await;
            assert_eq!(status, StatusCode::OK, "{tasks}");
            assert_eq!(tasks.as_array().unwrap().len(), count, "{filters}");
        }
        let (_, task) = client.get(&format!("/tasks/{id}")).await;
        assert_eq!(task["Status"]["State"], "running");
        assert_eq!(task["Spec"]["ContainerSpec"]["Image"], "tiny");
        assert_eq!(client.get("/tasks/nosuch").await.0, StatusCode::NOT_FOUND);
        let nowhere = client.create(json!({ "Image": "tiny" })).await;
        let pod = {
            let state = known.controller.state();
            state.placed(&nowhere.parse().unwrap()).unwrap().pod
        };
        let assign = Command::Assign {
            pod: pod.id,
            at_ns: 4,
            epoch: pod.epoch,
            node: None,
            pending: "no node has room".to_owned(),
            kept: vec![],
        };
        known.controller.propose(assign).await.unwrap();
        let (_, task) = client.get(&format!("/tasks/{nowhere}")).await;
        assert_eq!(task["Status"]["State"], "pending");
        assert_eq!(task["Status"]["Err"], "no node has room");
        assert_eq!(task["NodeID"], "");
    });
}
