//! Images that somebody would run, doing what they are for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hearth_tests::images;
use hearth_tests::process::{HUNG, eventually};
use hearth_tests::target::{self, Target};

/// The tag of the Python image, present on the node.
fn python(target: &Target) -> String {
    target.loaded("hearth-test/python:latest", || images::python().clone())
}

/// Clients at once.
const CLIENTS: usize = 16;
/// Requests of each, one after the other.
const REQUESTS: usize = 5;

/// One HTTP request on a connection of its own.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(HUNG))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: hearth\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}

#[test]
fn nginx_answers_on_a_published_port() {
    let target = target::shared();
    let docker = target.docker();
    let tag = target.loaded("hearth-test/nginx:latest", || images::nginx().clone());
    let container = docker.container("nginx");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "-p",
        "127.0.0.1::80",
        "-p",
        "80",
        &tag,
    ]);
    let address = target.published(&container.name, "80/tcp");
    let answer = eventually("nginx doesn't answer", || get(address, "/").ok());
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("<h1>warm</h1>\n"),
        "{answer}"
    );
    let answer = get(address, "/nothing").expect("nginx has answered before");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // What it writes to /dev/stdout and /dev/stderr is its log.
    container.wait_for_log("GET / HTTP/1.0\" 200");
    // StopSignal of the image: a graceful end.
    docker.ok(&["stop", &container.name]);
    assert_eq!(container.field("/State/ExitCode"), 0);
    // The published port goes with the container.
    docker.ok(&["start", &container.name]);
    let address = target.published(&container.name, "80/tcp");
    eventually("nginx doesn't answer after a restart", || {
        get(address, "/").ok()
    });
}

#[test]
fn many_connections_at_once_are_served() {
    let target = target::shared();
    let docker = target.docker();
    let tag = target.loaded("hearth-test/nginx:latest", || images::nginx().clone());
    let server = docker.container("nginx-many");
    docker.ok(&["run", "-d", "--name", &server.name, "-p", "80", &tag]);
    let address = target.published(&server.name, "80/tcp");
    eventually("nginx doesn't answer", || get(address, "/").ok());
    // From a container, by the port that is published on the node: QEMU's forwarding from outside keeps a queue of one connection, and
    // some of a burst never come as far as the node. Nothing is repeated: a connection that is refused or cut off is a failure.
    let gateway = server.field("/NetworkSettings/Gateway");
    let port = server.field("/NetworkSettings/Ports/80~1tcp/0/HostPort");
    let (Some(gateway), Some(port)) = (gateway.as_str(), port.as_str()) else {
        panic!("no gateway ({gateway}) or port ({port})");
    };
    let script = "import sys, urllib.request as request\n\
        from concurrent.futures import ThreadPoolExecutor\n\
        url, clients, requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n\
        def get(_):\n    return request.urlopen(url).read().endswith(b'</h1>\\n')\n\
        with ThreadPoolExecutor(clients) as pool:\n\
        \x20   print(sum(pool.map(get, range(clients * requests))), 'served')\n";
    let client = python(target);
    let url = format!("http://{gateway}:{port}/");
    let (clients, requests) = (CLIENTS.to_string(), REQUESTS.to_string());
    let arguments = ["run", "--rm", &client, "python3", "-c", script];
    let text = docker.ok(&[&arguments[..], &[&url, &clients, &requests]].concat());
    assert_eq!(text, format!("{} served", CLIENTS * REQUESTS));
}

#[test]
fn a_udp_port_is_published_both_ways() {
    let target = target::shared();
    let docker = target.docker();
    let tag = python(target);
    let container = docker.container("udp");
    let server = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9999))\n\
        while True:\n    data, sender = s.recvfrom(2048); s.sendto(b'got ' + data, sender)\n";
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "-p",
        "9999/udp",
        &tag,
        "python3",
        "-c",
        server,
    ]);
    let address = target.published(&container.name, "9999/udp");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout isn't zero");
    let mut buffer = [0; 64];
    let answer = eventually("no datagram comes back", || {
        socket.send_to(b"ping\n", address).ok()?;
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    });
    assert!(answer.starts_with("got ping"), "{answer:?}");
}

#[test]
fn redis_survives_its_benchmark() {
    let target = target::shared();
    let docker = target.docker();
    let tag = target.loaded("hearth-test/redis:latest", || images::redis().clone());
    let container = docker.container("redis");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "-m",
        "256m",
        "-p",
        "6379",
        &tag,
    ]);
    container.wait_for_log("Ready to accept connections");
    let text = docker.ok(&[
        "exec",
        &container.name,
        "redis-benchmark",
        "-q",
        "-n",
        "2000",
        "-c",
        "20",
        "-P",
        "4",
        "-t",
        "ping,set,get,incr,lpush",
    ]);
    for command in ["SET", "GET", "INCR", "LPUSH"] {
        assert!(
            text.contains(&format!("{command}: ")) && text.contains("requests per second"),
            "{text}"
        );
    }
    // And from outside, by its protocol.
    let mut stream =
        TcpStream::connect(target.published(&container.name, "6379/tcp")).expect("redis listens");
    stream
        .set_read_timeout(Some(HUNG))
        .expect("a timeout isn't zero");
    stream
        .write_all(b"SET hearth warm\r\nGET hearth\r\n")
        .expect("redis reads");
    let expected = b"+OK\r\n$4\r\nwarm\r\n";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).expect("redis answers");
    assert_eq!(answer, expected);
    docker.ok(&["stop", &container.name]);
    assert_eq!(container.field("/State/ExitCode"), 0);
}

#[test]
fn postgresql_initialises_itself_and_keeps_its_data() {
    let target = target::shared();
    let docker = target.docker();
    let tag = target.loaded("hearth-test/postgresql:latest", || {
        images::postgresql().clone()
    });
    let container = docker.container("postgresql");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "-m",
        "512m",
        "-p",
        "5432",
        &tag,
    ]);
    let query = |sql: &str| {
        docker.run(&[
            "exec",
            &container.name,
            "psql",
            "-U",
            "postgres",
            "-At",
            "-c",
            sql,
        ])
    };
    let answers = || {
        eventually("PostgreSQL doesn't answer", || {
            assert_eq!(
                container.field("/State/Running"),
                true,
                "{}",
                docker.run(&["logs", &container.name]).stderr
            );
            (query("select 1").code == Some(0)).then_some(())
        });
    };
    answers();
    query("create table hearths (name text); insert into hearths select 'h' || n from generate_series(1, 1000) n").exits(0);
    assert_eq!(
        query("select count(*), max(name) from hearths")
            .exits(0)
            .text(),
        "1000|h999\n"
    );
    docker.ok(&["stop", &container.name]);
    assert_eq!(container.field("/State/ExitCode"), 0);
    docker.ok(&["start", &container.name]);
    answers();
    assert_eq!(
        query("select count(*) from hearths").exits(0).text(),
        "1000\n"
    );
    let logs = docker.run(&["logs", &container.name]).exits(0);
    assert_eq!(
        logs.text()
            .matches("Success. You can now start the database server")
            .count(),
        1,
        "{logs:?}"
    );
}

#[test]
fn python_has_its_library() {
    let target = target::shared();
    let docker = target.docker();
    let tag = python(target);
    let program = "import hashlib, json, sqlite3, ssl, threading, subprocess, sys\n\
        db = sqlite3.connect('/tmp/t.db'); db.execute('create table t (x)'); db.execute('insert into t values (42)'); db.commit()\n\
        seen = []; threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(8)]\n\
        [t.start() for t in threads]; [t.join() for t in threads]\n\
        print(json.dumps({'db': db.execute('select x from t').fetchone()[0], 'threads': sorted(seen), 'sub': subprocess.check_output(['echo', 'hi']).decode()}))\n\
        sys.exit(5)\n";
    let done = docker
        .run_with_input(
            &["run", "--rm", "-i", &tag, "python3", "-"],
            program.as_bytes(),
        )
        .exits(5);
    assert_eq!(
        done.text().trim(),
        r#"{"db": 42, "threads": [0, 1, 2, 3, 4, 5, 6, 7], "sub": "hi\n"}"#
    );
}
