//! The guest kernel: an uncompressed ELF file whose segments go where their physical addresses say.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::elf::{ELFMAG, Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
use vm_memory::{ByteValued, GuestAddress};

use super::HIGH_MEMORY_START;
use crate::memory::{self, GuestMemory, LOW_END};

/// `EI_CLASS` 64-bit and `EI_DATA` little-endian.
const CLASS_AND_DATA: [u8; 2] = [2, 1];
/// `EM_X86_64`.
const MACHINE: u16 = 62;
/// Linux has five; a file with more than this is no kernel of ours.
const MOST_SEGMENTS: u16 = 32;

/// Why a file does not work as guest kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("guest kernel could not be read: {0}")]
    Read(#[from] io::Error),
    /// Some other file.
    #[error("guest kernel is {0}; give an uncompressed 64-bit ELF vmlinux")]
    NotAKernel(&'static str),
    /// A segment does not fit.
    #[error(transparent)]
    Memory(#[from] memory::Error),
}

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    /// First instruction, physical.
    pub(super) entry: u64,
    /// First byte behind it, its uninitialised data included.
    pub(super) end: u64,
}

/// Puts the kernel in `file` into guest memory.
pub(super) fn load(memory: &GuestMemory, file: &File) -> Result<Kernel, Error> {
    let header: Elf64_Ehdr = read(file, 0)?;
    if header.e_ident[..4] != ELFMAG[..4] {
        return Err(Error::NotAKernel("no ELF file"));
    }
    if header.e_ident[4..6] != CLASS_AND_DATA || header.e_machine != MACHINE {
        return Err(Error::NotAKernel("for another kind of machine"));
    }
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() || header.e_phnum > MOST_SEGMENTS
    {
        return Err(Error::NotAKernel("an ELF file with strange segments"));
    }
    let mut kernel = Kernel {
        entry: header.e_entry,
        end: HIGH_MEMORY_START,
    };
    let mut entry_inside = false;
    for index in 0..u64::from(header.e_phnum) {
        let at = header
            .e_phoff
            .checked_add(index * size_of::<Elf64_Phdr>() as u64);
        let segment: Elf64_Phdr = read(file, at.ok_or(Error::NotAKernel("cut short"))?)?;
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let start = segment.p_paddr;
        let end = start
            .checked_add(segment.p_memsz)
            .filter(|end| *end <= LOW_END);
        let Some(end) =
            end.filter(|_| start >= HIGH_MEMORY_START && segment.p_filesz <= segment.p_memsz)
        else {
            return Err(Error::NotAKernel(
                "an ELF file with segments at impossible addresses",
            ));
        };
        let place = GuestAddress(start);
        memory::place_file(
            memory,
            "guest kernel",
            file,
            segment.p_offset,
            place,
            segment.p_filesz,
        )?;
        entry_inside |= (start..start + segment.p_filesz).contains(&header.e_entry);
        kernel.end = kernel.end.max(end);
    }
    if entry_inside {
        Ok(kernel)
    } else {
        Err(Error::NotAKernel("an ELF file that starts nowhere"))
    }
}

fn read<T: ByteValued>(file: &File, at: u64) -> Result<T, Error> {
    let mut value = T::zeroed();
    if i64::try_from(at).is_err() {
        return Err(Error::NotAKernel("cut short"));
    }
    match file.read_exact_at(value.as_mut_slice(), at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::NotAKernel("cut short"))
        }
        result => Ok(result.map(|()| value)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::Bytes;

    fn image(change: impl Fn(&mut Elf64_Ehdr, &mut Elf64_Phdr)) -> File {
        let mut header = Elf64_Ehdr::zeroed();
        header.e_ident[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        header.e_machine = MACHINE;
        header.e_entry = 0x10_0010;
        header.e_phoff = 64;
        header.e_phentsize = 56;
        header.e_phnum = 1;
        let mut segment = Elf64_Phdr::zeroed();
        segment.p_type = PT_LOAD;
        segment.p_offset = 0x1000;
        segment.p_paddr = 0x10_0000;
        segment.p_filesz = 0x1234;
        segment.p_memsz = 0x3000;
        change(&mut header, &mut segment);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(header.as_slice(), 0).unwrap();
        file.write_all_at(segment.as_slice(), 64).unwrap();
        file.write_all_at(&[0xab; 0x1234], 0x1000).unwrap();
        file
    }

    fn try_load(file: &File) -> Result<Kernel, Error> {
        load(&memory::create(2).unwrap(), file)
    }

    #[test]
    fn a_kernel_lies_where_its_headers_say() {
        let memory = memory::create(2).unwrap();
        let kernel = load(&memory, &image(|_, _| {})).unwrap();
        assert_eq!(
            kernel,
            Kernel {
                entry: 0x10_0010,
                end: 0x10_3000
            }
        );
        let at = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!(
            [at(0xf_ffff), at(0x10_0000), at(0x10_1233), at(0x10_1234)],
            [0, 0xab, 0xab, 0]
        );
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        let refused = |file: File| matches!(try_load(&file), Err(Error::NotAKernel(_)));
        assert!(refused(tempfile::tempfile().unwrap()));
        assert!(refused(image(|header, _| header.e_ident[0] = 0)));
        assert!(refused(image(|header, _| header.e_machine = 3)));
        assert!(refused(image(|header, _| header.e_entry = 0)));
        assert!(refused(image(|header, _| header.e_phoff = u64::MAX)));
        assert!(refused(image(|_, segment| segment.p_paddr = 0)));
        assert!(refused(image(|_, segment| segment.p_memsz = u64::MAX)));
        assert!(refused(image(|_, segment| segment.p_filesz = 0x4000)));
        let too_large = image(|_, segment| segment.p_paddr = 4 << 20);
        assert!(matches!(try_load(&too_large), Err(Error::Memory(_))));
        let cut_short = image(|_, segment| segment.p_offset = 0x2000);
        assert!(matches!(try_load(&cut_short), Err(Error::Memory(_))));
    }

    proptest! {
        #[test]
        fn any_file_is_a_kernel_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), keep in any::<bool>()) {
            let file = if keep { image(|_, _| {}) } else { tempfile::tempfile().unwrap() };
            file.write_all_at(&bytes, if keep { 16 } else { 0 }).unwrap();
            let _ = try_load(&file);
        }
    }
}
