//! What a virtual CPU says it is: the host's CPU as far as KVM can virtualise it, with a topology of its own.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 0, EBX: the first four letters of "GenuineIntel".
const INTEL: u32 = u32::from_le_bytes(*b"Genu");

// Leaf 1.
const HYPERVISOR: u32 = 1 << 31;
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const DEBUG_STORE_64: u32 = 1 << 2;
const HYPER_THREADING: u32 = 1 << 28;
const DEBUG_STORE: u32 = 1 << 21;

// Leaf 7. Intel's processor trace and last branch records are performance counters of another kind; enclaves need memory that there is
// not for them.
const PROCESSOR_TRACE: u32 = 1 << 25;
const ENCLAVES: u32 = 1 << 2;
const ENCLAVE_LAUNCH: u32 = 1 << 30;
const LAST_BRANCH_RECORDS: u32 = 1 << 19;

// Leaf 0x8000_0001, ECX: IBS and the three sets of performance counters of AMD.
const AMD_COUNTERS: u32 = 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;
const AMD_LEGACY_MULTICORE: u32 = 1 << 1;
const SVM: u32 = 1 << 2;

/// Leaf 0x4000_0001: asynchronous page faults, in all three forms. They pay where a guest's memory is swapped out, cost exits at
/// start, and a page of guest memory per CPU.
const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// Cache levels that belong to a single CPU in leaves 4 and 0x8000_001d.
const PRIVATE_LEVELS: u32 = 2;

// Kinds of level in leaf 0xb.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// CPUID of the virtual CPU `index` of `count`, from what KVM supports. Guests get no performance counters: probing for them is a
/// good part of a kernel's start, and they tell about neighbours. Nor do they get virtualisation: guests of guests are a large
/// part of what can go wrong in KVM.
pub fn for_vcpu(supported: &CpuId, index: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let (id, count) = (u32::from(index), u32::from(count));
    let bits = count.next_power_of_two().trailing_zeros();
    let mut basic = supported.as_slice().iter();
    let intel = basic.any(|entry| entry.function == 0 && entry.ebx == INTEL);
    let mut entries: Vec<kvm_cpuid_entry2> = Vec::with_capacity(supported.as_slice().len() + 3);
    for entry in supported.as_slice() {
        let mut entry = *entry;
        match entry.function {
            0 => entry.eax = entry.eax.max(0xb),
            1 => {
                entry.ebx = entry.ebx & 0xffff | count.next_power_of_two() << 16 | id << 24;
                entry.ecx |= HYPERVISOR;
                entry.ecx &= !(PERFORMANCE_CAPABILITIES | DEBUG_STORE_64 | TSC_DEADLINE | VMX);
                entry.edx &= !(DEBUG_STORE | HYPER_THREADING);
                if tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                if count > 1 {
                    entry.edx |= HYPER_THREADING;
                }
            }
            4 if entry.eax & 0x1f != 0 => {
                let sharing = sharing(entry.eax, count);
                entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | ((1 << bits) - 1) << 26;
            }
            7 if entry.index == 0 => {
                entry.ebx &= !(PROCESSOR_TRACE | ENCLAVES);
                entry.ecx &= !ENCLAVE_LAUNCH;
                entry.edx &= !LAST_BRANCH_RECORDS;
            }
            // Counters, enclaves, trace, branch records; AMD's counters.
            0xa | 0x12 | 0x14 | 0x1c | 0x8000_0022 => {
                entry = kvm_cpuid_entry2 {
                    function: entry.function,
                    index: entry.index,
                    flags: entry.flags,
                    ..Default::default()
                };
            }
            // Replaced below. Where 0x1f is empty, 0xb counts (Intel's manual, volume 2, CPUID).
            0xb | 0x1f => continue,
            0x4000_0001 => entry.eax &= !ASYNC_PAGE_FAULTS,
            0x8000_0001 => {
                entry.ecx &= !(AMD_COUNTERS | SVM);
                if count == 1 {
                    entry.ecx &= !AMD_LEGACY_MULTICORE;
                }
            }
            // Reserved on Intel's.
            0x8000_0008 if !intel => entry.ecx = entry.ecx & !0xffff | (count - 1) | bits << 12,
            0x8000_001d if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x3fff | (sharing(entry.eax, count) - 1) << 14;
            }
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
        entries.push(entry);
    }
    let level = |index: u32, shift: u32, below: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: below,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    entries.push(level(0, 0, 1, LEVEL_THREAD));
    entries.push(level(1, bits, count, LEVEL_CORE));
    entries.push(level(2, 0, 0, 0));
    // More than KVM takes can only be if KVM supports more than it takes.
    entries.truncate(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    CpuId::from_entries(&entries).expect("truncated to what fits")
}

/// How many CPUs share the cache that a leaf describes.
fn sharing(eax: u32, count: u32) -> u32 {
    if eax >> 5 & 7 <= PRIVATE_LEVELS {
        1
    } else {
        count.next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0x7, 0, 0, 0),
            leaf(1, 0, 0xff01_0800, u32::MAX, u32::MAX),
            leaf(4, 0x21, 0, 0, 0),
            leaf(4, 0x63, 0, 0, 0),
            leaf(0xa, 5, 5, 5, 5),
            leaf(0xb, 9, 9, 9, 9),
            leaf(0x8000_0001, 0, 0, u32::MAX, u32::MAX),
        ])
        .unwrap()
    }

    fn find(cpuid: &CpuId, function: u32, nth: usize) -> kvm_cpuid_entry2 {
        let mut all = cpuid
            .as_slice()
            .iter()
            .filter(|entry| entry.function == function);
        *all.nth(nth).unwrap()
    }

    #[test]
    fn every_cpu_has_an_id_of_its_own_and_knows_how_many_there_are() {
        for index in 0..6 {
            let cpuid = for_vcpu(&supported(), index, 6, true);
            assert_eq!(
                find(&cpuid, 1, 0).ebx,
                u32::from(index) << 24 | 8 << 16 | 0x0800
            );
            assert_eq!(find(&cpuid, 0xb, 0).edx, u32::from(index));
            let core = find(&cpuid, 0xb, 1);
            assert_eq!((core.eax, core.ebx, core.ecx), (3, 6, 0x201));
            assert_eq!(find(&cpuid, 4, 0).eax >> 14 & 0xfff, 0);
            assert_eq!(find(&cpuid, 4, 1).eax >> 14 & 0xfff, 7);
        }
    }

    /// What KVM supports on a processor of Intel's with two threads a core: it hands on the host's own caches and topology.
    fn intel() -> CpuId {
        let leaf = |function, index, registers: [u32; 4]| kvm_cpuid_entry2 {
            function,
            index,
            eax: registers[0],
            ebx: registers[1],
            ecx: registers[2],
            edx: registers[3],
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            leaf(1, 0, [0x0003_06c3, 0x0310_0800, u32::MAX, u32::MAX]),
            // First level data and instructions, second level: shared by the two threads; third: by all sixteen.
            leaf(4, 0, [0x1c00_4121, 0x01c0_003f, 63, 0]),
            leaf(4, 1, [0x1c00_4122, 0x01c0_003f, 63, 0]),
            leaf(4, 2, [0x1c00_4143, 0x01c0_003f, 511, 0]),
            leaf(4, 3, [0x1c03_c163, 0x03c0_003f, 8191, 6]),
            leaf(4, 4, [0; 4]),
            leaf(7, 0, [0, u32::MAX, u32::MAX, u32::MAX]),
            leaf(0xa, 0, [0x0730_0403, 0, 0, 0x603]),
            leaf(0xb, 0, [1, 2, 0x100, 9]),
            leaf(0xb, 1, [4, 16, 0x201, 9]),
            leaf(0x12, 0, [1, 0, 0, 0x2f1f]),
            leaf(0x14, 0, [1, 0xf, 7, 0]),
            leaf(0x1c, 0, [0x4000_00ff, 7, 7, 0]),
            leaf(0x1f, 0, [1, 2, 0x100, 9]),
            leaf(0x8000_0008, 0, [0x3027, 0, 0, 0]),
        ])
        .unwrap()
    }

    #[test]
    fn no_two_cpus_of_a_guest_say_that_they_are_threads_of_one_core() {
        for count in [1, 2, 3, 4, 8] {
            for index in 0..count {
                let cpuid = for_vcpu(&intel(), index, count, true);
                let together = u32::from(count.next_power_of_two());
                // Intel's rule: threads a core are those that share the first level, of as many as the package has ids for.
                for level in 0..4 {
                    let cache = find(&cpuid, 4, level);
                    let sharing = (cache.eax >> 14 & 0xfff) + 1;
                    assert_eq!(sharing, if level == 3 { together } else { 1 });
                    assert_eq!((cache.eax >> 26) + 1, together);
                }
                assert_eq!(find(&cpuid, 4, 4).eax, 0);
                assert_eq!(find(&cpuid, 1, 0).ebx >> 16 & 0xff, together);
                let threads = find(&cpuid, 0xb, 0);
                assert_eq!((threads.eax, threads.ebx), (0, 1));
                assert_eq!(find(&cpuid, 0xb, 1).ebx, u32::from(count));
                assert!(cpuid.as_slice().iter().all(|leaf| leaf.function != 0x1f));
                assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx, 0);
            }
        }
    }

    #[test]
    fn what_the_host_has_learnt_of_its_processors_weaknesses_is_handed_on() {
        // Leaf 7, EDX: MD_CLEAR, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
        let weaknesses = 1 << 10 | 0b11_1111 << 26 & !(1 << 30);
        let leaf = find(&for_vcpu(&intel(), 0, 2, true), 7, 0);
        assert_eq!(leaf.edx & weaknesses, weaknesses);
    }

    #[test]
    fn there_are_no_counters_traces_or_enclaves_of_intels() {
        let cpuid = for_vcpu(&intel(), 0, 2, true);
        for function in [0xa, 0x12, 0x14, 0x1c] {
            let leaf = find(&cpuid, function, 0);
            assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (0, 0, 0, 0));
        }
        let features = find(&cpuid, 7, 0);
        assert_eq!(features.ebx & (PROCESSOR_TRACE | ENCLAVES), 0);
        assert_eq!(features.ecx & ENCLAVE_LAUNCH, 0);
        assert_eq!(features.edx & LAST_BRANCH_RECORDS, 0);
        let basic = find(&cpuid, 1, 0);
        assert_eq!(basic.ecx & (DEBUG_STORE_64 | VMX), 0);
        assert_eq!(basic.edx & DEBUG_STORE, 0);
    }

    #[test]
    fn there_are_no_performance_counters_and_no_guests_of_guests() {
        let cpuid = for_vcpu(&supported(), 0, 1, false);
        assert_eq!(find(&cpuid, 0xa, 0).eax, 0);
        assert_eq!(
            find(&cpuid, 1, 0).ecx & (PERFORMANCE_CAPABILITIES | TSC_DEADLINE),
            0
        );
        assert_eq!(find(&cpuid, 1, 0).edx & HYPER_THREADING, 0);
        assert_eq!(find(&cpuid, 1, 0).ecx & VMX, 0);
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx & (AMD_COUNTERS | SVM), 0);
    }
}
