//! Resource limits, user, capabilities.

use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Error;

/// What the process may still use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Highest descriptor number, plus one.
    pub descriptors: u64,
    /// Largest offset that is written to in a file, bytes.
    pub file_size: u64,
    /// Threads.
    pub threads: u64,
}

/// Becomes `uid` and `gid` without any capability or a way to gain one. Only the calling thread is changed.
pub(super) fn drop_all(uid: u32, gid: u32, limits: &Limits) -> Result<(), Error> {
    let limit = |resource, value| {
        setrlimit(
            resource,
            Rlimit {
                current: Some(value),
                maximum: Some(value),
            },
        )
    };
    limit(Resource::Nofile, limits.descriptors).map_err(Error::system("limiting descriptors"))?;
    limit(Resource::Fsize, limits.file_size).map_err(Error::system("limiting file sizes"))?;
    limit(Resource::Nproc, limits.threads).map_err(Error::system("limiting threads"))?;
    // A core dump would hold the guest's memory.
    limit(Resource::Core, 0).map_err(Error::system("forbidding core dumps"))?;
    for bit in 0..u64::BITS {
        // EINVAL: the kernel's last capability was the one before.
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Err(rustix::io::Errno::INVAL) => break,
            result => result.map_err(Error::system("emptying the capability bounding set"))?,
        }
    }
    set_thread_groups(&[]).map_err(Error::system("leaving groups"))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(group, group, group).map_err(Error::system("changing the group"))?;
    set_thread_res_uid(user, user, user).map_err(Error::system("changing the user"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(Error::system("dropping capabilities"))?;
    set_no_new_privs(true).map_err(Error::system("giving up new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Error::system("hiding memory from others"))
}
