//! Ports, as clients ask for them and as they are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard_stubs::models::{
    PortBinding as ShownBinding, PortMap, PortSummary, PortSummaryTypeEnum,
};

use crate::api::docker::errors::ApiError;
use crate::network::Network;
use crate::state::{Placed, PortBinding, PortRequest, Protocol};

/// What a port without an address is bound to.
const EVERYWHERE: &str = "0.0.0.0";

/// `80/tcp` of a port to expose (`80`, `80/udp`, `80-90/tcp`).
pub fn exposed(text: &str) -> Result<Vec<String>, ApiError> {
    let (range, protocol) = parse(text)?;
    Ok(range
        .map(|port| format!("{port}/{}", name(protocol)))
        .collect())
}

/// What a port map asks for. An empty list asks for nothing.
pub fn requests(map: &PortMap) -> Result<Vec<PortRequest>, ApiError> {
    let mut found = BTreeSet::new();
    for (port, bindings) in map {
        let (range, protocol) = parse(port)?;
        if range.len() != 1 {
            return Err(invalid(port));
        }
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_deref() {
                None | Some("") => None,
                Some(ip) => Some(
                    ip.parse()
                        .map_err(|_| ApiError::bad_request(format!("invalid IP address: {ip}")))?,
                ),
            };
            let (host_port, host_port_last) = on_node(binding.host_port.as_deref().unwrap_or(""))?;
            let request = PortRequest {
                container_port: *range.start(),
                protocol,
                host_ip,
                host_port,
                host_port_last,
            };
            Network::check(&request.at(host_port))
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            found.insert(request);
        }
    }
    Ok(found.into_iter().collect())
}

/// `8080`, or a range whose first free port is taken (`8080-8089`); nothing and 0: any.
fn on_node(text: &str) -> Result<(u16, Option<u16>), ApiError> {
    let port = |digits: &str| digits.parse::<u16>().map_err(|_| invalid(text));
    match text.split_once('-') {
        _ if text.is_empty() => Ok((0, None)),
        None => Ok((port(text)?, None)),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if first == last => Ok((first, None)),
            (first, last) if first > 0 && first < last => Ok((first, Some(last))),
            _ => Err(invalid(text)),
        },
    }
}

fn invalid(text: &str) -> ApiError {
    ApiError::bad_request(format!("invalid port specification: {text:?}"))
}

fn parse(text: &str) -> Result<(std::ops::RangeInclusive<u16>, Protocol), ApiError> {
    let bad = || invalid(text);
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
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

fn key(container_port: u16, protocol: Protocol) -> String {
    format!("{container_port}/{}", name(protocol))
}

/// A port map as docker shows what was asked for: every binding with both of its fields, every port with its protocol.
pub fn as_asked(map: PortMap) -> PortMap {
    let filled = |binding: ShownBinding| ShownBinding {
        host_ip: Some(binding.host_ip.unwrap_or_default()),
        host_port: Some(binding.host_port.unwrap_or_default()),
    };
    map.into_iter()
        .map(|(port, bindings)| {
            let port = match port.contains('/') {
                true => port,
                false => format!("{port}/tcp"),
            };
            let bindings = bindings.map(|list| list.into_iter().map(filled).collect());
            (port, bindings)
        })
        .collect()
}

/// `80/tcp` of a request.
pub fn exposed_by(request: &PortRequest) -> String {
    key(request.container_port, request.protocol)
}

/// What is there while it is up, for `NetworkSettings.Ports`: exposed ports without a binding are null.
pub fn in_effect(container: &Placed) -> PortMap {
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
    for binding in &container.pod.ports {
        map.entry(key(binding.container_port, binding.protocol))
            .or_default()
            .get_or_insert_default()
            .push(shown(binding));
    }
    map
}

/// The rows of `docker ps`.
pub fn summary(container: &Placed) -> Vec<PortSummary> {
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
pub fn published(container: &Placed) -> Vec<String> {
    let published = |port: u16, protocol| format!("{port}/{}", name(protocol));
    if container.is_up() {
        let bindings = container.pod.ports.iter();
        return bindings
            .map(|b| published(b.host_port, b.protocol))
            .collect();
    }
    let requests = container.spec.ports.iter();
    requests
        .map(|r| published(r.host_port, r.protocol))
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
        let read = requests(&map("53/udp", "127.0.0.1", "5353")).unwrap();
        assert_eq!(
            read,
            [PortRequest {
                container_port: 53,
                protocol: Protocol::Udp,
                host_ip: Some([127, 0, 0, 1].into()),
                host_port: 5353,
                host_port_last: None,
            }]
        );
        assert_eq!(requests(&map("80", "", "")).unwrap()[0].host_port, 0);
        let range = &requests(&map("80", "", "18000-18002")).unwrap()[0];
        assert_eq!(
            (range.host_port, range.host_port_last),
            (18000, Some(18002))
        );
        assert!(
            requests(&HashMap::from([("80/tcp".to_owned(), None)]))
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
            ("80", "", "2-1"),
            ("80", "", "0-5"),
            ("80", "", "-1"),
            ("80", "", "70000"),
            ("80-81", "", "1"),
            ("9-8", "", ""),
        ] {
            assert!(
                requests(&map(port, ip, host)).is_err(),
                "{port} {ip} {host}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_port_is_read_or_refused(text in ".{0,20}", digits in "[0-9/-]{0,12}") {
            let _ = (exposed(&text), exposed(&digits), on_node(&text), on_node(&digits));
        }
    }
}
