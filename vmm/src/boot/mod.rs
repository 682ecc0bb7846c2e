//! What lies in guest memory when the first virtual CPU starts: the 64-bit boot protocol of Linux (Documentation/arch/x86/boot.rst).
//!
//! ```text
//! 0x500      descriptor table                0x7000   zero page (boot_params)
//! 0x9000     page tables, 1 GiB identity     0x20000  command line
//! 0x9fc00    MultiProcessor table            1 MiB –  kernel, as its ELF headers say
//! end of low memory, rounded down: initramfs
//! ```

use std::fs::File;

use vm_memory::{GuestAddress, GuestMemoryError};

use crate::memory::{self, GuestMemory};

pub mod command_line;
mod kernel;
mod parameters;
mod processors;

pub use kernel::Error as KernelError;

/// Conventional memory ends here; the MultiProcessor table is in its last KiB, where Linux looks for it.
const LOW_MEMORY_END: u64 = 0x9_fc00;
/// Everything from here on is free for kernel and initramfs.
const HIGH_MEMORY_START: u64 = 1 << 20;
const PARAMETERS: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// The four entries that the boot protocol asks for.
pub const DESCRIPTOR_TABLE: GuestAddress = GuestAddress(0x500);
/// Three levels of page tables, one page each.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);

/// Why the guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`KernelError`].
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs does not fit or can't be read.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The command line is too long.
    #[error(transparent)]
    CommandLine(#[from] command_line::Error),
    /// There is not even room for the tables.
    #[error("guest memory is too small to boot in: {0}; ask for more memory")]
    Tables(#[from] GuestMemoryError),
}

/// Where the first virtual CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its instruction pointer.
    pub instruction: u64,
    /// Its `rsi`: the zero page.
    pub parameters: u64,
}

/// Fills guest memory for `vcpus` virtual CPUs.
pub fn load(
    memory: &GuestMemory,
    kernel: &File,
    initramfs: &File,
    command_line: &str,
    vcpus: u8,
) -> Result<Entry, Error> {
    let kernel = kernel::load(memory, kernel)?;
    let initramfs = parameters::place_initramfs(memory, initramfs, kernel.end)?;
    parameters::write(memory, command_line, &initramfs)?;
    processors::write(memory, vcpus)?;
    Ok(Entry {
        instruction: kernel.entry,
        parameters: PARAMETERS.0,
    })
}
