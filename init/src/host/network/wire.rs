//! A link as smoltcp sees it: a packet socket that passes ARP and DHCP and nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Largest frame: DHCP and ARP fit into what every Ethernet carries.
const FRAME_MAX: usize = 1514;

/// A classic BPF program (Documentation/networking/filter.rst) that keeps ARP and whole UDP packets over IPv4 to port 68. PID 1
/// would otherwise wake up for every packet of the machine.
const FILTER: [libc::sock_filter; 12] = [
    instruction(0x28, 0, 0, 12),          //  0  half word: Ethernet type
    instruction(0x15, 8, 0, 0x0806),      //  1  ARP: keep
    instruction(0x15, 0, 8, 0x0800),      //  2  not IPv4: drop
    instruction(0x30, 0, 0, 23),          //  3  byte: protocol
    instruction(0x15, 0, 6, 17),          //  4  not UDP: drop
    instruction(0x28, 0, 0, 20),          //  5  half word: fragment
    instruction(0x45, 4, 0, 0x1fff),      //  6  not the first: drop
    instruction(0xb1, 0, 0, 14),          //  7  x = length of the IPv4 header
    instruction(0x48, 0, 0, 16),          //  8  half word at x: destination port
    instruction(0x15, 0, 1, 68),          //  9  not DHCP's: drop
    instruction(0x06, 0, 0, 0x0004_0000), // 10  keep
    instruction(0x06, 0, 0, 0),           // 11  drop
];

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// A packet socket on one link.
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens it on the link with this index.
    pub fn open(link: u32) -> io::Result<Self> {
        // Protocol 0: nothing comes in before the filter is in place.
        // SAFETY: the call takes no pointers; what it returns is a new descriptor of ours.
        let socket = unsafe {
            let fd = check(libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            ))?;
            OwnedFd::from_raw_fd(fd)
        };
        let mut filter = FILTER;
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        let mut address: libc::sockaddr_ll = {
            // SAFETY: plain data, for which zero is a value.
            unsafe { std::mem::zeroed() }
        };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = link as i32;
        // SAFETY: `program` points to as many instructions as it says, `address` is as long as stated; both outlive the calls.
        unsafe {
            check(libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            ))?;
            check(libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            ))?;
        }
        Ok(Self { socket })
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// False for IPv4 from nobody (RFC 791, section 3.1: the source address). smoltcp would take an offer from there, and panic when it asks
/// that server to renew its lease (0.14, `dispatch_ip`): whoever is on the same link could end PID 1.
pub(super) fn has_sender(frame: &[u8]) -> bool {
    frame.get(12..14) != Some(&[8, 0]) || frame.get(26..30).is_some_and(|source| source != [0; 4])
}

/// A received frame.
pub struct Received(Vec<u8>);

/// Leave to send a frame.
pub struct Sending<'a>(&'a OwnedFd);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; FRAME_MAX];
        loop {
            match recv(&self.socket, &mut frame[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) if !has_sender(&frame[..length]) => {}
                Ok((length, _)) => {
                    frame.truncate(length);
                    return Some((Received(frame), Sending(&self.socket)));
                }
                // The link went down: told once, and link events tell it too.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        // A server on the same physical machine may leave the checksum to hardware that is never reached.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // A frame that is lost here is lost like any other: smoltcp asks again.
        let _ = send(self.0, &frame, SendFlags::DONTWAIT);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_nobody_is_not_received() {
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        assert!(!has_sender(&frame));
        assert!(!has_sender(&frame[..28]));
        frame[29] = 2;
        assert!(has_sender(&frame));
        let arp = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
        assert!(has_sender(&arp));
    }
}
