//! Which device answers at which address.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::virtio::mmio::{REGISTERS_SIZE, Transport};

/// Registers of the first device; the others follow. In the gap below 4 GiB, clear of both APICs.
pub const FIRST_DEVICE: u64 = 0xd000_0000;

/// The keyboard controller, of which there is only its command port.
const KEYBOARD_COMMAND: u16 = 0x64;
/// Pulse the reset line.
const KEYBOARD_RESET: u8 = 0xfe;
/// The first serial port.
const SERIAL: std::ops::Range<u16> = 0x3f8..0x400;

/// Interrupt line of the first serial port.
pub const SERIAL_LINE: u32 = 4;

/// A serial port that only prints.
pub struct Console {
    port: Mutex<Serial<Line, vm_superio::serial::NoEvents, File>>,
}

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl Console {
    /// A port that prints to `to`.
    pub fn new(to: File) -> io::Result<Self> {
        let line = Line(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Self {
            port: Mutex::new(Serial::new(line, to)),
        })
    }

    /// Hands its interrupt to `with`.
    pub fn with_interrupt<T>(&self, with: impl FnOnce(&EventFd) -> T) -> T {
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        with(&port.interrupt_evt().0)
    }
}

/// All devices of a microVM by address. Called by virtual CPUs, several at a time.
pub struct Bus {
    devices: Vec<Arc<Transport>>,
    console: Option<Console>,
}

impl Bus {
    /// `devices` in the order of their addresses.
    pub fn new(devices: Vec<Arc<Transport>>, console: Option<Console>) -> Self {
        Self { devices, console }
    }

    fn device(&self, address: u64) -> Option<(&Transport, u64)> {
        let offset = address.checked_sub(FIRST_DEVICE)?;
        let device = self
            .devices
            .get(usize::try_from(offset / REGISTERS_SIZE).ok()?)?;
        Some((device, offset % REGISTERS_SIZE))
    }

    /// The guest reads memory that is none. Where nothing is, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes memory that is none.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }

    /// The guest reads an I/O port. Where nothing is, all bits are set.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [byte] = data else { return };
        if port == KEYBOARD_COMMAND {
            // Ready for a command.
            *byte = 0;
        } else if let (Some(console), true) = (&self.console, SERIAL.contains(&port)) {
            let mut serial = console.port.lock().unwrap_or_else(PoisonError::into_inner);
            *byte = serial.read((port - SERIAL.start) as u8);
        }
    }

    /// The guest writes an I/O port. True: it has reset itself.
    pub fn write_port(&self, port: u16, data: &[u8]) -> bool {
        if port == KEYBOARD_COMMAND {
            return data == [KEYBOARD_RESET];
        }
        if let (Some(console), true, [byte]) = (&self.console, SERIAL.contains(&port), data) {
            let mut serial = console.port.lock().unwrap_or_else(PoisonError::into_inner);
            // Output that nobody takes is lost.
            let _ = serial.write((port - SERIAL.start) as u8, *byte);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::io::Read;
    use std::io::Seek;

    fn bus() -> (Bus, File) {
        let memory = crate::memory::create(1).unwrap();
        let device = Transport::new(Box::new(Rng), memory).unwrap();
        let output = tempfile::tempfile().unwrap();
        let console = Console::new(output.try_clone().unwrap()).unwrap();
        (Bus::new(vec![Arc::new(device)], Some(console)), output)
    }

    #[test]
    fn a_device_answers_at_its_address_and_nothing_elsewhere() {
        let (bus, _) = bus();
        let read = |address| {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!(read(FIRST_DEVICE), 0x7472_6976);
        assert_eq!(read(FIRST_DEVICE + 8), 4);
        assert_eq!(read(FIRST_DEVICE + REGISTERS_SIZE), u32::MAX);
        assert_eq!(read(0), u32::MAX);
    }

    #[test]
    fn a_reset_is_noticed_and_output_printed() {
        let (bus, mut output) = bus();
        assert!(!bus.write_port(0x80, &[0xfe]));
        assert!(!bus.write_port(KEYBOARD_COMMAND, &[0xd1]));
        assert!(bus.write_port(KEYBOARD_COMMAND, &[KEYBOARD_RESET]));
        for byte in b"hi" {
            assert!(!bus.write_port(SERIAL.start, &[*byte]));
        }
        let mut printed = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "hi");
    }

    proptest! {
        #[test]
        fn any_access_is_answered(
            accesses in proptest::collection::vec((0..0x1100u64, any::<u32>(), 1..9usize, any::<bool>()), 0..200),
            port: u16,
        ) {
            let (bus, _) = bus();
            for (offset, value, length, write) in accesses {
                let mut data = [value.to_le_bytes(), [0; 4]].concat();
                if write {
                    bus.write(FIRST_DEVICE + offset, &data[..length]);
                } else {
                    bus.read(FIRST_DEVICE + offset, &mut data[..length]);
                }
                bus.read_port(port, &mut data[..length]);
            }
        }
    }
}
