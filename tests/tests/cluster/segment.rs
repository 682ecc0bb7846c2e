//! The network that nodes share: what holds of it whatever they say to each other.

use hearth_tests::cluster::{self, Cluster, Way};
use hearth_tests::docker::Container;
use hearth_tests::process::eventually;
use smoltcp::wire::IpProtocol;

use crate::{BUSYBOX, load_busybox, on};

/// A page on a published port of a node, which is asked there.
#[track_caller]
fn serve<'a>(cluster: &'a Cluster, node: usize, port: u16, page: &str) -> Container<'a> {
    let docker = cluster.docker(node);
    let container = docker.container("served");
    let script = format!("echo {page} > /page; httpd -f -p 80 -h /");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "--label",
        &on(node),
        "-p",
        &format!("{port}:80"),
        BUSYBOX,
        "sh",
        "-c",
        &script,
    ]);
    container
}

/// A container of the first node to ask others from.
#[track_caller]
fn idle(cluster: &Cluster) -> Container<'_> {
    let docker = cluster.docker(0);
    let container = docker.container("asking");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "--label",
        &on(0),
        BUSYBOX,
        "sleep",
        "100000",
    ]);
    container
}

/// Reads a node's page from a container of the first one, once it is there.
#[track_caller]
fn fetch(cluster: &Cluster, from: &Container, to: usize, port: u16) -> String {
    let url = format!("http://{}:{port}/page", cluster.address(to));
    let wget = [
        "exec", &from.name, "timeout", "20", "wget", "-q", "-O", "-", &url,
    ];
    eventually(
        "a node's published port doesn't answer another's container",
        || {
            let done = cluster.docker(0).run(&wget);
            (done.code == Some(0)).then(|| done.text())
        },
    )
}

#[test]
fn each_node_has_an_address_and_answers_for_itself() {
    let cluster = cluster::exclusive();
    let mut addresses = cluster.addresses();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), cluster.len(), "{addresses:?}");
    for node in 0..cluster.len() {
        let name = cluster.docker(node).ok(&["info", "--format", "{{.Name}}"]);
        assert_eq!(name, format!("hearth-{}", node + 1));
        assert!(
            cluster
                .console(node)
                .contains(&cluster.address(node).to_string())
        );
    }
}

#[test]
fn a_container_reaches_another_nodes_published_port_and_it_is_seen_on_the_wire() {
    const PORT: u16 = 18_080;
    let cluster = cluster::exclusive();
    load_busybox(cluster.docker(0));
    let _page = serve(&cluster, 1, PORT, "over-the-wire");
    let asking = idle(&cluster);
    let capture = cluster.capture();
    assert_eq!(fetch(&cluster, &asking, 1, PORT), "over-the-wire\n");
    let other = cluster.address(1).to_string();
    let ping = ["exec", &asking.name, "ping", "-c", "1", "-w", "60", &other];
    let ping = cluster.docker(0).ok(&ping);
    assert!(ping.contains(" 0% packet loss"), "{ping}");

    let between = capture.between(&[cluster.address(0), cluster.address(1)]);
    let carries = |text: &[u8]| {
        let mut served = between.iter().filter(|ip| ip.is(IpProtocol::Tcp, PORT));
        served.any(|ip| ip.payload.windows(text.len()).any(|window| window == text))
    };
    assert!(
        carries(b"GET /page") && carries(b"over-the-wire"),
        "{between:?}"
    );
    assert!(between.iter().any(|ip| ip.protocol == IpProtocol::Icmp));
}

#[test]
fn a_node_whose_plug_is_pulled_takes_nothing_of_the_others_with_it() {
    const PORT: u16 = 18_081;
    let cluster = cluster::exclusive();
    load_busybox(cluster.docker(0));
    cluster.docker(2).ok(&[
        "create",
        "--name",
        "kept",
        "--label",
        &on(2),
        BUSYBOX,
        "true",
    ]);
    let address = cluster.address(2);
    let _page = serve(&cluster, 1, PORT, "still-here");
    let asking = idle(&cluster);
    assert_eq!(fetch(&cluster, &asking, 1, PORT), "still-here\n");
    cluster.kill(2);
    assert_eq!(fetch(&cluster, &asking, 1, PORT), "still-here\n");
    for node in [0, 1] {
        cluster.docker(node).ok(&["version"]);
    }
    cluster.boot_again(2);
    assert_eq!(cluster.address(2), address);
    let names = cluster
        .docker(2)
        .ok(&["ps", "-a", "--format", "{{.Names}}"]);
    assert!(names.lines().any(|name| name == "kept"), "{names}");
    cluster.docker(2).ok(&["rm", "kept"]);
}

#[test]
fn a_cut_cable_parts_a_node_from_the_others_until_it_is_mended() {
    const PORT: u16 = 18_082;
    let cluster = cluster::exclusive();
    load_busybox(cluster.docker(0));
    let _page = serve(&cluster, 1, PORT, "whole");
    let asking = idle(&cluster);
    assert_eq!(fetch(&cluster, &asking, 1, PORT), "whole\n");
    let pinged = |to: usize, patience: &str| {
        let to = cluster.address(to).to_string();
        let ping = ["exec", &asking.name, "ping", "-c", "1", "-w", patience, &to];
        cluster.docker(0).run(&ping).code == Some(0)
    };
    // The third's: nobody is asked through it.
    let third = cluster.address(2);
    for way in [Way::ToMachine, Way::FromMachine, Way::Both] {
        cluster.cut(2, way);
        let capture = cluster.capture();
        assert!(!pinged(2, "5"), "{way:?}");
        // What it doesn't hear it doesn't answer, and what it answers isn't heard.
        let answers = capture.between(&[cluster.address(0), third]);
        assert!(
            !answers
                .iter()
                .any(|ip| ip.source == third && ip.protocol == IpProtocol::Icmp)
        );
        // Who decides may have been the third: then it takes another a moment.
        let reached = |to| eventually("it isn't reached", || pinged(to, "60").then_some(()));
        reached(1);
        cluster.heal(2);
        reached(2);
    }
    assert_eq!(fetch(&cluster, &asking, 1, PORT), "whole\n");
}
