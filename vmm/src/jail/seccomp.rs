//! Which system calls each kind of thread may make. Anything else ends the process, with a line that says which it was.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Error;

/// Kinds of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Devices and the command socket.
    Main,
    /// A virtual CPU.
    Vcpu,
    /// Disks.
    Disks,
}

/// Allocation, locks, signals, and the end: what any thread of a Rust program may come to need, and the lease's timer, which whichever
/// thread is signalled sets again. `mmap`, `mprotect` and `madvise` are in [`rules`].
const EVERYWHERE: [c_long; 20] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_timer_settime,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Sockets, the TUN queue, events.
const MAIN: [c_long; 12] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
];

/// A virtual CPU resets devices, whose descriptors then leave their epoll.
const VCPU: [c_long; 1] = [libc::SYS_epoll_ctl];

/// Files.
const DISKS: [c_long; 6] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
];

/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;
/// `_IOW('T', 208, unsigned)`.
const TUNSETOFFLOAD: u64 = 0x4004_54d0;

impl Thread {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Vcpu => "virtual CPU",
            Self::Disks => "disk",
        }
    }

    fn calls(self) -> &'static [c_long] {
        match self {
            Self::Main => &MAIN,
            Self::Vcpu => &VCPU,
            Self::Disks => &DISKS,
        }
    }

    /// `FIONBIO` comes from the standard library's `set_nonblocking`.
    fn requests(self) -> &'static [u64] {
        match self {
            Self::Main => &[libc::FIONBIO],
            Self::Vcpu => &[KVM_RUN, TUNSETOFFLOAD],
            Self::Disks => &[],
        }
    }
}

/// The filter for a kind of thread.
pub fn filter(thread: Thread) -> Result<BpfProgram, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Filter {
        thread: thread.name(),
        reason: error.to_string(),
    };
    let rules = rules(thread).map_err(|error| failed(&error))?;
    // The signal's handler says which call it was; see `crate::failure`.
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .and_then(BpfProgram::try_from)
    .map_err(|error| failed(&error))
}

/// Installs a filter on the calling thread, for good.
pub fn install(thread: Thread, program: &BpfProgram) -> Result<(), Error> {
    seccompiler::apply_filter(program).map_err(|error| Error::Filter {
        thread: thread.name(),
        reason: error.to_string(),
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(thread: Thread) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = EVERYWHERE
        .iter()
        .chain(thread.calls())
        .map(|call| (*call, Vec::new()))
        .collect();
    let argument = |index, operator, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    // No memory that can be executed.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(
            call,
            vec![argument(2, SeccompCmpOp::MaskedEq(executable), 0)?],
        );
    }
    rules.insert(
        libc::SYS_madvise,
        vec![argument(2, SeccompCmpOp::Eq, libc::MADV_DONTNEED as u64)?],
    );
    if cfg!(debug_assertions) {
        // The standard library then looks whether a descriptor is open before it closes it.
        rules.insert(
            libc::SYS_fcntl,
            vec![argument(1, SeccompCmpOp::Eq, libc::F_GETFD as u64)?],
        );
    }
    let requests: Result<Vec<_>, _> = thread
        .requests()
        .iter()
        .map(|request| argument(1, SeccompCmpOp::Eq, *request))
        .collect();
    if !thread.requests().is_empty() {
        rules.insert(libc::SYS_ioctl, requests?);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_thread_has_a_filter() {
        for thread in [Thread::Main, Thread::Vcpu, Thread::Disks] {
            assert!(!filter(thread).unwrap().is_empty());
        }
    }

    #[test]
    fn a_thread_may_make_its_calls_and_no_others() {
        let calls: Vec<_> = [Thread::Main, Thread::Vcpu, Thread::Disks]
            .map(|thread| rules(thread).unwrap())
            .into_iter()
            .collect();
        for rules in &calls {
            for never in [
                libc::SYS_openat,
                libc::SYS_execve,
                libc::SYS_socket,
                libc::SYS_clone3,
                libc::SYS_ptrace,
            ] {
                assert!(!rules.contains_key(&never));
            }
        }
        assert!(!calls[1].contains_key(&libc::SYS_pwritev));
        assert!(!calls[2].contains_key(&libc::SYS_ioctl));
    }
}
