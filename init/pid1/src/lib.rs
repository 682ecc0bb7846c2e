//! What both PID 1s, the host's and the microVM's, ask of the kernel: a root that can be left, its log, its random pool, its network links, and
//! descriptors where it has left none.
//!
//! Nothing here knows of a node's configuration or of a container.

pub mod entropy;
pub mod kmsg;
pub mod netlink;
pub mod root;
pub mod stdio;
