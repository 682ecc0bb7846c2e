//! The cluster as docker's clients see it: who belongs to it, and who may change that.

mod nodes;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::node::{Ca, Client, Server, read, run, server, server_with};
use crate::cluster::membership::{Local, Locking, Membership, MembershipError, Status};
use crate::controller::{Controller, Error};
use crate::raft::Standing;
use crate::state::{Cluster, Command, FEATURES, Health, NodeId, NodeIs, NodeWanted};

const OWN: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(0xabcd);
const THIRD: NodeId = NodeId(0xabef);

/// A member of a cluster whose other nodes are in the state and nowhere else.
struct Member {
    controller: Controller,
    local: Local,
    issuer: String,
    /// What it was asked to do that reaches beyond the state.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Member {
    fn note(&self, words: String) {
        self.asked.lock().unwrap().push(words);
    }

    async fn commit(&self, command: Command) -> Result<(), MembershipError> {
        match self.controller.propose(command).await {
            Ok(_) => Ok(()),
            Err(Error::Refused(refusal)) => Err(refusal.into()),
            Err(error) => Err(MembershipError::Unavailable(error.to_string())),
        }
    }
}

#[async_trait]
impl Membership for Member {
    fn status(&self) -> Status {
        Status {
            local: self.local.clone(),
            node: OWN,
            address: Some("192.0.2.1:2377".parse().unwrap()),
            standing: Standing {
                leader: Some(OWN),
                voters: [OWN].into(),
                members: [(OWN, "192.0.2.1:2377".to_owned())].into(),
                ..Standing::default()
            },
            issuer: self.issuer.clone(),
        }
    }

    fn join_tokens(&self) -> Option<[String; 2]> {
        let tokens = self.controller.state().cluster.tokens.clone();
        Some(tokens.map(|token| String::from_utf8(token).unwrap()))
    }

    async fn rotate(&self, worker: bool, manager: bool) -> Result<(), MembershipError> {
        let from = self.controller.state().cluster.clone();
        let [mut worker_token, mut manager_token] = from.tokens.clone();
        if worker {
            worker_token.push(b'+');
        }
        if manager {
            manager_token.push(b'+');
        }
        let to = Cluster {
            tokens: [worker_token, manager_token],
            ..from.clone()
        };
        let (from, to) = (Box::new(from), Box::new(to));
        self.commit(Command::SetCluster { from, to }).await
    }

    fn unlock_key(&self) -> Result<String, MembershipError> {
        let lock = self.controller.state().cluster.lock;
        Ok(lock.map_or(String::new(), |check| format!("SWMKEY-1-{}", check[0])))
    }

    async fn lock(&self, to: Locking) -> Result<(), MembershipError> {
        let from = self.controller.state().cluster.clone();
        let lock = match to {
            Locking::Off => None,
            Locking::On => Some([1; 32]),
            Locking::Rotate => from.lock.map(|check| [check[0] + 1; 32]),
        };
        let to = Cluster {
            lock,
            ..from.clone()
        };
        let (from, to) = (Box::new(from), Box::new(to));
        self.commit(Command::SetCluster { from, to }).await
    }

    async fn init(&self, wanted: NodeWanted) -> Result<(), MembershipError> {
        self.note(format!("init {:?}", wanted.availability));
        Ok(())
    }

    async fn join(
        &self,
        remotes: Vec<String>,
        token: String,
        wanted: NodeWanted,
    ) -> Result<(), MembershipError> {
        self.note(format!(
            "join {remotes:?} {token} {:?}",
            wanted.availability
        ));
        Ok(())
    }

    async fn leave(&self, force: bool) -> Result<(), MembershipError> {
        self.note(format!("leave {force}"));
        Ok(())
    }

    async fn remove(&self, node: NodeId, force: bool) -> Result<(), MembershipError> {
        let at_ns = 3;
        self.commit(Command::RemoveNode {
            node,
            at_ns,
            force,
            empty: false,
        })
        .await
    }
}

fn is(hostname: &str, last: u8) -> NodeIs {
    NodeIs {
        hostname: hostname.to_owned(),
        version: "0.1.0".to_owned(),
        address: Some(([192, 0, 2, last], 2377).into()),
        labels: [("zone".to_owned(), hostname.to_owned())].into(),
        features: FEATURES,
        cpus: 4,
        memory_bytes: 8 << 30,
        // Containers go to the first: the only one that is really there.
        disk_bytes: if last == 1 { 1 << 40 } else { 0 },
        ..NodeIs::default()
    }
}

/// A server, and what only a cluster could do of that which it was asked.
struct Known {
    server: Server,
    controller: Controller,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn known(local: Local) -> Known {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let mut inside = None;
    let server = server_with(|controller| {
        controller.belongs(Arc::new(Member {
            controller: controller.clone(),
            local,
            issuer: Ca::new().certificate.pem(),
            asked: Arc::clone(&asked),
        }));
        inside = Some(controller.clone());
    })
    .await;
    Known {
        server,
        controller: inside.unwrap(),
        asked,
    }
}

/// A cluster of three: this node, another, and one that is down.
async fn three() -> Known {
    let known = known(Local::Active).await;
    let nodes = [(OWN, "one", 1), (OTHER, "two", 2), (THIRD, "three", 3)];
    for (node, hostname, last) in nodes {
        let join = Command::Join {
            node,
            at_ns: 1_700_000_000_000_000_000,
            is: Box::new(is(hostname, last)),
            wanted: NodeWanted::default(),
        };
        known.controller.propose(join).await.unwrap();
    }
    let down = Command::NodeHealth {
        at_ns: 0,
        node: THIRD,
        health: Health::Down {
            reason: "its plug was pulled".to_owned(),
        },
        tenure: known.controller.state().nodes[&THIRD].tenure,
        term: None,
    };
    known.controller.propose(down).await.unwrap();
    let from = Box::new(known.controller.state().cluster.clone());
    let to = Box::new(Cluster {
        id: [7; 16],
        tokens: ["SWMTKN-1-w".into(), "SWMTKN-1-m".into()],
        ..*from.clone()
    });
    known
        .controller
        .propose(Command::SetCluster { from, to })
        .await
        .unwrap();
    known
}

async fn delete(client: &mut Client, path: &str) -> (StatusCode, Value) {
    read(client.send(Method::DELETE, path, "", &[]).await.unwrap()).await
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[test]
fn a_node_without_a_cluster_says_so_in_dockers_words_and_what_makes_one() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        for path in [
            "/swarm",
            "/nodes",
            "/nodes/one",
            "/swarm/unlockkey",
            "/services",
            "/tasks",
        ] {
            let (status, answer) = client.get(path).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(message(&answer).starts_with("This node is not a swarm manager. Use"));
        }
        let (status, answer) = client.post("/swarm/leave", json!({})).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(message(&answer), "This node is not part of a swarm");
        let asked = json!({ "ListenAddr": "0.0.0.0:2377", "SubnetSize": 24 });
        let (status, answer) = client.post("/swarm/init", asked).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        for word in [
            "[cluster]",
            "token",
            "issuer_certificate",
            "docs/hearth-toml.md",
        ] {
            assert!(message(&answer).contains(word), "{answer}");
        }
    });
}

#[test]
fn a_member_tells_of_its_cluster() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let answer = client.send(Method::GET, "/_ping", "", &[]).await.unwrap();
        assert_eq!(answer.headers()["swarm"], "active/manager");
        read(answer).await;
        let (_, info) = client.get("/info").await;
        let swarm = &info["Swarm"];
        assert_eq!(swarm["LocalNodeState"], "active");
        assert_eq!(swarm["ControlAvailable"], true);
        assert_eq!(swarm["NodeID"], OWN.to_string());
        assert_eq!(swarm["NodeAddr"], "192.0.2.1");
        assert_eq!(
            (&swarm["Nodes"], &swarm["Managers"]),
            (&json!(3), &json!(3))
        );
        assert_eq!(swarm["RemoteManagers"].as_array().unwrap().len(), 3);
        assert_eq!(swarm["Cluster"]["ID"], "07".repeat(16));
        let (status, shown) = client.get("/swarm").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            shown["JoinTokens"],
            json!({ "Worker": "SWMTKN-1-w", "Manager": "SWMTKN-1-m" })
        );
        let tls = &shown["TLSInfo"];
        assert!(tls["TrustRoot"].as_str().unwrap().starts_with("-----BEGIN"));
        for field in ["CertIssuerSubject", "CertIssuerPublicKey"] {
            assert!(tls[field].as_str().is_some_and(|it| !it.is_empty()));
        }
        let (_, key) = client.get("/swarm/unlockkey").await;
        assert_eq!(key, json!({ "UnlockKey": "" }));
        let remotes = json!({ "ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["192.0.2.9"] });
        for (path, body) in [("/swarm/init", json!({})), ("/swarm/join", remotes)] {
            let (status, answer) = client.post(path, body).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(message(&answer).starts_with("This node is already part of a swarm."));
        }
        let (status, answer) = client.post("/swarm/unlock", json!({})).await;
        assert_eq!(
            (status, message(&answer)),
            (StatusCode::CONFLICT, "swarm is not locked")
        );
        let (status, _) = client.get("/services").await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    });
}

#[test]
fn tokens_are_replaced_from_what_was_looked_at_and_nothing_else_changes() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let (_, shown) = client.get("/swarm").await;
        let path = format!("/swarm/update?version={}", shown["Version"]["Index"]);
        let spec = shown["Spec"].clone();
        let (status, answer) = client.post(&path, spec.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let rotate = format!("{path}&rotateWorkerToken=true&rotateManagerToken=false");
        assert_eq!(client.post(&rotate, spec.clone()).await.0, StatusCode::OK);
        let (_, after) = client.get("/swarm").await;
        assert_eq!(after["JoinTokens"]["Worker"], "SWMTKN-1-w+");
        assert_eq!(after["JoinTokens"]["Manager"], "SWMTKN-1-m");
        let (status, answer) = client.post(&rotate, spec.clone()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(message(&answer), "update out of sequence");
    });
}

#[test]
fn a_lock_comes_and_goes_by_the_spec_and_its_key_is_replaced_by_the_flag() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let locks = [(true, false, "1"), (true, false, "1"), (true, true, "2")];
        for (lock, rotate, key) in locks.into_iter().chain([(false, true, "")]) {
            let (_, shown) = client.get("/swarm").await;
            let mut spec = shown["Spec"].clone();
            spec["EncryptionConfig"]["AutoLockManagers"] = json!(lock);
            let version = &shown["Version"]["Index"];
            let path = format!("/swarm/update?version={version}&rotateManagerUnlockKey={rotate}");
            let (status, answer) = client.post(&path, spec).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let (_, after) = client.get("/swarm").await;
            let shown = &after["Spec"]["EncryptionConfig"]["AutoLockManagers"];
            assert_eq!(*shown, lock);
            let (_, told) = client.get("/swarm/unlockkey").await;
            let told = told["UnlockKey"].as_str().unwrap().to_owned();
            assert_eq!(told.trim_start_matches("SWMKEY-1-"), key);
        }
        let (status, answer) = client.post("/swarm/unlock", json!({})).await;
        assert_eq!(
            (status, message(&answer)),
            (StatusCode::CONFLICT, "swarm is not locked")
        );
    });
}

#[test]
fn a_manager_leaves_when_it_is_told_what_that_means() {
    run(async {
        let known = three().await;
        let mut client = known.server.client("owner").await;
        let (status, answer) = client.post("/swarm/leave", json!({})).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(message(&answer).starts_with("You are attempting to leave the swarm on a node"));
        for name in ["two", "three"] {
            delete(&mut client, &format!("/nodes/{name}?force=1")).await;
        }
        let (_, answer) = client.post("/swarm/leave", json!({})).await;
        assert!(message(&answer).contains("Removing the last manager erases all"));
        assert!(known.asked.lock().unwrap().is_empty());
        let (status, _) = client.post("/swarm/leave?force=1", json!({})).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(*known.asked.lock().unwrap(), ["leave true"]);
    });
}

#[test]
fn a_node_joins_by_a_token_and_what_has_no_effect_is_refused() {
    run(async {
        let known = known(Local::Inactive).await;
        let mut client = known.server.client("owner").await;
        let token = format!("SWMTKN-1-{}-{}", "0".repeat(50), "1".repeat(25));
        let join = |field: &str, value: Value| {
            let mut body = json!({
                "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "", "DataPathAddr": "",
                "RemoteAddrs": ["192.0.2.5", "n2:99", "2001:db8::1"], "JoinToken": token,
                "Availability": "drain",
            });
            body[field] = value;
            body
        };
        for (field, value, refusal) in [
            (
                "RemoteAddrs",
                json!([]),
                "at least 1 RemoteAddr is required to join",
            ),
            ("RemoteAddrs", json!([""]), "invalid remoteAddr"),
            ("JoinToken", json!("SWMTKN-1-x"), "this is no join token"),
            ("Availability", json!("x"), "invalid Availability"),
            ("AdvertiseAddr", json!("192.0.2.1"), "another address"),
            ("ListenAddr", json!("192.0.2.1:99"), "listening elsewhere"),
            ("DataPathAddr", json!("192.0.2.1"), "another way"),
        ] {
            let (status, answer) = client.post("/swarm/join", join(field, value)).await;
            assert!(status.as_u16() >= 400, "{field}");
            assert!(message(&answer).starts_with(refusal), "{field}: {answer}");
        }
        assert!(known.asked.lock().unwrap().is_empty());
        let (status, answer) = client.post("/swarm/join", join("X", json!(1))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let asked = known.asked.lock().unwrap().clone();
        let remotes = r#"["192.0.2.5:2377", "n2:99", "[2001:db8::1]:2377"]"#;
        assert_eq!(asked, [format!("join {remotes} {token} Drain")]);
        let (status, id) = client.post("/swarm/init", json!({})).await;
        assert_eq!((status, id), (StatusCode::OK, json!(OWN.to_string())));
    });
}

#[test]
fn a_tenant_manages_no_machines_and_sees_none_but_where_its_own_containers_are() {
    run(async {
        let known = three().await;
        let mut owner = known.server.client("owner").await;
        owner.load_image().await;
        let owners = owner.create(json!({ "Image": "tiny" })).await;
        let mut client = known.server.client("acme").await;
        client.load_image().await;
        let own = client.create(json!({ "Image": "tiny" })).await;
        let id = NodeId(1).to_string();
        for (method, path) in [
            (Method::GET, "/swarm".to_owned()),
            (Method::GET, "/swarm/unlockkey".to_owned()),
            (Method::POST, "/swarm/init".to_owned()),
            (Method::POST, "/swarm/join".to_owned()),
            (Method::POST, "/swarm/leave?force=1".to_owned()),
            (
                Method::POST,
                "/swarm/update?version=1&rotateWorkerToken=1".to_owned(),
            ),
            (Method::POST, "/swarm/unlock".to_owned()),
            (Method::GET, "/nodes".to_owned()),
            (Method::GET, format!("/nodes/{id}")),
            (Method::POST, format!("/nodes/{id}/update?version=1")),
            (Method::DELETE, format!("/nodes/{OTHER}?force=1")),
        ] {
            let answer = client.send(method, &path, "{}", &[]).await.unwrap();
            let (status, answer) = read(answer).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
            assert!(message(&answer).contains("O=owner"), "{answer}");
        }
        assert!(known.asked.lock().unwrap().is_empty());
        assert_eq!(known.controller.state().nodes.size(), 3);
        let (_, info) = client.get("/info").await;
        assert_eq!(info["Swarm"]["LocalNodeState"], "active");
        assert_eq!(info["Swarm"]["RemoteManagers"], Value::Null);
        assert!(info["Swarm"].get("Cluster").is_none());
        for (client, mine) in [(&mut client, own), (&mut owner, owners)] {
            let (_, tasks) = client.get("/tasks").await;
            let tasks = tasks.as_array().unwrap();
            assert_eq!(tasks.len(), 1);
            assert_eq!(tasks[0]["ID"], mine);
            assert_eq!(tasks[0]["NodeID"], id);
            assert_eq!(tasks[0]["DesiredState"], "ready");
        }
    });
}
