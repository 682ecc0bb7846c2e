//! What a guest is told to start, made from what a user has asked for.

use std::fmt::Write;
use std::net::IpAddr;

use hearth_guest_protocol as protocol;

use crate::agent::ExecSpec;
use crate::network::PodLink;
use crate::state::{Container, ContainerSpec, DEFAULT_SHM_BYTES, Placed, capability};

/// Where programs are looked for when the image doesn't say: docker's own default.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a root process may do without `--privileged` or `--cap-add`: docker's own default.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// cgroup's CPU period, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The first request to a new microVM.
pub fn start(
    container: &Placed,
    link: Option<&PodLink>,
    dns: &[IpAddr],
    clock_ns: u64,
    entropy: [u8; 32],
) -> protocol::Start {
    let spec = &container.spec;
    let network = container.pod.address.zip(link).and_then(|(address, link)| {
        Some(protocol::Network {
            addresses: vec![address.into()],
            gateway: *link.gateway.first()?,
            gateway_mac: link.gateway_mac,
            mtu: link.mtu.into(),
        })
    });
    protocol::Start {
        pod: protocol::Pod {
            clock_ns,
            entropy,
            network,
        },
        container: protocol::Container {
            id: container.id.to_string(),
            image_device: "vda".into(),
            writable_device: "vdb".into(),
            read_only: spec.read_only,
            hostname: hostname(container),
            hosts: hosts(container),
            resolv_conf: resolv_conf(container, dns),
            memory_max: (spec.memory_bytes != 0).then_some(spec.memory_bytes),
            cpu_quota_us: cpu_quota_us(spec.nano_cpus),
            pids_max: (spec.pids_limit != 0).then_some(spec.pids_limit),
            privileged: spec.privileged,
            tmpfs: spec.tmpfs.clone().into_iter().collect(),
            shm_bytes: match spec.shm_bytes {
                0 => DEFAULT_SHM_BYTES,
                bytes => bytes,
            },
            masked_paths: spec.masked_paths_in_force(),
            readonly_paths: spec.readonly_paths_in_force(),
            sysctls: spec.sysctls.clone().into_iter().collect(),
            init: spec.init,
            process: protocol::Process {
                id: container.id.to_string(),
                args: spec
                    .entrypoint
                    .iter()
                    .chain(&spec.command)
                    .cloned()
                    .collect(),
                env: environment(container, spec.tty),
                working_dir: spec.working_dir.clone(),
                user: spec.user.clone(),
                groups: spec.groups.clone(),
                tty: spec.tty,
                stdin: spec.open_stdin,
                size: spec.console_size,
                capabilities: capabilities(container, false),
                ulimits: ulimits(spec),
                oom_score_adj: spec.oom_score_adj,
            },
        },
    }
}

/// A further process.
pub fn exec(
    container: &Container,
    id: &str,
    spec: &ExecSpec,
    size: Option<(u16, u16)>,
) -> protocol::Exec {
    let of_container = &container.spec;
    let or = |mine: &String, others: &String| {
        if mine.is_empty() {
            others.clone()
        } else {
            mine.clone()
        }
    };
    let mut env = environment(container, spec.tty);
    merge(&mut env, &spec.env);
    protocol::Exec {
        container: container.id.to_string(),
        privileged: spec.privileged,
        process: protocol::Process {
            id: id.to_owned(),
            args: spec.args.clone(),
            env,
            working_dir: or(&spec.working_dir, &of_container.working_dir),
            user: or(&spec.user, &of_container.user),
            groups: of_container.groups.clone(),
            tty: spec.tty,
            stdin: spec.stdin,
            size,
            capabilities: capabilities(container, spec.privileged),
            ulimits: ulimits(of_container),
            oom_score_adj: of_container.oom_score_adj,
        },
    }
}

/// cgroup v2 `cpu.max` for `--cpus`; None: no limit.
pub fn cpu_quota_us(nano_cpus: u64) -> Option<u64> {
    // The kernel refuses less than a millisecond.
    (nano_cpus != 0).then(|| (nano_cpus / (1_000_000_000 / CPU_PERIOD_US)).max(1000))
}

fn hostname(container: &Container) -> String {
    match container.spec.hostname.as_str() {
        "" => container.id.short(),
        name => name.to_owned(),
    }
}

fn environment(container: &Container, tty: bool) -> Vec<String> {
    let mut env = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", hostname(container)),
    ];
    if tty {
        env.push("TERM=xterm".into());
    }
    merge(&mut env, &container.spec.env);
    env
}

/// Later ones replace earlier ones of the same name.
fn merge(env: &mut Vec<String>, more: &[String]) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in more {
        // `-e NAME` without a value takes the variable away.
        let known = env.iter().position(|old| name(old) == name(entry));
        match (known, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

fn capabilities(container: &Container, privileged: bool) -> Vec<String> {
    let spec = &container.spec;
    if privileged || spec.privileged {
        return capability::ALL.map(String::from).into();
    }
    let known = |names: &[String]| -> Vec<&str> {
        let known = names.iter().filter_map(|name| capability::named(name));
        known.collect()
    };
    let (add, drop) = (known(&spec.cap_add), known(&spec.cap_drop));
    let every = capability::EVERY;
    capability::ALL
        .into_iter()
        .filter(|name| {
            let by_default = DEFAULT_CAPABILITIES.contains(name) && !drop.contains(&every);
            add.contains(name) || ((by_default || add.contains(&every)) && !drop.contains(name))
        })
        .map(String::from)
        .collect()
}

fn ulimits(spec: &ContainerSpec) -> Vec<protocol::Ulimit> {
    // Negative: unlimited.
    let limit = |value: i64| u64::try_from(value).ok();
    spec.ulimits
        .iter()
        .map(|ulimit| protocol::Ulimit {
            name: ulimit.name.clone(),
            soft: limit(ulimit.soft),
            hard: limit(ulimit.hard),
        })
        .collect()
}

fn hosts(container: &Placed) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for extra in &container.spec.extra_hosts {
        // `name:address`; an IPv6 address has further colons.
        if let Some((name, address)) = extra.split_once(':') {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    if let Some(address) = container.pod.address {
        let name = hostname(container);
        let _ = match container.spec.domainname.as_str() {
            "" => writeln!(text, "{address}\t{name}"),
            domain => writeln!(text, "{address}\t{name}.{domain} {name}"),
        };
    }
    text
}

fn resolv_conf(container: &Container, dns: &[IpAddr]) -> String {
    let spec = &container.spec;
    let mut text = String::new();
    let servers: Vec<String> = if spec.dns.is_empty() {
        dns.iter().map(ToString::to_string).collect()
    } else {
        spec.dns.clone()
    };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `--dns-search .` is docker's word for none.
    if !spec.dns_search.is_empty() && spec.dns_search != ["."] {
        let _ = writeln!(text, "search {}", spec.dns_search.join(" "));
    }
    if !spec.dns_options.is_empty() {
        let _ = writeln!(text, "options {}", spec.dns_options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, Ulimit};

    #[test]
    fn later_variables_replace_earlier_ones_and_names_alone_remove() {
        let mut env = vec!["A=1".to_owned(), "B=2".into()];
        merge(
            &mut env,
            &["A=3".into(), "B".into(), "C=".into(), "D".into()],
        );
        assert_eq!(env, ["A=3", "C="]);
    }

    #[test]
    fn a_guest_is_told_what_was_asked_for_and_dockers_defaults_for_the_rest() {
        let told = |spec: ContainerSpec| {
            let mut container = Placed::sample(1);
            Arc::make_mut(&mut container.container).spec = spec;
            start(&container, None, &[], 0, [0; 32]).container
        };
        let plain = told(ContainerSpec::default());
        assert_eq!(plain.masked_paths, DEFAULT_MASKED_PATHS);
        assert_eq!(plain.readonly_paths, DEFAULT_READONLY_PATHS);
        assert_eq!((plain.shm_bytes, plain.process.size), (64 << 20, None));
        let privileged = told(ContainerSpec {
            privileged: true,
            ..Default::default()
        });
        assert!(privileged.masked_paths.is_empty() && privileged.readonly_paths.is_empty());
        let asked = told(ContainerSpec {
            privileged: true,
            masked_paths: Some(vec!["/proc/kcore".into()]),
            readonly_paths: Some(Vec::new()),
            shm_bytes: 1 << 20,
            console_size: Some((24, 80)),
            ulimits: vec![Ulimit {
                name: "memlock".into(),
                soft: 1,
                hard: -1,
            }],
            ..Default::default()
        });
        assert_eq!(asked.masked_paths, ["/proc/kcore"]);
        assert!(asked.readonly_paths.is_empty());
        assert_eq!(
            (asked.shm_bytes, asked.process.size),
            (1 << 20, Some((24, 80)))
        );
        let limit = &asked.process.ulimits[0];
        assert_eq!((limit.soft, limit.hard), (Some(1), None));
    }

    #[test]
    fn half_a_cpu_is_half_a_period() {
        assert_eq!(cpu_quota_us(500_000_000), Some(50_000));
        assert_eq!(cpu_quota_us(1), Some(1000));
        assert_eq!(cpu_quota_us(0), None);
    }
}
