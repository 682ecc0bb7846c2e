//! The page as those see it who must keep to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DEADLINE_AT, PAGE_BYTES, boot_of};

/// Why a process can't keep to a lease, and must not start.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A system call.
    #[error("the node's lease can't be read: {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// Not this layout.
    #[error(
        "the node's lease is in a layout that is not known here; restart the node, so that all of it comes from one image"
    )]
    Layout,
    /// Could be written to through the descriptor.
    #[error("the node's lease is open for writing, and whoever keeps to it may only read it")]
    Writable,
}

/// A lease page, mapped for reading, for as long as the process lives.
///
/// Whoever shortened the file would end this process with a SIGBUS, which is how a lease that can't be read must end.
#[derive(Debug)]
pub struct Page {
    start: NonNull<u8>,
}

impl Page {
    /// Maps what an inherited descriptor names. The descriptor is closed.
    pub fn map(fd: OwnedFd) -> Result<Self, PageError> {
        let failed = |doing| move |source| PageError::System { doing, source };
        // SAFETY: the call only asks about the descriptor.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(failed("asking about its descriptor")(
                io::Error::last_os_error(),
            ));
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(PageError::Writable);
        }
        let file = File::from(fd);
        let length = file
            .metadata()
            .map_err(failed("asking for its size"))?
            .len();
        if length != PAGE_BYTES as u64 {
            return Err(PageError::Layout);
        }
        // SAFETY: a new mapping, where the system wants it.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        let start = match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => start,
            _ => return Err(failed("mapping it")(io::Error::last_os_error())),
        };
        let page = Self { start };
        let mut bytes = [0; PAGE_BYTES];
        // SAFETY: the mapping is as long as this. Others write to the deadline only, which isn't looked at here.
        unsafe { std::ptr::copy_nonoverlapping(start.as_ptr(), bytes.as_mut_ptr(), PAGE_BYTES) };
        boot_of(&bytes).ok_or(PageError::Layout)?;
        Ok(page)
    }

    /// Until when the lease is, nanoseconds of `CLOCK_BOOTTIME`; see [`super::NO_DEADLINE`].
    pub fn deadline_ns(&self) -> u64 {
        // SAFETY: lies within the mapping, which is never removed, and at a multiple of 8. Relaxed: nothing else is read from the page,
        // and a relaxed load of eight bytes is what may be done to memory that is read-only.
        unsafe { load(self.deadline()) }
    }

    pub(super) fn deadline(&self) -> *mut u64 {
        self.start.as_ptr().wrapping_add(DEADLINE_AT).cast()
    }
}

/// The deadline behind what [`Page::deadline`] returned.
///
/// # Safety
///
/// It is such a pointer.
pub(super) unsafe fn load(deadline: *mut u64) -> u64 {
    // SAFETY: by the contract, see `Page::deadline_ns`.
    unsafe { AtomicU64::from_ptr(deadline) }.load(Ordering::Relaxed)
}
