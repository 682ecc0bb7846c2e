//! A process that keeps to a lease ends with it, whatever it is doing; so does the monitor, whatever its guest does.
//!
//! Nothing here measures how fast. A process that ends later than its deadline passes; one that ends before it, or not at all, doesn't.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hearth_hostile_guest::trial::{Given, Monitor};
use hearth_vmm::jail::seccomp::{self, Thread};
use hearth_vmm_api::lease::{self, DEADLINE_AT, LOOK_AGAIN, NO_DEADLINE, Page, STATUS_OVER};
use hearth_vmm_api::{Answer, Command as Asked};
use tempfile::TempDir;

/// Long enough for a process to start and be asked something before it is over, on a machine with other things to do.
const A_WHILE: u64 = Duration::from_secs(2).as_nanos() as u64;
/// Nothing here lasts so long.
const FAR: u64 = Duration::from_secs(3600).as_nanos() as u64;
/// What a process of [`keeper`] does; not there: it is no such process.
const DOES: &str = "HEARTH_LEASE_TEST_DOES";
/// Where such a process finds its page.
const PAGE_FD: i32 = 9;

/// A node's page, and whoever may write it.
struct Node {
    file: File,
    path: PathBuf,
    folder: TempDir,
}

impl Node {
    fn new(deadline_ns: u64) -> Self {
        Self::with(&lease::encode([7; 16], deadline_ns))
    }

    fn with(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("there is room for a page");
        let path = folder.path().join("lease");
        std::fs::write(&path, bytes).expect("there is room for a page");
        let file = OpenOptions::new().write(true).open(&path);
        Self {
            file: file.expect("it was just made"),
            path,
            folder,
        }
    }

    /// For reading only.
    fn page(&self) -> OwnedFd {
        File::open(&self.path).expect("it is there").into()
    }

    /// Eight bytes at a multiple of eight: whoever has the page mapped sees the old ones or these.
    fn set(&self, deadline_ns: u64) {
        let bytes = deadline_ns.to_le_bytes();
        let written = self.file.write_all_at(&bytes, DEADLINE_AT as u64);
        written.expect("the page can be written");
    }
}

/// Starts a process that keeps to the lease and does `what`; returns once it keeps to it, or has ended.
fn keeper(node: &Node, what: &str, stderr: Stdio) -> Child {
    let page = node.page();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "process", "--nocapture", "--test-threads=1"])
        .env(DOES, what)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    let fd = page.as_raw_fd();
    let put_in_place = move || {
        // SAFETY: both are numbers of descriptors; the new one belongs to the program that is about to be executed.
        if unsafe { libc::dup2(fd, PAGE_FD) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes a system call only.
    unsafe { command.pre_exec(put_in_place) };
    let mut child = command.spawn().expect("this program can be started");
    let mut said = Vec::new();
    let stdout = child.stdout.as_mut().expect("it is a pipe");
    while !said.ends_with(b"keeping") {
        let mut byte = [0];
        if !matches!(stdout.read(&mut byte), Ok(1)) {
            break;
        }
        said.push(byte[0]);
    }
    child
}

/// Not a test but what [`keeper`] starts.
#[test]
fn process() {
    let Ok(does) = std::env::var(DOES) else {
        return;
    };
    // SAFETY: by the contract with `keeper` it is open and this process's own.
    let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(PAGE_FD) };
    let page = Page::map(fd).expect("a page");
    lease::keep(page).expect("a timer");
    print!("keeping");
    std::io::stdout().flush().expect("there is room");
    let (kind, action) = does.split_once(' ').unwrap_or(("free", &does));
    let kind = match kind {
        "main" => Some(Thread::Main),
        "vcpu" => Some(Thread::Vcpu),
        "disks" => Some(Thread::Disks),
        _ => None,
    };
    if let Some(kind) = kind {
        let filter = seccomp::filter(kind).expect("a filter");
        seccomp::install(kind, &filter).expect("the kernel takes it");
    }
    match action {
        "spin" => loop {
            std::hint::spin_loop();
        },
        "wait" => loop {
            std::thread::park();
        },
        "write" => loop {
            // Its stderr is a pipe that nobody reads from.
            let _ = std::io::stderr().write(&[0; 4096]);
        },
        other => panic!("{other}: not known"),
    }
}

fn assert_over(status: ExitStatus, deadline_ns: u64) {
    let now = lease::now_ns();
    assert_eq!(status.code(), Some(STATUS_OVER), "it ended with {status}");
    assert!(now >= deadline_ns, "it ended before its deadline");
}

/// Waits until the clock has passed a time.
fn pass(deadline_ns: u64) {
    let until = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    while lease::now_ns() <= deadline_ns {
        let clock = libc::CLOCK_BOOTTIME;
        // SAFETY: the time is read only.
        unsafe { libc::clock_nanosleep(clock, libc::TIMER_ABSTIME, &until, std::ptr::null_mut()) };
    }
}

#[test]
fn a_process_ends_with_its_lease_whatever_it_is_doing_and_whatever_the_jail_forbids_it() {
    let deadline = lease::now_ns() + A_WHILE;
    let node = Node::new(deadline);
    let does = ["main", "vcpu", "disks"]
        .into_iter()
        .flat_map(|kind| ["spin", "wait"].map(|action| format!("{kind} {action}")));
    let children: Vec<_> = does
        .map(|does| (keeper(&node, &does, Stdio::piped()), does))
        .collect();
    for (child, does) in children {
        let output = child.wait_with_output().expect("a child of ours");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("lease is over"), "{does}: {said:?}");
        assert_over(output.status, deadline);
    }
}

#[test]
fn a_process_whose_last_line_nobody_reads_ends_all_the_same() {
    let deadline = lease::now_ns() + A_WHILE;
    let node = Node::new(deadline);
    let mut child = keeper(&node, "main write", Stdio::piped());
    // Its end of the pipe that it fills lives for as long as the child is waited for.
    let stderr = child.stderr.take();
    assert_over(child.wait().expect("a child of ours"), deadline);
    drop(stderr);
}

#[test]
fn a_lease_that_is_extended_is_kept_to_its_last_deadline() {
    let node = Node::new(lease::now_ns() + A_WHILE);
    let mut child = keeper(&node, "main wait", Stdio::null());
    let mut deadline = 0;
    for _ in 0..3 {
        deadline = lease::now_ns() + A_WHILE;
        node.set(deadline);
        pass(deadline - A_WHILE / 2);
    }
    assert_over(child.wait().expect("a child of ours"), deadline);
}

#[test]
fn a_deadline_that_comes_where_there_was_none_is_seen_by_whoever_is_told_to_look() {
    let node = Node::new(NO_DEADLINE);
    for does in ["main wait", "vcpu spin"] {
        node.set(NO_DEADLINE);
        let mut child = keeper(&node, does, Stdio::null());
        let deadline = lease::now_ns() + A_WHILE / 10;
        node.set(deadline);
        signal(child.id());
        assert_over(child.wait().expect("a child of ours"), deadline);
    }
}

#[test]
fn a_lease_without_an_end_lasts() {
    let node = Node::new(lease::now_ns() + A_WHILE);
    let mut child = keeper(&node, "main wait", Stdio::null());
    node.set(NO_DEADLINE);
    let first = lease::now_ns() + 2 * A_WHILE;
    pass(first);
    assert!(child.try_wait().expect("a child of ours").is_none());
    signal(child.id());
    child.kill().expect("it is there");
    let status = child.wait().expect("a child of ours");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
}

fn signal(pid: u32) {
    // SAFETY: a child of ours that nobody has waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, LOOK_AGAIN) }, 0);
}

fn monitor(node: &Node, lease: OwnedFd) -> Monitor {
    let given = Given {
        tun: None,
        lease: Some(lease),
        stderr: File::create(node.folder.path().join("stderr"))
            .expect("there is room")
            .into(),
    };
    let vmm = Path::new(env!("CARGO_BIN_EXE_vmm"));
    Monitor::start(vmm, node.folder.path(), given).expect("a monitor")
}

fn said(node: &Node) -> String {
    std::fs::read_to_string(node.folder.path().join("stderr")).expect("what it said")
}

#[test]
fn a_monitor_that_cannot_read_its_lease_refuses_to_start() {
    let good = lease::encode([7; 16], NO_DEADLINE);
    let mut other_layout = good;
    other_layout[7] += 1;
    let null = || OwnedFd::from(File::open("/dev/null").expect("it is there"));
    let cases = [
        (Node::with(&good[..DEADLINE_AT + 8]), None, "layout"),
        (Node::with(&[]), None, "layout"),
        (Node::with(&other_layout), None, "layout"),
        (Node::with(&good), Some(null()), "layout"),
    ];
    let writable = Node::with(&good);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(&writable.path);
    let file = OwnedFd::from(file.expect("it is there"));
    let writable = (writable, Some(file), "may only read it");
    for (node, fd, why) in cases.into_iter().chain([writable]) {
        let fd = fd.unwrap_or_else(|| node.page());
        let status = monitor(&node, fd).wait().expect("its end");
        assert_eq!(status.code(), Some(1), "{why}: {status}");
        let said = said(&node);
        assert!(said.contains("lease") && said.contains(why), "{said:?}");
    }
}

/// The rest needs KVM.
fn without_kvm() -> bool {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        eprintln!("skipped: /dev/kvm can't be opened: {error}");
    }
    kvm.is_err()
}

#[test]
fn a_monitor_whose_lease_is_over_does_not_run_its_guest() {
    if without_kvm() {
        return;
    }
    let node = Node::new(lease::now_ns());
    let mut monitor = monitor(&node, node.page());
    assert_over(monitor.wait().expect("its end"), 0);
    assert!(said(&node).contains("lease is over"));
}

#[test]
fn a_monitor_ends_with_its_lease_while_its_guest_attacks_it_or_stands_still() {
    if without_kvm() {
        return;
    }
    for paused in [false, true] {
        let node = Node::new(lease::now_ns() + FAR);
        let mut monitor = monitor(&node, node.page());
        while !monitor.describe().expect("it lives").ready {
            std::thread::yield_now();
        }
        if paused {
            let answer = monitor.ask(&Asked::Pause).expect("it lives");
            assert_eq!(answer, Answer::Done);
        }
        let deadline = lease::now_ns() + A_WHILE / 10;
        node.set(deadline);
        signal(monitor.pid());
        assert_over(monitor.wait().expect("its end"), deadline);
        assert!(said(&node).contains("lease is over"), "{}", said(&node));
    }
}

#[test]
fn a_monitor_lives_past_a_deadline_that_was_extended() {
    if without_kvm() {
        return;
    }
    let first = lease::now_ns() + A_WHILE;
    let node = Node::new(first);
    let mut monitor = monitor(&node, node.page());
    let last = first + A_WHILE;
    node.set(last);
    pass(first);
    monitor.describe().expect("it lives on");
    assert_over(monitor.wait().expect("its end"), last);
}
