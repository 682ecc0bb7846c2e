//! The node's lease page, as the one that writes it sees it. Its layout and what it means are in `hearth_vmm_api::lease`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_vmm_api::lease::{DEADLINE_AT, NO_DEADLINE, PAGE_BYTES, boot_of, encode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{BootTime, Deadline};

/// The kernel's name for this boot: a UUID as text (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Nobody but root may open it; monitors get it open.
const MODE: u32 = 0o600;

/// Why a node has no lease page. It must start no pod that may run elsewhere then.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A system call.
    #[error("the node's lease: {doing} {}: {source}", path.display())]
    Access {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something else is there, and monitors may keep to it.
    #[error(
        "{} is no lease page that this version knows; restart the node, which makes it anew",
        .0.display()
    )]
    Foreign(PathBuf),
}

type Boot = [u8; 16];

/// A node's lease page, mapped for reading and writing.
#[derive(Debug)]
pub struct Page {
    path: PathBuf,
    file: File,
    start: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value and to no thread, and is only accessed atomically.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Opens the page at `path`, on a file system in RAM, with the lease that is in it; makes it where there is none, or only one of an earlier
    /// boot: a lease that is over.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        Self::open_in(path, this_boot()?)
    }

    /// Makes it anew, for a new lease that is not granted yet. Monitors keep to the page that they were started with.
    pub fn anew(path: &Path) -> Result<Self, PageError> {
        Self::make(path, this_boot()?)
    }

    fn open_in(path: &Path, boot: Boot) -> Result<Self, PageError> {
        let access = |doing| access(doing, path);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut file = match options.custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::make(path, boot);
            }
            Err(error) => return Err(access("opening")(error)),
        };
        let mut bytes = Vec::with_capacity(PAGE_BYTES + 1);
        (&mut file)
            .take(PAGE_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(access("reading"))?;
        match boot_of(&bytes) {
            Some(found) if found == boot => Self::map(path, file),
            // Nothing that kept to it is left.
            Some(_) => Self::make(path, boot),
            None => Err(PageError::Foreign(path.to_owned())),
        }
    }

    fn make(path: &Path, boot: Boot) -> Result<Self, PageError> {
        // It has its name once all of it is there.
        let unfinished = path.with_extension("new");
        let access = |doing| access(doing, &unfinished);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(access("removing")(error));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(MODE);
        let mut file = options.open(&unfinished).map_err(access("making"))?;
        let over = encode(boot, BootTime::default().0);
        file.write_all(&over).map_err(access("writing"))?;
        fs::rename(&unfinished, path).map_err(access("renaming"))?;
        Self::map(path, file)
    }

    fn map(path: &Path, file: File) -> Result<Self, PageError> {
        let access = |doing| access(doing, path);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where the system wants it.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let start = start.map_err(|error| access("mapping")(error.into()))?;
        let path = path.to_owned();
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(PageError::Foreign(path));
        };
        Ok(Self { path, file, start })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: lies within the mapping, which is there for as long as `self`, at a multiple of 8; whoever else has the page mapped reads
        // it or writes it by one such access too.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(DEADLINE_AT).cast()) }
    }

    /// Until when the lease is.
    pub fn deadline(&self) -> Deadline {
        match self.word().load(Ordering::Relaxed) {
            NO_DEADLINE => Deadline::Never,
            ns => Deadline::At(BootTime(ns)),
        }
    }

    /// Extends the lease for all monitors of the node. Earlier than it is already: nothing happens.
    pub fn extend(&self, deadline: Deadline) {
        let ns = match deadline {
            Deadline::Never => NO_DEADLINE,
            Deadline::At(time) => time.0.min(NO_DEADLINE - 1),
        };
        self.word().fetch_max(ns, Ordering::Relaxed);
    }

    /// Gives a lease without an end one; one that has an end keeps it. Monitors see it once they are signalled.
    pub fn limit(&self, deadline: BootTime) {
        let end = deadline.0.min(NO_DEADLINE - 1);
        // What it was, if not that, is what it stays.
        let _ = self.word().compare_exchange(
            NO_DEADLINE,
            end,
            // Before the system call that signals, as everything is.
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// A descriptor of the page for a monitor, for reading only.
    pub fn reader(&self) -> Result<OwnedFd, PageError> {
        // By the file that is mapped here, whatever has its name.
        let opened = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        opened
            .map(OwnedFd::from)
            .map_err(access("opening for a monitor", &self.path))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping that is not borrowed from `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), PAGE_BYTES) };
    }
}

fn access(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PageError {
    let path = path.to_owned();
    move |source| PageError::Access {
        doing,
        path,
        source,
    }
}

fn this_boot() -> Result<Boot, PageError> {
    let path = Path::new(BOOT_ID);
    let text = fs::read_to_string(path).map_err(access("reading", path))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut boot = Boot::default();
    hex::decode_to_slice(digits, &mut boot)
        .map_err(|error| access("reading", path)(io::Error::other(error)))?;
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_vmm_api::lease;
    use std::os::unix::fs::MetadataExt;

    const BOOT: Boot = [1; 16];

    fn at(ns: u64) -> Deadline {
        Deadline::At(BootTime(ns))
    }

    fn seen(page: &Page) -> lease::Page {
        lease::Page::map(page.reader().unwrap()).unwrap()
    }

    #[test]
    fn a_new_lease_is_over_until_it_is_extended_and_all_who_keep_to_it_see_that() {
        let dir = tempfile::tempdir().unwrap();
        let page = Page::open(&dir.path().join("lease")).unwrap();
        let monitors = [seen(&page), seen(&page)];
        assert_eq!(page.deadline(), at(0));
        page.extend(at(5));
        page.extend(at(3));
        assert_eq!(page.deadline(), at(5));
        for monitor in monitors {
            assert_eq!(monitor.deadline_ns(), 5);
        }
        let mode = fs::metadata(dir.path().join("lease")).unwrap().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn only_a_lease_without_an_end_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let page = Page::open(&dir.path().join("lease")).unwrap();
        page.extend(Deadline::Never);
        page.extend(at(7));
        assert_eq!(page.deadline(), Deadline::Never);
        assert_eq!(seen(&page).deadline_ns(), NO_DEADLINE);
        page.limit(BootTime(9));
        assert_eq!(page.deadline(), at(9));
        page.limit(BootTime(8));
        assert_eq!(page.deadline(), at(9));
    }

    #[test]
    fn a_lease_survives_its_writer_and_not_its_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let page = Page::open_in(&path, BOOT).unwrap();
        page.extend(at(5));
        let monitor = seen(&page);
        drop(page);
        let page = Page::open_in(&path, BOOT).unwrap();
        assert_eq!(page.deadline(), at(5));
        page.extend(at(6));
        assert_eq!(monitor.deadline_ns(), 6);
        let page = Page::open_in(&path, [2; 16]).unwrap();
        assert_eq!(page.deadline(), at(0));
    }

    #[test]
    fn who_keeps_to_an_old_lease_never_sees_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let page = Page::open(&path).unwrap();
        page.extend(at(5));
        let slept = seen(&page);
        let page = Page::anew(&path).unwrap();
        page.extend(at(100));
        assert_eq!(slept.deadline_ns(), 5);
        assert_eq!(Page::open(&path).unwrap().deadline(), at(100));
    }

    #[test]
    fn what_is_no_page_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let page = encode(BOOT, 5);
        for bytes in [&[][..], &page[1..], &[&page[..], b"x"].concat()] {
            fs::write(&path, bytes).unwrap();
            let error = Page::open_in(&path, BOOT).unwrap_err();
            assert!(matches!(error, PageError::Foreign(_)), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_page_whose_making_was_broken_off_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        fs::write(path.with_extension("new"), b"hea").unwrap();
        assert_eq!(Page::open(&path).unwrap().deadline(), at(0));
    }

    #[test]
    fn a_monitor_cannot_write_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let page = Page::open(&dir.path().join("lease")).unwrap();
        let mut file = File::from(page.reader().unwrap());
        file.write_all(b"x").unwrap_err();
    }
}
