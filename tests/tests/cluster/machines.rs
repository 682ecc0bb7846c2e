//! What only machines have of a cluster: ways between their pods, ports that all of them answer at, and pods that outlive a machine.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hearth_tests::capture::Packet;
use hearth_tests::cluster::{self, Cluster};
use hearth_tests::docker::{Container, Docker};
use hearth_tests::process::eventually;
use smoltcp::wire::IpProtocol;

use crate::{BUSYBOX, load_busybox, on};

/// Nodes speak to each other there, TLS.
const PEERS: u16 = 2377;
/// WireGuard between nodes, UDP.
const WIREGUARD: u16 = 51_820;
/// Nodes find each other there, UDP (RFC 6762).
const MDNS: u16 = 5353;
/// Who asks from outside comes from there: the user-mode network's own address (QEMU manual, `-netdev user`).
const OUTSIDE: &str = "10.0.2.2";
/// Nobody who asks from outside waits longer for one answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A container that serves a page and tells its log who asks for it.
#[track_caller]
fn serve<'a>(docker: &'a Docker, what: &str, page: &str, options: &[&str]) -> Container<'a> {
    let container = docker.container(what);
    let script = format!("echo {page} > /page; exec httpd -f -vv -p 80 -h /");
    let mut arguments = vec!["run", "-d", "--name", &container.name];
    arguments.extend(options);
    arguments.extend([BUSYBOX, "sh", "-c", &script]);
    docker.ok(&arguments);
    container
}

#[track_caller]
fn address(container: &Container) -> Ipv4Addr {
    let value = container.field("/NetworkSettings/Networks/bridge/IPAddress");
    let text = value.as_str().unwrap_or_default();
    text.parse()
        .unwrap_or_else(|_| panic!("{} has no address: {text:?}", container.name))
}

/// What a container gets of a page at an address, within seconds.
fn try_fetch(docker: &Docker, from: &Container, to: &str) -> Option<String> {
    let url = format!("http://{to}/page");
    let wget = [
        "exec", &from.name, "timeout", "10", "wget", "-q", "-O", "-", &url,
    ];
    let done = docker.run(&wget);
    (done.code == Some(0)).then(|| done.text())
}

#[track_caller]
fn fetch(docker: &Docker, from: &Container, to: &str) -> String {
    let what = format!("{to} doesn't answer {}", from.name);
    eventually(&what, || try_fetch(docker, from, to))
}

fn pings(docker: &Docker, from: &Container, to: Ipv4Addr, patience: &str) -> bool {
    let to = to.to_string();
    let ping = ["exec", &from.name, "ping", "-c", "1", "-w", patience, &to];
    docker.run(&ping).code == Some(0)
}

/// A page that doesn't exist, asked for from outside; the answer's first line.
fn ask(at: SocketAddr, page: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET /{page} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.lines().next() {
        Some(line) => Ok(line.to_owned()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[test]
fn pods_of_a_tenant_reach_each_other_over_nodes_unseen_and_others_do_not() {
    const PAGE: &str = "nobody-on-the-segment-reads-this";
    let cluster = cluster::exclusive();
    let docker = cluster.docker(0);
    load_busybox(docker);
    let (guests, _folder) = cluster.api(0).tenant("guests");
    load_busybox(&guests);
    let one = serve(docker, "one", PAGE, &["--label", &on(0)]);
    let two = serve(docker, "two", PAGE, &["--label", &on(1)]);
    let near = serve(&guests, "near", PAGE, &["--label", &on(0)]);
    let far = serve(&guests, "far", PAGE, &["--label", &on(1)]);
    // Each hears its own at the other node first: what a wall keeps out below isn't merely late.
    fetch(docker, &one, &address(&two).to_string());
    fetch(&guests, &near, &address(&far).to_string());

    let capture = cluster.capture();
    for (from, to) in [(&one, &two), (&two, &one)] {
        let page = fetch(docker, from, &address(to).to_string());
        assert_eq!(page, format!("{PAGE}\n"));
        assert!(pings(docker, from, address(to), "60"));
    }
    for stranger in [&one, &two] {
        for asking in [&near, &far] {
            let to = address(stranger);
            assert!(!pings(&guests, asking, to, "3"), "{to}");
            assert_eq!(try_fetch(&guests, asking, &to.to_string()), None, "{to}");
        }
    }
    only_what_nodes_say(&cluster, &capture.packets(), PAGE);
    let between = capture.between(&[cluster.address(0), cluster.address(1)]);
    let tunnelled = between.iter().any(|ip| ip.is(IpProtocol::Udp, WIREGUARD));
    assert!(tunnelled, "{between:?}");
}

/// Between nodes there is nothing but TLS, WireGuard, and who they are; nowhere is the text, or a pod's own packet.
#[track_caller]
fn only_what_nodes_say(cluster: &Cluster, packets: &[Packet], text: &str) {
    let nodes = cluster.addresses();
    for ip in packets.iter().filter_map(|packet| packet.ip.as_ref()) {
        let mut parts = ip.payload.windows(text.len());
        assert!(!parts.any(|part| part == text.as_bytes()), "{ip:?}");
        let pods = |at: IpAddr| matches!(at, IpAddr::V4(at) if at.octets()[..2] == [10, 88]);
        assert!(!pods(ip.source) && !pods(ip.destination), "{ip:?}");
        let allowed = ip.is(IpProtocol::Tcp, PEERS)
            || ip.is(IpProtocol::Udp, WIREGUARD)
            || ip.is(IpProtocol::Udp, MDNS);
        assert!(allowed || !ip.is_between(&nodes), "{ip:?}");
    }
}

#[test]
fn a_published_port_answers_at_every_node_and_the_pod_sees_who_asked() {
    const PORT: u16 = 18_090;
    let cluster = cluster::exclusive();
    let docker = cluster.docker(0);
    load_busybox(docker);
    let published = format!("{PORT}:80");
    let options = ["--label", &on(1), "-p", &published];
    let served = serve(docker, "everywhere", "at-each-node", &options);
    for node in 0..cluster.len() {
        let page = format!("by-node-{node}");
        let at = cluster.forward(node, PORT, false);
        let answer = eventually(&format!("hearth-{} doesn't answer", node + 1), || {
            ask(at, &page).ok()
        });
        assert!(answer.contains(" 404 "), "{answer}");
        let log = served.wait_for_log(&page);
        let line = log.lines().find(|line| line.contains(&page));
        let line = line.unwrap_or_default();
        assert!(line.contains(OUTSIDE), "hearth-{}: {line}", node + 1);
    }
    // Pods ask any node too, their own and others.
    for from in 0..cluster.len() {
        let asking = serve(docker, "asks", "asks", &["--label", &on(from)]);
        for node in 0..cluster.len() {
            let at = format!("{}:{PORT}", cluster.address(node));
            assert_eq!(fetch(docker, &asking, &at), "at-each-node\n");
        }
    }
}

#[test]
fn what_a_policy_keeps_up_comes_up_elsewhere_under_its_name_and_address() {
    let cluster = cluster::exclusive();
    let docker = cluster.docker(0);
    load_busybox(docker);
    let asking = serve(docker, "asks", "asks", &["--label", &on(0)]);
    let elsewhere = "hearth.constraint.on=node.hostname!=hearth-1";
    let options = ["--label", elsewhere, "--restart", "always"];
    let moves = serve(docker, "moves", "still-served", &options);
    let before = address(&moves);
    assert_eq!(
        fetch(docker, &asking, &before.to_string()),
        "still-served\n"
    );
    let from = place(&moves).expect("it runs somewhere");

    cluster.kill(from);
    let begun = Instant::now();
    let page = eventually("it doesn't answer any more", || {
        try_fetch(docker, &asking, &before.to_string())
    });
    assert_eq!(page, "still-served\n");
    eprintln!(
        "it answered again {:.1} s after its node lost power",
        begun.elapsed().as_secs_f32()
    );
    assert_eq!(address(&moves), before);
    let now = place(&moves).expect("it runs somewhere");
    assert!(now != from && now != 0, "it is on hearth-{}", now + 1);

    cluster.boot_again(from);
    cluster.wait_until_whole();
    eprintln!(
        "the cluster was whole {:.1} s after the power was cut",
        begun.elapsed().as_secs_f32()
    );
    assert_eq!(place(&moves), Some(now));
    assert_eq!(
        fetch(docker, &asking, &before.to_string()),
        "still-served\n"
    );
    // What it has written on the node that died is kept there, stopped, under another name.
    let old = format!("{}.hearth-{}", moves.name, from + 1);
    eventually("what it left isn't there", || {
        let state = docker.run(&["inspect", "--format", "{{.State.Status}}", &old]);
        (state.text().trim() == "exited").then_some(())
    });
    docker.ok(&["rm", &old]);
}

/// The node that a container is on.
fn place(container: &Container) -> Option<usize> {
    let name = container.field("/Node/Name");
    let number: usize = name.as_str()?.strip_prefix("hearth-")?.parse().ok()?;
    Some(number - 1)
}
