//! `/configs`: swarm's configs aren't there yet, but for one kind that has a meaning of its own: a certificate revocation list of the
//! owner's CA (`docker config create NAME crl.pem`). It says itself which it is, and takes the place of an earlier one; its name is not kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{for_owner, not_yet};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::controller::Error;
use crate::state::{Cluster, Command, Refusal};
use crate::trust::revocation::{self, Crl, CrlError};

/// The subject of the sentence that refuses others.
const CONFIGS: &str = "configs are";
/// How PEM says what it is (RFC 7468, section 6).
const PEM: &str = "-----BEGIN X509 CRL-----";
/// Digits of an id: docker's have 25 characters.
const ID_DIGITS: usize = 25;

/// docker's `ConfigSpec`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Spec {
    data: String,
}

/// A body's list, whoever has signed it.
#[cfg(feature = "fuzzing")]
pub fn understand(bytes: &[u8]) {
    use crate::api::docker::body;
    if let Ok(asked) = body::decode::<Spec>(Some(answer::JSON), bytes) {
        let data = STANDARD.decode(asked.data.trim()).unwrap_or_default();
        let _ = Crl::parse(&data, "");
    }
}

fn id(der: &[u8]) -> String {
    let mut id = hex::encode(Sha256::digest(der));
    id.truncate(ID_DIGITS);
    id
}

fn name(der: &[u8]) -> String {
    format!("crl-{}", &id(der)[..8])
}

/// docker's `Config`.
fn describe(cluster: &Cluster, der: &[u8]) -> Value {
    let created = timestamps::rfc3339(cluster.created_ns);
    json!({
        "ID": id(der),
        "Version": { "Index": 1 },
        "CreatedAt": created,
        "UpdatedAt": created,
        "Spec": { "Name": name(der), "Labels": {}, "Data": STANDARD.encode(der) },
    })
}

/// `POST /configs/create`.
pub async fn create(mut call: Call) -> Answer {
    let asked: Spec = call.json().await?;
    let data = STANDARD.decode(asked.data.trim()).unwrap_or_default();
    if !String::from_utf8_lossy(&data).contains(PEM) {
        return Err(not_yet(&call, CONFIGS));
    }
    for_owner(&call)?;
    let bad = |error: CrlError| match error {
        CrlError::Stale => ApiError::conflict(error.to_string()),
        error => ApiError::bad_request(error.to_string()),
    };
    let clients = call.clients();
    let clients = clients
        .ok_or_else(|| ApiError::internal("this API has no clients that could be revoked"))?;
    let list = clients.read_list(&data).map_err(bad)?;
    let id = id(list.der());
    loop {
        let from = call.controller().state().cluster.clone();
        let known = from.crls.iter().map(|der| clients.read_list(der));
        let known: Vec<Crl> = known.filter_map(Result::ok).collect();
        let Some(lists) = revocation::with(&known, list.clone()).map_err(bad)? else {
            break;
        };
        let to = Cluster {
            crls: lists.iter().map(|list| list.der().to_vec()).collect(),
            ..from.clone()
        };
        let (from, to) = (Box::new(from), Box::new(to));
        match call
            .controller()
            .propose(Command::SetCluster { from, to })
            .await
        {
            Err(Error::Refused(Refusal::OutOfSequence)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                tracing::info!(id, "the owner's CA has taken certificates back");
                break;
            }
        }
    }
    Ok(answer::json(StatusCode::CREATED, &json!({ "ID": id })))
}

fn lists(call: &Call) -> Result<Vec<Value>, ApiError> {
    let cluster = call.controller().state().cluster.clone();
    if cluster.crls.is_empty() || for_owner(call).is_err() {
        return Err(not_yet(call, CONFIGS));
    }
    let shown = cluster.crls.iter().map(|der| describe(&cluster, der));
    Ok(shown.collect())
}

/// `GET /configs`.
pub fn list(call: &Call) -> Answer {
    answer::ok(&lists(call)?)
}

fn find(call: &Call, text: &str) -> Result<Value, ApiError> {
    let named = |shown: &Value| {
        let id = shown["ID"].as_str();
        id.is_some_and(|id| id.starts_with(text)) || shown["Spec"]["Name"] == text
    };
    let found = lists(call)?.into_iter().find(named);
    found.ok_or_else(|| ApiError::not_found(format!("config {text} not found")))
}

/// `GET /configs/{id}`.
pub fn inspect(call: &Call, text: &str) -> Answer {
    answer::ok(&find(call, text)?)
}

/// `DELETE /configs/{id}`.
pub fn remove(call: &Call, text: &str) -> Answer {
    find(call, text)?;
    Err(ApiError::conflict(
        "a certificate revocation list isn't removed: a later one takes its place (`docker config create`)",
    ))
}
