//! Registers of a virtual CPU before its first instruction: 64-bit mode with paging on, as the boot protocol wants it.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::boot::{DESCRIPTOR_TABLE, Entry, PAGE_TABLES};

/// The bit that is always set.
const FLAGS: u64 = 2;
const PROTECTED_AND_PAGED: u64 = 1 | 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
/// Bytes of the descriptor table, less one.
const DESCRIPTOR_TABLE_LIMIT: u16 = 5 * 8 - 1;

const MISC_ENABLE: u32 = 0x1a0;
/// Without it Linux thinks that Intel's string instructions are slow.
const FAST_STRINGS: u64 = 1;
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// Enabled, all memory write-back: what firmware would have set.
const WRITE_BACK: u64 = 1 << 11 | 6;

/// What every virtual CPU starts with.
pub fn set_model_specific(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MISC_ENABLE, FAST_STRINGS),
        entry(MTRR_DEFAULT_TYPE, WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).expect("two entries fit");
    // A CPU that lacks one of them does without: KVM stops there and says how far it came.
    vcpu.set_msrs(&msrs).map(|_| ())
}

/// What the first virtual CPU starts with; the others wait for the guest to start them.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let regs = kvm_regs {
        rflags: FLAGS,
        rip: entry.instruction,
        rsi: entry.parameters,
        ..Default::default()
    };
    vcpu.set_regs(&regs)?;
    let mut sregs = vcpu.get_sregs()?;
    segments(&mut sregs);
    sregs.cr3 = PAGE_TABLES.0;
    sregs.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 |= PROTECTED_AND_PAGED;
    sregs.efer |= LONG_MODE;
    vcpu.set_sregs(&sregs)
}

fn segments(sregs: &mut kvm_sregs) {
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // Execute and read, accessed; read and write, accessed; busy 64-bit task state.
    sregs.cs = kvm_segment {
        selector: CODE,
        type_: 0xb,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: DATA,
        type_: 0x3,
        db: 1,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        selector: TASK,
        type_: 0xb,
        s: 0,
        g: 0,
        limit: 0xffff,
        ..flat
    };
    sregs.gdt.base = DESCRIPTOR_TABLE.0;
    sregs.gdt.limit = DESCRIPTOR_TABLE_LIMIT;
    sregs.idt.limit = 0;
}
