//! How often virtual CPUs left the guest, by the kernel's own count (`KVM_GET_STATS_FD`).

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;

/// `_IO(KVMIO, 0xce)`, linux/kvm.h.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// What the count is called.
const NAME: &[u8] = b"exits";
/// Fixed part of a descriptor: flags, exponent, size, offset, bucket size; the name follows.
const DESCRIPTOR: usize = 16;
/// Sizes beyond which the file is not understood.
const LONGEST_NAME: u32 = 256;
const MOST_DESCRIPTORS: u32 = 1024;

/// Where one virtual CPU's count is.
#[derive(Debug)]
pub struct Exits(Option<File>);

impl Exits {
    /// Of a virtual CPU that does not run yet. A kernel without statistics counts nothing.
    pub fn of(vcpu: &VcpuFd) -> Self {
        // SAFETY: the call takes no argument.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD) };
        // SAFETY: a descriptor that the call has just made belongs to nobody else.
        Self((fd >= 0).then(|| unsafe { File::from_raw_fd(fd) }))
    }

    /// The count now; 0 where there is none.
    pub fn count(&self) -> u64 {
        self.0
            .as_ref()
            .and_then(|file| read_count(&|bytes, at| file.read_exact_at(bytes, at).ok()))
            .unwrap_or(0)
    }
}

/// Finds [`NAME`] in a statistics file (Documentation/virt/kvm/api.rst, 4.133), of which `read` fills a buffer from an offset.
fn read_count(read: &dyn Fn(&mut [u8], u64) -> Option<()>) -> Option<u64> {
    let word =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut header = [0; 24];
    read(&mut header, 0)?;
    let name_size = word(&header, 4)?;
    let count = word(&header, 8)?;
    let descriptors = u64::from(word(&header, 16)?);
    let data = u64::from(word(&header, 20)?);
    if name_size > LONGEST_NAME || count > MOST_DESCRIPTORS {
        return None;
    }
    let size = DESCRIPTOR + name_size as usize;
    let mut all = vec![0; size * count as usize];
    read(&mut all, descriptors)?;
    let found = all.chunks_exact(size).find(|descriptor| {
        descriptor[DESCRIPTOR..].split(|byte| *byte == 0).next() == Some(NAME)
    })?;
    let mut value = [0; 8];
    read(&mut value, data.checked_add(word(found, 8)?.into())?)?;
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_from(file: &[u8]) -> Option<u64> {
        read_count(&|bytes, at| {
            let at = usize::try_from(at).ok()?;
            bytes.copy_from_slice(file.get(at..at.checked_add(bytes.len())?)?);
            Some(())
        })
    }

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        // Flags, name size, descriptors, then where id, descriptors and data are.
        for word in [0u32, 8, 2, 24, 24, 72] {
            file.extend(word.to_le_bytes());
        }
        for (name, offset) in [(b"other\0\0\0", 0u32), (b"exits\0\0\0", 8)] {
            file.extend([0; 8]);
            file.extend(offset.to_le_bytes());
            file.extend([0; 4]);
            file.extend(name);
        }
        file.extend(1u64.to_le_bytes());
        file.extend(42u64.to_le_bytes());
        file
    }

    #[test]
    fn the_count_is_found_by_its_name() {
        assert_eq!(read_from(&file()), Some(42));
    }

    proptest! {
        #[test]
        fn any_file_is_a_count_or_none(change in proptest::collection::vec((0..88usize, any::<u8>()), 0..6)) {
            let mut file = file();
            for (at, value) in change {
                file[at] = value;
            }
            let _ = read_from(&file);
        }
    }
}
