//! `/_ping`, `/version`, `/info`, `/auth`, and the little that there is to say about plugins and build caches.

use std::collections::HashMap;

use bollard_stubs::models::{
    PluginsInfo, Runtime, SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum,
    SystemVersion, SystemVersionComponents, SystemVersionPlatform,
};
use hearth_image::Credentials;
use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Answer, Response};
use super::call::Call;
use super::errors::ApiError;
use super::version::{MAXIMUM, MINIMUM};
use super::{swarm, timestamps};
use crate::agent::NodeInfo;
use crate::clock;
use crate::controller::Error;
use crate::state::Phase;

/// How root file systems are made: an EROFS image below, ext4 above.
pub const DRIVER: &str = "erofs";
/// What runs containers.
pub const RUNTIME: &str = "hearth";
/// Where a tenant's data is; there is no path on the node that would mean anything to a client.
const ROOT_DIR: &str = "/data";
/// Where names without a registry lead; clients keep their password for docker.io under it.
const INDEX_SERVER: &str = "https://index.docker.io/v1/";

/// `GET` and `HEAD /_ping`: what clients negotiate by. All but the builder and the swarm is in every answer's headers.
pub fn ping(call: &Call) -> Response {
    pong(swarm::ping_header(call))
}

/// What is answered to it where the node stands so in its swarm.
pub fn pong(swarm: &'static str) -> Response {
    let mut response = answer::text("OK");
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // The classic builder: BuildKit's endpoints are not there.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static(swarm));
    response
}

/// `GET /version`.
pub async fn version(call: &Call) -> Answer {
    version_of(call.controller().agent().node().await)
}

/// What there is to say of a machine's version.
pub fn version_of(node: NodeInfo) -> Answer {
    let details = [
        ("ApiVersion", MAXIMUM.to_string()),
        ("MinAPIVersion", MINIMUM.to_string()),
        ("Arch", "amd64".to_owned()),
        ("Os", "linux".to_owned()),
        ("KernelVersion", node.kernel_version.clone()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", String::new()),
        ("BuildTime", String::new()),
    ];
    answer::ok(&SystemVersion {
        platform: Some(SystemVersionPlatform {
            name: "Hearth".to_owned(),
        }),
        components: Some(vec![SystemVersionComponents {
            // The name by which docker's CLI finds the part that it prints first.
            name: "Engine".to_owned(),
            version: node.version.clone(),
            details: Some(details.map(|(name, value)| (name.to_owned(), value)).into()),
        }]),
        version: Some(node.version),
        api_version: Some(MAXIMUM.to_string()),
        min_api_version: Some(MINIMUM.to_string()),
        git_commit: Some(String::new()),
        go_version: Some(String::new()),
        os: Some("linux".to_owned()),
        arch: Some("amd64".to_owned()),
        kernel_version: Some(node.kernel_version),
        experimental: Some(false),
        build_time: Some(String::new()),
    })
}

/// `GET /info`.
pub async fn info(call: &Call) -> Answer {
    let node = call.controller().agent().node().await;
    let (running, paused, stopped, images) = {
        let state = call.controller().state();
        let own = || state.containers.of_tenant(&call.tenant);
        let up = || own().filter(|container| container.status.phase == Phase::Running);
        let paused = up().filter(|container| container.status.paused).count();
        let running = up().count() - paused;
        let images = state
            .images
            .keys()
            .filter(|(tenant, _)| *tenant == call.tenant)
            .count();
        (running, paused, own().count() - running - paused, images)
    };
    let count = |number: usize| Some(i64::try_from(number).unwrap_or(i64::MAX));
    let gib = |bytes: u64| format!("{:.1}GiB", bytes as f64 / f64::from(1 << 30));
    let on_disk = node.storage == "disk";
    let mut storage = vec![
        vec![
            "Data".to_owned(),
            format!("{}{}", node.storage, parenthesis(&node.storage_note)),
        ],
        vec!["Data Space Total".to_owned(), gib(node.storage_total_bytes)],
        vec![
            "Data Space Available".to_owned(),
            gib(node.storage_free_bytes),
        ],
    ];
    let mut warnings = Vec::new();
    if !on_disk {
        storage.push(vec![
            "Data Survives Power Off".to_owned(),
            "false".to_owned(),
        ]);
        warnings.push(format!(
            "WARNING: images and containers are kept in RAM and are gone after a power-off{}",
            parenthesis(&node.storage_note)
        ));
    }
    let mut security = vec!["name=microvm".to_owned(), "name=cgroupns".to_owned()];
    if node.siblings {
        security.push("name=core-scheduling".to_owned());
    }
    for weakness in &node.weaknesses {
        if weakness.is_open() {
            // The kernel can't know who is kept off whose hyper-threads.
            let answer = if node.siblings && weakness.state.contains("SMT vulnerable") {
                " (of hyper-threads: tenants don't share a core)"
            } else {
                ""
            };
            warnings.push(format!(
                "WARNING: processor: {}: {}{answer}",
                weakness.name, weakness.state
            ));
        }
        // Of a security option's values, clients print those called profile; commas are between values.
        security.push(format!(
            "name=processor-{},profile={}",
            weakness.name,
            weakness.state.replace(',', ";")
        ));
    }
    let runtimes = [(RUNTIME.to_owned(), Runtime::default())];
    let shown = SystemInfo {
        id: Some(node.name.clone()),
        containers: count(running + paused + stopped),
        containers_running: count(running),
        containers_paused: count(paused),
        containers_stopped: count(stopped),
        images: count(images),
        driver: Some(DRIVER.to_owned()),
        driver_status: Some(storage),
        docker_root_dir: Some(ROOT_DIR.to_owned()),
        plugins: Some(PluginsInfo {
            volume: Some(Vec::new()),
            network: Some(vec!["bridge".to_owned(), "null".to_owned()]),
            authorization: None,
            log: Some(vec!["json-file".to_owned(), "local".to_owned()]),
        }),
        memory_limit: Some(true),
        swap_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        // Options without effect: a microVM has virtual CPUs of its own.
        cpu_shares: Some(false),
        cpu_set: Some(false),
        pids_limit: Some(true),
        oom_kill_disable: Some(false),
        ipv4_forwarding: Some(true),
        debug: Some(false),
        nfd: Some(0),
        n_goroutines: Some(0),
        system_time: Some(timestamps::rfc3339(clock::now_ns())),
        logging_driver: Some("json-file".to_owned()),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
        n_events_listener: Some(0),
        kernel_version: Some(node.kernel_version),
        operating_system: Some(format!("Hearth {}", node.version)),
        os_version: Some(node.version.clone()),
        os_type: Some("linux".to_owned()),
        architecture: Some("x86_64".to_owned()),
        ncpu: count(node.cpus),
        mem_total: Some(i64::try_from(node.memory_bytes).unwrap_or(i64::MAX)),
        index_server_address: Some(INDEX_SERVER.to_owned()),
        http_proxy: Some(String::new()),
        https_proxy: Some(String::new()),
        no_proxy: Some(String::new()),
        name: Some(node.name),
        labels: Some(Vec::new()),
        experimental_build: Some(false),
        server_version: Some(node.version),
        runtimes: Some(runtimes.into()),
        default_runtime: Some(RUNTIME.to_owned()),
        live_restore_enabled: Some(true),
        init_binary: Some(String::new()),
        security_options: Some(security),
        warnings: Some(warnings),
        ..SystemInfo::default()
    };
    let mut shown = json!(shown);
    shown["Swarm"] = swarm::info(call);
    // Fields that older clients read without asking whether they are there.
    for absent in [
        "BridgeNfIptables",
        "BridgeNfIp6tables",
        "KernelMemory",
        "KernelMemoryTCP",
    ] {
        shown[absent] = json!(false);
    }
    for absent in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        shown[absent] = json!({ "ID": "", "Expected": "" });
    }
    shown["GenericResources"] = Value::Null;
    shown["Isolation"] = json!("");
    shown["RegistryConfig"] = registries(&node.insecure_registries);
    answer::ok(&shown)
}

fn parenthesis(note: &str) -> String {
    if note.is_empty() {
        String::new()
    } else {
        format!(" ({note})")
    }
}

fn registries(insecure: &[String]) -> Value {
    let entry = |name: &str, secure: bool| json!({ "Name": name, "Mirrors": [], "Secure": secure, "Official": name == "docker.io" });
    let mut indexes: HashMap<&str, Value> =
        HashMap::from([("docker.io", entry("docker.io", true))]);
    indexes.extend(
        insecure
            .iter()
            .map(|name| (name.as_str(), entry(name, false))),
    );
    json!({
        "AllowNondistributableArtifactsCIDRs": [], "AllowNondistributableArtifactsHostnames": [],
        "InsecureRegistryCIDRs": [], "IndexConfigs": indexes, "Mirrors": [],
    })
}

/// `POST /auth`: succeeds where the registry itself has taken the credentials. Clients keep them, and send them with each pull.
pub async fn auth(mut call: Call) -> Answer {
    let asked: Login = call.json().await?;
    let registry = registry_of(asked.serveraddress.as_deref().unwrap_or_default());
    let credentials = match asked.identitytoken.filter(|token| !token.is_empty()) {
        Some(token) => Credentials::IdentityToken(token),
        None => Credentials::Basic {
            username: asked.username.unwrap_or_default(),
            password: asked.password.unwrap_or_default(),
        },
    };
    match call.controller().login(&registry, &credentials).await {
        Ok(()) => answer::ok(&json!({ "Status": "Login Succeeded", "IdentityToken": "" })),
        Err(Error::Image(hearth_image::Error::Unauthorized { reason, .. })) => Err(
            ApiError::unauthorized(format!("login to {registry} refused: {reason}")),
        ),
        Err(error) => Err(error.into()),
    }
}

/// What `docker login` sends.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Login {
    username: Option<String>,
    password: Option<String>,
    serveraddress: Option<String>,
    identitytoken: Option<String>,
}

/// What a client that logs in says.
#[cfg(feature = "fuzzing")]
pub fn read_login(body: &[u8]) {
    if let Ok(asked) = super::body::decode::<Login>(Some(answer::JSON), body) {
        registry_of(asked.serveraddress.as_deref().unwrap_or_default());
    }
}

/// The registry that an address means; none is docker's own, whose address is one of old.
fn registry_of(address: &str) -> String {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// `GET /plugins`.
pub fn plugins() -> Answer {
    answer::ok(&json!([]))
}

/// `POST /build/prune`.
pub fn prune_build_cache() -> Answer {
    answer::ok(&json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_registries_are_read_in_each_form() {
        for (address, registry) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://registry.example:5000", "registry.example:5000"),
            ("registry.example/v2/", "registry.example"),
        ] {
            assert_eq!(registry_of(address), registry);
        }
    }
}
