//! `GET /swarm` and `POST /swarm/update`: the cluster as a whole, in docker's `Swarm` and `SwarmSpec`.
//!
//! Of what docker lets be set, Hearth has constants: they are shown, and another value is refused. What can be changed is the tokens, and
//! whether what nodes keep on their disks is locked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard_stubs::models::{
    SwarmSpec, SwarmSpecCaConfig, SwarmSpecDispatcher, SwarmSpecEncryptionConfig,
    SwarmSpecOrchestration, SwarmSpecRaft, SwarmSpecTaskDefaults,
};
use hyper::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{managing, version};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::{networks, timestamps};
use crate::cluster::membership::{Locking, Status};
use crate::lease::Timing;
use crate::raft::{ENTRIES_KEPT, ENTRIES_PER_SNAPSHOT, HEARTBEAT, LEASE};
use crate::state::{Cluster, Refusal, encoding};
use crate::trust::LIFETIME;

/// docker's name for every swarm.
const NAME: &str = "default";
/// Bits of a whole number that every JSON reader takes (IEEE 754's double has 53).
const VERSION_BITS: u32 = 53;
/// Length of the prefix of the pods' network.
const PREFIX: u32 = 16;

/// What the cluster is set to. Ticks are heartbeats of raft's.
fn spec(locked: bool) -> SwarmSpec {
    let election = LEASE.as_millis() / HEARTBEAT.as_millis();
    SwarmSpec {
        name: Some(NAME.to_owned()),
        labels: Some(Default::default()),
        orchestration: Some(SwarmSpecOrchestration {
            task_history_retention_limit: Some(0),
        }),
        raft: Some(SwarmSpecRaft {
            snapshot_interval: Some(ENTRIES_PER_SNAPSHOT),
            keep_old_snapshots: Some(0),
            log_entries_for_slow_followers: Some(ENTRIES_KEPT),
            election_tick: i64::try_from(election).ok(),
            heartbeat_tick: Some(1),
        }),
        dispatcher: Some(SwarmSpecDispatcher {
            heartbeat_period: i64::try_from(Timing::STANDARD.renew).ok(),
        }),
        ca_config: Some(SwarmSpecCaConfig {
            node_cert_expiry: i64::try_from(LIFETIME.as_nanos()).ok(),
            force_rotate: Some(0),
            ..SwarmSpecCaConfig::default()
        }),
        encryption_config: Some(SwarmSpecEncryptionConfig {
            auto_lock_managers: Some(locked),
        }),
        task_defaults: Some(SwarmSpecTaskDefaults::default()),
    }
}

/// Another number for another state of the cluster. It has no version of its own, and is changed only from what it was.
fn index(cluster: &Cluster) -> u64 {
    // Bytes in memory can be written; were they not, nobody could update.
    let bytes = encoding::encode(cluster).unwrap_or_default();
    let digest = Sha256::digest(bytes);
    let first = digest
        .iter()
        .take(8)
        .fold(0, |sum, b| sum << 8 | u64::from(*b));
    first >> (u64::BITS - VERSION_BITS)
}

/// docker's `TLSInfo`: who makes the nodes' certificates. Empty where that isn't known, as docker has it.
pub fn tls(issuer: &str) -> Value {
    let shown = || {
        let certificate = CertificateDer::pem_slice_iter(issuer.as_bytes())
            .next()?
            .ok()?;
        let (_, read) = X509Certificate::from_der(&certificate).ok()?;
        Some(json!({
            "TrustRoot": issuer,
            "CertIssuerSubject": STANDARD.encode(read.subject().as_raw()),
            "CertIssuerPublicKey": STANDARD.encode(read.public_key().raw),
        }))
    };
    shown().unwrap_or_else(|| json!({}))
}

/// docker's `ClusterInfo`.
pub fn describe(cluster: &Cluster, status: &Status) -> Value {
    let created = timestamps::rfc3339(cluster.created_ns);
    json!({
        "ID": hex::encode(cluster.id),
        "Version": { "Index": index(cluster) },
        "CreatedAt": created,
        "UpdatedAt": created,
        "Spec": spec(cluster.lock.is_some()),
        "TLSInfo": tls(&status.issuer),
        "RootRotationInProgress": false,
        "DefaultAddrPool": [networks::SUBNET],
        "SubnetSize": PREFIX,
    })
}

/// `GET /swarm`.
pub fn inspect(call: &Call) -> Answer {
    let status = managing(call)?;
    let tokens = call.controller().membership().join_tokens();
    let [worker, manager] = tokens.unwrap_or_default();
    let mut shown = describe(&call.controller().state().cluster, &status);
    shown["JoinTokens"] = json!({ "Worker": worker, "Manager": manager });
    answer::ok(&shown)
}

/// A flag of an update, read as Go reads truth (strconv.ParseBool).
fn flag(call: &Call, name: &str) -> Result<bool, ApiError> {
    match call.query.get(name) {
        None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some(other) => Err(ApiError::bad_request(format!(
            "invalid value for {name}: {other}"
        ))),
    }
}

/// `POST /swarm/update`.
pub async fn update(mut call: Call) -> Answer {
    managing(&call)?;
    let asked: SwarmSpec = call.json().await?;
    let version = version(&call, "swarm")?;
    let worker = flag(&call, "rotateWorkerToken")?;
    let manager = flag(&call, "rotateManagerToken")?;
    let key = flag(&call, "rotateManagerUnlockKey")?;
    check(&asked)?;
    let cluster = call.controller().state().cluster.clone();
    if index(&cluster) != version {
        return Err(Refusal::OutOfSequence.into());
    }
    let membership = call.controller().membership();
    if worker || manager {
        membership.rotate(worker, manager).await?;
    }
    match (cluster.lock.is_some(), locks(&asked)) {
        (true, true) if key => membership.lock(Locking::Rotate).await?,
        (false, true) => membership.lock(Locking::On).await?,
        (true, false) => membership.lock(Locking::Off).await?,
        (true, true) | (false, false) => {}
    }
    answer::status(StatusCode::OK)
}

/// Whether it says that what nodes keep on their disks is to be locked. Nothing is no, as docker has it.
pub fn locks(asked: &SwarmSpec) -> bool {
    let locks = asked.encryption_config.as_ref();
    locks.and_then(|it| it.auto_lock_managers) == Some(true)
}

/// Refuses what would be another than now. Nothing, or zero, is what there is, as docker has it.
pub fn check(asked: &SwarmSpec) -> Result<(), ApiError> {
    let now = &spec(false);
    if asked
        .name
        .as_deref()
        .is_some_and(|name| !["", NAME].contains(&name))
    {
        return Err(ApiError::bad_request(format!(
            "swarm spec must be named {NAME:?}"
        )));
    }
    let ca = asked.ca_config.clone().unwrap_or_default();
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if ca.force_rotate.unwrap_or(0) != 0
        || text(&ca.signing_ca_cert)
        || text(&ca.signing_ca_key)
        || ca.external_cas.is_some_and(|list| !list.is_empty())
    {
        return Err(ApiError::not_implemented(
            "who makes the nodes' certificates is an issuer that the owner's CA has signed: make its certificate anew and put it into hearth.toml, as docs/hearth-toml.md shows under [cluster]",
        ));
    }
    let logs = asked
        .task_defaults
        .as_ref()
        .and_then(|it| it.log_driver.as_ref());
    let given = [
        (
            asked
                .labels
                .as_ref()
                .is_some_and(|labels| !labels.is_empty()),
            "labels of a cluster are",
        ),
        (
            number(asked, now, |it| it.ca_config.as_ref()?.node_cert_expiry),
            "another lifetime of certificates (--cert-expiry) is",
        ),
        (
            number(asked, now, |it| it.dispatcher.as_ref()?.heartbeat_period),
            "another heartbeat of nodes (--dispatcher-heartbeat) is",
        ),
        (
            number(asked, now, |it| {
                it.orchestration.as_ref()?.task_history_retention_limit
            }),
            "a history of tasks (--task-history-limit) is",
        ),
        (
            number(asked, now, |it| it.raft.as_ref()?.snapshot_interval)
                || number(asked, now, |it| it.raft.as_ref()?.keep_old_snapshots)
                || number(asked, now, |it| {
                    it.raft.as_ref()?.log_entries_for_slow_followers
                })
                || number(asked, now, |it| it.raft.as_ref()?.election_tick)
                || number(asked, now, |it| it.raft.as_ref()?.heartbeat_tick),
            "another way of keeping the log (--snapshot-interval, --max-snapshots) is",
        ),
        (
            logs.is_some_and(|driver| text(&driver.name)),
            "a default logging driver is",
        ),
    ];
    match given.iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(ApiError::unsupported(what)),
        None => Ok(()),
    }
}

/// Whether a number is asked to be another.
fn number<T: Default + PartialEq>(
    asked: &SwarmSpec,
    now: &SwarmSpec,
    of: impl Fn(&SwarmSpec) -> Option<T>,
) -> bool {
    let asked = of(asked).filter(|asked| *asked != T::default());
    asked.is_some() && asked != of(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_sent_back_and_nothing_else_can() {
        let refusal = |change: &dyn Fn(&mut SwarmSpec)| {
            let mut asked = spec(true);
            change(&mut asked);
            check(&asked).err().map(|e| e.message().to_owned())
        };
        assert_eq!(refusal(&|_| ()), None);
        assert_eq!(refusal(&|asked| *asked = SwarmSpec::default()), None);
        let named = |word: &str, found: Option<String>| {
            assert!(
                found.as_ref().is_some_and(|it| it.contains(word)),
                "{word}: {found:?}"
            );
        };
        named("named", refusal(&|asked| asked.name = Some("other".into())));
        named(
            "--task-history-limit",
            refusal(&|asked| {
                asked.orchestration = Some(SwarmSpecOrchestration {
                    task_history_retention_limit: Some(5),
                });
            }),
        );
        named(
            "hearth.toml",
            refusal(&|asked| {
                asked.ca_config = Some(SwarmSpecCaConfig {
                    force_rotate: Some(1),
                    ..Default::default()
                });
            }),
        );
        named(
            "--cert-expiry",
            refusal(&|asked| {
                asked.ca_config = Some(SwarmSpecCaConfig {
                    node_cert_expiry: Some(1),
                    ..Default::default()
                });
            }),
        );
        named(
            "labels",
            refusal(&|asked| {
                asked.labels = Some([("a".to_owned(), "b".to_owned())].into());
            }),
        );
    }

    #[test]
    fn another_cluster_has_another_version_that_any_reader_takes() {
        let one = Cluster::default();
        let other = Cluster {
            tokens: ["a".into(), "b".into()],
            ..one.clone()
        };
        assert_ne!(index(&one), index(&other));
        assert_eq!(index(&one), index(&one.clone()));
        assert!(index(&one) < 1 << VERSION_BITS && index(&other) < 1 << VERSION_BITS);
    }
}
