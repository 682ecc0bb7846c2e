//! The scripted monitor ends with its node's lease, with the monitor's status.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hearth_vmm_api::lease::{self, STATUS_OVER};
use hearth_vmm_api::{CONFIG_FD, Config, Jail};

/// Where the process of [`process`] finds its pods' groups; not there: it is no such process.
const GROUPS: &str = "HEARTH_SCRIPTED_MONITOR_GROUPS";
/// Enough for a process to start in.
const A_WHILE: u64 = Duration::from_secs(2).as_nanos() as u64;
/// The test's own copies lie above, so that putting one in place overwrites none.
const STAGING_FD: i32 = 64;

/// Not a test but the monitor.
#[test]
fn process() {
    if let Some(groups) = std::env::var_os(GROUPS) {
        // SAFETY: this process was started as a monitor, and does nothing else.
        unsafe { hearth_scripted_monitor::serve(Path::new(&groups)) }.expect("it serves");
    }
}

#[test]
fn the_scripted_monitor_ends_with_its_lease() {
    let folder = tempfile::tempdir().expect("there is room");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("pod")).expect("there is room");
    let deadline = lease::now_ns() + A_WHILE;
    fs::write(at("lease"), lease::encode([0; 16], deadline)).expect("there is room");
    let api = UnixListener::bind(at("api")).expect("a socket");
    let vsock = UnixListener::bind(at("vsock")).expect("a socket");
    let config = Config {
        name: "pod".to_owned(),
        vcpus: 1,
        memory_mib: 64,
        kernel: -1,
        initramfs: -1,
        command_line: String::new(),
        disks: Vec::new(),
        network: None,
        api: CONFIG_FD + 1,
        vsock: CONFIG_FD + 2,
        console: None,
        jail: Jail {
            uid: 0,
            gid: 0,
            root: -1,
        },
        lease: Some(CONFIG_FD + 3),
    };
    let mut text = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(at("config"))
        .expect("there is room");
    text.write_all(format!("{}", serde_json::json!(config)).as_bytes())
        .expect("there is room");
    text.rewind().expect("a file");
    let page = File::open(at("lease")).expect("it is there");
    let given: Vec<OwnedFd> = vec![text.into(), api.into(), vsock.into(), page.into()];
    let staged: Vec<OwnedFd> = given
        .iter()
        .map(|fd| {
            // SAFETY: duplicates a descriptor that is open.
            let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, STAGING_FD) };
            assert!(copy >= STAGING_FD, "no room for a descriptor");
            // SAFETY: the copy belongs to nobody else.
            unsafe { OwnedFd::from_raw_fd(copy) }
        })
        .collect();
    let moves: Vec<(i32, i32)> = staged
        .iter()
        .map(AsRawFd::as_raw_fd)
        .zip(CONFIG_FD..)
        .collect();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "process", "--nocapture", "--test-threads=1"])
        .env(GROUPS, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let put_in_place = move || {
        for (from, to) in &moves {
            // SAFETY: both are numbers of descriptors; the new one belongs to the program that is about to be executed.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on memory made before the fork.
    unsafe { command.pre_exec(put_in_place) };
    let child = command.spawn().expect("this program can be started");
    // From here on its sockets end with it.
    drop((given, staged));
    let mut client = UnixStream::connect(at("api")).expect("it listens");
    client.write_all(b"\"describe\"\n").expect("it listens");
    let mut described = [0];
    client.read_exact(&mut described).expect("it serves");
    let output = child.wait_with_output().expect("a child of ours");
    assert_eq!(output.status.code(), Some(STATUS_OVER), "{}", output.status);
    assert!(lease::now_ns() >= deadline, "before its deadline");
    assert!(String::from_utf8_lossy(&output.stderr).contains("lease is over"));
}
