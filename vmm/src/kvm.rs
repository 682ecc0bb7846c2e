//! What KVM is asked for before the guest runs: a virtual machine with its memory and interrupt controllers, and its processors.
//!
//! Intel's and AMD's processors are told the same. What only one of them needs, the other takes without effect.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::boot;
use crate::failure::Failure;
use crate::memory::{GuestMemory, PAGE};
use crate::vcpu::{cpuid, registers};

/// Four pages below the BIOS's place at the end of 4 GiB, of which KVM makes use on Intel's processors where these can't run a guest
/// in real mode by themselves: a page table that maps each address to itself, and three pages of task state
/// (Documentation/virt/kvm/api.rst, 4.41 and 4.6). There must be neither memory nor a device.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TASK_STATE: u64 = IDENTITY_MAP + PAGE;

/// Makes the virtual machine around `memory`, which must stay as long as it does.
pub fn virtual_machine(kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, Failure> {
    let vm = kvm
        .create_vm()
        .map_err(Failure::kvm("making a virtual machine"))?;
    for (slot, region) in memory.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped, belongs to nothing else, and stays mapped as long as the machine.
        unsafe { vm.set_user_memory_region(region) }.map_err(Failure::kvm("adding memory"))?;
    }
    // Both before the first processor is made: later KVM has its own idea of where they are.
    vm.set_identity_map_address(IDENTITY_MAP)
        .map_err(Failure::kvm("placing the identity map"))?;
    // Fits: the monitor runs on 64 bits.
    vm.set_tss_address(TASK_STATE as usize)
        .map_err(Failure::kvm("placing the task state"))?;
    vm.create_irq_chip()
        .map_err(Failure::kvm("making interrupt controllers"))?;
    Ok(vm)
}

/// Makes `count` processors, of which the first begins at `entry` and starts the others.
///
/// Their local APICs are as KVM makes them, which is as the MultiProcessor table has it: external interrupts come to the first
/// one's LINT0. Their time stamp counters run as fast as the host's.
pub fn processors(
    kvm: &Kvm,
    vm: &VmFd,
    count: u8,
    entry: boot::Entry,
) -> Result<Vec<VcpuFd>, Failure> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Failure::kvm("asking for CPUID"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::with_capacity(count.into());
    for index in 0..count {
        let vcpu = vm
            .create_vcpu(index.into())
            .map_err(Failure::kvm("making a virtual CPU"))?;
        let cpuid = cpuid::for_vcpu(&supported, index, count, tsc_deadline);
        vcpu.set_cpuid2(&cpuid)
            .map_err(Failure::kvm("setting CPUID"))?;
        registers::set_model_specific(&vcpu).map_err(Failure::kvm("setting registers"))?;
        if index == 0 {
            registers::set_entry(&vcpu, entry).map_err(Failure::kvm("setting registers"))?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus;
    use crate::memory;
    use crate::virtio::mmio::REGISTERS_SIZE;

    /// Two processors; none where there is no KVM to make them.
    fn machine() -> Option<(GuestMemory, VmFd, Vec<VcpuFd>)> {
        let Ok(kvm) = Kvm::new() else {
            eprintln!("skipped: /dev/kvm can't be opened");
            return None;
        };
        let memory = memory::create(16).unwrap();
        let vm = virtual_machine(&kvm, &memory).unwrap();
        let entry = boot::Entry {
            instruction: 0x10_0000,
            parameters: 0x7000,
        };
        let vcpus = processors(&kvm, &vm, 2, entry).unwrap();
        Some((memory, vm, vcpus))
    }

    #[test]
    fn what_intels_processors_need_lies_where_nothing_else_does() {
        let ours = IDENTITY_MAP..TASK_STATE + 3 * PAGE;
        let clear_of =
            |start: u64, size: u64| assert!(ours.end <= start || start + size <= ours.start);
        for mib in [16, 3 << 10, (3 << 10) + 1, 5 << 10, 4 << 20] {
            for region in memory::create(mib).unwrap().iter() {
                clear_of(region.start_addr().0, region.len());
            }
        }
        // As many devices as a PC has lines, and more than the command line has room for.
        clear_of(bus::FIRST_DEVICE, 256 * REGISTERS_SIZE);
        // I/O APIC, local APIC.
        clear_of(0xfec0_0000, PAGE);
        clear_of(0xfee0_0000, PAGE);
        assert!(ours.end <= 1 << 32);
    }

    #[test]
    fn addresses_for_intel_are_fixed_once_there_is_a_processor() {
        let Some((_memory, vm, _vcpus)) = machine() else {
            return;
        };
        // That is why the order matters.
        assert!(vm.set_identity_map_address(IDENTITY_MAP).is_err());
    }

    #[test]
    fn external_interrupts_come_to_the_first_processor_only() {
        const LVT_LINT0: usize = 0x350;
        const EXTERNAL: u8 = 7;
        const MASKED: u8 = 1;
        let Some((_memory, _vm, vcpus)) = machine() else {
            return;
        };
        for (index, vcpu) in vcpus.iter().enumerate() {
            let registers = vcpu.get_lapic().unwrap().regs;
            let byte = |at: usize| registers[LVT_LINT0 + at] as u8;
            // Delivery mode in bits 8 to 10, mask in bit 16 (Intel's manual, volume 3, figure "Local Vector Table").
            let takes = byte(1) & 7 == EXTERNAL && byte(2) & MASKED == 0;
            assert_eq!(takes, index == 0);
        }
    }

    #[test]
    fn all_processors_count_time_alike() {
        let Some((_memory, _vm, vcpus)) = machine() else {
            return;
        };
        let rates: Vec<u32> = vcpus
            .iter()
            .map(|vcpu| vcpu.get_tsc_khz().unwrap())
            .collect();
        assert!(rates[0] > 0);
        assert_eq!(rates[0], rates[1]);
    }

    #[test]
    fn every_processor_has_the_registers_that_it_starts_with() {
        let Some((_memory, _vm, vcpus)) = machine() else {
            return;
        };
        for vcpu in &vcpus {
            let mut msrs = registers::start();
            let wanted = msrs.clone();
            msrs.as_mut_slice().iter_mut().for_each(|msr| msr.data = 0);
            let got = vcpu.get_msrs(&mut msrs).unwrap();
            for (got, wanted) in msrs.as_slice()[..got].iter().zip(wanted.as_slice()) {
                assert_eq!((got.index, got.data), (wanted.index, wanted.data));
            }
        }
        let regs = vcpus[0].get_regs().unwrap();
        assert_eq!((regs.rip, regs.rsi), (0x10_0000, 0x7000));
    }
}
