//! User, groups and capabilities.

use hearth_guest_protocol::Error;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::system;
use crate::user::Identity;

/// Capabilities that Linux 6.12 knows; one that a later kernel adds is dropped as well, up to this number.
const CAPABILITY_COUNT: u32 = 64;

/// Takes on `who`'s ids and exactly the capabilities named: for root permitted and effective, for others only the bounding set,
/// from which a program with file capabilities or the set-user-id bit may draw.
pub fn assume(who: &Identity, capabilities: &[String], privileged: bool) -> Result<(), Error> {
    let wanted = if privileged {
        CapabilitySet::all()
    } else {
        parse(capabilities)?
    };
    let failed = || system("giving up privileges");
    for number in 0..CAPABILITY_COUNT {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !wanted.contains(one) {
            match remove_capability_from_bounding_set(one) {
                // The kernel knows no more.
                Err(Errno::INVAL) => break,
                result => result.map_err(failed())?,
            }
        }
    }
    let groups: Vec<Gid> = who.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    set_thread_groups(&groups).map_err(failed())?;
    let gid = Gid::from_raw(who.gid);
    set_thread_res_gid(gid, gid, gid).map_err(failed())?;
    let uid = Uid::from_raw(who.uid);
    // From root to another user this clears permitted and effective capabilities.
    set_thread_res_uid(uid, uid, uid).map_err(failed())?;
    let now = rustix::thread::capabilities(None).map_err(failed())?;
    let kept = now.permitted & wanted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed())
}

fn parse(names: &[String]) -> Result<CapabilitySet, Error> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        // The flags are named as Linux names them, without `CAP_`.
        let flag = CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(name));
        Ok(set | flag.ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_by_linuxs_names() {
        let names = ["NET_RAW", "CAP_SYS_ADMIN", "SETFCAP"].map(str::to_owned);
        let expected = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN | CapabilitySet::SETFCAP;
        assert_eq!(parse(&names).unwrap(), expected);
        assert!(parse(&["FLY".to_owned()]).is_err());
    }
}
