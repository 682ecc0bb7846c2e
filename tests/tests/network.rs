//! Addresses, the way out, names, and the walls between containers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use hearth_tests::docker::{Container, Docker};
use hearth_tests::images;
use hearth_tests::node::{Node, Setup};
use hearth_tests::process::{HUNG, eventually};
use hearth_tests::target::{self, Target};

fn setup() -> (&'static Target, &'static Docker, String) {
    let target = target::shared();
    (target, target.docker(), target.busybox())
}

/// The same, where nothing is booted: for cases about which ports are given, and not about what comes by them.
fn plain() -> (&'static Target, &'static Docker, String) {
    let target = target::plain();
    (target, target.docker(), target.busybox())
}

fn idle<'a>(docker: &'a Docker, busybox: &str, what: &str) -> Container<'a> {
    let container = docker.container(what);
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        busybox,
        "sleep",
        "100000",
    ]);
    container
}

#[track_caller]
fn address(container: &Container) -> Ipv4Addr {
    let value = container.field("/NetworkSettings/Networks/bridge/IPAddress");
    let text = value.as_str().unwrap_or_default();
    text.parse()
        .unwrap_or_else(|_| panic!("{} has no address: {text:?}", container.name))
}

#[test]
fn each_container_has_its_own_address_and_knows_it() {
    let (_, docker, busybox) = setup();
    let (one, two) = (
        idle(docker, &busybox, "net-one"),
        idle(docker, &busybox, "net-two"),
    );
    assert_ne!(address(&one), address(&two));
    for container in [&one, &two] {
        let inside = docker.ok(&["exec", &container.name, "ip", "-4", "addr"]);
        let wanted = format!("inet {}/", address(container));
        assert!(inside.contains(&wanted), "{wanted:?} isn't in:\n{inside}");
        let hosts = docker.ok(&["exec", &container.name, "cat", "/etc/hosts"]);
        assert!(hosts.contains(&address(container).to_string()), "{hosts}");
        let loopback = docker.ok(&["exec", &container.name, "ip", "addr", "show", "lo"]);
        assert!(loopback.contains("127.0.0.1"), "{loopback}");
    }
}

#[test]
fn containers_reach_each_other_and_their_gateway() {
    let (_, docker, busybox) = setup();
    let (one, two) = (
        idle(docker, &busybox, "net-from"),
        idle(docker, &busybox, "net-to"),
    );
    docker.ok(&[
        "exec",
        "-d",
        &two.name,
        "sh",
        "-c",
        "echo neighbour > /page; httpd -f -p 80 -h /",
    ]);
    let url = format!("http://{}/page", address(&two));
    let page = eventually("a neighbour doesn't answer", || {
        let done = docker.run(&[
            "exec", &one.name, "timeout", "5", "wget", "-q", "-O", "-", &url,
        ]);
        (done.code == Some(0)).then(|| done.text())
    });
    assert_eq!(page, "neighbour\n");
    let gateway = one.field("/NetworkSettings/Networks/bridge/Gateway");
    let gateway = gateway.as_str().unwrap_or_default();
    docker
        .run(&["exec", &one.name, "ping", "-c", "1", "-w", "60", gateway])
        .exits(0);
    docker
        .run(&[
            "exec",
            &one.name,
            "ping",
            "-c",
            "1",
            "-w",
            "60",
            &address(&two).to_string(),
        ])
        .exits(0);
}

#[test]
fn a_container_reaches_the_outside_under_the_nodes_address() {
    let (target, docker, busybox) = setup();
    let (from_container, here) = target.meeting_point();
    let listener = TcpListener::bind((here, 0)).expect("the address has a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
        .to_string();
    let container = idle(docker, &busybox, "net-out");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        stream
            .set_read_timeout(Some(HUNG))
            .expect("a timeout isn't zero");
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("the client says hello");
        stream.write_all(b"welcome\n").expect("the client listens");
        line
    });
    let script = format!("(echo hello; sleep 3) | nc -w 60 {from_container} {port}");
    assert_eq!(
        docker.ok(&["exec", &container.name, "sh", "-c", &script]),
        "welcome"
    );
    assert_eq!(&server.join().expect("it doesn't panic"), b"hello\n");
}

#[test]
fn a_large_transfer_arrives_whole_in_both_directions() {
    let (target, docker, busybox) = setup();
    let (from_container, here) = target.meeting_point();
    let listener = TcpListener::bind((here, 0)).expect("the address has a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has an address")
        .port();
    // HTTP, in which length and end are said: 8 MiB there, and their digest.
    let body: Vec<u8> = (0..8u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let expected = hearth_tests::archive::digest(&body);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer);
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&body);
    });
    let script = format!("wget -q -O - http://{from_container}:{port}/ | sha256sum");
    let sum = docker.ok(&["run", "--rm", &busybox, "sh", "-c", &script]);
    assert_eq!(sum.split(' ').next(), expected.strip_prefix("sha256:"));
}

#[test]
fn names_are_resolved() {
    let (target, docker, busybox) = setup();
    let resolver = docker.ok(&["run", "--rm", &busybox, "cat", "/etc/resolv.conf"]);
    assert!(
        resolver.lines().any(|line| line.starts_with("nameserver ")),
        "{resolver}"
    );
    if !target.is_hearth() {
        return; // The reference daemon runs without a network.
    }
    // A name that this machine can resolve too: where it fetches its packages from.
    let Some(name) = mirror_host() else { return };
    let here = std::process::Command::new("getent")
        .args(["ahostsv4", &name])
        .output();
    if !here.is_ok_and(|output| output.status.success()) {
        return; // No names on this machine: so none on the node, whose resolver is this machine's.
    }
    let text = docker.ok(&["run", "--rm", &busybox, "nslookup", "-type=a", &name]);
    assert!(text.contains("Address"), "{text}");
}

/// The first host of apt's sources.
fn mirror_host() -> Option<String> {
    let output = std::process::Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE)"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let site = text.lines().next()?.split_once("://")?.1;
    Some(site.split(['/', ':']).next()?.to_owned())
}

#[test]
fn a_container_cannot_take_anothers_address() {
    let (target, docker, busybox) = setup();
    if !target.is_hearth() {
        return; // A bridge with privileged containers has no such wall.
    }
    let (victim, witness) = (
        idle(docker, &busybox, "victim"),
        idle(docker, &busybox, "witness"),
    );
    let thief = docker.container("thief");
    docker.ok(&[
        "run",
        "-d",
        "--cap-add",
        "NET_ADMIN",
        "--name",
        &thief.name,
        &busybox,
        "sleep",
        "100000",
    ]);
    docker.ok(&[
        "exec",
        "-d",
        &victim.name,
        "sh",
        "-c",
        "echo honest > /page; httpd -f -p 80 -h /",
    ]);
    docker.ok(&[
        "exec",
        "-d",
        &witness.name,
        "sh",
        "-c",
        "echo seen > /page; httpd -f -p 80 -h /",
    ]);
    let fetch = |from: &Container, to: &Container| {
        let url = format!("http://{}/page", address(to));
        docker.run(&[
            "exec", &from.name, "timeout", "3", "wget", "-q", "-O", "-", &url,
        ])
    };
    for to in [&victim, &witness] {
        eventually("a neighbour doesn't answer", || {
            (fetch(&thief, to).code == Some(0)).then_some(())
        });
    }
    let stolen = address(&victim);
    let script = format!(
        "dev=$(ip -o -4 route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/'); ip addr flush dev $dev; ip addr add {stolen}/32 dev $dev; \
         ip route add {gateway} dev $dev; ip route add default via {gateway} dev $dev src {stolen}",
        gateway = thief
            .field("/NetworkSettings/Networks/bridge/Gateway")
            .as_str()
            .unwrap_or_default(),
    );
    // Where a container may not change its address, that's wall enough.
    if docker.run(&["exec", &thief.name, "sh", "-c", &script]).code == Some(0) {
        let from_stolen = fetch(&thief, &witness);
        assert_ne!(
            from_stolen.code,
            Some(0),
            "a stolen address got an answer: {from_stolen:?}"
        );
    }
    // And the victim has lost nothing.
    assert_eq!(fetch(&witness, &victim).exits(0).text(), "honest\n");
}

#[test]
fn a_published_port_is_taken_once() {
    let (_, docker, busybox) = plain();
    let first = docker.container("port-first");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &first.name,
        "-p",
        "18765:80",
        &busybox,
        "sleep",
        "100000",
    ]);
    let second = docker.container("port-second");
    docker
        .run(&[
            "run",
            "-d",
            "--name",
            &second.name,
            "-p",
            "18765:80",
            &busybox,
            "sleep",
            "100000",
        ])
        .exits(125)
        .fails_saying(&["port is already allocated"]);
    // The same number for UDP is another port.
    let third = docker.container("port-third");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &third.name,
        "-p",
        "18765:80/udp",
        &busybox,
        "sleep",
        "100000",
    ]);
    docker.ok(&["rm", "-f", &first.name]);
    docker.ok(&["start", &second.name]);
    assert_eq!(
        second.field("/NetworkSettings/Ports/80~1tcp/0/HostPort"),
        "18765"
    );
}

#[test]
fn of_a_range_of_ports_the_first_free_one_is_taken() {
    let (target, docker, busybox) = plain();
    let container = |what: &str| docker.container(what);
    let (first, second, third) = (
        container("range-1"),
        container("range-2"),
        container("range-3"),
    );
    let run = |container: &Container, ports: &str| {
        docker.run(&[
            "run",
            "-d",
            "--name",
            &container.name,
            "-p",
            ports,
            &busybox,
            "sleep",
            "100000",
        ])
    };
    run(&first, "18790-18791:80").exits(0);
    run(&second, "18790-18791:80").exits(0);
    let mut taken = [&first, &second].map(|container| {
        let port = container.field("/NetworkSettings/Ports/80~1tcp/0/HostPort");
        port.as_str().map(str::to_owned)
    });
    taken.sort();
    assert_eq!(taken, ["18790", "18791"].map(|port| Some(port.to_owned())));
    run(&third, "18790-18791:80")
        .exits(125)
        .fails_saying(&["port is already allocated"]);
    if target.is_hearth() {
        // Nor is there a port on an address that the node hasn't.
        run(&container("elsewhere"), "192.0.2.7:18792:80")
            .exits(125)
            .fails_saying(&["cannot assign requested address"]);
    }
}

#[test]
fn a_server_that_hangs_up_is_noticed() {
    let (target, docker, busybox) = setup();
    let (from_container, here) = target.meeting_point();
    let listener = TcpListener::bind((here, 0)).expect("the address has a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has an address")
        .port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who has said something has connected. It hangs up whatever this gives.
            let _ = stream.read_exact(&mut [0; 3]);
        }
    });
    let script = format!("nc {from_container} {port}; echo hung up");
    let mut running = docker.start(&["run", "--rm", "-i", &busybox, "sh", "-c", &script]);
    running.write("hi\n");
    running.stdout.wait_for("hung up");
}

#[test]
fn nobody_listens_where_nothing_is_published() {
    let (target, docker, busybox) = setup();
    let (from_container, here) = target.meeting_point();
    let closed = TcpListener::bind((here, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let script = format!("nc -w 30 {from_container} {closed} < /dev/null");
    let done = docker.run(&["run", "--rm", &busybox, "sh", "-c", &script]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("refused"), "{done:?}");
}

#[test]
fn a_node_takes_the_address_that_its_configuration_names() {
    // With DHCP its prefix would be 24 bits long.
    let node = Node::boot(&Setup {
        configuration:
            "[network]\naddress = \"10.0.2.15/25\"\ngateway = \"10.0.2.2\"\ndns = [\"10.0.2.3\"]\n"
                .into(),
        ..Setup::default()
    });
    node.wait_for_console("address 10.0.2.15/25 on eth0");
    let docker = node.docker();
    let busybox = "hearth-test/busybox:latest";
    docker
        .run_with_input(&["load"], &images::busybox().docker_archive(busybox))
        .exits(0);
    let script = "cat /etc/resolv.conf; ping -c 1 10.0.2.2";
    let text = docker.ok(&["run", "--rm", busybox, "sh", "-c", script]);
    assert!(text.contains("nameserver 10.0.2.3"), "{text}");
    assert!(text.contains(" 0% packet loss"), "{text}");
}
