//! How a node under test is set up.

use std::path::PathBuf;

use xtask::qemu::{Plug, Segment};

/// The node's disk.
#[derive(Clone, Debug)]
pub enum Disk {
    /// None at all.
    None,
    /// A blank, sparse one of this many MiB.
    Blank(u64),
    /// What the file holds; the node gets the file itself.
    File(PathBuf),
}

/// A node's place among others.
#[derive(Clone, Debug)]
pub struct Place {
    /// The Ethernet segment they share.
    pub segment: Segment,
    /// Where it is plugged in.
    pub plug: Plug,
    /// The folder with the owner's CA and certificates, the same for all of them.
    pub identity: PathBuf,
    /// Its name.
    pub name: String,
}

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its disk.
    pub disk: Disk,
    /// MiB of memory.
    pub memory_mib: u64,
    /// One core with two hyper-threads.
    pub hyper_threads: bool,
    /// More sections of `hearth.toml`.
    pub configuration: String,
    /// Registries (`host:port`) that it may speak plain HTTP to.
    pub insecure: Vec<String>,
    /// Boot from a USB stick, which has the configuration on it too.
    pub stick: bool,
    /// Whether something beside the shipped image looks into the node; see [`Side`].
    pub side: bool,
    /// Its place among others; none if it has a network for itself.
    pub place: Option<Place>,
    /// The plugin that counts what it does, emulated then; see [`super::Counts`].
    pub meter: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            disk: Disk::Blank(16 * 1024),
            memory_mib: 2048,
            hyper_threads: false,
            configuration: String::new(),
            insecure: vec![],
            stick: false,
            side: false,
            place: None,
            meter: None,
        }
    }
}
