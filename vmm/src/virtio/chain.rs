//! Descriptor chains as guest memory that has been checked.
//!
//! A chain is read from guest memory once. What comes out are slices that lie inside guest memory for as long as it is
//! mapped: lengths and addresses in descriptors are not looked at again, whatever the guest does to them meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{ByteValued, GuestMemoryBackend, VolatileSlice};

use super::ring::Chain;
use crate::memory::GuestMemory;

/// Descriptors of a chain, empty ones included: no chain is longer than its queue, in an indirect table either (virtio 1.2 section
/// 2.7.5.3.1), and our queues have at most this many. Each becomes at most two pieces, one in each region of guest memory, and the
/// system takes 1024 at once (`IOV_MAX`).
const MOST_DESCRIPTORS: usize = 256;

/// The driver made a chain that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A descriptor is not inside guest memory.
    #[error("a descriptor points outside guest memory")]
    OutsideMemory,
    /// A readable descriptor follows a writable one (virtio 1.2 section 2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// Longer than any queue.
    #[error("a chain of more than {MOST_DESCRIPTORS} descriptors")]
    TooLong,
    /// The chain holds less than the device needs.
    #[error("a chain that is too short")]
    TooShort,
}

/// Pieces of guest memory in order.
#[derive(Debug, Default)]
struct Pieces<'m> {
    slices: Vec<VolatileSlice<'m>>,
    length: u64,
}

impl<'m> Pieces<'m> {
    fn add(&mut self, slice: VolatileSlice<'m>) {
        self.length += slice.len() as u64;
        self.slices.push(slice);
    }

    /// Cuts off everything from `at` on.
    fn split_off(&mut self, at: u64) -> Pieces<'m> {
        let mut rest = Pieces::default();
        let mut before = 0u64;
        let mut kept = Vec::with_capacity(self.slices.len());
        for slice in self.slices.drain(..) {
            let length = slice.len() as u64;
            // Below the slice's own length, so it fits a usize.
            let keep = at.saturating_sub(before).min(length) as usize;
            before += length;
            match slice.split_at(keep) {
                Ok((front, back)) => {
                    if !front.is_empty() {
                        kept.push(front);
                    }
                    if !back.is_empty() {
                        rest.length += back.len() as u64;
                        rest.slices.push(back);
                    }
                }
                // `keep` is at most the slice's length.
                Err(_) => rest.slices.clear(),
            }
        }
        self.length -= rest.length;
        self.slices = kept;
        rest
    }

    fn vectors(&self) -> Vec<libc::iovec> {
        let vector = |slice: &VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        self.slices.iter().map(vector).collect()
    }
}

/// The part of a chain that the device reads.
#[derive(Debug, Default)]
pub struct Readable<'m>(Pieces<'m>);

/// The part of a chain that the device writes.
#[derive(Debug, Default)]
pub struct Writable<'m>(Pieces<'m>);

/// Takes a chain apart, however it is laid out (virtio 1.2 section 2.7.4.1).
pub fn split<'m>(
    memory: &'m GuestMemory,
    chain: Chain<'m>,
) -> Result<(Readable<'m>, Writable<'m>), Malformed> {
    let mut readable = Pieces::default();
    let mut writable = Pieces::default();
    for (index, descriptor) in chain.enumerate() {
        if index == MOST_DESCRIPTORS {
            return Err(Malformed::TooLong);
        }
        let length = descriptor.len() as usize;
        if length == 0 {
            continue;
        }
        let to = if descriptor.is_write_only() {
            &mut writable
        } else if writable.slices.is_empty() {
            &mut readable
        } else {
            // Writable ones come last (virtio 1.2 section 2.7.4.2).
            return Err(Malformed::Order);
        };
        for slice in GuestMemoryBackend::get_slices(memory, descriptor.addr(), length) {
            to.add(slice.map_err(|_| Malformed::OutsideMemory)?);
        }
    }
    Ok((Readable(readable), Writable(writable)))
}

impl<'m> Readable<'m> {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.length
    }

    /// Nothing to read.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Takes a value off the front.
    pub fn read<T: ByteValued>(&mut self) -> Result<T, Malformed> {
        let mut value = T::zeroed();
        self.read_bytes(value.as_mut_slice())?;
        Ok(value)
    }

    /// Takes as many bytes off the front as `to` has.
    pub fn read_bytes(&mut self, to: &mut [u8]) -> Result<(), Malformed> {
        if (to.len() as u64) > self.0.length {
            return Err(Malformed::TooShort);
        }
        let rest = self.0.split_off(to.len() as u64);
        let front = std::mem::replace(&mut self.0, rest);
        let mut at = 0;
        for slice in &front.slices {
            at += slice.copy_to(&mut to[at..]);
        }
        Ok(())
    }

    /// Writes everything to `file` from byte `offset` on.
    pub fn write_to(&self, file: &File, mut offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(self.0.length);
        let mut rest = self.0.vectors();
        while offset < end {
            let count = count(&rest);
            // SAFETY: the vectors describe slices of guest memory that outlive `self`; the system only reads them.
            let done =
                unsafe { libc::pwritev(file.as_raw_fd(), rest.as_ptr(), count, signed(offset)?) };
            offset += advance(&mut rest, done, io::ErrorKind::WriteZero)?;
        }
        Ok(())
    }
}

impl<'m> Writable<'m> {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.length
    }

    /// No room.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// The guest addresses' memory as (host address, bytes), piece by piece, for what is not about contents.
    pub fn pieces(&self) -> impl Iterator<Item = &VolatileSlice<'m>> {
        self.0.slices.iter()
    }

    /// Cuts off the last `bytes`.
    pub fn split_last(&mut self, bytes: u64) -> Result<Writable<'m>, Malformed> {
        let at = self
            .0
            .length
            .checked_sub(bytes)
            .ok_or(Malformed::TooShort)?;
        Ok(Writable(self.0.split_off(at)))
    }

    /// Fills the front; fails, having written nothing, when there is less room than `from` has bytes.
    pub fn write(&mut self, from: &[u8]) -> Result<(), Malformed> {
        if (from.len() as u64) > self.0.length {
            return Err(Malformed::TooShort);
        }
        self.write_some(from);
        Ok(())
    }

    /// Fills the front with as much of `from` as there is room for; returns how much that was.
    pub fn write_some(&mut self, from: &[u8]) -> usize {
        let bytes = (from.len() as u64).min(self.0.length);
        let rest = self.0.split_off(bytes);
        let front = std::mem::replace(&mut self.0, rest);
        let mut at = 0;
        for slice in &front.slices {
            let length = slice.len().min(from.len() - at);
            slice.copy_from(&from[at..at + length]);
            at += length;
        }
        at
    }

    /// Fills everything from `file`, from byte `offset` on. A file that ends early is an error.
    pub fn read_from(&self, file: &File, mut offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(self.0.length);
        let mut rest = self.0.vectors();
        while offset < end {
            let count = count(&rest);
            // SAFETY: the vectors describe slices of guest memory that outlive `self`, and guest memory may be written to by
            // anybody at any time: nothing holds a reference into it.
            let done =
                unsafe { libc::preadv(file.as_raw_fd(), rest.as_ptr(), count, signed(offset)?) };
            offset += advance(&mut rest, done, io::ErrorKind::UnexpectedEof)?;
        }
        Ok(())
    }
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    // Two for each of `MOST_DESCRIPTORS`.
    vectors.len() as libc::c_int
}

fn signed(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Drops what a system call has done from the front of `vectors`; returns how much that was.
fn advance(vectors: &mut Vec<libc::iovec>, done: isize, at_end: io::ErrorKind) -> io::Result<u64> {
    let done = match usize::try_from(done) {
        Ok(0) => return Err(at_end.into()),
        Ok(done) => done,
        Err(_) => {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(0)
            } else {
                Err(error)
            };
        }
    };
    let mut left = done;
    vectors.retain_mut(|vector| {
        let here = vector.iov_len.min(left);
        left -= here;
        vector.iov_len -= here;
        vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(here).cast();
        vector.iov_len > 0
    });
    Ok(done as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::ring::{Ring, Rings};
    use crate::virtio::testing::{any_descriptors, memory, offer};
    use proptest::prelude::*;
    use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT};
    use virtio_queue::QueueT;
    use virtio_queue::desc::split::Descriptor;
    use vm_memory::{Bytes, GuestAddress};

    /// What a chain becomes that begins with `first` in a queue of `size`.
    fn split_raw(size: u16, first: Descriptor) -> Result<usize, Malformed> {
        let memory = memory();
        // An indirect table as long as there is room for below the queue, every descriptor empty and followed by the next.
        for index in 0..30_000u16 {
            let descriptor = Descriptor::new(0x1000, 0, VRING_DESC_F_NEXT as u16, index + 1);
            let at = GuestAddress(16 * u64::from(index));
            memory.write_obj(descriptor, at).unwrap();
        }
        let mut rings = [Ring::new(size)];
        offer(&memory, &mut rings[0], &[vec![(0x1000, 1, true)]]);
        let table = GuestAddress(rings[0].queue.desc_table());
        memory.write_obj(first, table).unwrap();
        let mut rings = Rings::new(&memory, &mut rings);
        let chain = rings.pop(0).unwrap();
        split(&memory, chain)
            .map(|(readable, writable)| readable.0.slices.len() + writable.0.slices.len())
    }

    #[test]
    fn a_chain_longer_than_any_queue_is_refused_even_if_it_holds_nothing() {
        let table = |count: u32| Descriptor::new(0, 16 * count, VRING_DESC_F_INDIRECT as u16, 0);
        assert_eq!(split_raw(256, table(256)), Ok(0));
        assert_eq!(split_raw(256, table(257)), Err(Malformed::TooLong));
        assert_eq!(split_raw(256, table(30_000)), Err(Malformed::TooLong));
    }

    #[test]
    fn a_chain_that_leads_back_to_itself_ends() {
        let itself = Descriptor::new(0x1000, 1, VRING_DESC_F_NEXT as u16, 0);
        assert_eq!(split_raw(16, itself), Ok(16));
        assert_eq!(split_raw(256, itself), Ok(256));
    }

    proptest! {
        #[test]
        fn any_descriptors_become_slices_inside_memory_or_an_error(descriptors in any_descriptors()) {
            let memory = memory();
            let mut rings = [Ring::new(16)];
            offer(&memory, &mut rings[0], &descriptors);
            let mut rings = Rings::new(&memory, &mut rings);
            while let Some(chain) = rings.pop(0) {
                let head = chain.head_index();
                if let Ok((mut readable, mut writable)) = split(&memory, chain) {
                    let mut bytes = vec![0; readable.len().min(1 << 16) as usize];
                    prop_assert!(readable.read_bytes(&mut bytes).is_ok());
                    let before = writable.len();
                    let last = writable.split_last(before.min(3)).unwrap();
                    prop_assert_eq!(last.len() + writable.len(), before);
                    prop_assert_eq!(writable.write_some(&bytes) as u64, (bytes.len() as u64).min(before - last.len()));
                }
                rings.push(0, head, 0);
            }
        }
    }

    #[test]
    fn what_is_written_through_pieces_reads_back_in_order() {
        let memory = memory();
        let mut file = Vec::new();
        let disk = tempfile::tempfile().unwrap();
        for pieces in [vec![1u32, 2, 300], vec![700], vec![5, 5, 5, 5]] {
            let total: u32 = pieces.iter().sum();
            file.clear();
            file.extend((0..total).map(|i| i as u8));
            std::os::unix::fs::FileExt::write_all_at(&disk, &file, 7).unwrap();
            let mut at = 0x5000u64;
            let descriptors: Vec<_> = pieces
                .iter()
                .map(|length| {
                    at += 0x1000;
                    (at, *length, true)
                })
                .collect();
            let mut ring = [Ring::new(16)];
            offer(&memory, &mut ring[0], &[descriptors]);
            let mut rings = Rings::new(&memory, &mut ring);
            let (_, writable) = split(&memory, rings.pop(0).unwrap()).unwrap();
            let end = disk.metadata().unwrap().len();
            assert!(
                writable
                    .read_from(&disk, end - u64::from(total) + 1)
                    .is_err()
            );
            writable.read_from(&disk, 7).unwrap();
            let readable = Readable(writable.0);
            readable.write_to(&disk, 1000).unwrap();
            let mut back = vec![0; total as usize];
            std::os::unix::fs::FileExt::read_exact_at(&disk, &mut back, 1000).unwrap();
            assert_eq!(back, file);
        }
    }
}
