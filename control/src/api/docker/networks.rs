//! Networks: the one that every pod is in, and the absence of one.

use std::collections::HashMap;

use bollard_stubs::models::{EndpointSettings, Ipam, IpamConfig, Network, NetworkingConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::{self, Answer};
use super::call::Call;
use super::errors::ApiError;
use super::query::Filters;
use crate::state::{NetworkMode, Placed, Tenant};

/// The pods' network.
pub const SUBNET: &str = "10.88.0.0/14";
/// Length of its prefix.
const PREFIX: i64 = 14;
/// The node, as pods see it.
pub const GATEWAY: &str = "10.88.0.1";
/// Filters of `GET /networks`.
const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// A network that is always there.
struct BuiltIn {
    name: &'static str,
    driver: &'static str,
}

const BUILT_IN: [BuiltIn; 2] = [
    BuiltIn {
        name: "bridge",
        driver: "bridge",
    },
    BuiltIn {
        name: "none",
        driver: "null",
    },
];

/// The network that a mode means.
pub fn of_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Default | NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
    }
}

/// A mode as docker writes it.
pub fn mode_name(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Default => "default",
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
    }
}

/// Ids are made of the tenant and the name: each tenant has networks of its own to look at, the same ones on every node.
fn id(tenant: &Tenant, name: &str) -> String {
    hex::encode(Sha256::digest(format!("network\0{tenant}\0{name}")))
}

/// Whether `text` is the beginning of a network's id, long enough to be meant as one.
pub fn is_id(tenant: &Tenant, name: &str, text: &str) -> bool {
    text.len() >= 12 && id(tenant, name).starts_with(text)
}

/// The Ethernet address that docker would derive from an address: there is no Ethernet outside of the pod, yet clients show it.
fn mac_address(container: &Placed) -> String {
    container.pod.address.map_or_else(String::new, |address| {
        let [a, b, c, d] = address.octets();
        format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    })
}

/// A container's place in its network; addresses only while it is up, as docker has it.
pub fn endpoint(container: &Placed) -> (String, EndpointSettings) {
    let name = of_mode(container.spec.network_mode);
    let address = container.pod.address.filter(|_| container.is_up());
    let up = address.is_some() || (name == "none" && container.is_up());
    let endpoint = EndpointSettings {
        network_id: Some(if container.status.started_ns == 0 {
            String::new()
        } else {
            id(&container.tenant, name)
        }),
        endpoint_id: Some(if up {
            hex::encode(Sha256::digest(format!("endpoint\0{}", container.id)))
        } else {
            String::new()
        }),
        gateway: Some(address.map_or_else(String::new, |_| GATEWAY.to_owned())),
        ip_address: Some(address.map_or_else(String::new, |address| address.to_string())),
        ip_prefix_len: Some(if address.is_some() { PREFIX } else { 0 }),
        ipv6_gateway: Some(String::new()),
        global_ipv6_address: Some(String::new()),
        global_ipv6_prefix_len: Some(0),
        mac_address: Some(if address.is_some() {
            mac_address(container)
        } else {
            String::new()
        }),
        ..EndpointSettings::default()
    };
    (name.to_owned(), endpoint)
}

/// What a container asks of networks when it is created: the one that it is to be in.
pub fn asked_for(
    mode: &str,
    networking: Option<&NetworkingConfig>,
    warnings: &mut Vec<String>,
) -> Result<NetworkMode, ApiError> {
    let mut asked = named(mode)?;
    let endpoints = networking.and_then(|n| n.endpoints_config.as_ref());
    let mut names: Vec<&str> = endpoints
        .into_iter()
        .flatten()
        .map(|(n, _)| n.as_str())
        .collect();
    if names.len() > 1 {
        names.sort_unstable();
        return Err(ApiError::bad_request(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    for (name, endpoint) in endpoints.into_iter().flatten() {
        let of_endpoint = named(name)?;
        if asked == NetworkMode::Default {
            asked = of_endpoint;
        } else if of_mode(asked) != of_mode(of_endpoint) {
            return Err(ApiError::bad_request(format!(
                "conflicting options: network mode {mode} and an endpoint in network {name}"
            )));
        }
        check_endpoint(endpoint, warnings)?;
    }
    Ok(asked)
}

/// The network of a name.
fn named(name: &str) -> Result<NetworkMode, ApiError> {
    match name {
        "" | "default" => Ok(NetworkMode::Default),
        "bridge" => Ok(NetworkMode::Bridge),
        "none" => Ok(NetworkMode::None),
        "host" => Err(ApiError::unsupported(
            "the node's own network (--network host) is",
        )),
        name => match name.strip_prefix("container:") {
            Some("") => Err(ApiError::bad_request(
                "Invalid network mode: invalid container format container:<name|id>",
            )),
            Some(_) => Err(ApiError::unsupported("another container's network is")),
            // Not 404, which the CLI takes for a missing image, and pulls.
            None => Err(ApiError::bad_request(format!("network {name} not found"))),
        },
    }
}

/// What is asked of a container's place in its network (`EndpointSettings`; the rest of its fields are docker's to fill in).
fn check_endpoint(endpoint: &EndpointSettings, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::bad_request(message));
    let any = |list: &Option<Vec<String>>| list.iter().flatten().next().is_some();
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let ipam = endpoint.ipam_config.as_ref();
    if ipam.is_some_and(|ipam| {
        set(&ipam.ipv4_address) || set(&ipam.ipv6_address) || any(&ipam.link_local_ips)
    }) {
        return refused("user specified IP address is supported on user defined networks only");
    }
    if any(&endpoint.aliases) {
        return refused(
            "network-scoped alias is supported only for containers in user defined networks",
        );
    }
    if any(&endpoint.links) {
        return Err(ApiError::unsupported(
            "links to other containers (--link) are",
        ));
    }
    if endpoint.driver_opts.iter().flatten().next().is_some() {
        return Err(ApiError::unsupported("options of a network's driver are"));
    }
    if let Some(address) = endpoint
        .mac_address
        .as_ref()
        .filter(|text| !text.is_empty())
    {
        check_mac_address(address, warnings)?;
    }
    Ok(())
}

/// An Ethernet address that was asked for. Pods are reached by IP alone, so nothing but the container could see it.
pub fn check_mac_address(address: &str, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    let groups: Vec<&str> = address.split([':', '-']).collect();
    let is_byte = |group: &&str| group.len() == 2 && u8::from_str_radix(group, 16).is_ok();
    if groups.len() != 6 || !groups.iter().all(is_byte) {
        return Err(ApiError::bad_request(format!(
            "invalid MAC address: {address}"
        )));
    }
    warnings.push("--mac-address has no effect on Hearth yet.".to_owned());
    Ok(())
}

/// `GET /networks`.
pub fn list(call: &Call) -> Answer {
    let filters = call.query.filters(&FILTERS)?;
    if let Some(kind) = filters
        .values("type")
        .iter()
        .find(|kind| !["builtin", "custom"].contains(&kind.as_str()))
    {
        return Err(ApiError::bad_request(format!(
            "invalid filter: 'type'='{kind}'"
        )));
    }
    // Networks that are always there are never dangling.
    if filters.truth("dangling")? == Some(true) {
        return answer::ok(&Vec::<Value>::new());
    }
    let found: Vec<Value> = BUILT_IN
        .iter()
        .filter(|network| passes(&call.tenant, network, &filters))
        .map(|n| describe(call, n, false))
        .collect();
    answer::ok(&found)
}

/// `GET /networks/{id}`.
pub fn inspect(call: &Call, wanted: &str) -> Answer {
    let network = BUILT_IN
        .iter()
        .find(|network| network.name == wanted)
        .or_else(|| {
            BUILT_IN.iter().find(|network| {
                !wanted.is_empty() && id(&call.tenant, network.name).starts_with(wanted)
            })
        })
        .ok_or_else(|| ApiError::not_found(format!("network {wanted} not found")))?;
    answer::ok(&describe(call, network, true))
}

/// `POST /networks/prune`.
pub fn prune(call: &Call) -> Answer {
    call.query.filters(&["label", "label!", "until"])?;
    answer::ok(&json!({ "NetworksDeleted": [] }))
}

fn passes(tenant: &Tenant, network: &BuiltIn, filters: &Filters) -> bool {
    filters.any("name", |name| network.name.contains(name.as_str()))
        && filters.any("id", |prefix| {
            id(tenant, network.name).starts_with(prefix.as_str())
        })
        && filters.any("driver", |driver| network.driver == driver)
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| kind == "builtin")
        && filters.labels(|_| None)
}

fn describe(call: &Call, network: &BuiltIn, with_containers: bool) -> Value {
    let bridge = network.name == "bridge";
    let config = bridge.then(|| {
        vec![IpamConfig {
            subnet: Some(SUBNET.to_owned()),
            gateway: Some(GATEWAY.to_owned()),
            ..IpamConfig::default()
        }]
    });
    let description = Network {
        name: Some(network.name.to_owned()),
        id: Some(id(&call.tenant, network.name)),
        created: Some(super::timestamps::rfc3339(0)),
        scope: Some("local".to_owned()),
        driver: Some(network.driver.to_owned()),
        enable_ipv4: Some(true),
        enable_ipv6: Some(false),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(config.unwrap_or_default()),
            options: Some(HashMap::new()),
        }),
        internal: Some(false),
        attachable: Some(false),
        ingress: Some(false),
        config_only: Some(false),
        options: Some(HashMap::new()),
        labels: Some(HashMap::new()),
        ..Network::default()
    };
    let mut description = json!(description);
    description["Containers"] = if with_containers {
        containers(call, network)
    } else {
        json!({})
    };
    description
}

fn containers(call: &Call, network: &BuiltIn) -> Value {
    let state = call.controller().state();
    let there = state
        .of_tenant(&call.tenant)
        .filter(|c| c.is_up() && of_mode(c.spec.network_mode) == network.name);
    let described = there.map(|container| {
        let (_, endpoint) = endpoint(&container);
        let address = container
            .pod
            .address
            .map_or_else(String::new, |address| format!("{address}/{PREFIX}"));
        let place = json!({
            "Name": container.name.as_str(),
            "EndpointID": endpoint.endpoint_id,
            "MacAddress": endpoint.mac_address,
            "IPv4Address": address,
            "IPv6Address": "",
        });
        (container.id.to_string(), place)
    });
    Value::Object(described.collect())
}
