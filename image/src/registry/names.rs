//! Registries' addresses, from the name servers that the node knows.
//!
//! The node's executables are static: there is no libc resolver to use, and on the node no `resolv.conf` either. Nobody
//! else's name server is asked instead.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// Looks names up. It remembers them for as long as it lives, which is one pull.
#[derive(Debug)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    // Made at the first use: that wants the runtime to be there.
    inner: Arc<OnceCell<TokioResolver>>,
}

impl Resolver {
    /// Asks these servers, or if there are none those of `/etc/resolv.conf`.
    pub(super) fn new(servers: &[IpAddr]) -> Self {
        Self::with_ports(
            servers
                .iter()
                .map(|&server| (server, DNS_PORT).into())
                .collect(),
        )
    }

    fn with_ports(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            inner: Arc::default(),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (inner, servers) = (self.inner.clone(), self.servers.clone());
        Box::pin(async move {
            let resolver = inner.get_or_try_init(async || make(&servers)).await?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found
                .iter()
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

fn make(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    /// Answers every question for an IPv4 address with 192.0.2.7 and every other with nothing (RFC 1035, section 4).
    async fn serve(socket: UdpSocket) {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question).await {
            let name_end = 12
                + question[12..length]
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap();
            let asks_ipv4 = question[name_end + 1..name_end + 3] == [0, 1];
            let mut answer = question[..name_end + 5].to_vec();
            // A response, recursion available, one question, no additional records.
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_ipv4), 0, 0, 0, 0]);
            if asks_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, asker).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_given_servers_are_asked() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(serve(socket));
        let resolver = Resolver::with_ports(vec![address]);
        let name = "registry.example.com".parse::<Name>().unwrap();
        let found: Vec<_> = resolver.resolve(name).await.unwrap().collect();
        assert_eq!(found, ["192.0.2.7:0".parse().unwrap()]);
        server.abort();
    }
}
