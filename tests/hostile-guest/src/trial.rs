//! A monitor with the hostile guest: started, watched, commanded, stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_vmm_api::{Answer, CONFIG_FD, Command as Asked, Config, Disk, Fd, Jail, Network};
use rustix::fs::MemfdFlags;
use rustix::io::fcntl_dupfd_cloexec;

use crate::attack::{DISK_BYTES, EXITS_PER_ROUND, MEMORY_MIB, PORT, elf};

/// Rounds of the guest's that the monitor must live through, all the while serving its command socket.
const ROUNDS: u64 = 100;
/// An answer that has not come by then doesn't come.
const HUNG: Duration = Duration::from_secs(60);
/// Parent's copies of descriptors lie from here on, so that putting one in its place never overwrites another.
const STAGING_FD: i32 = 64;
/// Nobody's user id.
const UID: u32 = 54_321;
/// What the client has for the guest.
const DATA: [u8; 1000] = [7; 1000];

/// Descriptors for the monitor.
#[derive(Default)]
struct Inheritance(Vec<OwnedFd>);

impl Inheritance {
    fn add(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        self.0.push(fd.into());
        CONFIG_FD + self.0.len() as Fd
    }
}

/// Starts the monitor `vmm` with the hostile guest, its sockets in `folder`, which is there and writable; returns once the monitor has
/// served its commands for [`ROUNDS`] rounds of attacks and ended when it was told to. `tun` is a queue for a network interface.
pub fn run(vmm: &Path, folder: &Path, tun: Option<OwnedFd>) -> Result<()> {
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    let bind = |name: &str| {
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        UnixListener::bind(&path).with_context(|| format!("binding {}", path.display()))
    };
    let (api, vsock) = (bind("api.sock")?, bind("vsock.sock")?);
    // It waits in the listener's queue until the monitor is there, and its data until the guest has answered.
    let mut client = UnixStream::connect(folder.join("vsock.sock"))?;
    client.write_all(&PORT.to_le_bytes())?;
    client.write_all(&DATA)?;
    let mut child = start(vmm, api, vsock, File::open(&root)?, tun)?;
    let result = watch(&folder.join("api.sock"), &mut child);
    if result.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    result?;
    ensure!(status.success(), "the monitor ended with {status}");
    // Until here there was data for the guest.
    drop(client);
    Ok(())
}

fn start(
    vmm: &Path,
    api: UnixListener,
    vsock: UnixListener,
    root: File,
    tun: Option<OwnedFd>,
) -> Result<Child> {
    let mut given = Inheritance::default();
    let kernel = memory_file("kernel", |file| file.write_all(&elf(tun.is_some())))?;
    let initramfs = memory_file("initramfs", |file| file.write_all(b"none"))?;
    let disks = ["first", "second"]
        .map(|name| memory_file(name, |file| file.set_len(DISK_BYTES)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let config = Config {
        name: "hostile".to_owned(),
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        kernel: given.add(kernel),
        initramfs: given.add(initramfs),
        command_line: String::new(),
        disks: disks
            .into_iter()
            .map(|file| Disk {
                file: given.add(file),
                read_only: false,
            })
            .collect(),
        network: tun.map(|tun| Network {
            tun: given.add(tun),
            mac: [2, 0, 0, 0, 0, 2],
            gateway_mac: [2, 0, 0, 0, 0, 1],
            gateway: Vec::new(),
            addresses: Vec::new(),
            mtu: 1500,
        }),
        api: given.add(api),
        vsock: given.add(vsock),
        console: None,
        jail: Jail {
            uid: UID,
            gid: UID,
            root: given.add(root),
        },
    };
    let text = serde_json::to_vec(&config)?;
    let text = memory_file("config", |file| {
        file.write_all(&text)?;
        file.rewind()
    })?;
    let mut staged = vec![fcntl_dupfd_cloexec(&text, STAGING_FD)?];
    for fd in &given.0 {
        staged.push(fcntl_dupfd_cloexec(fd, STAGING_FD)?);
    }
    let moves: Vec<(i32, i32)> = staged
        .iter()
        .map(AsRawFd::as_raw_fd)
        .zip(CONFIG_FD..)
        .collect();
    let mut command = Command::new(vmm);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let put_in_place = move || {
        for (from, to) in &moves {
            // SAFETY: both are numbers of descriptors; the new one belongs to the program that is about to be executed.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on memory made before the fork.
    unsafe { command.pre_exec(put_in_place) };
    command
        .spawn()
        .with_context(|| format!("starting {}", vmm.display()))
}

fn memory_file(name: &str, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    fill(&mut file)?;
    Ok(file)
}

/// Commands the monitor while the guest does what it does, and at last ends it.
fn watch(socket: &Path, child: &mut Child) -> Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(HUNG))?;
    let mut stream = BufReader::new(stream);
    let mut ask = |command: &Asked| -> Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        stream
            .read_line(&mut answer)
            .with_context(|| format!("{command:?} is not answered"))?;
        serde_json::from_str(&answer).with_context(|| format!("{command:?}: {answer:?}"))
    };
    let mut before = 0;
    loop {
        ensure!(child.try_wait()?.is_none(), "the monitor has ended");
        let Answer::Description(now) = ask(&Asked::Describe)? else {
            bail!("no description");
        };
        if now.ready && before == 0 {
            // All devices are set up.
            before = now.exits_to_monitor;
        }
        if before > 0 && now.exits_to_monitor >= before + ROUNDS * EXITS_PER_ROUND {
            break;
        }
        for command in [Asked::Pause, Asked::Resume] {
            ensure!(ask(&command)? == Answer::Done, "{command:?} is not done");
        }
        // The guest has the processor, where there is only one.
        std::thread::yield_now();
    }
    ensure!(ask(&Asked::Stop)? == Answer::Done, "not stopped");
    // The monitor closes it when it ends.
    stream.get_mut().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A queue of a TUN interface of its own, as a monitor wants it.
pub fn tun() -> Result<OwnedFd> {
    const IFF_TUN: i16 = 0x1;
    const IFF_NO_PI: i16 = 0x1000;
    const IFF_VNET_HDR: i16 = 0x4000;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    let mut request = [0u8; 40];
    let name = b"hostile%d";
    request[..name.len()].copy_from_slice(name);
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR).to_le_bytes());
    // SAFETY: `request` is an `ifreq`, 40 bytes.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) } < 0 {
        return Err(std::io::Error::last_os_error()).context("making a TUN interface");
    }
    Ok(device.into())
}
