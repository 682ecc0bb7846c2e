//! What a container stands on: its file systems, its cgroup, its terminals.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::Error;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::cgroup::Cgroup;
use super::{grow, pty, system};

/// Longest name of a container or a device.
const NAME_MAX: usize = 128;

/// Files in /etc that are not the image's but made anew at every start.
pub const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Where the agent finds and puts things. A test has other places than a microVM.
#[derive(Debug, Clone)]
pub struct Places {
    /// Devices (`/dev`).
    pub devices: PathBuf,
    /// A directory on tmpfs for mount points and generated files.
    pub containers: PathBuf,
    /// Root of the cgroup v2 hierarchy.
    pub cgroup: PathBuf,
    /// guest-init's own file.
    pub program: PathBuf,
}

/// A container that can have processes.
pub struct Container {
    dir: PathBuf,
    cgroup: Cgroup,
    devpts: OwnedFd,
}

impl Container {
    /// Mounts image and writable layer, joins them, and makes the cgroup. What was made is undone when something fails.
    pub fn build(places: &Places, spec: &protocol::Container) -> Result<Self, Error> {
        for name in [&spec.id, &spec.image_device, &spec.writable_device] {
            if name.is_empty()
                || name.len() > NAME_MAX
                || !name.bytes().all(|b| b.is_ascii_alphanumeric())
            {
                return Err(Error::Invalid(format!(
                    "{name:?} is no name of a container or a device"
                )));
            }
        }
        let dir = places.containers.join(&spec.id);
        let built = mount_root(places, spec, &dir)
            .and_then(|()| write_files(spec, &dir))
            .and_then(|()| Ok((Cgroup::create(&places.cgroup, spec)?, pty::new_devpts()?)));
        match built {
            Ok((cgroup, devpts)) => Ok(Self {
                dir,
                cgroup,
                devpts,
            }),
            Err(error) => {
                unmount_root(&dir);
                Err(error)
            }
        }
    }

    /// Its root file system, as the agent sees it.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The directory with `hosts`, `hostname`, `resolv.conf`.
    pub fn files(&self) -> &Path {
        &self.dir
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its devpts.
    pub fn devpts(&self) -> BorrowedFd<'_> {
        self.devpts.as_fd()
    }

    /// Ends what still runs, and writes back and unmounts its file systems.
    pub fn take_down(&self) {
        self.cgroup.remove();
        unmount_root(&self.dir);
    }
}

fn mount_root(places: &Places, spec: &protocol::Container, dir: &Path) -> Result<(), Error> {
    let [image, writable, root] = ["image", "writable", "root"].map(|name| dir.join(name));
    for path in [&image, &writable, &root] {
        fs::create_dir_all(path).map_err(system(format!("making {}", path.display())))?;
    }
    let device = places.devices.join(&spec.image_device);
    mount(&device, &image, c"erofs", MountFlags::RDONLY, None).map_err(system(format!(
        "mounting the image from {}",
        device.display()
    )))?;
    let device = places.devices.join(&spec.writable_device);
    // The layer is sparse and its inode tables are still holes, which read as zeros: without noinit_itable the kernel would set out
    // to write zeros into all of them.
    mount(
        &device,
        &writable,
        c"ext4",
        MountFlags::empty(),
        c"noinit_itable",
    )
    .map_err(system(format!(
        "mounting the writable layer from {}",
        device.display()
    )))?;
    grow::fill_device(&device, &writable).map_err(system("growing the writable layer"))?;
    let [upper, work] = ["upper", "work"].map(|name| writable.join(name));
    prepare_layer(&image, &upper, &work).map_err(system("preparing the writable layer"))?;
    // Ids are alphanumeric, so nothing in these paths is special to overlayfs.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off",
        image.display(),
        upper.display(),
        work.display()
    );
    let options =
        std::ffi::CString::new(options).map_err(system("joining image and writable layer"))?;
    mount(
        c"overlay",
        &root,
        c"overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(system("joining image and writable layer"))
}

/// Makes the directories of a layer that is used for the first time. The root of the joined file system is the upper directory, so
/// that takes on owner and mode of the image's root.
fn prepare_layer(image: &Path, upper: &Path, work: &Path) -> std::io::Result<()> {
    if !upper.exists() {
        let root = fs::metadata(image)?;
        fs::create_dir(upper)?;
        chown(upper, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(upper, root.permissions())?;
    }
    if !work.exists() {
        fs::create_dir(work)?;
    }
    Ok(())
}

fn write_files(spec: &protocol::Container, dir: &Path) -> Result<(), Error> {
    let hostname = format!("{}\n", spec.hostname);
    for (name, content) in FILES
        .into_iter()
        .zip([&spec.hosts, &hostname, &spec.resolv_conf])
    {
        fs::write(dir.join(name), content).map_err(system(format!("writing /etc/{name}")))?;
    }
    Ok(())
}

fn unmount_root(dir: &Path) {
    for name in ["root", "writable", "image"] {
        match unmount(dir.join(name), UnmountFlags::empty()) {
            // Not mounted, or not even there: building got no further.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => {
                hearth_pid1::kmsg::log(&format!(
                    "guest-init: {} of {} is still in use: {errno}",
                    name,
                    dir.display()
                ));
                let _ = unmount(dir.join(name), UnmountFlags::DETACH);
            }
        }
    }
    // Never recursively: should a layer still be mounted, its files must not be touched.
    for name in FILES {
        let _ = fs::remove_file(dir.join(name));
    }
    for name in ["root", "writable", "image", ""] {
        let _ = fs::remove_dir(dir.join(name));
    }
}
