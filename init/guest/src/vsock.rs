//! Sockets between host and guest (vsock(7)), for which std and rustix have no types.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The host's context id (`VMADDR_CID_HOST`).
pub const HOST: u32 = 2;
/// Connections that may wait to be accepted: more than a host ever has open at once.
const BACKLOG: libc::c_int = 64;

/// A listening socket.
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on `port`.
    pub fn bind(port: u32) -> io::Result<Self> {
        let socket = socket(0)?;
        let address = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: `address` is a sockaddr_vm of the length given.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        // SAFETY: the call takes no pointers.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        Ok(Self(socket))
    }

    /// Waits for a connection from the host. One from anybody else, which could only be a process of this machine, is dropped.
    pub fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut peer = address(0, 0);
            let mut length = size_of_val(&peer) as libc::socklen_t;
            // SAFETY: `peer` has room for `length` bytes.
            let accepted = check(unsafe {
                libc::accept4(
                    self.0.as_raw_fd(),
                    (&raw mut peer).cast(),
                    &raw mut length,
                    libc::SOCK_CLOEXEC,
                )
            });
            match accepted {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(fd) => {
                    // SAFETY: the kernel has just made this descriptor for us.
                    let connection = unsafe { OwnedFd::from_raw_fd(fd) };
                    if peer.svm_cid == HOST {
                        // The type only names the calls: read, write, shutdown are the same on any stream socket.
                        return Ok(UnixStream::from(connection));
                    }
                }
            }
        }
    }
}

/// Begins to connect to a port of the host and doesn't wait for the answer.
pub fn begin_connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(libc::SOCK_NONBLOCK)?;
    let address = address(HOST, port);
    // SAFETY: `address` is a sockaddr_vm of the length given.
    let result = check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    });
    match result {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers; what it returns is a new descriptor of ours.
    unsafe {
        let fd = check(libc::socket(
            libc::AF_VSOCK,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
