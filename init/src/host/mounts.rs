//! The kernel's file systems, control groups and settings.

use std::fs;
use std::path::Path;

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::groups;
use crate::{kmsg, root};

/// Where the root is mounted a second time before it is moved over itself.
const STAGE: &str = "/run";
/// Open files, for the controller and the monitors: each microVM costs the controller about a dozen.
const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1 << 20),
    maximum: Some(1 << 20),
};

/// Kernel settings, below /proc/sys.
const SYSCTLS: [(&str, &str); 7] = [
    // A line of ours is not thrown away because there were ten in five seconds.
    ("kernel/printk_devkmsg", "on"),
    // A node that has failed for good comes back instead of standing still; seconds.
    ("kernel/panic", "10"),
    // Memory of a microVM is not there before it is touched, so what all were promised may be more than there is.
    ("vm/overcommit_memory", "1"),
    // What is kept for the kernel's own urgent needs, KiB. Large pages make the kernel keep five per cent of a small node,
    // which is more than everything of ours; this is what it keeps of 4 GiB without them (mm/page_alloc.c).
    ("vm/min_free_kbytes", "8192"),
    // Router advertisements count even once the node forwards packets.
    ("net/ipv6/conf/default/accept_ra", "2"),
    ("net/ipv6/conf/all/accept_ra", "2"),
    // Ctrl-Alt-Del and friends are for init; nothing else on the keyboard does anything.
    ("kernel/sysrq", "0"),
];

/// How far, in millionths, a microVM's clock rate may differ from the processor's before KVM gives it a rate of its own. KVM
/// remembers the rate that the kernel first guessed, and a second later the kernel knows better; on processors that can't scale their time
/// stamp counter (QEMU's emulated ones) KVM then computes timers that fire half a minute late. The kernel's second thoughts differ by
/// one per cent at most (`arch/x86/kernel/tsc.c`, `tsc_refine_calibration_work`).
const TSC_TOLERANCE: (&str, &str) = ("/sys/module/kvm/parameters/tsc_tolerance_ppm", "11000");

/// What could not be mounted though a node can't do without it.
#[derive(Debug, thiserror::Error)]
#[error(
    "mounting {what} on {target}: {errno}; this is not the kernel that the image was built with"
)]
pub struct MountError {
    what: &'static str,
    target: &'static str,
    errno: Errno,
}

/// Mounts everything that does not depend on a configuration or a disk.
pub fn mount_all() -> Result<(), MountError> {
    leave_rootfs().map_err(|errno| MountError {
        what: "the root a second time",
        target: STAGE,
        errno,
    })?;
    let strict = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    new("proc", "/proc", "proc", strict, "")?;
    new("sysfs", "/sys", "sysfs", strict, "")?;
    new(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=0755",
    )?;
    new(
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=0620,ptmxmode=0666",
    )?;
    new("tmpfs", "/dev/shm", "tmpfs", strict, "mode=1777")?;
    new("tmpfs", "/run", "tmpfs", strict, "mode=0755")?;
    new("tmpfs", "/tmp", "tmpfs", strict, "mode=1777")?;
    // Without favordynmods, moving a process into another group stalls the making of a virtual machine.
    new(
        "cgroup2",
        groups::ROOT,
        "cgroup2",
        strict,
        "nsdelegate,memory_recursiveprot,favordynmods",
    )
    .or_else(|_| new("cgroup2", groups::ROOT, "cgroup2", strict, ""))?;
    // Nice to have: what the firmware and the security modules say.
    for (kind, target) in [
        ("securityfs", "/sys/kernel/security"),
        ("efivarfs", "/sys/firmware/efi/efivars"),
    ] {
        if Path::new(target).exists() {
            let _ = new(kind, target, kind, strict | MountFlags::RDONLY, "");
        }
    }
    Ok(())
}

/// Moves a second mount of the root over the first: the monitors' jails change their root for good.
fn leave_rootfs() -> rustix::io::Result<()> {
    match mkdir(STAGE, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    mount_bind("/", STAGE)?;
    root::move_over(STAGE)?;
    mount_change("/", MountPropagationFlags::PRIVATE)
}

fn new(
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    options: &str,
) -> Result<(), MountError> {
    // Where it exists already, or can't exist, mount says more.
    let _ = fs::create_dir_all(target);
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount(source, target, kind, flags, options.as_c_str()).map_err(|errno| MountError {
        what: source,
        target,
        errno,
    })
}

/// Groups, limits and kernel settings. What the kernel lacks is logged and done without.
pub fn set_up_kernel() {
    let memory = rustix::system::sysinfo();
    groups::make(memory.totalram.saturating_mul(memory.mem_unit.into()));
    for (name, value) in SYSCTLS {
        note(
            name,
            fs::write(format!("/proc/sys/{name}"), format!("{value}\n")),
        );
    }
    let (path, value) = TSC_TOLERANCE;
    note(path, fs::write(path, value));
    note(
        "open files",
        setrlimit(Resource::Nofile, OPEN_FILES).map_err(Into::into),
    );
    note(
        "locked memory",
        setrlimit(
            Resource::Memlock,
            Rlimit {
                current: None,
                maximum: None,
            },
        )
        .map_err(Into::into),
    );
}

fn note(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        kmsg::log(&format!("init: setting {what}: {error}"));
    }
}
