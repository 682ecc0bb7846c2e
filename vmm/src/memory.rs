//! Guest memory: where it lies, how it is mapped, and how parts of it go back to the host.
//!
//! ```text
//! 0            3 GiB           4 GiB
//! | RAM ...... | devices, APIC | RAM that did not fit below ...
//! ```
//!
//! The mapping is private, anonymous and not reserved: a page exists once the guest has touched it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::mm::Advice;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    VolatileSlice,
};

/// What devices see of guest memory.
pub type GuestMemory = GuestMemoryMmap<()>;

/// RAM below 4 GiB ends here; above are devices, I/O APIC, local APIC.
pub const LOW_END: u64 = 3 << 30;
/// RAM that did not fit below [`LOW_END`] goes on here.
pub const HIGH_START: u64 = 4 << 30;
/// Size of an ordinary page, bytes.
pub const PAGE: u64 = 4096;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address space could not be reserved.
    #[error("guest memory of {mib} MiB could not be mapped: {reason}; ask for less memory")]
    Map {
        /// Asked for.
        mib: u32,
        /// The system's words.
        reason: String,
    },
    /// A file does not fit where it must go.
    #[error("{what} does not fit into {mib} MiB of guest memory; ask for more memory")]
    TooSmall {
        /// The file.
        what: &'static str,
        /// What there is.
        mib: u64,
    },
    /// A file could not be mapped or read into guest memory.
    #[error("{what} could not be read: {source}")]
    File {
        /// The file.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
}

/// Reserves `mib` MiB of guest memory.
pub fn create(mib: u32) -> Result<GuestMemory, Error> {
    let failed = |reason: &dyn std::fmt::Display| Error::Map {
        mib,
        reason: reason.to_string(),
    };
    let bytes = u64::from(mib) << 20;
    let low = bytes.min(LOW_END);
    let mut regions = Vec::with_capacity(2);
    for (start, size) in [(0, low), (HIGH_START, bytes - low)] {
        if size == 0 {
            continue;
        }
        let size = usize::try_from(size).map_err(|e| failed(&e))?;
        let mapping = MmapRegionBuilder::<()>::new(size)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(|e| failed(&e))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| failed(&"the address space ends before it"))?;
        regions.push(region);
    }
    GuestMemory::from_regions(regions).map_err(|e| failed(&e))
}

/// Copies `length` bytes of `file` from `offset` on to guest address `at`.
///
/// Copied rather than mapped: a kernel patches half of its own text while it starts, so that most mapped pages would be faulted in
/// twice and then be private all the same. Mapping instead took 8000 exits for a start where this takes 1600.
pub fn place_file(
    memory: &GuestMemory,
    what: &'static str,
    file: &File,
    offset: u64,
    at: GuestAddress,
    length: u64,
) -> Result<(), Error> {
    let failed = |source: io::Error| Error::File { what, source };
    let mib = || memory.iter().map(|region| region.len()).sum::<u64>() >> 20;
    let too_small = || Error::TooSmall { what, mib: mib() };
    let bytes = usize::try_from(length).map_err(|_| too_small())?;
    let to = memory.get_slice(at, bytes).map_err(|_| too_small())?;
    let start = to.ptr_guard_mut().as_ptr();
    let mut done = 0;
    while done < bytes {
        let from = offset
            .checked_add(done as u64)
            .and_then(|from| libc::off_t::try_from(from).ok())
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the system writes what is left of the slice at most. Nothing holds a reference into guest memory.
        let count = unsafe {
            let rest = start.wrapping_add(done);
            libc::pread(file.as_raw_fd(), rest.cast(), bytes - done, from)
        };
        match usize::try_from(count) {
            Ok(0) => {
                let cut_short = "the file is cut short";
                return Err(failed(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    cut_short,
                )));
            }
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(failed(error));
                }
            }
        }
    }
    Ok(())
}

/// Gives the pages that lie wholly inside a slice of guest memory back to the host; the guest reads zeros afterwards. Returns
/// how many bytes that were.
pub fn give_back(slice: &VolatileSlice<'_>) -> u64 {
    // Guest pages are host pages: regions begin on page boundaries on both sides.
    let start = slice.ptr_guard_mut().as_ptr();
    let before = start.align_offset(PAGE as usize);
    let Some(inside) = slice.len().checked_sub(before) else {
        return 0;
    };
    let length = inside - inside % PAGE as usize;
    if length == 0 {
        return 0;
    }
    let first = start.wrapping_add(before);
    // SAFETY: the range lies inside the slice, hence inside a mapping of guest memory. Nothing holds a reference into guest
    // memory: all access is volatile, and its contents may change at any time anyway.
    match unsafe { rustix::mm::madvise(first.cast(), length, Advice::LinuxDontNeed) } {
        Ok(()) => length as u64,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use vm_memory::Bytes;

    #[test]
    fn memory_beyond_the_gap_continues_above_it() {
        let memory = create(5000).unwrap();
        let high = (5000 << 20) - LOW_END;
        assert!(memory.address_in_range(GuestAddress(LOW_END - 1)));
        assert!(!memory.address_in_range(GuestAddress(LOW_END)));
        assert!(memory.address_in_range(GuestAddress(HIGH_START + high - 1)));
        assert!(!memory.address_in_range(GuestAddress(HIGH_START + high)));
    }

    #[test]
    fn a_placed_file_is_there_to_its_last_byte_and_not_beyond() {
        let memory = create(1).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        place_file(&memory, "file", &file, 0, GuestAddress(5), 0).unwrap();
        let content: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i % 251) as u8 + 1).collect();
        file.write_all(&content).unwrap();
        for (offset, at, length) in [
            (PAGE, PAGE, 2 * PAGE + 50),
            (7, 13, 2 * PAGE),
            (3 * PAGE, 3, 100),
            (1, 1, 5),
        ] {
            let at = GuestAddress(at);
            memory
                .write_slice(&[0; 4 * PAGE as usize], GuestAddress(0))
                .unwrap();
            place_file(&memory, "file", &file, offset, at, length).unwrap();
            let mut back = vec![0; length as usize + 1];
            memory.read_slice(&mut back, at).unwrap();
            assert_eq!(
                back[..length as usize],
                content[offset as usize..][..length as usize]
            );
            assert_eq!(back[length as usize], 0);
            assert_eq!(memory.read_obj::<u8>(GuestAddress(at.0 - 1)).unwrap(), 0);
        }
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let memory = create(1).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 << 20).unwrap();
        let placed = place_file(&memory, "file", &file, 0, GuestAddress(0), 2 << 20);
        assert!(matches!(placed, Err(Error::TooSmall { .. })));
        let placed = place_file(&memory, "file", &file, (2 << 20) - 5, GuestAddress(0), 6);
        assert!(matches!(placed, Err(Error::File { .. })));
    }

    proptest! {
        #[test]
        fn giving_back_touches_whole_pages_inside_the_range_only(start in 0..(1usize << 20), length in 0..(1usize << 20)) {
            let memory = create(1).unwrap();
            let length = length.min((1 << 20) - start);
            memory.write_slice(&vec![1; 1 << 20], GuestAddress(0)).unwrap();
            let given = give_back(&memory.get_slice(GuestAddress(start as u64), length).unwrap());
            let mut now = vec![0; 1 << 20];
            memory.read_slice(&mut now, GuestAddress(0)).unwrap();
            prop_assert_eq!(now.iter().filter(|byte| **byte == 0).count() as u64, given);
            prop_assert!(now[..start].iter().chain(&now[start + length..]).all(|byte| *byte == 1));
            prop_assert!(given as usize + 2 * PAGE as usize > length);
        }
    }
}
