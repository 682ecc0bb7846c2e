//! The MultiProcessor table (Intel's MultiProcessor Specification 1.4, chapter 4): without ACPI, this is how Linux learns of further CPUs,
//! of the I/O APIC and of its interrupt lines.

use vm_memory::{Bytes, GuestAddress};

use super::{Error, LOW_MEMORY_END};
use crate::memory::GuestMemory;

/// Interrupt lines of KVM's I/O APIC.
const LINES: u8 = 24;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// An integrated APIC, as Linux expects of anything newer than a 486.
const APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const SPECIFICATION: u8 = 4;
const BUS: u8 = 0;
const EVERY_APIC: u8 = 0xff;
const HEADER_LENGTH: usize = 44;
const POINTER_LENGTH: usize = 16;

/// Writes the table for `vcpus` virtual CPUs, whose APIC ids count from zero.
pub(super) fn write(memory: &GuestMemory, vcpus: u8) -> Result<(), Error> {
    let table = table(vcpus);
    let address = LOW_MEMORY_END as u32 + POINTER_LENGTH as u32;
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(address.to_le_bytes());
    pointer.extend([1, SPECIFICATION, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer.extend(table);
    memory.write_slice(&pointer, GuestAddress(LOW_MEMORY_END))?;
    Ok(())
}

fn table(vcpus: u8) -> Vec<u8> {
    let io_apic = vcpus;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for id in 0..vcpus {
        // Enabled, and the first is the bootstrap processor. Signature and features come from CPUID anyway.
        let flags = if id == 0 { 3 } else { 1 };
        let mut entry = vec![0, id, APIC_VERSION, flags];
        entry.extend([0; 16]);
        entries.push(entry);
    }
    entries.push([&[1, BUS][..], b"ISA   "].concat());
    entries.push(
        [
            &[2, io_apic, IO_APIC_VERSION, 1][..],
            &IO_APIC.to_le_bytes(),
        ]
        .concat(),
    );
    // Ordinary interrupts, polarity and trigger as the bus has them: edges, active high.
    entries.extend((0..LINES).map(|line| vec![3, 0, 0, 0, BUS, line, io_apic, line]));
    // External interrupts at the bootstrap processor's first local line, NMI at everybody's second.
    entries.push(vec![4, 3, 0, 0, BUS, 0, 0, 0]);
    entries.push(vec![4, 1, 0, 0, BUS, 0, EVERY_APIC, 1]);

    let length: usize = HEADER_LENGTH + entries.iter().map(Vec::len).sum::<usize>();
    let mut table = b"PCMP".to_vec();
    table.extend((length as u16).to_le_bytes());
    table.extend([SPECIFICATION, 0]);
    table.extend(b"HEARTH  MICROVM     ");
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.into_iter().flatten());
    table[7] = checksum(&table);
    table
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up_and_fits_its_place_for_any_number_of_cpus() {
        for vcpus in 1..=32 {
            let table = table(vcpus);
            assert_eq!(
                table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
                0
            );
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            assert!(POINTER_LENGTH + table.len() <= 1024);
        }
    }
}
