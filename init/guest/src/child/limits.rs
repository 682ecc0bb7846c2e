//! Resource limits (setrlimit(2)) and what the kernel is told for when memory runs out.

use std::fs;

use hearth_guest_protocol::{Error, Ulimit};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::system;

/// Sets them for this process and all that come of it. Done while it may still raise what it was born with.
pub fn set(ulimits: &[Ulimit], oom_score_adj: i32) -> Result<(), Error> {
    for ulimit in ulimits {
        let resource = resource(&ulimit.name)
            .ok_or_else(|| Error::Invalid(format!("invalid ulimit type: {}", ulimit.name)))?;
        let limit = Rlimit {
            current: ulimit.soft,
            maximum: ulimit.hard,
        };
        setrlimit(resource, limit)
            .map_err(system(format!("setting the ulimit {}", ulimit.name)))?;
    }
    if oom_score_adj != 0 {
        fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string())
            .map_err(system("setting oom_score_adj"))?;
    }
    Ok(())
}

/// The limits that docker knows.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
