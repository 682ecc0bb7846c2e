//! Facts about this machine.

use std::path::Path;

use crate::agent::NodeInfo;

/// Facts that don't change while this process lives come in as `known`; the rest is looked up.
pub fn info(known: &NodeInfo, data: &Path) -> NodeInfo {
    let mut info = known.clone();
    info.kernel_version = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    info.cpus = cpus();
    info.memory_bytes = memory_bytes();
    if let Ok(volume) = rustix::fs::statvfs(data) {
        info.storage_total_bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
        info.storage_free_bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
    }
    info
}

/// Logical CPUs.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// MemTotal, bytes.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}
