//! tmpfs mounts that a user asked for.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use hearth_guest_protocol::Error;
use rustix::mount::{MountFlags, mount};

use crate::system;

/// Mounts a tmpfs at `path`, made if missing. Unless the options say otherwise nothing on it can be executed, is set-user-id or a
/// device, and it has the mode of the directory that it hides.
pub fn mount_at(path: &str, options: &str) -> Result<(), Error> {
    let doing = || format!("mounting a tmpfs at {path}");
    let (flags, mut data) = parse(options);
    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o7777,
        Err(_) => {
            fs::create_dir_all(path).map_err(system(doing()))?;
            0o755
        }
    };
    if !data.iter().any(|option| option.starts_with("mode=")) {
        data.push(format!("mode={mode:o}"));
    }
    let data = CString::new(data.join(",")).map_err(system(doing()))?;
    mount(c"tmpfs", path, c"tmpfs", flags, data.as_c_str()).map_err(system(doing()))
}

fn parse(options: &str) -> (MountFlags, Vec<String>) {
    let mut flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "exec" => flags -= MountFlags::NOEXEC,
            "noexec" => flags |= MountFlags::NOEXEC,
            "suid" => flags -= MountFlags::NOSUID,
            "nosuid" => flags |= MountFlags::NOSUID,
            "dev" => flags -= MountFlags::NODEV,
            "nodev" => flags |= MountFlags::NODEV,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            // The kernel's own defaults.
            "defaults" | "async" | "atime" | "diratime" | "norelatime" => {}
            other => data.push(other.to_owned()),
        }
    }
    (flags, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers_and_what_is_no_flag_is_for_tmpfs() {
        let strict = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        assert_eq!(parse(""), (strict, vec![]));
        let (flags, data) = parse("rw,exec,size=64m,mode=1777");
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NODEV);
        assert_eq!(data, ["size=64m", "mode=1777"]);
    }
}
