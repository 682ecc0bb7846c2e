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

const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// Enabled, all memory write-back: what firmware would have set.
const WRITE_BACK: u64 = 1 << 11 | 6;
/// Model-specific registers of Intel's (their manual, volume 4, table 2-2).
const MISC_ENABLE: u32 = 0x1a0;
/// Without it Linux thinks that string instructions are slow.
const FAST_STRINGS: u64 = 1;
/// Neither branch trace store nor precise event sampling, as CPUID says: guests get no performance counters.
const NO_BRANCH_TRACE: u64 = 1 << 11;
const NO_EVENT_SAMPLING: u64 = 1 << 12;

/// What every virtual CPU starts with. Intel's own comes last: KVM stops at the first that a CPU lacks.
pub(crate) fn start() -> Msrs {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MTRR_DEFAULT_TYPE, WRITE_BACK),
        entry(
            MISC_ENABLE,
            FAST_STRINGS | NO_BRANCH_TRACE | NO_EVENT_SAMPLING,
        ),
    ];
    Msrs::from_entries(&entries).expect("two entries fit")
}

/// Sets what every virtual CPU starts with.
pub fn set_model_specific(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    // How many were set is of no interest: a CPU that lacks one does without.
    vcpu.set_msrs(&start()).map(|_| ())
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
    enter_long_mode(&mut sregs);
    vcpu.set_sregs(&sregs)
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    segments(sregs);
    sregs.cr3 = PAGE_TABLES.0;
    sregs.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 |= PROTECTED_AND_PAGED;
    sregs.efer |= LONG_MODE;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Intel's processors check all of this before they enter a guest, AMD's hardly any (Intel's manual, volume 3, "Checks on Guest
    /// Segment Registers" and "Checks on Guest Control Registers").
    #[test]
    fn the_first_state_is_one_that_intels_processors_enter() {
        let mut sregs = kvm_sregs::default();
        enter_long_mode(&mut sregs);
        let limit = |segment: &kvm_segment| {
            let (low, high) = (segment.limit & 0xfff, segment.limit >> 20);
            assert!(low == 0xfff || segment.g == 0);
            assert!(high == 0 || segment.g == 1);
        };
        let data = [sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs];
        for segment in &data {
            assert_eq!((segment.s, segment.present, segment.unusable), (1, 1, 0));
            assert!([3, 7].contains(&segment.type_));
            assert_eq!(segment.dpl, (segment.selector & 3) as u8);
            limit(segment);
        }
        let cs = sregs.cs;
        assert_eq!((cs.s, cs.present, cs.dpl), (1, 1, sregs.ss.dpl));
        assert!([9, 11].contains(&cs.type_));
        // 64-bit code is not 32-bit code as well.
        assert_eq!((cs.l, cs.db), (1, 0));
        limit(&cs);
        let tr = sregs.tr;
        // A busy 64-bit task state in the global table.
        assert_eq!((tr.type_, tr.s, tr.present, tr.unusable), (11, 0, 1, 0));
        assert_eq!(tr.selector & 4, 0);
        limit(&tr);
        assert!(tr.limit >= 0x67);
        // Paging in long mode takes protection, physical address extension, and both bits of long mode.
        assert_eq!(sregs.cr0 & PROTECTED_AND_PAGED, PROTECTED_AND_PAGED);
        assert_ne!(sregs.cr4 & PHYSICAL_ADDRESS_EXTENSION, 0);
        assert_eq!(sregs.efer, LONG_MODE);
    }
}
