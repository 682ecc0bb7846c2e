//! When the pods together want more memory than the node has for them: the largest is ended, and no other until its memory is back.
//!
//! The kernel would do that by itself, at `memory.max`. But it doesn't wait for the memory of what it has ended: as soon as the process's
//! last thread is on its way out, what another pod asks for ends the next one. So it is done here, at `memory.high`, where the
//! kernel only slows down whoever asks for more, and says so (Documentation/admin-guide/cgroup-v2.rst). It remains behind that, should
//! this process be late or gone.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Local, cgroup};
use crate::state::ContainerId;

/// Between two looks at what the kernel says: page cache comes to the mark all the time, and is no shortage.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks without any memory coming back before the next pod is ended. Taking a large microVM apart begins with its tables, for some
/// tenths of a second.
const LOOKS: u32 = 20;

/// Watches for as long as there is an agent.
pub async fn watch(local: Weak<Local>, group: std::path::PathBuf) {
    if let Err(error) = watch_group(&local, &group).await {
        tracing::warn!(%error, "the memory of all pods is the kernel's to watch");
    }
}

async fn watch_group(local: &Weak<Local>, group: &Path) -> io::Result<()> {
    let Some(mark) = number(&fs::read_to_string(group.join("memory.high"))?) else {
        return Err(io::Error::other("they have no limit"));
    };
    let events = File::open(group.join("memory.events"))?;
    // SAFETY: the descriptor is owned by what it is registered with, which never hands it out for closing.
    let mut events = unsafe { AsyncFd::register_with_interest(events, Interest::PRIORITY)? };
    loop {
        // Reading arms it again.
        events.get_mut().rewind()?;
        events.get_mut().read_to_string(&mut String::new())?;
        let Some(local) = local.upgrade() else {
            return Ok(());
        };
        relieve(&local, group, mark).await;
        drop(local);
        tokio::time::sleep(PAUSE).await;
        events.ready(Interest::PRIORITY).await?.clear_ready();
    }
}

/// Ends pods, the largest first, until what is left is below the mark.
async fn relieve(local: &Arc<Local>, group: &Path, mark: u64) {
    let (mut least, mut looks) = (u64::MAX, LOOKS);
    loop {
        let taken = kept_memory(group);
        if taken < mark {
            return;
        }
        if taken < least {
            least = taken;
        } else {
            looks += 1;
        }
        if looks >= LOOKS {
            if let Some(id) = largest(local) {
                tracing::warn!(
                    pod = id.short(),
                    "the node has no memory left; its largest pod is ended"
                );
                local.end_for_memory(&id);
            }
            (least, looks) = (u64::MAX, 0);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The pod that holds most, of those that have not been ended yet.
fn largest(local: &Local) -> Option<ContainerId> {
    let runs = local.runs();
    let held = runs
        .iter()
        .filter(|(_, claim)| !claim.out_of_memory)
        .map(|(id, _)| (kept_memory(&local.paths.pod_cgroup(id)), id));
    held.max().map(|(_, id)| *id)
}

/// Bytes of a group that the kernel can't take back. 0: there is no such group.
fn kept_memory(group: &Path) -> u64 {
    kept(&fs::read_to_string(group.join("memory.stat")).unwrap_or_default())
}

/// From `memory.stat`: what is no page cache. There is no swap.
fn kept(stat: &str) -> u64 {
    let field = |name: &str| {
        stat.lines()
            .find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
            .unwrap_or(0)
    };
    (field("anon") + field("shmem") + field("kernel")).saturating_sub(field("slab_reclaimable"))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

impl Local {
    /// Ends a pod because there is no memory for it.
    fn end_for_memory(&self, id: &ContainerId) {
        if let Some(claim) = self.runs().get_mut(id) {
            claim.out_of_memory = true;
        }
        if let Err(error) = cgroup::kill(&self.paths.pod_cgroup(id)) {
            tracing::warn!(pod = id.short(), %error, "ending the pod");
        }
    }

    /// A pod was ended because there was no memory for it, by this process or by the kernel.
    pub(super) fn ran_out_of_memory(&self, id: &ContainerId) -> bool {
        let ended_here = self.runs().get(id).is_some_and(|claim| claim.out_of_memory);
        ended_here || cgroup::ran_out_of_memory(&self.paths.pod_cgroup(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_cache_is_no_shortage() {
        let stat = "anon 1000\nfile 900000\nkernel 300\nshmem 20\nfile_mapped 7\nslab_reclaimable 100\nslab_unreclaimable 50\n";
        assert_eq!(kept(stat), 1220);
        assert_eq!(kept(""), 0);
    }
}
