//! The zero page, the initramfs that it points to, and what the CPU needs before it has tables of its own.

use std::fs::File;

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{
    COMMAND_LINE, DESCRIPTOR_TABLE, Error, HIGH_MEMORY_START, LOW_MEMORY_END, PAGE_TABLES,
    PARAMETERS,
};
use crate::memory::{self, GuestMemory, HIGH_START, LOW_END, PAGE};

/// `boot_flag` and `header` ("HdrS") make a zero page recognisable.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = 0x5372_6448;
/// "Undefined loader".
const LOADER: u8 = 0xff;
/// Alignment that the kernel was linked for (`CONFIG_PHYSICAL_ALIGN`).
const KERNEL_ALIGNMENT: u32 = 0x20_0000;
const E820_RAM: u32 = 1;

/// Code and data segments at the selectors 0x10 and 0x18 that the boot protocol names, flat, then a task state.
pub(crate) const DESCRIPTORS: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];

/// Present and writable; the same in a 2 MiB page.
const PRESENT: u64 = 0x3;
const LARGE: u64 = 0x83;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;

/// An initramfs in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initramfs {
    address: u32,
    length: u32,
}

/// Puts the initramfs at the end of low memory, clear of the kernel that ends at `kernel_end`.
pub(super) fn place_initramfs(
    memory: &GuestMemory,
    file: &File,
    kernel_end: u64,
) -> Result<Initramfs, memory::Error> {
    const WHAT: &str = "initramfs";
    let length = file
        .metadata()
        .map_err(|source| memory::Error::File { what: WHAT, source })?
        .len();
    let low_end = memory.last_addr().0.saturating_add(1).min(LOW_END);
    let address = low_end
        .checked_sub(length)
        .map(|start| start - start % PAGE);
    let Some(address) = address.filter(|start| *start >= kernel_end) else {
        return Err(memory::Error::TooSmall {
            what: WHAT,
            mib: low_end >> 20,
        });
    };
    memory::place_file(memory, WHAT, file, 0, GuestAddress(address), length)?;
    // Both lie below `LOW_END`, which fits.
    Ok(Initramfs {
        address: address as u32,
        length: length as u32,
    })
}

/// Writes everything else that the boot protocol wants.
pub(super) fn write(
    memory: &GuestMemory,
    command_line: &str,
    initramfs: &Initramfs,
) -> Result<(), Error> {
    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    memory.write_slice(&line, COMMAND_LINE)?;

    let mut parameters = boot_params::zeroed();
    parameters.hdr.boot_flag = BOOT_FLAG;
    parameters.hdr.header = HEADER;
    parameters.hdr.type_of_loader = LOADER;
    parameters.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE.0 as u32;
    parameters.hdr.cmdline_size = line.len() as u32;
    parameters.hdr.ramdisk_image = initramfs.address;
    parameters.hdr.ramdisk_size = initramfs.length;
    let regions = memory
        .iter()
        .map(|region| (region.start_addr().0, region.len()));
    let ram =
        std::iter::once((0, LOW_MEMORY_END)).chain(regions.map(|(start, size)| match start {
            HIGH_START.. => (start, size),
            _ => (HIGH_MEMORY_START, size.saturating_sub(HIGH_MEMORY_START)),
        }));
    for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(ram) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: E820_RAM,
        };
        parameters.e820_entries += 1;
    }
    memory.write_obj(parameters, PARAMETERS)?;

    for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
        memory.write_obj(
            *descriptor,
            GuestAddress(DESCRIPTOR_TABLE.0 + 8 * index as u64),
        )?;
    }
    let (directory, pages) = (PAGE_TABLES.0 + PAGE, PAGE_TABLES.0 + 2 * PAGE);
    memory.write_obj(directory | PRESENT, PAGE_TABLES)?;
    memory.write_obj(pages | PRESENT, GuestAddress(directory))?;
    let entries: Vec<u8> = (0..ENTRIES)
        .flat_map(|index| ((index * LARGE_PAGE) | LARGE).to_le_bytes())
        .collect();
    memory.write_slice(&entries, GuestAddress(pages))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_kernel_finds_command_line_initramfs_and_all_memory() {
        let memory = memory::create(4000).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"070701", 0).unwrap();
        file.set_len(5000).unwrap();
        let initramfs = place_initramfs(&memory, &file, HIGH_MEMORY_START).unwrap();
        write(&memory, "quiet", &initramfs).unwrap();
        let parameters: boot_params = memory.read_obj(PARAMETERS).unwrap();
        let (at, length) = (parameters.hdr.ramdisk_image, parameters.hdr.ramdisk_size);
        assert_eq!(length, 5000);
        let mut start = [0; 6];
        memory
            .read_slice(&mut start, GuestAddress(at.into()))
            .unwrap();
        assert_eq!(&start, b"070701");
        let mut line = [1; 6];
        memory
            .read_slice(&mut line, GuestAddress(parameters.hdr.cmd_line_ptr.into()))
            .unwrap();
        assert_eq!(&line, b"quiet\0");
        let table = parameters.e820_table;
        let ram: u64 = table[..parameters.e820_entries.into()]
            .iter()
            .map(|entry| entry.size)
            .sum();
        assert_eq!(ram, (4000 << 20) - (HIGH_MEMORY_START - LOW_MEMORY_END));
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_is_refused() {
        let memory = memory::create(8).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        assert!(place_initramfs(&memory, &file, 4 << 20).is_ok());
        assert!(place_initramfs(&memory, &file, (4 << 20) + 1).is_err());
    }
}
