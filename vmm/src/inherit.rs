//! What the monitor is given by whoever starts it: a configuration, and descriptors that it names.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use hearth_vmm_api::lease::{Page, PageError};
use hearth_vmm_api::{CONFIG_FD, Config};
use kvm_ioctls::Kvm;

/// Largest configuration that is read, bytes. Ours are a few hundred.
const LARGEST_CONFIG: u64 = 1 << 20;
/// Virtual CPUs: what the MultiProcessor table has room for.
const MOST_VCPUS: u8 = 32;
/// Linux does not boot in less.
const LEAST_MEMORY_MIB: u32 = 16;
/// More than any machine has that this is meant for, and far from where addresses end.
const MOST_MEMORY_MIB: u32 = 4 << 20;
/// Sectors of 512 bytes.
const DISK_UNIT: u64 = 512;
/// The smallest link that IPv4 allows (RFC 791), and the largest packet.
const LEAST_MTU: u16 = 68;

/// Why the monitor can't start with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No configuration.
    #[error(
        "no configuration on descriptor {CONFIG_FD}: {0}; a monitor is started by Hearth's controller, not by hand"
    )]
    NoConfig(io::Error),
    /// One that is not understood.
    #[error("configuration: {0}")]
    Malformed(#[from] serde_json::Error),
    /// One that makes no sense.
    #[error("configuration: {0}")]
    Invalid(String),
    /// A lease that it could not keep to.
    #[error(transparent)]
    Lease(#[from] PageError),
    /// /dev/kvm.
    #[error(
        "/dev/kvm can't be opened: {0}; virtualisation must be enabled in the firmware, and the kernel must have KVM for this CPU"
    )]
    Kvm(kvm_ioctls::Error),
}

/// Everything that the configuration names, taken over.
#[derive(Debug)]
pub struct Inheritance {
    /// As read.
    pub config: Config,
    /// `config.kernel`.
    pub kernel: File,
    /// `config.initramfs`.
    pub initramfs: File,
    /// `config.disks`, in order.
    pub disks: Vec<File>,
    /// `config.network`'s queue.
    pub tun: Option<OwnedFd>,
    /// `config.api`.
    pub api: UnixListener,
    /// `config.vsock`.
    pub vsock: UnixListener,
    /// `config.console`.
    pub console: Option<File>,
    /// `config.jail.root`.
    pub root: OwnedFd,
    /// `config.lease`.
    pub lease: Option<Page>,
    /// /dev/kvm, the one thing that is opened by name.
    pub kvm: Kvm,
}

/// Reads the configuration and takes over what it names. Every other descriptor, but for the standard ones, is closed.
///
/// Called once, before anything else opens a descriptor.
pub fn take() -> Result<Inheritance, Error> {
    // SAFETY: by the contract of the program's start, this descriptor is ours and nobody else's in this process.
    let source = unsafe { File::from_raw_fd(CONFIG_FD) };
    let mut text = Vec::new();
    source
        .take(LARGEST_CONFIG)
        .read_to_end(&mut text)
        .map_err(Error::NoConfig)?;
    let config: Config = serde_json::from_slice(&text)?;
    check(&config)?;
    let mut wanted = descriptors(&config);
    wanted.sort_unstable();
    if let Some(pair) = wanted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid(format!(
            "descriptor {} is named twice",
            pair[0]
        )));
    }
    if wanted.first().is_some_and(|fd| *fd <= CONFIG_FD) {
        return Err(Error::Invalid(format!(
            "descriptors up to {CONFIG_FD} have other uses"
        )));
    }
    close_others(&wanted);
    for fd in &wanted {
        // SAFETY: the call only asks about the descriptor.
        if unsafe { libc::fcntl(*fd, libc::F_GETFD) } < 0 {
            return Err(Error::Invalid(format!("descriptor {fd} is not open")));
        }
    }
    // SAFETY: each descriptor is open, named once in the configuration, and used by nothing else in this process; the
    // starter has left it for this.
    let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Inheritance {
        kernel: own(config.kernel).into(),
        initramfs: own(config.initramfs).into(),
        disks: config
            .disks
            .iter()
            .map(|disk| own(disk.file).into())
            .collect(),
        tun: config.network.as_ref().map(|network| own(network.tun)),
        api: own(config.api).into(),
        vsock: own(config.vsock).into(),
        console: config.console.map(|fd| own(fd).into()),
        root: own(config.jail.root),
        lease: config.lease.map(|fd| Page::map(own(fd))).transpose()?,
        kvm: Kvm::new().map_err(Error::Kvm)?,
        config,
    })
}

fn check(config: &Config) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::Invalid(text));
    if !(1..=MOST_VCPUS).contains(&config.vcpus) {
        return invalid(format!(
            "{} virtual CPUs; 1 to {MOST_VCPUS} are possible",
            config.vcpus
        ));
    }
    if !(LEAST_MEMORY_MIB..=MOST_MEMORY_MIB).contains(&config.memory_mib) {
        let range = format!("{LEAST_MEMORY_MIB} to {MOST_MEMORY_MIB}");
        return invalid(format!(
            "{} MiB of memory; {range} are possible",
            config.memory_mib
        ));
    }
    if let Some(network) = &config.network
        && network.mtu < LEAST_MTU
    {
        return invalid(format!(
            "an MTU of {}; {LEAST_MTU} is the least",
            network.mtu
        ));
    }
    Ok(())
}

/// A disk's size is a whole number of sectors.
pub(crate) fn check_disk(file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    if size.is_multiple_of(DISK_UNIT) {
        return Ok(());
    }
    let text = format!("a size of {size} bytes is no multiple of {DISK_UNIT}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn descriptors(config: &Config) -> Vec<RawFd> {
    let mut all = vec![
        config.kernel,
        config.initramfs,
        config.api,
        config.vsock,
        config.jail.root,
    ];
    all.extend(config.disks.iter().map(|disk| disk.file));
    all.extend(config.network.as_ref().map(|network| network.tun));
    all.extend(config.console);
    all.extend(config.lease);
    all
}

/// Closes everything that is neither standard nor in `wanted`, which is sorted.
fn close_others(wanted: &[RawFd]) {
    let mut first = CONFIG_FD;
    let close = |first: RawFd, last: RawFd| {
        if first <= last {
            // SAFETY: nothing in this process uses these descriptors: it has opened none, and takes over only what is wanted.
            unsafe { libc::close_range(first as libc::c_uint, last as libc::c_uint, 0) };
        }
    };
    for fd in wanted {
        close(first, fd - 1);
        first = fd + 1;
    }
    close(first, RawFd::MAX);
}
