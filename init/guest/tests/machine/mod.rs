//! A stand-in for a microVM: a thread in mount and network namespaces of its own, with the agent behind a socket pair.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use hearth_guest_init::{Agent, Places};
use hearth_guest_protocol::{
    Acknowledge, Container, Error, Exec, Exit, Pod, Process, Reply, Request, Start, read, write,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Names a static busybox where there is none in its usual place; `cargo xtask test` does.
const BUSYBOX_VARIABLE: &str = "HEARTH_BUSYBOX";

fn busybox() -> PathBuf {
    std::env::var_os(BUSYBOX_VARIABLE).map_or_else(|| "/bin/busybox".into(), PathBuf::from)
}

const APPLETS: [&str; 25] = [
    "sh", "id", "cat", "hostname", "ls", "echo", "sleep", "true", "rm", "grep", "stat", "wc",
    "mount", "touch", "tty", "stty", "seq", "tr", "env", "mknod", "head", "df", "kill", "ps",
    "mkdir",
];

pub struct Machine {
    dir: tempfile::TempDir,
    agent: Arc<Agent>,
    loops: Vec<String>,
    image: String,
    writable: String,
    cgroup: PathBuf,
}

impl Machine {
    /// None: this computer can't.
    pub fn new() -> Option<Self> {
        let machine = Self::make();
        if machine.is_none() {
            // Past the harness, which holds back what passing tests print: `cargo xtask test` counts these lines.
            let line = b"SKIPPED: no root, namespaces, loop devices or busybox\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        }
        machine
    }

    fn make() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !busybox().exists() {
            eprintln!("needs root and {}", busybox().display());
            return None;
        }
        // SAFETY: neither flag concerns the file table.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET) }.ok()?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .ok()?;
        let dir = tempfile::tempdir().ok()?;
        // Inside the namespace only, and gone with it.
        let place = Path::new("/mnt");
        mount(c"t", place, c"tmpfs", MountFlags::empty(), None).ok()?;
        for name in ["containers", "cgroup"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        mount(
            c"c",
            place.join("cgroup"),
            c"cgroup2",
            MountFlags::empty(),
            None,
        )
        .ok()?;
        let cgroup = place.join(
            format!("cgroup/hearth-test-{:?}", thread::current().id()).replace(['(', ')'], ""),
        );
        let cgroup = PathBuf::from(format!("{}-{}", cgroup.display(), std::process::id()));
        fs::create_dir(&cgroup).ok()?;

        let mut loops = Vec::new();
        let (image, writable) = (dir.path().join("image"), dir.path().join("writable"));
        make_image(dir.path(), &image)?;
        fs::File::create(&writable)
            .unwrap()
            .set_len(256 << 20)
            .unwrap();
        run(
            "mkfs.ext4",
            &["-q", "-O", "^metadata_csum", writable.to_str()?],
        )?;
        for file in [&image, &writable] {
            loops.push(run("losetup", &["-f", "--show", file.to_str()?])?);
        }
        let name = |device: &String| device.trim_start_matches("/dev/").to_owned();
        let places = Places {
            devices: "/dev".into(),
            containers: place.join("containers"),
            cgroup: cgroup.clone(),
            program: env!("CARGO_BIN_EXE_guest-init").into(),
        };
        let agent = Arc::new(Agent::without_pod(places).unwrap());
        let (image, writable) = (name(&loops[0]), name(&loops[1]));
        Some(Self {
            dir,
            agent,
            loops,
            image,
            writable,
            cgroup,
        })
    }

    pub fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = Arc::clone(&self.agent);
        thread::spawn(move || {
            let _ = agent.serve(theirs);
        });
        ours
    }

    pub fn request(&self, request: &Request) -> UnixStream {
        let mut connection = self.connect();
        write(&mut connection, request).unwrap();
        connection
    }

    pub fn ask(&self, request: &Request) -> Reply {
        read(&mut self.request(request)).unwrap().unwrap()
    }

    pub fn start(&self, mut container: Container) -> Result<Follower, Error> {
        if container.image_device.is_empty() {
            container.image_device = self.image.clone();
        }
        container.writable_device = self.writable.clone();
        let pod = Pod {
            clock_ns: 0,
            entropy: [0; 32],
            network: None,
        };
        Follower::begin(self.request(&Request::Start(Box::new(Start { pod, container }))))
    }

    pub fn run(&self, container: Container) -> (String, String, u8) {
        self.start(container).unwrap().finish()
    }

    pub fn exec(&self, container: &str, process: Process) -> Result<Follower, Error> {
        let exec = Exec {
            container: container.into(),
            privileged: false,
            process,
        };
        Follower::begin(self.request(&Request::Exec(Box::new(exec))))
    }

    pub fn follow(&self, process: &str, from: u64) -> (Follower, String) {
        let request = Request::Follow {
            process: process.into(),
            from,
        };
        (
            Follower::begin(self.request(&request)).unwrap(),
            String::new(),
        )
    }

    pub fn forget(&self, process: &str) {
        assert_eq!(
            self.ask(&Request::Forget {
                process: process.into()
            }),
            Reply::Done
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        {
            let id = "c1";
            let follow = Request::Follow {
                process: id.into(),
                from: u64::MAX,
            };
            if let Ok(mut follower) = Follower::begin(self.request(&follow)) {
                follower.finish();
                let _ = self.ask(&Request::Forget { process: id.into() });
            }
        }
        for device in &self.loops {
            let _ = run("losetup", &["-d", device]);
        }
        let _ = fs::remove_dir(&self.cgroup);
        let _ = unmount("/mnt", UnmountFlags::DETACH);
        let _ = &self.dir;
    }
}

/// The host's side of a connection that follows a process.
#[derive(Debug)]
pub struct Follower {
    connection: UnixStream,
    offset: Option<u64>,
    out: Vec<u8>,
    err: Vec<u8>,
    pub oom_kills: u64,
    exit: Option<Exit>,
}

impl Follower {
    fn begin(mut connection: UnixStream) -> Result<Self, Error> {
        match read(&mut connection).unwrap().unwrap() {
            Reply::Started { pid, .. } => assert!(pid > 1),
            Reply::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        }
        Ok(Self {
            connection,
            offset: None,
            out: Vec::new(),
            err: Vec::new(),
            oom_kills: 0,
            exit: None,
        })
    }

    fn step(&mut self) -> bool {
        match read(&mut self.connection).unwrap() {
            Some(Reply::Output(output)) => {
                assert!(
                    self.offset.is_none_or(|expected| expected == output.offset),
                    "a gap or a repetition"
                );
                self.offset = Some(output.offset + output.data.len() as u64);
                if output.stderr {
                    &mut self.err
                } else {
                    &mut self.out
                }
                .extend(output.data);
                true
            }
            Some(Reply::Exited(exit)) => {
                self.exit = Some(exit);
                false
            }
            Some(Reply::OutOfMemory { kills }) => {
                assert!(kills > self.oom_kills, "told twice");
                self.oom_kills = kills;
                true
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn read_until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.out).contains(text) {
            assert!(self.step(), "it ended before it said {text:?}");
        }
    }

    pub fn read_at_least(&mut self, length: usize) -> String {
        while self.out.len() < length {
            assert!(self.step());
        }
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    pub fn finish(&mut self) -> (String, String, u8) {
        while self.step() {
            if let Some(offset) = self.offset {
                let _ = write(&mut self.connection, &Acknowledge { offset });
            }
        }
        let text = |bytes: &mut Vec<u8>| String::from_utf8(std::mem::take(bytes)).unwrap();
        (
            text(&mut self.out),
            text(&mut self.err),
            self.exit.unwrap().code,
        )
    }
}

pub fn container(id: &str, script: &str) -> Container {
    Container {
        id: id.into(),
        image_device: String::new(),
        writable_device: String::new(),
        read_only: false,
        hostname: "box".into(),
        hosts: "127.0.0.1 localhost\n".into(),
        resolv_conf: String::new(),
        memory_max: None,
        cpu_quota_us: None,
        pids_max: None,
        privileged: false,
        tmpfs: Vec::new(),
        shm_bytes: 64 << 20,
        masked_paths: vec!["/proc/interrupts".into(), "/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        sysctls: Vec::new(),
        init: false,
        process: process(id, script),
    }
}

pub fn process(id: &str, script: &str) -> Process {
    Process {
        id: id.into(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".into()],
        working_dir: String::new(),
        user: String::new(),
        groups: Vec::new(),
        tty: false,
        stdin: false,
        size: None,
        capabilities: ["CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "KILL"]
            .map(str::to_owned)
            .to_vec(),
        ulimits: Vec::new(),
        oom_score_adj: 0,
    }
}

fn make_image(dir: &Path, image: &Path) -> Option<()> {
    let root = dir.join("root");
    for path in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(path)).ok()?;
    }
    fs::copy(busybox(), root.join("bin/busybox")).ok()?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).ok()?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\n",
    )
    .ok()?;
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:33:\nlogs:x:44:web\n",
    )
    .ok()?;
    fs::write(root.join("image-file"), "").ok()?;
    fs::write(root.join("garbage"), "no program\0\x01").ok()?;
    fs::set_permissions(root.join("garbage"), fs::Permissions::from_mode(0o755)).ok()?;
    run(
        "mkfs.erofs",
        &["--all-root", image.to_str()?, root.to_str()?],
    )?;
    Some(())
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(program).args(args).env("PATH", path).output();
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        other => {
            eprintln!("{program} {args:?}: {other:?}");
            None
        }
    }
}
