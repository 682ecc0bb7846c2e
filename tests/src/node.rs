//! A Hearth node in QEMU.

use std::ffi::OsString;
use std::net::SocketAddr;

/// The image under test.
pub const EFI: &str = "HEARTH_EFI";

/// A booted node.
pub struct Node {}

impl Node {
    /// Boots a node with a fresh identity and a blank disk, which may speak plain HTTP to the host's `insecure` ports.
    pub fn boot(insecure: &[u16]) -> Self {
        let _ = insecure;
        panic!("{EFI} isn't set: run the end-to-end tests by `cargo xtask test`");
    }

    /// What the docker CLI needs to reach the node as its owner.
    pub fn docker_arguments(&self) -> Vec<OsString> {
        vec![]
    }

    /// Forwards a port of the node to loopback.
    pub fn forward(&self, node_port: u16, udp: bool) -> SocketAddr {
        let _ = (node_port, udp);
        panic!("no node");
    }
}
