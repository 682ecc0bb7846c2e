//! Ports, as clients ask for them and as they are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard_stubs::models::{
    PortBinding as ShownBinding, PortMap, PortSummary, PortSummaryTypeEnum,
};

use crate::api::docker::errors::ApiError;
use crate::network::Network;
use crate::state::{Container, PortBinding, Protocol};

/// What a port without an address is bound to.
const EVERYWHERE: &str = "0.0.0.0";

/// `80/tcp` of a port to expose (`80`, `80/udp`, `80-90/tcp`).
pub fn exposed(text: &str) -> Result<Vec<String>, ApiError> {
    let (range, protocol) = parse(text)?;
    Ok(range
        .map(|port| format!("{port}/{}", name(protocol)))
        .collect())
}

/// The bindings of a port map. An empty list binds nothing.
pub fn bindings(map: &PortMap) -> Result<Vec<PortBinding>, ApiError> {
    let mut found = BTreeSet::new();
    for (port, bindings) in map {
        let (range, protocol) = parse(port)?;
        if range.len() != 1 {
            return Err(ApiError::bad_request(format!(
                "invalid port specification: {port:?}"
            )));
        }
        let container_port = *range.start();
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_deref() {
                None | Some("") => None,
                Some(ip) => Some(
                    ip.parse()
                        .map_err(|_| ApiError::bad_request(format!("invalid IP address: {ip}")))?,
                ),
            };
            let host_port = match binding.host_port.as_deref() {
                None | Some("") => 0,
                Some(range) if range.contains('-') => {
                    return Err(ApiError::unsupported(
                        "a range of host ports for one port of a container is",
                    ));
                }
                Some(port) => port.parse().map_err(|_| {
                    ApiError::bad_request(format!("invalid port specification: {port:?}"))
                })?,
            };
            let binding = PortBinding {
                container_port,
                protocol,
                host_ip,
                host_port,
            };
            Network::check(&binding).map_err(|error| ApiError::bad_request(error.to_string()))?;
            found.insert(binding);
        }
    }
    Ok(found.into_iter().collect())
}

fn parse(text: &str) -> Result<(std::ops::RangeInclusive<u16>, Protocol), ApiError> {
    let bad = || ApiError::bad_request(format!("invalid port specification: {text:?}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => return Err(ApiError::unsupported("SCTP is")),
        _ => return Err(bad()),
    };
    let port = |digits: &str| {
        digits
            .parse::<u16>()
            .ok()
            .filter(|&port| port > 0)
            .ok_or_else(bad)
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let range = port(first)?..=port(last)?;
    if range.is_empty() {
        Err(bad())
    } else {
        Ok((range, protocol))
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn shown(binding: &PortBinding) -> ShownBinding {
    ShownBinding {
        host_ip: Some(
            binding
                .host_ip
                .map_or_else(|| EVERYWHERE.to_owned(), |ip| ip.to_string()),
        ),
        host_port: Some(binding.host_port.to_string()),
    }
}

fn key(binding: &PortBinding) -> String {
    format!("{}/{}", binding.container_port, name(binding.protocol))
}

/// What was asked for, for `HostConfig.PortBindings`.
pub fn asked_for(container: &Container) -> PortMap {
    let mut map: PortMap = HashMap::new();
    for binding in &container.spec.ports {
        let asked = ShownBinding {
            host_ip: Some(
                binding
                    .host_ip
                    .map_or_else(String::new, |ip| ip.to_string()),
            ),
            host_port: Some(if binding.host_port == 0 {
                String::new()
            } else {
                binding.host_port.to_string()
            }),
        };
        map.entry(key(binding))
            .or_default()
            .get_or_insert_default()
            .push(asked);
    }
    map
}

/// What is there while it is up, for `NetworkSettings.Ports`: exposed ports without a binding are null.
pub fn in_effect(container: &Container) -> PortMap {
    let mut map: PortMap = HashMap::new();
    if !container.is_up() {
        return map;
    }
    map.extend(
        container
            .spec
            .exposed_ports
            .iter()
            .map(|port| (port.clone(), None)),
    );
    for binding in &container.status.ports {
        map.entry(key(binding))
            .or_default()
            .get_or_insert_default()
            .push(shown(binding));
    }
    map
}

/// The rows of `docker ps`.
pub fn summary(container: &Container) -> Vec<PortSummary> {
    let mut rows = BTreeMap::new();
    for (port, bindings) in in_effect(container) {
        let Ok((range, protocol)) = parse(&port) else {
            continue;
        };
        let typ = Some(match protocol {
            Protocol::Tcp => PortSummaryTypeEnum::TCP,
            Protocol::Udp => PortSummaryTypeEnum::UDP,
        });
        let private_port = *range.start();
        let row = PortSummary {
            ip: None,
            private_port,
            public_port: None,
            typ,
        };
        match bindings {
            None => {
                rows.insert((private_port, protocol, 0, String::new()), row);
            }
            Some(bindings) => {
                for binding in bindings {
                    let public_port = binding.host_port.and_then(|port| port.parse().ok());
                    let at = (
                        private_port,
                        protocol,
                        public_port.unwrap_or(0),
                        binding.host_ip.clone().unwrap_or_default(),
                    );
                    rows.insert(
                        at,
                        PortSummary {
                            ip: binding.host_ip,
                            public_port,
                            ..row.clone()
                        },
                    );
                }
            }
        }
    }
    rows.into_values().collect()
}

/// Whether one of `ports` is what a `publish` or `expose` filter (`80`, `80/udp`, `80-90`) means.
pub fn matches<'a>(
    filter: &str,
    mut ports: impl Iterator<Item = &'a str>,
) -> Result<bool, ApiError> {
    let wanted = exposed(filter)?;
    Ok(ports.any(|port| wanted.iter().any(|wanted| wanted == port)))
}

/// The published ports of a container, as a `publish` filter sees them.
pub fn published(container: &Container) -> Vec<String> {
    let bindings = if container.is_up() {
        &container.status.ports
    } else {
        &container.spec.ports
    };
    bindings
        .iter()
        .map(|binding| format!("{}/{}", binding.host_port, name(binding.protocol)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(port: &str, ip: &str, host: &str) -> PortMap {
        let binding = ShownBinding {
            host_ip: Some(ip.to_owned()),
            host_port: Some(host.to_owned()),
        };
        HashMap::from([(port.to_owned(), Some(vec![binding]))])
    }

    #[test]
    fn bindings_are_read_as_the_cli_writes_them() {
        let read = bindings(&map("53/udp", "127.0.0.1", "5353")).unwrap();
        assert_eq!(
            read,
            [PortBinding {
                container_port: 53,
                protocol: Protocol::Udp,
                host_ip: Some([127, 0, 0, 1].into()),
                host_port: 5353
            }]
        );
        assert_eq!(bindings(&map("80", "", "")).unwrap()[0].host_port, 0);
        assert!(
            bindings(&HashMap::from([("80/tcp".to_owned(), None)]))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (port, ip, host) in [
            ("0", "", ""),
            ("70000", "", ""),
            ("80/http", "", ""),
            ("80", "here", ""),
            ("80", "", "x"),
            ("80", "", "1-2"),
            ("9-8", "", ""),
        ] {
            assert!(
                bindings(&map(port, ip, host)).is_err(),
                "{port} {ip} {host}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_port_is_read_or_refused(text in ".{0,20}", digits in "[0-9/-]{0,12}") {
            let _ = (exposed(&text), exposed(&digits));
        }
    }
}
