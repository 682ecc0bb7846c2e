//! The guest's agent on this machine's kernel: real containers in real namespaces, driven over a socket pair.
//!
//! Needs root, loop devices, EROFS and overlayfs, `mkfs.erofs`, `mkfs.ext4` and a static busybox; where one of them is missing the
//! tests say so and pass, since the end-to-end tests show the same in a microVM.

#![allow(clippy::unwrap_used, reason = "everything here is a test")]

mod machine;

use std::io::{Read, Write};
use std::net::Shutdown;

use hearth_guest_protocol::{
    Acknowledge, COMMANDS_MAX, Error, OUTPUT_WINDOW, Reply, Request, Ulimit, read, write,
};
use machine::{Follower, Machine, container, process};

#[test]
fn a_container_has_its_own_root_processes_and_names() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut spec = container(
        "c1",
        "id -u; cat /proc/1/comm; hostname; cat /etc/hosts; ls -d /image-file; pwd; echo $HOME",
    );
    spec.process.working_dir = "/made/here".into();
    let (out, err, code) = machine.run(spec);
    assert_eq!(err, "");
    assert_eq!(
        out,
        "0\nsh\nbox\n127.0.0.1 localhost\n/image-file\n/made/here\n/root\n"
    );
    assert_eq!(code, 0);
}

#[test]
fn stdout_and_stderr_are_apart_and_the_exit_code_comes_last() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let (out, err, code) = machine.run(container("c1", "echo out; echo err >&2; exit 42"));
    assert_eq!((out.as_str(), err.as_str(), code), ("out\n", "err\n", 42));
    machine.forget("c1");
    let (_, _, code) = machine.run(container(
        "c1",
        "kill -9 $$; sleep 5 & kill -TERM $!; wait $!; exit $?",
    ));
    assert_eq!(
        code, 143,
        "process 1 is immune to its own signals, its child is not"
    );
}

#[test]
fn what_a_run_writes_is_there_in_the_next() {
    let Some(machine) = Machine::new() else {
        return;
    };
    assert_eq!(
        machine
            .run(container("c1", "echo kept > /file; rm /image-file"))
            .2,
        0
    );
    machine.forget("c1");
    let (out, _, _) = machine.run(container("c1", "cat /file; ls /image-file"));
    assert_eq!(out, "kept\n");
}

#[test]
fn faults_of_the_command_are_told_apart() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let error = |program: &str| {
        let mut spec = container("c1", "");
        spec.process.args = vec![program.into()];
        machine.start(spec).unwrap_err()
    };
    assert_eq!(
        error("absent").to_string(),
        "exec: \"absent\": executable file not found in $PATH"
    );
    assert!(matches!(error("/absent"), Error::NotFound { .. }));
    assert!(
        matches!(error("/etc"), Error::NotExecutable { reason, .. } if reason.starts_with("is a directory"))
    );
    assert!(
        matches!(error("/image-file"), Error::NotExecutable { reason, .. } if reason == "permission denied")
    );
    assert!(
        matches!(error("/garbage"), Error::NotExecutable { reason, .. } if reason == "exec format error")
    );
    let mut spec = container("c1", "true");
    spec.process.user = "nobody-here".into();
    assert!(matches!(
        machine.start(spec).unwrap_err(),
        Error::NoSuchUser { .. }
    ));
}

#[test]
fn a_user_has_its_ids_and_none_of_roots_capabilities() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut spec = container(
        "c1",
        "id; grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status; echo $HOME; echo again > /dev/stdout",
    );
    spec.process.user = "web".into();
    spec.process.capabilities = vec!["NET_BIND_SERVICE".into(), "CHOWN".into()];
    let (out, err, _) = machine.run(spec);
    assert_eq!(
        (out.as_str(), err.as_str()),
        (
            "uid=33(web) gid=33(web) groups=33(web),44(logs)\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
             CapBnd:\t0000000000000401\n/home/web\nagain\n",
            ""
        )
    );
}

#[test]
fn a_container_sees_devices_terminals_and_read_only_kernel_settings() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let script = "ls /dev; stat -c %a /dev/null /dev/shm; echo x > /proc/sys/kernel/hostname || echo refused; \
        wc -c < /proc/interrupts; mount | grep -c '^overlay on / '; touch /sys/x || echo refused; echo 3 > /tmp/t; cat /tmp/t";
    let mut spec = container("c1", script);
    spec.tmpfs = vec![("/tmp".into(), "size=1m".into())];
    spec.read_only = true;
    let (out, err, _) = machine.run(spec);
    assert_eq!(
        out,
        "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n666\n1777\nrefused\n0\n1\n\
         refused\n3\n",
        "{err}"
    );
}

#[test]
fn stdin_reaches_the_process_and_its_end_too() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut spec = container("c1", "cat; echo end");
    spec.process.stdin = true;
    let mut follower = machine.start(spec).unwrap();
    let open = || {
        let mut input = machine.request(&Request::Input {
            process: "c1".into(),
        });
        assert_eq!(read::<Reply>(&mut input).unwrap(), Some(Reply::Done));
        input
    };
    // As when the host's controller is killed.
    let mut lost = open();
    lost.write_all(b"some\n").unwrap();
    follower.read_until("some\n");
    drop(lost);
    let mut input = open();
    input.write_all(b"lines\n").unwrap();
    input.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read::<Reply>(&mut input).unwrap(), Some(Reply::Done));
    assert_eq!(follower.finish().0, "some\nlines\nend\n");
}

#[test]
fn a_terminal_is_one_and_can_be_resized() {
    for init in [false, true] {
        if let Some(machine) = Machine::new() {
            check_terminal(&machine, init);
        }
    }
}

fn check_terminal(machine: &Machine, init: bool) {
    let mut spec = container(
        "c1",
        "tty; stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do read x; done",
    );
    spec.init = init;
    spec.process.tty = true;
    spec.process.stdin = true;
    spec.process.size = Some((24, 80));
    let mut follower = machine.start(spec).unwrap();
    follower.read_until("ready\r\n");
    let resize = Request::Resize {
        process: "c1".into(),
        rows: 50,
        columns: 132,
    };
    assert_eq!(machine.ask(&resize), Reply::Done);
    let (out, _, code) = follower.finish();
    assert_eq!(
        (out.as_str(), code),
        ("/dev/pts/0\r\n24 80\r\nready\r\n50 132\r\n", 3)
    );
}

#[test]
fn an_exec_joins_the_container_and_has_its_own_end() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut main = machine
        .start(container("c1", "echo up; sleep 1000"))
        .unwrap();
    main.read_until("up\n");
    let mut spec = process(
        "e1",
        "hostname; cat /proc/1/cmdline | tr '\\0' ' '; echo; (sleep 1000 &) ; exit 7",
    );
    spec.env.push("A=b".into());
    let (out, _, code) = machine.exec("c1", spec).unwrap().finish();
    assert_eq!((out.as_str(), code), ("box\nsleep 1000 \n", 7));

    let mut spec = process("e2", "tty; echo $A");
    spec.tty = true;
    assert_eq!(
        machine.exec("c1", spec).unwrap().finish().0,
        "/dev/pts/0\r\n\r\n"
    );
    let Err(error) = machine.exec("c1", process("e1", "true")) else {
        panic!("the name e1 is taken")
    };
    assert!(matches!(error, Error::Invalid(_)));

    let Reply::Processes(rows) = machine.ask(&Request::Processes {
        container: "c1".into(),
    }) else {
        panic!()
    };
    let commands: Vec<&str> = rows.iter().map(|row| row.command.as_str()).collect();
    assert!(commands.contains(&"sleep 1000"), "{commands:?}");
    assert_eq!(
        machine.ask(&Request::Signal {
            process: "c1".into(),
            signal: 9
        }),
        Reply::Done
    );
    assert_eq!(main.finish().2, 137);
    assert!(matches!(
        machine.ask(&Request::Signal {
            process: "c1".into(),
            signal: 9
        }),
        Reply::Error(Error::Exited(_))
    ));
    assert_eq!(
        machine.ask(&Request::Forget {
            process: "c1".into()
        }),
        Reply::Done
    );
    assert!(matches!(
        machine.ask(&Request::Forget {
            process: "c1".into()
        }),
        Reply::Error(Error::NoSuchProcess(_))
    ));
}

#[test]
fn a_host_that_goes_away_and_comes_back_loses_and_repeats_nothing() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut first = machine
        .start(container("c1", "seq 1 200000; echo end >&2"))
        .unwrap();
    let mut got = first.read_at_least(OUTPUT_WINDOW / 2);
    // Not acknowledged: the process stops when the window is full.
    drop(first);
    let (mut second, rest) = machine.follow("c1", got.len() as u64);
    got.push_str(&rest);
    let (out, err, code) = second.finish();
    got.push_str(&out);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    assert_eq!((err.as_str(), code), ("end\n", 0));
    // Its end stays known, and there are several who may ask.
    let (mut third, _) = machine.follow("c1", u64::MAX);
    assert_eq!(third.finish().2, 0);
}

#[test]
fn garbage_ends_its_connection_and_nothing_else() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for garbage in [&[0xff; 64][..], &[1, 0, 0, 0, 99], &[4, 0, 0, 0]] {
        let mut connection = machine.connect();
        connection.write_all(garbage).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // The end, or a reset because it left something unread.
        let _ = connection.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    let mut connection = machine.request(&Request::Follow {
        process: "../x".into(),
        from: 0,
    });
    // It may have answered and closed already.
    let _ = write(&mut connection, &Acknowledge { offset: 1 });
    assert!(matches!(
        read(&mut connection).unwrap(),
        Some(Reply::Error(Error::NoSuchProcess(_)))
    ));
    let mut spec = container("c1", "true");
    spec.image_device = "../null".into();
    assert!(matches!(
        machine.start(spec).map(|_| ()).unwrap_err(),
        Error::Invalid(_)
    ));
    assert_eq!(machine.run(container("c1", "echo fine")).0, "fine\n");
}

#[test]
fn background_processes_of_an_exec_do_not_hold_up_its_end() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut main = machine
        .start(container("c1", "echo up; sleep 1000"))
        .unwrap();
    main.read_until("up\n");
    let mut exec = machine
        .exec("c1", process("e1", "sleep 1000 & echo last words"))
        .unwrap();
    assert_eq!(exec.finish().0, "last words\n");
    let _: &Follower = &main;
}

#[test]
fn a_privileged_container_may_mount_and_has_all_devices() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut spec = container(
        "c1",
        "mount -t tmpfs x /tmp && echo mounted; ls /dev/loop-control; grep CapEff /proc/self/status",
    );
    spec.privileged = true;
    let (out, err, _) = machine.run(spec);
    assert!(
        out.starts_with("mounted\n/dev/loop-control\nCapEff:\t000001ff"),
        "{out}{err}"
    );
}

#[test]
fn devices_of_the_machine_can_be_made_and_not_opened_unless_privileged() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // A loop device, as the image and the layer are on here.
    let script = "mknod /disk b 7 0 && head -c 1 /disk > /dev/null && echo read; \
        mknod /zero c 1 5 && head -c 3 /zero | wc -c; for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo $d; done; \
        head -c 4 /dev/urandom | wc -c; echo x > /dev/null && echo written";
    let mut spec = container("c1", script);
    spec.process.capabilities.push("MKNOD".into());
    let (out, err, _) = machine.run(spec.clone());
    assert_eq!(out, "3\n4\nwritten\n", "{err}");
    assert!(err.contains("/disk: Operation not permitted"), "{err}");
    machine.forget("c1");
    spec.process.args[2] = "head -c 1 /disk > /dev/null && echo read".into();
    spec.privileged = true;
    let (out, err, _) = machine.run(spec);
    assert_eq!(out, "read\n", "{err}");
}

#[test]
fn mounting_its_cgroup_again_gives_a_container_no_further_devices() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // In a group of its own below the container's, too; there is no way up.
    let script = "mkdir /groups && mount -t cgroup2 c /groups && mkdir /groups/sub && echo $$ > /groups/sub/cgroup.procs && \
        cat /proc/self/cgroup; mknod /disk b 7 0; head -c 1 /disk; ls -d /groups/../groups/c1";
    let mut spec = container("c1", script);
    let more = ["MKNOD", "SYS_ADMIN"].map(str::to_owned);
    spec.process.capabilities.extend(more);
    let (out, err, _) = machine.run(spec);
    assert!(out.ends_with("0::/sub\n"), "{out}{err}");
    assert!(err.contains("/disk: Operation not permitted"), "{err}");
}

#[test]
fn an_exec_can_open_no_more_devices_than_its_container() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let mut main = machine
        .start(container("c1", "echo up; sleep 1000"))
        .unwrap();
    main.read_until("up\n");
    let mut spec = process("e1", "mknod /disk b 7 0 && head -c 1 /disk");
    spec.capabilities.push("MKNOD".into());
    let (_, err, code) = machine.exec("c1", spec).unwrap().finish();
    assert_ne!(code, 0);
    assert!(err.contains("/disk: Operation not permitted"), "{err}");
}

#[test]
fn limits_are_in_force_for_the_main_process_and_for_execs() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let limit = |name: &str, soft, hard| Ulimit {
        name: name.into(),
        soft,
        hard,
    };
    let ulimits = vec![
        limit("nofile", Some(100), Some(200)),
        limit("core", Some(0), Some(0)),
        limit("fsize", None, None),
    ];
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -f; cat /proc/self/oom_score_adj";
    let expected = "100\n200\n0\nunlimited\n300\n";
    let mut spec = container("c1", &format!("{script}; sleep 1000"));
    spec.process.ulimits = ulimits.clone();
    spec.process.oom_score_adj = 300;
    let mut main = machine.start(spec).unwrap();
    main.read_until(expected);
    let mut spec = process("e1", script);
    spec.ulimits = ulimits;
    spec.oom_score_adj = 300;
    spec.user = "web".into();
    assert_eq!(machine.exec("c1", spec).unwrap().finish().0, expected);
    let mut spec = process("e2", "true");
    spec.ulimits = vec![limit("patience", Some(1), Some(1))];
    let error = machine.exec("c1", spec).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "invalid ulimit type: patience");
}

#[test]
fn a_read_only_root_has_read_only_files_in_etc() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let script =
        "for f in hosts hostname resolv.conf; do echo x >> /etc/$f || echo refused; done; hostname";
    let mut spec = container("c1", script);
    let (out, err, _) = machine.run(spec.clone());
    assert_eq!(out, "box\n", "{err}");
    machine.forget("c1");
    spec.read_only = true;
    assert_eq!(machine.run(spec).0, "refused\nrefused\nrefused\nbox\n");
}

#[test]
fn paths_are_masked_and_read_only_as_told_and_settings_are_made_before() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // A program in a read-only folder can still be run.
    let script = "wc -c < /image-file; ls /etc; echo x > /etc/new || echo refused; wc -c < /proc/interrupts; \
        echo x > /bin/new || /bin/echo refused; \
        cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_default_ttl; df -k /dev/shm | grep -c ' 32768 '";
    let mut spec = container("c1", script);
    spec.masked_paths = ["/image-file", "/etc", "/absent", "/proc/interrupts"]
        .map(str::to_owned)
        .to_vec();
    spec.readonly_paths = ["/etc", "/bin", "/absent"].map(str::to_owned).to_vec();
    spec.shm_bytes = 32 << 20;
    spec.sysctls = vec![
        ("kernel.shmmni".into(), "77".into()),
        ("net.ipv4.ip_default_ttl".into(), "33".into()),
    ];
    let (out, err, _) = machine.run(spec);
    assert_eq!(out, "0\nrefused\n0\nrefused\n77\n33\n1\n", "{err}");
    machine.forget("c1");
    let mut spec = container("c1", "true");
    spec.sysctls = vec![("vm.swappiness".into(), "1".into())];
    assert!(matches!(
        machine.start(spec).map(drop).unwrap_err(),
        Error::Invalid(_)
    ));
}

#[test]
fn with_an_init_the_program_ends_as_it_would_alone() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let with_init = |script: &str| {
        let mut spec = container("c1", script);
        spec.init = true;
        spec
    };
    // What is orphaned is gone although the program never waits for it.
    let orphan = "pid=$( (true & echo $!) ); while test -d /proc/$pid; do :; done; echo reaped; ";
    let script = format!("test $$ != 1 && echo not 1; {orphan} exit 42");
    let (out, err, code) = machine.run(with_init(&script));
    assert_eq!((out.as_str(), code), ("not 1\nreaped\n", 42), "{err}");
    machine.forget("c1");
    assert_eq!(machine.run(with_init("kill -9 $$")).2, 137);
    machine.forget("c1");
    // Process 1 would be immune to a signal that it doesn't handle.
    let mut main = machine
        .start(with_init("echo up; exec sleep 1000"))
        .unwrap();
    main.read_until("up\n");
    let term = Request::Signal {
        process: "c1".into(),
        signal: 15,
    };
    assert_eq!(machine.ask(&term), Reply::Done);
    assert_eq!(main.finish().2, 143);
    machine.forget("c1");
    let mut spec = with_init("");
    spec.process.args = vec!["absent".into()];
    assert!(matches!(
        machine.start(spec).map(drop).unwrap_err(),
        Error::NotFound { .. }
    ));
    let mut spec = with_init("");
    spec.process.args = vec!["/garbage".into()];
    assert!(matches!(
        machine.start(spec).map(drop).unwrap_err(),
        Error::NotExecutable { .. }
    ));
}

#[test]
fn many_processes_with_long_command_lines_fit_into_an_answer() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // 100 command lines of 100 KB, each of which has been taken on once it says so.
    let script =
        "x=$(seq 20000); for i in $(seq 100); do sh -c 'echo; sleep 1000; :' x \"$x\" & done; wait";
    let mut main = machine.start(container("c1", script)).unwrap();
    main.read_at_least(100);
    let Reply::Processes(rows) = machine.ask(&Request::Processes {
        container: "c1".into(),
    }) else {
        panic!("no rows")
    };
    assert!(rows.len() >= 100, "{} rows", rows.len());
    let total: usize = rows.iter().map(|row| row.command.len()).sum();
    assert!((100_000..=COMMANDS_MAX).contains(&total), "{total} bytes");
}
