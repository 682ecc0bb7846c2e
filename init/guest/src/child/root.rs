//! Furnishing a new container: its root, the kernel's file systems in it, and what it may not see of them.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use hearth_guest_protocol::Error;
use rustix::fs::{CWD, Mode, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::system::sethostname;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Furnishing, c_string, devices, sysctl, tmpfs};
use crate::container::FILES;
use crate::system;

/// Flags of a file system that is not for programs.
fn inert() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV
}

/// Changes into the container's root and makes everything in it ready. This process is in mount, pid, uts and ipc namespaces of its
/// own, and in its cgroup.
pub fn furnish(plan: &Furnishing, privileged: bool, terminal: Option<u32>) -> Result<(), Error> {
    // SAFETY: the one danger in unshare is to share less of the file table than safe code believes; this flag leaves it alone.
    // The cgroup that this process is in becomes the root of what it sees.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }
        .map_err(system("making a cgroup namespace"))?;
    sethostname(plan.hostname.as_bytes()).map_err(system("setting the host name"))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(system("separating the mounts"))?;

    // SAFETY: the agent left this descriptor open for us, and nothing else here owns it.
    let devpts = unsafe { OwnedFd::from_raw_fd(plan.devpts) };
    let files = open_files(Path::new(&plan.files))?;
    let nodes = if privileged {
        devices::all()
    } else {
        Vec::new()
    };
    change_root(&plan.root).map_err(system("changing the root"))?;

    mount_kernel(privileged)?;
    mount_dev(plan, &devpts, &nodes, terminal)?;
    place_files(&files, plan.read_only)?;
    for (path, options) in &plan.tmpfs {
        tmpfs::mount_at(path, options)?;
    }
    // Before /proc/sys may become read-only.
    sysctl::set(&plan.sysctls)?;
    mask(&plan.masked_paths)?;
    make_read_only(&plan.readonly_paths)?;
    if plan.read_only {
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
            .map_err(system("making the root read-only"))?;
    }
    Ok(())
}

/// Detached copies of the mounts of generated files, to be attached in the new root.
fn open_files(directory: &Path) -> Result<Vec<(&'static str, OwnedFd)>, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    FILES
        .into_iter()
        .map(|name| {
            let tree = open_tree(CWD, directory.join(name), flags)
                .map_err(system(format!("opening {name}")))?;
            Ok((name, tree))
        })
        .collect()
}

fn change_root(root: &str) -> rustix::io::Result<()> {
    chdir(root)?;
    // The old root ends up on top of the new one, from where it is taken away: pivot_root(2), "pivot_root(".", ".")".
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

fn mount_kernel(privileged: bool) -> Result<(), Error> {
    mount_new("proc", "/proc", "proc", inert(), None)?;
    mount_new("sysfs", "/sys", "sysfs", inert(), None)?;
    mount_new("cgroup", "/sys/fs/cgroup", "cgroup2", inert(), None)?;
    if !privileged {
        // Read-only as seen here only: the file systems themselves are shared with the agent and other containers.
        for path in ["/sys/fs/cgroup", "/sys"] {
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | inert(), c"")
                .map_err(system(format!("making {path} read-only")))?;
        }
    }
    Ok(())
}

fn mount_dev(
    plan: &Furnishing,
    devpts: &OwnedFd,
    nodes: &[devices::Node],
    terminal: Option<u32>,
) -> Result<(), Error> {
    mount_new(
        "tmpfs",
        "/dev",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        Some(c"mode=755,size=65536k"),
    )?;
    devices::make(nodes)?;
    make_directory("/dev/pts")?;
    move_mount(
        devpts.as_fd(),
        c"",
        CWD,
        c"/dev/pts",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(system("mounting /dev/pts"))?;
    let shm = c_string(format!("mode=1777,size={}", plan.shm_bytes).as_bytes())?;
    mount_new("shm", "/dev/shm", "tmpfs", inert(), Some(&shm))?;
    mount_new("mqueue", "/dev/mqueue", "mqueue", inert(), None)?;
    if let Some(number) = terminal {
        make_file("/dev/console")?;
        mount_bind(format!("/dev/pts/{number}"), "/dev/console")
            .map_err(system("mounting /dev/console"))?;
    }
    Ok(())
}

fn place_files(files: &[(&'static str, OwnedFd)], read_only: bool) -> Result<(), Error> {
    make_directory("/etc")?;
    for (name, tree) in files {
        let path = format!("/etc/{name}");
        make_file(&path)?;
        // A link in the image is followed, and leads to a place in the container.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(tree.as_fd(), c"", CWD, path.as_str(), flags)
            .map_err(system(format!("mounting {path}")))?;
        if read_only {
            mount_remount(path.as_str(), MountFlags::BIND | MountFlags::RDONLY, c"")
                .map_err(system(format!("making {path} read-only")))?;
        }
    }
    // As docker does: tools look there for what is mounted, and whether they are in a container.
    match symlink("/proc/mounts", "/etc/mtab") {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(system("making /etc/mtab")(e));
        }
        _ => {}
    }
    make_file("/.dockerenv")
}

/// Hides files behind /dev/null and directories behind an empty one.
fn mask(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        match mount_bind("/dev/null", path.as_str()) {
            Err(Errno::NOTDIR) => mount(
                c"tmpfs",
                path.as_str(),
                c"tmpfs",
                MountFlags::RDONLY | inert(),
                c"size=0,nr_inodes=2",
            ),
            other => other,
        }
        .or_else(unless_absent)
        .map_err(system(format!("hiding {path}")))?;
    }
    Ok(())
}

fn make_read_only(paths: &[String]) -> Result<(), Error> {
    for path in paths {
        mount_bind_recursive(path.as_str(), path.as_str())
            .and_then(|()| {
                let flags = MountFlags::BIND | MountFlags::RDONLY | flags_of(path)?;
                mount_remount(path.as_str(), flags, c"")
            })
            .or_else(unless_absent)
            .map_err(system(format!("making {path} read-only")))?;
    }
    Ok(())
}

/// What may not be done in the mount that `path` is in, and a remount would allow if it weren't told again.
fn flags_of(path: &str) -> rustix::io::Result<MountFlags> {
    let now = rustix::fs::statvfs(path)?.f_flag;
    let kept = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
    ];
    let flags = kept.into_iter().filter(|(is, _)| now.contains(*is));
    Ok(flags.map(|(_, flag)| flag).collect())
}

fn unless_absent(errno: Errno) -> rustix::io::Result<()> {
    if errno == Errno::NOENT {
        Ok(())
    } else {
        Err(errno)
    }
}

fn mount_new(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: Option<&std::ffi::CStr>,
) -> Result<(), Error> {
    match mount(source, target, kind, flags, options) {
        Err(Errno::NOENT) => {
            make_directory(target)?;
            mount(source, target, kind, flags, options)
        }
        result => result,
    }
    .map_err(system(format!("mounting {target}")))
}

fn make_directory(path: &str) -> Result<(), Error> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(system(format!("making {path}"))(errno)),
    }
}

/// Makes an empty file where nothing is; through a dangling link, what it points to.
fn make_file(path: &str) -> Result<(), Error> {
    use rustix::fs::{OFlags, open};
    if Path::new(path).exists() {
        return Ok(());
    }
    if let Ok(target) = fs::read_link(path)
        && let Some(parent) = Path::new(path)
            .parent()
            .map(|directory| directory.join(target))
        && let Some(parent) = parent.parent()
    {
        fs::create_dir_all(parent).map_err(system(format!("making {}", parent.display())))?;
    }
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    match open(path, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => Ok(()),
        Err(errno) => Err(system(format!("making {path}"))(errno)),
    }
}
