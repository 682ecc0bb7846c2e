//! Ports that containers publish, forwarded from loopback to the node for as long as they are published.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::qemu::{Forward, Gateway, Protocol, Running};
use crate::{docker, process};

/// How often the list is read even if no event tells of a change: a connection that dropped its events must not leave a
/// port unforwarded for long.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);

/// How long after the events' connection ended it is opened again.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Follows the containers that the node knows until `stopped` is closed or the node is gone.
pub fn follow(node: &Running, gateway: &Gateway, stopped: &Receiver<()>) -> Result<()> {
    let mut ports = Ports::default();
    let (changed, changes) = mpsc::channel();
    let mut events = None;
    loop {
        if events.is_none() {
            events = listen(changed.clone()).ok();
        }
        // A node that doesn't answer now may be restarting its API: what is forwarded stays.
        if let Ok(listing) =
            process::capture(docker::command().args(["ps", "--format", "{{.Ports}}"]))
        {
            let wanted = listing.lines().flat_map(published).collect();
            if !node.is_running() {
                break;
            }
            ports.bring_about(gateway, &wanted);
        }
        let wait = if events.is_some() {
            REFRESH_INTERVAL
        } else {
            RECONNECT_DELAY
        };
        match changes.recv_timeout(wait) {
            Ok(Change::Container) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Change::Ended) | Err(RecvTimeoutError::Disconnected) => events = None,
        }
        if !matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) || !node.is_running() {
            break;
        }
    }
    Ok(())
}

/// What the stream of events tells.
enum Change {
    Container,
    Ended,
}

/// A `docker events` that ends with this value.
struct Events(Child);

impl Drop for Events {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen(changed: Sender<Change>) -> Result<Events> {
    let mut child = docker::command()
        .args([
            "events",
            "--filter",
            "type=container",
            "--format",
            "{{.Status}}",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    // Ends with the child; nobody needs to wait for it.
    thread::spawn(move || {
        for _ in BufReader::new(stdout).lines().map_while(Result::ok) {
            if changed.send(Change::Container).is_err() {
                return;
            }
        }
        // Nobody listens any more if the node was stopped.
        let _ = changed.send(Change::Ended);
    });
    Ok(Events(child))
}

/// What QEMU forwards, and what it refused to.
#[derive(Default)]
struct Ports {
    active: BTreeSet<Forward>,
    refused: BTreeSet<Forward>,
}

impl Ports {
    /// Makes QEMU forward what is wanted and nothing else, as far as it can.
    fn bring_about(&mut self, gateway: &Gateway, wanted: &BTreeSet<Forward>) {
        self.refused.retain(|forward| wanted.contains(forward));
        for gone in self
            .active
            .extract_if(.., |forward| !wanted.contains(forward))
        {
            if let Err(error) = gateway.stop_forwarding(gone) {
                eprintln!("  port {} stays forwarded: {error:#}", gone.host);
            }
        }
        for new in wanted {
            if self.active.contains(new) {
                continue;
            }
            match gateway.forward(*new) {
                Ok(()) => {
                    eprintln!(
                        "  127.0.0.1:{}/{} leads to the node",
                        new.host,
                        new.protocol.name()
                    );
                    self.active.insert(*new);
                }
                // Tried again at the next refresh, when whoever holds the port may have gone; told once.
                Err(error) => {
                    if self.refused.insert(*new) {
                        eprintln!("  port {} can't be forwarded: {error:#}", new.host);
                    }
                }
            }
        }
    }
}

/// The ports in one line of `docker ps`, such as `0.0.0.0:8080-8081->80-81/tcp, [::]:53->53/udp, 443/tcp`.
fn published(line: &str) -> Vec<Forward> {
    line.split(", ").filter_map(one).flatten().collect()
}

fn one(published: &str) -> Option<impl Iterator<Item = Forward> + use<>> {
    let (outside, inside) = published.split_once("->")?;
    let protocol = match inside.split_once('/')?.1 {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (_, ports) = outside.rsplit_once(':')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports = first.parse::<u16>().ok()?..=last.parse().ok()?;
    Some(ports.map(move |port| Forward {
        protocol,
        host: port,
        machine: port,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(protocol: Protocol, port: u16) -> Forward {
        Forward {
            protocol,
            host: port,
            machine: port,
        }
    }

    #[test]
    fn every_published_port_is_found_and_exposed_ones_are_not() {
        let found: BTreeSet<_> = published(
            "0.0.0.0:8080-8081->80-81/tcp, [::]:8080-8081->80-81/tcp, :::53->53/udp, 443/tcp",
        )
        .into_iter()
        .collect();
        let expected = [
            forward(Protocol::Tcp, 8080),
            forward(Protocol::Tcp, 8081),
            forward(Protocol::Udp, 53),
        ];
        assert_eq!(found, expected.into());
        assert!(published("").is_empty());
    }
}
