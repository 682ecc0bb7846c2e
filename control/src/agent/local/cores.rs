//! Core scheduling: processors that share a core (hyper-threads) see each other's secrets through its caches and buffers, so they never
//! run two tenants at the same time, nor a tenant and the node itself (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
//!
//! The kernel's means are cookies: threads of different cookies don't run on siblings of one core. A tenant's is kept by a thread of this
//! process that does nothing else, as long as the tenant has a pod here: monitors take it from there. A later control takes it from a
//! pod that has gone on.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::state::Tenant;

/// `PR_SCHED_CORE`, `linux/prctl.h`.
const SCHED_CORE: libc::c_int = 62;
/// `PR_SCHED_CORE_CREATE`.
const CREATE: libc::c_ulong = 1;
/// `PR_SCHED_CORE_SHARE_FROM`.
const SHARE_FROM: libc::c_ulong = 3;
/// `PR_SCHED_CORE_SCOPE_THREAD`.
const THREAD: libc::c_ulong = 0;
/// Of a thread that waits.
const STACK_BYTES: usize = 64 << 10;

/// The tenants' cookies.
pub struct Cores {
    /// The machine has processors that share a core.
    siblings: bool,
    /// Held while a cookie is made, so that a tenant gets one.
    tenants: Mutex<HashMap<Tenant, Weak<Cookie>>>,
}

/// A tenant's cookie, there for as long as somebody holds this.
pub struct Cookie {
    /// Of the thread that has it.
    thread: libc::pid_t,
    /// Ends the thread when it goes.
    end: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Cores {
    /// `siblings`: the machine has processors that share a core. Without any there is nothing to keep apart.
    pub fn new(siblings: bool) -> Self {
        Self {
            siblings,
            tenants: Mutex::default(),
        }
    }

    /// A tenant's cookie, the same for all its pods. None: no processors share a core. Blocks.
    pub fn cookie(&self, tenant: &Tenant) -> io::Result<Option<Arc<Cookie>>> {
        self.get_or(tenant, CREATE, 0)
    }

    /// As [`Cores::cookie`], from a pod that runs. The caller looks afterwards whether it was still there.
    pub fn cookie_of(&self, tenant: &Tenant, pid: u32) -> io::Result<Option<Arc<Cookie>>> {
        self.get_or(tenant, SHARE_FROM, libc::c_ulong::from(pid))
    }

    fn get_or(
        &self,
        tenant: &Tenant,
        how: libc::c_ulong,
        pid: libc::c_ulong,
    ) -> io::Result<Option<Arc<Cookie>>> {
        if !self.siblings {
            return Ok(None);
        }
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cookie) = tenants.get(tenant).and_then(Weak::upgrade) {
            return Ok(Some(cookie));
        }
        tenants.retain(|_, cookie| cookie.strong_count() > 0);
        let cookie = Cookie::keep(how, pid)?.map(Arc::new);
        if let Some(cookie) = &cookie {
            tenants.insert(tenant.clone(), Arc::downgrade(cookie));
        }
        Ok(cookie)
    }
}

impl Cookie {
    /// Starts the thread that keeps it.
    fn keep(how: libc::c_ulong, pid: libc::c_ulong) -> io::Result<Option<Self>> {
        let (end, ended) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let keep = move || {
            let taken = taken(prctl(how, pid));
            // SAFETY: the call has no arguments and can't fail.
            let thread = unsafe { libc::gettid() };
            // The other side waits for this.
            let _ = say.send(taken.map(|taken| taken.then_some(thread)));
            // Until the sender is dropped.
            let _ = ended.recv();
        };
        let keeper = std::thread::Builder::new()
            .name("cookie".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(keep)?;
        let thread = said
            .recv()
            .map_err(|_| io::Error::other("the thread has ended"))??;
        Ok(thread.map(|thread| Self {
            thread,
            end: Some(end),
            keeper: Some(keeper),
        }))
    }

    /// For [`take`].
    pub fn thread(&self) -> libc::pid_t {
        self.thread
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            // It does nothing that could panic.
            let _ = keeper.join();
        }
    }
}

/// Takes the cookie that a thread keeps. One system call: safe between fork and exec.
pub fn take(thread: libc::pid_t) -> io::Result<()> {
    taken(prctl(SHARE_FROM, thread as libc::c_ulong)).map(drop)
}

fn prctl(how: libc::c_ulong, pid: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these operations read and write no memory of the caller's.
    if unsafe { libc::prctl(SCHED_CORE, how, pid, THREAD, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether there is a cookie now. The kernel has none to give where no processors share a core; every other failure is one.
fn taken(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_siblings_is_no_failure_and_any_other_failure_is_one() {
        let failed = |errno| taken(Err(io::Error::from_raw_os_error(errno)));
        assert!(taken(Ok(())).unwrap());
        assert!(!failed(libc::ENODEV).unwrap());
        for errno in [libc::EINVAL, libc::EPERM, libc::ESRCH, libc::ENOMEM] {
            assert!(failed(errno).is_err());
        }
    }

    #[test]
    fn without_siblings_nothing_is_asked_of_the_kernel() {
        let tenant = "owner".parse().unwrap();
        assert!(Cores::new(false).cookie(&tenant).unwrap().is_none());
    }

    #[test]
    fn a_tenants_pods_have_one_cookie_where_the_kernel_gives_any() {
        let cores = Cores::new(true);
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let Ok(Some(first)) = cores.cookie(&one) else {
            eprintln!(
                "skipped: this kernel has no core scheduling, or no processors that share a core"
            );
            return;
        };
        let second = cores.cookie(&one).unwrap().unwrap();
        assert_eq!(first.thread(), second.thread());
        let third = cores.cookie(&other).unwrap().unwrap();
        assert_ne!(first.thread(), third.thread());
    }
}
