//! Linux's capabilities, by the names that docker's users give them.

/// Every capability that Linux 6.12 has (capabilities(7)), without `CAP_`.
pub const ALL: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
/// What stands for all of them.
pub const EVERY: &str = "ALL";

/// A capability's name as it is in [`ALL`], or [`EVERY`], from one in any case, with or without `CAP_`; None: there is none of that name.
pub fn named(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    if upper == EVERY {
        return Some(EVERY);
    }
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|&known| known == plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_any_case_and_with_or_without_their_prefix() {
        for text in ["net_raw", "NET_RAW", "cap_net_raw", "CAP_NET_RAW"] {
            assert_eq!(named(text), Some("NET_RAW"), "{text}");
        }
        assert_eq!(named("all"), Some(EVERY));
        for text in ["", "CAP_", "CAP_ALL", "NET_RWA", "CAP_CAP_NET_RAW"] {
            assert_eq!(named(text), None, "{text}");
        }
    }
}
