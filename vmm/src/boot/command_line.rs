//! The kernel's command line.

use std::fmt::Write;

/// Linux's `COMMAND_LINE_SIZE` on x86, the final zero included.
const LONGEST: usize = 2048;

/// For every guest:
/// - `reboot=k`: by the keyboard controller's reset line, which is how a guest tells the monitor that it is done; `panic=-1`: a panic
///   ends it at once. `reboot(RB_AUTOBOOT)` is the way to end a microVM: there is nothing to power off.
/// - `i8042.*`: no probing for hardware that is never there. (Words without a dot that the kernel does not know go to init as its
///   environment, so there is no `pci=off` for a kernel without PCI.)
/// - `no_timer_check`, `tsc=reliable`: no calibration against hardware that is not there either.
/// - `io_delay=none`: each delay would be an exit.
/// - `swiotlb=noforce`, `cryptomgr.notests`: memory and time for nothing.
/// - `dummy.numdummies=0`: no interface that nobody asked for.
const ALWAYS: &str = "reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd i8042.nopnp \
                      no_timer_check tsc=reliable io_delay=none swiotlb=noforce cryptomgr.notests \
                      dummy.numdummies=0";
/// Without a console: nothing is printed, and no UART looked for.
const SILENT: &str = "quiet 8250.nr_uarts=0";
/// With one.
const TALKATIVE: &str = "console=ttyS0 8250.nr_uarts=1";

/// The command line can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than the kernel reads.
    #[error(
        "a kernel command line of {0} bytes; shorten command_line or use fewer disks, the limit is 2047"
    )]
    TooLong(usize),
    /// A zero byte or a line break.
    #[error("command_line has a control character in it")]
    Control,
}

/// The place of a virtio device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePlace {
    /// Address of its registers.
    pub address: u64,
    /// Bytes of them.
    pub size: u64,
    /// Its interrupt line.
    pub line: u32,
}

/// Puts the command line together; `added` comes last, so that it overrides.
pub fn make(devices: &[DevicePlace], console: bool, added: &str) -> Result<String, Error> {
    if added.contains(|c: char| c.is_ascii_control()) {
        return Err(Error::Control);
    }
    let mut line = format!("{ALWAYS} {}", if console { TALKATIVE } else { SILENT });
    for DevicePlace {
        address,
        size,
        line: interrupt,
    } in devices
    {
        // Writing to a string does not fail.
        let _ = write!(line, " virtio_mmio.device={size}@{address:#x}:{interrupt}");
    }
    if !added.is_empty() {
        line.push(' ');
        line.push_str(added);
    }
    if line.len() >= LONGEST {
        Err(Error::TooLong(line.len()))
    } else {
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_additions_are_named_in_order() {
        let place = |line| DevicePlace {
            address: 0xd000_0000,
            size: 4096,
            line,
        };
        let line = make(&[place(5), place(6)], false, "a=b").unwrap();
        assert!(line.ends_with(
            "virtio_mmio.device=4096@0xd0000000:5 virtio_mmio.device=4096@0xd0000000:6 a=b"
        ));
        assert_eq!(
            make(&[], true, &"x".repeat(3000)).unwrap_err(),
            Error::TooLong(3000 + make(&[], true, "").unwrap().len() + 1)
        );
        assert_eq!(make(&[], true, "a\0b").unwrap_err(), Error::Control);
    }
}
