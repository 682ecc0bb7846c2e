//! Kernel settings that a user asked for (`--sysctl`).

use std::fs;

use hearth_guest_protocol::Error;

use crate::system;

/// Settings of an IPC namespace, beside everything below `fs.mqueue.`
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Writes them, as seen from the namespaces of this process.
pub fn set(settings: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in settings {
        let path = path(name).ok_or_else(|| {
            Error::Invalid(format!(
                "sysctl {name:?} is not one of a container's own namespaces"
            ))
        })?;
        fs::write(path, value).map_err(system(format!("setting sysctl {name}")))?;
    }
    Ok(())
}

/// The file of a setting; None where it isn't one that belongs to a network or IPC namespace.
fn path(name: &str) -> Option<String> {
    let own = IPC.contains(&name) || ["net.", "fs.mqueue."].iter().any(|of| name.starts_with(of));
    let path = name.replace('.', "/");
    // `net..x` and the like would be looked for elsewhere.
    let plain = path.split('/').all(|part| !part.is_empty());
    (own && plain).then(|| format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_settings_of_a_containers_own_namespaces_have_a_file() {
        assert_eq!(
            path("net.core.somaxconn").as_deref(),
            Some("/proc/sys/net/core/somaxconn")
        );
        assert_eq!(
            path("kernel.shmmax").as_deref(),
            Some("/proc/sys/kernel/shmmax")
        );
        for name in [
            "vm.swappiness",
            "kernel.panic",
            "net",
            "net..",
            "",
            "net.../../x",
        ] {
            assert_eq!(path(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_proc_sys(name in "(net|fs)[./a-z]{0,20}") {
            if let Some(path) = path(&name) {
                let out = |part: &str| part.is_empty() || part == "." || part == "..";
                prop_assert!(!path[1..].split('/').any(out), "{}", path);
            }
        }
    }
}
