//! How the monitor fails: one line on stderr that says what, and what to do, and a status that is not zero. The end of a lease is
//! another matter, with a status of its own: `hearth_vmm_api::lease`.

use std::io::{self, Write};

use vmm_sys_util::signal::register_signal_handler;

use crate::jail;

/// Exit status after an error.
pub const STATUS_ERROR: i32 = 1;
/// After a panic: a mistake in this program.
pub const STATUS_PANIC: i32 = 101;
/// After a system call that the jail forbids: also a mistake, or somebody who has come out of the guest.
pub const STATUS_FORBIDDEN: i32 = 102;

/// Everything that ends a monitor with an error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// See [`crate::inherit`].
    #[error(transparent)]
    Inherit(#[from] crate::inherit::Error),
    /// KVM is not there or does not do what is needed.
    #[error(
        "KVM: {doing}: {source}; virtualisation must be enabled in the firmware, and the kernel must have KVM for this CPU"
    )]
    Kvm {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        source: kvm_ioctls::Error,
    },
    /// See [`crate::memory`].
    #[error(transparent)]
    Memory(#[from] crate::memory::Error),
    /// See [`crate::boot`].
    #[error(transparent)]
    Boot(#[from] crate::boot::Error),
    /// A device could not be made from what was given.
    #[error("{device}: {source}; check what the configuration names for it")]
    Device {
        /// Which.
        device: String,
        /// The system's words.
        source: io::Error,
    },
    /// See [`crate::jail`].
    #[error(transparent)]
    Jail(#[from] jail::Error),
    /// A system call of the monitor's own housekeeping.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// The guest could not go on.
    #[error("the guest was stopped: {0}")]
    Guest(String),
}

impl Failure {
    /// Says of KVM's error what was being done.
    pub(crate) fn kvm(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { doing, source }
    }

    /// Says of the system's error what was being done.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    /// Says of the system's error for which device it was.
    pub(crate) fn device(name: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let device = name.into();
        move |source| Self::Device { device, source }
    }
}

/// Sets up that a panic in any thread, and a forbidden system call, end the process in the way that the module promises.
pub fn prepare() {
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(
            io::stderr(),
            "vmm: internal error, please report it: {info}"
        );
        // SAFETY: ends the process without running anything that other threads may still use.
        unsafe { libc::_exit(STATUS_PANIC) };
    }));
    // Fails for invalid signal numbers only.
    let _ = register_signal_handler(libc::SIGSYS, forbidden);
    let _ = register_signal_handler(kick_signal(), kicked);
}

/// What interrupts a virtual CPU's thread.
pub fn kick_signal() -> libc::c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

/// That the signal came is all that is needed.
extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Offset of `si_syscall` in `siginfo_t` on x86-64 (asm-generic/siginfo.h), in `i32`s.
const SYSTEM_CALL_NUMBER: usize = 6;

extern "C" fn forbidden(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a `siginfo_t`, 128 bytes, and for SIGSYS the number lies there.
    let mut number = unsafe { info.cast::<u32>().add(SYSTEM_CALL_NUMBER).read() };
    let mut line = *b"vmm: system call     0 is not allowed in the jail; please report it\n";
    // The last digit's place. Only what is allowed in a signal handler: no formatting, no allocation.
    let mut at = b"vmm: system call     0".len();
    while at > 0 && number > 0 {
        at -= 1;
        line[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    // SAFETY: `line` is as long as is said.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(STATUS_FORBIDDEN) };
}
