//! Starts one microVM by hand, as the controller would, and waits for its end:
//!
//! ```text
//! boot VMM KERNEL INITRAMFS DIRECTORY [option=value ...]
//! ```
//!
//! DIRECTORY must exist; `api.sock`, `vsock.sock` and an empty `root` are made in it. Options: `memory` (MiB), `vcpus`, `disk`
//! (path, may repeat), `image` (the same, read-only), `tun` (name of a TUN interface, made if missing), `address`, `gateway`, `uid`,
//! `cgroup` (its directory), `append` (to the command line), `console` (`yes`).

use std::error::Error;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use hearth_vmm_api::{CONFIG_FD, Config, Disk, Fd, Jail, Network};

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vmm, kernel, initramfs, directory, options @ ..] = arguments.as_slice() else {
        return Err("boot VMM KERNEL INITRAMFS DIRECTORY [option=value ...]".into());
    };
    let root = format!("{directory}/root");
    let _ = std::fs::create_dir(&root);
    let listen = |name: &str| {
        let path = format!("{directory}/{name}");
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).and_then(|listener| keep(OwnedFd::from(listener)))
    };
    let mut config = Config {
        name: directory.clone(),
        vcpus: 1,
        memory_mib: 128,
        kernel: keep(File::open(kernel)?.into())?,
        initramfs: keep(File::open(initramfs)?.into())?,
        command_line: String::new(),
        disks: Vec::new(),
        network: None,
        api: listen("api.sock")?,
        vsock: listen("vsock.sock")?,
        console: None,
        jail: Jail {
            uid: 10_000,
            gid: 10_000,
            root: keep(File::open(&root)?.into())?,
        },
        lease: None,
    };
    let network = Network {
        tun: -1,
        mac: GUEST_MAC,
        gateway_mac: GATEWAY_MAC,
        gateway: Vec::new(),
        addresses: Vec::new(),
        mtu: 1500,
    };
    for option in options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("{option}: no value"))?;
        match name {
            "memory" => config.memory_mib = value.parse()?,
            "vcpus" => config.vcpus = value.parse()?,
            "disk" | "image" => {
                let read_only = name == "image";
                let file = OpenOptions::new()
                    .read(true)
                    .write(!read_only)
                    .open(value)?;
                config.disks.push(Disk {
                    file: keep(file.into())?,
                    read_only,
                });
            }
            "tun" => config.network.get_or_insert(network.clone()).tun = tun(value)?,
            "address" => config
                .network
                .get_or_insert(network.clone())
                .addresses
                .push(value.parse()?),
            "gateway" => config
                .network
                .get_or_insert(network.clone())
                .gateway
                .push(value.parse()?),
            "uid" => (config.jail.uid, config.jail.gid) = (value.parse()?, value.parse()?),
            "cgroup" => {
                let _ = std::fs::create_dir(value);
                std::fs::write(format!("{value}/cgroup.procs"), "0")?;
            }
            "append" => config.command_line = value.to_owned(),
            "console" => {
                config.console = Some(keep(
                    File::options().write(true).open("/dev/console")?.into(),
                )?)
            }
            _ => return Err(format!("{name}: no such option").into()),
        }
    }
    // SAFETY: the name is a string, and the descriptor belongs to nobody yet.
    let mut text = unsafe { File::from_raw_fd(check(libc::memfd_create(c"config".as_ptr(), 0))?) };
    text.write_all(&serde_json::to_vec(&config)?)?;
    text.rewind()?;
    let mut command = Command::new(vmm);
    let text = text.into_raw_fd();
    // SAFETY: only calls `dup2`, which a child may do before it executes.
    unsafe { command.pre_exec(move || check(libc::dup2(text, CONFIG_FD)).map(|_| ())) };
    let status = command.status()?;
    eprintln!("boot: {status}");
    exit(status.code().unwrap_or(255))
}

fn check(result: i32) -> std::io::Result<i32> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Leaves a descriptor open across execution, away from the numbers that have a meaning.
fn keep(fd: OwnedFd) -> std::io::Result<Fd> {
    // SAFETY: duplicates a descriptor that is open; the copy is leaked on purpose.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 10) })
}

/// A queue of a TUN interface as the monitor wants it.
fn tun(name: &str) -> Result<Fd, Box<dyn Error>> {
    const IFF_TUN: i16 = 0x1;
    const IFF_NO_PI: i16 = 0x1000;
    const IFF_VNET_HDR: i16 = 0x4000;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let name = CString::new(name)?;
    let mut request = [0u8; 40];
    let bytes = name.to_bytes();
    request
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() < 16)
        .ok_or("the name is too long")?
        .copy_from_slice(bytes);
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR).to_le_bytes());
    // SAFETY: `request` is an `ifreq`, 40 bytes.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) })?;
    Ok(keep(device.into())?)
}
