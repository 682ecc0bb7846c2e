//! What clients hear of a node that is locked.

use std::sync::{Arc, Mutex};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::node::{Server, run, server_at};
use crate::agent::NodeInfo;
use crate::cluster::lock::LockError;
use crate::cluster::membership::Door;
use crate::trust::UnlockKey;

/// Says what has been done, once one of the two was.
struct Closed {
    key: UnlockKey,
    done: Mutex<Option<&'static str>>,
}

impl Door for Closed {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "one".to_owned(),
            version: "0.1.0".to_owned(),
            ..NodeInfo::default()
        }
    }

    fn is_open(&self) -> bool {
        self.done.lock().unwrap().is_some()
    }

    fn unlock(&self, key: &UnlockKey) -> Result<(), LockError> {
        if *key != self.key {
            return Err(LockError::Key);
        }
        *self.done.lock().unwrap() = Some("unlocked");
        Ok(())
    }

    fn leave(&self) -> Result<(), LockError> {
        *self.done.lock().unwrap() = Some("left");
        Ok(())
    }
}

async fn closed() -> (Arc<Closed>, Server) {
    let door = Arc::new(Closed {
        key: UnlockKey::random(),
        done: Mutex::default(),
    });
    let server = server_at(Arc::<Closed>::clone(&door)).await;
    (door, server)
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[test]
fn a_locked_node_says_that_it_is_and_opens_by_its_key_alone() {
    run(async {
        let (door, server) = closed().await;
        let mut client = server.client("owner").await;
        let (_, info) = client.get("/v1.41/info").await;
        assert_eq!(info["Swarm"]["LocalNodeState"], "locked");
        assert_eq!(client.get("/version").await.1["Version"], "0.1.0");
        for path in ["/swarm", "/nodes", "/swarm/unlockkey", "/containers/json"] {
            let (status, answer) = client.get(path).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            let words = "Swarm is encrypted and needs to be unlocked before it can be used.";
            assert!(message(&answer).starts_with(words), "{answer}");
        }
        let unlock = |key: String| json!({ "UnlockKey": key });
        let (status, answer) = client.post("/swarm/unlock", unlock("x".to_owned())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        let other = UnlockKey::random().to_string();
        let (status, answer) = client.post("/swarm/unlock", unlock(other)).await;
        assert_eq!(
            (status, message(&answer)),
            (
                StatusCode::UNAUTHORIZED,
                "swarm could not be unlocked: invalid key provided"
            )
        );
        let (status, answer) = client.post("/swarm/leave", json!({})).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(message(&answer).starts_with("Swarm is encrypted and locked. Please unlock"));
        assert_eq!(*door.done.lock().unwrap(), None);
        // What a script pipes in ends with the line.
        let key = format!("{}\n", door.key);
        let (status, answer) = client.post("/swarm/unlock", unlock(key.clone())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(*door.done.lock().unwrap(), Some("unlocked"));
        let (status, _) = client.post("/swarm/unlock", unlock(key)).await;
        assert_eq!(status, StatusCode::CONFLICT);
        let (_, info) = client.get("/info").await;
        assert_eq!(info["Swarm"]["LocalNodeState"], "pending");
    });
}

#[test]
fn only_the_owner_opens_a_locked_node_or_gives_it_up() {
    run(async {
        let (door, server) = closed().await;
        let mut client = server.client("acme").await;
        let unlock = json!({ "UnlockKey": door.key.to_string() });
        for path in ["/swarm/unlock", "/swarm/leave?force=1"] {
            let (status, _) = client.post(path, unlock.clone()).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
        assert_eq!(*door.done.lock().unwrap(), None);
        let mut client = server.client("owner").await;
        let (status, _) = client.post("/swarm/leave?force=1", json!({})).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(*door.done.lock().unwrap(), Some("left"));
    });
}
