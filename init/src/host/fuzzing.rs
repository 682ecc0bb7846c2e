//! What fuzzing reaches of the host's PID 1: the owner's file, disks that are found, and answers of DHCP servers.

pub use super::config::fuzzing::boot_sector;
pub use super::network::fuzzing::dhcp;
pub use super::storage::fuzzing::disk;

/// `hearth.toml`.
pub fn hearth_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = super::config::parse(text);
    }
}
