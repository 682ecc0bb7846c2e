//! Ports of the node that lead to pods: those of its own pods, which its agent publishes, and those of other nodes' pods, which
//! [`super::mesh`] does.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::PoisonError;

use super::{Change, Connections, Error, Network, Published};
use crate::state::{PortBinding, Protocol};

/// What this process wants published, and what is.
#[derive(Debug, Default)]
pub(super) struct Ports {
    here: Vec<Published>,
    elsewhere: Vec<Published>,
    /// Sorted.
    in_force: Vec<Published>,
}

impl Network {
    /// Whether a port can be published at all; [`Network::publish`] leaves out those that can't.
    pub fn check(binding: &PortBinding) -> Result<(), Error> {
        match binding.host_ip {
            Some(address @ IpAddr::V6(_)) => Err(Error::Ipv6Binding {
                address,
                port: binding.host_port,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the node has the addresses that ports are to be published on. Where it hasn't, nobody would ever come by them.
    pub fn check_addresses(&self, bindings: &[PortBinding]) -> Result<(), Error> {
        for binding in bindings {
            let Some(address) = binding.host_ip.filter(|ip| !ip.is_unspecified()) else {
                continue;
            };
            if !self.inner.kernel.has_address(address)? {
                return Err(Error::NoSuchAddress {
                    address,
                    port: binding.host_port,
                });
            }
        }
        Ok(())
    }

    /// Make exactly these ports lead to pods of this node, at once for all. Connections that are established by ports that stay, stay.
    ///
    /// What can't be published is left out and told as an error; the rest is then in force.
    pub fn publish(&self, ports: &[Published]) -> Result<(), Error> {
        self.change_ports(|wanted| wanted.here = ports.to_vec())
    }

    /// As [`Network::publish`], for pods of other nodes. Where a port is published here as well, as while a pod moves, the one here counts.
    pub(super) fn publish_elsewhere(&self, ports: &[Published]) -> Result<(), Error> {
        // What can't be published is an error where its pod is.
        match self.change_ports(|wanted| wanted.elsewhere = ports.to_vec()) {
            Err(error @ Error::Kernel { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    fn change_ports(&self, change: impl FnOnce(&mut Ports)) -> Result<(), Error> {
        let mut ports = self
            .inner
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut ports);
        let mut wanted = Vec::with_capacity(ports.here.len() + ports.elsewhere.len());
        let mut places = HashSet::with_capacity(wanted.capacity());
        let mut left_out = None;
        let here = ports.here.iter().map(|published| (published, true));
        let elsewhere = ports.elsewhere.iter().map(|published| (published, false));
        for (published, is_here) in here.chain(elsewhere) {
            let binding = &published.binding;
            let error = match Self::check(binding) {
                Err(error) => error,
                Ok(()) if !places.insert(place(binding)) => Error::PublishedTwice {
                    port: binding.host_port,
                },
                Ok(()) => {
                    wanted.push(published.clone());
                    continue;
                }
            };
            if is_here {
                left_out = Some(error);
            }
        }
        wanted.sort();
        self.inner
            .kernel
            .change(&[Change::Publish(wanted.clone())])?;
        // After the change: what is forgotten earlier comes again under the old rules.
        let before = &ports.in_force;
        let removed = before
            .iter()
            .filter(|old| wanted.binary_search(old).is_err())
            .cloned()
            .map(Connections::Led);
        let added = wanted
            .iter()
            .filter(|new| before.binary_search(new).is_err());
        let stray = added.map(|new| Connections::Stray(new.binding.clone()));
        let forgotten: Vec<Connections> = removed.chain(stray).collect();
        ports.in_force = wanted;
        self.inner.kernel.forget(&forgotten)?;
        left_out.map_or(Ok(()), Err)
    }
}

/// Bindings with the same one match the same packets.
fn place(binding: &PortBinding) -> (Option<IpAddr>, Protocol, u16) {
    (
        binding.host_ip.filter(|ip| !ip.is_unspecified()),
        binding.protocol,
        binding.host_port,
    )
}
