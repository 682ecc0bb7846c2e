//! A monitor with the hostile guest: started, watched, commanded, stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_vmm_api::{
    Answer, CONFIG_FD, Command as Asked, Config, Description, Disk, Fd, Jail, Network,
};
use rustix::fs::MemfdFlags;
use rustix::io::fcntl_dupfd_cloexec;

use crate::attack::{DISK_BYTES, EXITS_PER_ROUND, MEMORY_MIB, PORT, elf};

/// Rounds of the guest's that the monitor must live through, all the while serving its command socket.
const ROUNDS: u64 = 100;
/// An answer that has not come by then doesn't come.
const HUNG: Duration = Duration::from_secs(60);
/// Parent's copies of descriptors lie from here on, so that putting one in its place never overwrites another.
const STAGING_FD: i32 = 64;
/// Nobody's user ids from here on: a monitor's limit of threads counts all that its user has.
static NEXT_UID: AtomicU32 = AtomicU32::new(54_321);
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

/// What a monitor gets for its trial beside the hostile guest.
#[derive(Debug)]
pub struct Given {
    /// A queue for a network interface.
    pub tun: Option<OwnedFd>,
    /// A lease page, open for reading only.
    pub lease: Option<OwnedFd>,
    /// Its standard error.
    pub stderr: Stdio,
}

/// A monitor with the hostile guest. Dropped: killed.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    commands: BufReader<UnixStream>,
    /// A connection to the guest, with data for it.
    _client: UnixStream,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the monitor `vmm` with the hostile guest, its sockets in `folder`, which is there and writable; returns once the monitor has
/// served its commands for [`ROUNDS`] rounds of attacks and ended when it was told to. `tun` is a queue for a network interface.
pub fn run(vmm: &Path, folder: &Path, tun: Option<OwnedFd>) -> Result<()> {
    let given = Given {
        tun,
        lease: None,
        stderr: Stdio::inherit(),
    };
    let mut monitor = Monitor::start(vmm, folder, given)?;
    watch(&mut monitor)?;
    ensure!(monitor.ask(&Asked::Stop)? == Answer::Done, "not stopped");
    let status = monitor.wait()?;
    ensure!(status.success(), "the monitor ended with {status}");
    Ok(())
}

impl Monitor {
    /// Starts the monitor `vmm` with its sockets in `folder`, which is there and writable.
    pub fn start(vmm: &Path, folder: &Path, given: Given) -> Result<Self> {
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
        let commands = UnixStream::connect(folder.join("api.sock"))?;
        commands.set_read_timeout(Some(HUNG))?;
        Ok(Self {
            child: start(vmm, api, vsock, File::open(&root)?, given)?,
            commands: BufReader::new(commands),
            _client: client,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer to a command.
    pub fn ask(&mut self, command: &Asked) -> Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.commands.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.commands
            .read_line(&mut answer)
            .with_context(|| format!("{command:?} is not answered"))?;
        serde_json::from_str(&answer).with_context(|| format!("{command:?}: {answer:?}"))
    }

    /// What it says of itself.
    pub fn describe(&mut self) -> Result<Description> {
        match self.ask(&Asked::Describe)? {
            Answer::Description(description) => Ok(description),
            other => bail!("no description but {other:?}"),
        }
    }

    /// Waits for its end, by the end of its socket.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        // Reset where it ends with a command unread.
        let _ = self.commands.get_mut().read_to_end(&mut Vec::new());
        Ok(self.child.wait()?)
    }
}

fn start(
    vmm: &Path,
    api: UnixListener,
    vsock: UnixListener,
    root: File,
    Given { tun, lease, stderr }: Given,
) -> Result<Child> {
    let mut given = Inheritance::default();
    let kernel = memory_file("kernel", |file| file.write_all(&elf(tun.is_some())))?;
    let initramfs = memory_file("initramfs", |file| file.write_all(b"none"))?;
    let disks = ["first", "second"]
        .map(|name| memory_file(name, |file| file.set_len(DISK_BYTES)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let uid = NEXT_UID.fetch_add(1, Ordering::Relaxed);
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
            uid,
            gid: uid,
            root: given.add(root),
        },
        lease: lease.map(|page| given.add(page)),
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
        .stdout(Stdio::null())
        .stderr(stderr);
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

/// Commands the monitor while the guest does what it does.
fn watch(monitor: &mut Monitor) -> Result<()> {
    let mut before = 0;
    loop {
        ensure!(monitor.child.try_wait()?.is_none(), "the monitor has ended");
        let now = monitor.describe()?;
        if now.ready && before == 0 {
            // All devices are set up.
            before = now.exits_to_monitor;
        }
        if before > 0 && now.exits_to_monitor >= before + ROUNDS * EXITS_PER_ROUND {
            return Ok(());
        }
        for command in [Asked::Pause, Asked::Resume] {
            let answer = monitor.ask(&command)?;
            ensure!(answer == Answer::Done, "{command:?} is not done");
        }
        // The guest has the processor, where there is only one.
        std::thread::yield_now();
    }
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
