//! Several nodes as one, without machines: who belongs together, what all see, and what goes on when some are gone.

mod images;
mod losses;
mod moves;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hearth_tests::docker::{Docker, Running};
use hearth_tests::native::{self, Cluster};
use hearth_tests::process::eventually;

use crate::{BUSYBOX, load_busybox};

const NODES: usize = 3;

/// Three nodes, for one case at a time; each finds all of them whole, and the image at the first.
#[track_caller]
fn cluster() -> Option<MutexGuard<'static, Cluster>> {
    if !possible() {
        return None;
    }
    static SHARED: OnceLock<Mutex<Cluster>> = OnceLock::new();
    // A case that failed leaves a cluster as good as any other does: what it broke is mended below.
    let cluster = SHARED
        .get_or_init(|| Mutex::new(Cluster::start(NODES as u8)))
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    cluster.restore();
    load_busybox(&cluster.docker(0));
    Some(cluster)
}

/// Whether this machine lets us; otherwise the case says that it was skipped.
fn possible() -> bool {
    let possible = native::possible();
    if !possible {
        // Not by a macro: the harness would hold it back.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: this machine gives no networks of one's own"
        );
    }
    possible
}

/// A container that runs until it's killed.
#[track_caller]
fn run(docker: &Docker, name: &str, options: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(options);
    arguments.extend([BUSYBOX, "sleep", "100000"]);
    docker.ok(&arguments);
}

/// What it is at last, asked at a node until it is that.
#[track_caller]
fn becomes(docker: &Docker, name: &str, format: &str, wanted: &str) {
    let mut last = String::new();
    eventually(&format!("{name} doesn't become {wanted}"), || {
        let inspected = docker.run(&["inspect", "--format", format, name]);
        let now = inspected.text().trim().to_owned();
        let found = now == wanted;
        if now != last {
            eprintln!("{name}: {now} {}", inspected.stderr.trim());
            last = now;
        }
        found.then_some(())
    });
}

fn remove(docker: &Docker, names: &[&str]) {
    docker.ok(&[&["rm", "-f"], names].concat());
}

#[track_caller]
fn leader(cluster: &Cluster, asked: usize) -> usize {
    eventually("nobody leads", || {
        let format = "{{.Hostname}} {{.ManagerStatus}}";
        let listed = cluster
            .docker(asked)
            .run(&["node", "ls", "--format", format]);
        let leads = listed.text();
        let line = leads.lines().find(|line| line.ends_with("Leader"))?;
        let number: usize = line
            .strip_prefix("hearth-")?
            .split(' ')
            .next()?
            .parse()
            .ok()?;
        Some(number - 1)
    })
}

/// What was of nodes, as docker's CLI shows it.
fn node_events(docker: &Docker) -> String {
    let attributes = r#"{{index .Actor.Attributes "name"}} {{index .Actor.Attributes "availability.old"}} {{index .Actor.Attributes "availability.new"}}"#;
    let format = format!("{{{{.Action}}}} {attributes}");
    let asked = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=node",
        "--filter",
        "scope=swarm",
        "--format",
    ];
    docker.ok(&[&asked[..], &[&format]].concat())
}

/// Waits until two nodes have what a container that may move is made from.
#[track_caller]
fn wait_for_copies(cluster: &Cluster, name: &str) {
    let image = cluster
        .docker(0)
        .ok(&["inspect", "--format", "{{.Image}}", name]);
    eventually("there is no second copy of its image", || {
        let consoles = (0..NODES).map(|node| cluster.node(node).console());
        let copies = consoles.map(|text| {
            let of_it = |line: &&str| {
                line.contains(&image)
                    && (line.contains("image stored") || line.contains("image fetched"))
            };
            usize::from(text.lines().any(|line| of_it(&line)))
        });
        (copies.sum::<usize>() >= 2).then_some(())
    });
}

/// The node that a container is on.
fn try_place(cluster: &Cluster, name: &str) -> Option<usize> {
    let format = "{{.Node.Name}}";
    let docker = cluster.docker(0);
    let told = docker.run(&["inspect", "--format", format, name]).text();
    let number: usize = told.trim().strip_prefix("hearth-")?.parse().ok()?;
    Some(number - 1)
}

#[track_caller]
fn place(cluster: &Cluster, name: &str) -> usize {
    eventually(&format!("{name} is nowhere"), || try_place(cluster, name))
}

#[test]
fn nodes_of_one_file_find_each_other_and_all_see_the_same() {
    let Some(cluster) = cluster() else { return };
    for node in 0..NODES {
        let format = "{{.Hostname}} {{.Status}} {{.Self}}";
        let listed = cluster.docker(node).ok(&["node", "ls", "--format", format]);
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        let expected: Vec<String> = (0..NODES)
            .map(|other| format!("hearth-{} Ready {}", other + 1, other == node))
            .collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_container_is_one_wherever_it_is_asked_for() {
    let Some(cluster) = cluster() else { return };
    run(&cluster.docker(0), "one", &[]);
    for node in 0..NODES {
        let docker = cluster.docker(node);
        assert_eq!(docker.ok(&["ps", "--format", "{{.Names}}"]), "one");
        // The scripted guest says what it was asked, and ends with seven.
        let exec = docker.run(&["exec", "one", "echo", "heard"]).exits(7);
        assert_eq!(exec.stderr.trim(), "echo heard");
        docker
            .run(&["run", "--name", "one", BUSYBOX, "true"])
            .fails_saying(&["is already in use"]);
    }
    cluster.docker(1).ok(&["stop", "one"]);
    assert_eq!(cluster.docker(2).ok(&["ps", "-q"]), "");
    cluster.docker(2).ok(&["start", "one"]);
    becomes(&cluster.docker(0), "one", "{{.State.Status}}", "running");
    remove(&cluster.docker(2), &["one"]);
    for node in 0..NODES {
        assert_eq!(cluster.docker(node).ok(&["ps", "-aq"]), "");
    }
}

#[test]
fn what_a_container_says_is_heard_through_every_node() {
    let Some(cluster) = cluster() else { return };
    for node in 0..NODES {
        let name = format!("says-{node}");
        let said = cluster
            .docker(node)
            .ok(&["run", "--name", &name, BUSYBOX, "echo", "over", "here"]);
        assert_eq!(said, "over here");
        for other in 0..NODES {
            assert_eq!(cluster.docker(other).ok(&["logs", &name]), "over here");
        }
    }
    remove(&cluster.docker(0), &["says-0", "says-1", "says-2"]);
}

#[test]
fn what_happens_on_one_node_is_among_the_events_of_every_node() {
    let Some(cluster) = cluster() else { return };
    let there = "hearth.constraint.on=node.hostname==hearth-2";
    run(&cluster.docker(0), "watched", &["--label", there]);
    let format = "{{.Action}}";
    let events: Vec<_> = (0..NODES)
        .map(|node| {
            let docker = cluster.docker(node);
            let asked = [
                "events",
                "--filter",
                "container=watched",
                "--format",
                format,
            ];
            docker.start(&asked)
        })
        .collect();
    // Each follows once it tells of something; what isn't in the log is told by all that tell of something later.
    let mut number = 0;
    eventually("not everybody hears of an exec", || {
        number += 1;
        let name = format!("said-{number}");
        cluster
            .docker(number % NODES)
            .run(&["exec", "watched", "echo", &name]);
        let heard = |events: &Running| {
            events
                .stdout
                .text()
                .contains(&format!("exec_start: echo {name}"))
        };
        events.iter().all(heard).then_some(())
    });
    drop(events);
    remove(&cluster.docker(0), &["watched"]);
}

#[test]
fn what_was_acknowledged_outlives_the_leader_and_others_go_on() {
    let Some(cluster) = cluster() else { return };
    let first = leader(&cluster, 0);
    let others: Vec<usize> = (0..NODES).filter(|node| *node != first).collect();
    let names: Vec<String> = (0..10).map(|number| format!("kept-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let docker = cluster.docker(others[number % 2]);
        docker.ok(&["create", "--name", name, BUSYBOX, "true"]);
    }
    cluster.node(first).kill();
    for node in &others {
        let docker = cluster.docker(*node);
        docker.ok(&[
            "create",
            "--name",
            &format!("after-{node}"),
            BUSYBOX,
            "true",
        ]);
        let listed = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
        for name in &names {
            assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
        }
    }
    assert_ne!(leader(&cluster, others[0]), first);
    cluster.node(first).start_again();
    let docker = cluster.docker(first);
    let listed = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    assert_eq!(listed.lines().count(), 12, "{listed}");
    docker.ok(&[&["rm"], listed.lines().collect::<Vec<_>>().as_slice()].concat());
}

#[test]
fn a_node_leaves_is_removed_and_comes_back_as_another() {
    if !possible() {
        return;
    }
    // Its own cluster: who is in it changes.
    let cluster = Cluster::start(NODES as u8);
    let docker = cluster.docker(0);
    let id = |node: usize| {
        let format = "{{.ID}} {{.Hostname}}";
        let listed = docker.ok(&["node", "ls", "--format", format]);
        let hostname = format!("hearth-{}", node + 1);
        let line = listed.lines().find(|line| line.ends_with(&hostname));
        line.and_then(|line| line.split(' ').next())
            .map(str::to_owned)
    };
    let before = id(2).expect("it is a member");
    docker
        .run(&["node", "rm", &before])
        .fails_saying(&["is not down"]);
    cluster.docker(2).ok(&["swarm", "leave", "--force"]);
    eventually("it doesn't leave", || {
        let state = cluster
            .docker(2)
            .run(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
        (state.text().trim() == "inactive" && id(2).is_none()).then_some(())
    });
    let address = docker.ok(&["info", "--format", "{{.Swarm.NodeAddr}}"]);
    let address = format!("{address}:2377");
    let token = docker.ok(&["swarm", "join-token", "-q", "worker"]);
    docker.ok(&["swarm", "join-token", "--rotate", "-q", "worker"]);
    cluster
        .docker(2)
        .run(&["swarm", "join", "--token", &token, &address])
        .fails_saying(&["token"]);
    let token = docker.ok(&["swarm", "join-token", "-q", "worker"]);
    cluster
        .docker(2)
        .ok(&["swarm", "join", "--token", &token, &address]);
    let after = eventually("it doesn't come back", || id(2));
    assert_ne!(before, after);
    let told = node_events(&docker);
    for words in ["create hearth-3", "remove hearth-3"] {
        assert!(told.lines().any(|line| line.trim() == words), "{told}");
    }
    // A worker says who to ask.
    cluster
        .docker(2)
        .run(&["node", "ls"])
        .fails_saying(&["not a swarm manager"]);
    let role = docker.ok(&["node", "inspect", "--format", "{{.Spec.Role}}", &after]);
    assert_eq!(role, "worker");
}

#[test]
fn a_clients_certificate_that_was_taken_back_counts_on_no_node() {
    let Some(cluster) = cluster() else { return };
    let (number, ca) = (7, cluster.node(0).api().identity().authority());
    let pair = ca.client_of_number("acme", "gone", number);
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let pair = pair.expect("a certificate can be made");
    hearth_tests::api::client_folder(folder.path(), ca.certificate(), &pair);
    let gone = |node: usize| {
        let api = cluster.node(node).api();
        Docker::new(
            &hearth_tests::target::cli(),
            api.arguments_with(folder.path()),
        )
    };
    for node in 0..NODES {
        gone(node).ok(&["ps"]);
    }
    let follows = gone(2);
    let following = follows.start(&["events"]);
    let list = ca.revoked(1, &[number]).expect("a list can be made");
    let hand_over = |list: &str| {
        let words = ["config", "create", "revoked", "-"];
        cluster.docker(1).run_with_input(&words, list.as_bytes())
    };
    hand_over(&list).exits(0);
    for node in 0..NODES {
        eventually("it is let in still", || {
            (gone(node).run(&["ps"]).code != Some(0)).then_some(())
        });
        cluster.docker(node).ok(&["ps"]);
    }
    // What was open is closed.
    assert_ne!(following.finish().code, None);
    // Whoever has been off hears of it before it answers.
    cluster.node(0).kill();
    cluster.node(0).start_again();
    assert_ne!(gone(0).run(&["ps"]).code, Some(0));
    let list = ca.revoked(0, &[]).expect("a list can be made");
    hand_over(&list).fails_saying(&["isn't later than the one that counts"]);
}

#[test]
fn what_ran_on_a_node_that_is_removed_by_force_has_ended_there_before() {
    if !possible() {
        return;
    }
    // Its own cluster: who is in it changes. The one that leads has most to hand over.
    let cluster = Cluster::start(NODES as u8);
    let gone = leader(&cluster, 0);
    let (asked, other) = ((gone + 1) % NODES, (gone + 2) % NODES);
    let docker = cluster.docker(asked);
    load_busybox(&docker);
    let name = |node: usize| format!("hearth-{}", node + 1);
    let there = format!("hearth.constraint.on=node.hostname=={}", name(gone));
    let not_here = format!("hearth.constraint.on=node.hostname!={}", name(asked));
    run(&docker, "stays", &["--label", &there]);
    let always = ["--restart", "always", "--label", &not_here];
    run(&docker, "moves", &always);
    wait_for_copies(&cluster, "moves");
    docker
        .run(&["node", "rm", &name(gone)])
        .fails_saying(&["is not down"]);
    docker.ok(&["node", "rm", "--force", &name(gone)]);
    // By its own word, not as what was lost with its node.
    becomes(
        &docker,
        "stays",
        "{{.State.Status}} {{.State.ExitCode}}",
        "exited 143",
    );
    becomes(
        &docker,
        "moves",
        "{{.Node.Name}} {{.State.Status}}",
        &format!("{} running", name(other)),
    );
    let listed = docker.ok(&["node", "ls", "--format", "{{.Hostname}}"]);
    assert!(!listed.contains(&name(gone)), "{listed}");
}

/// Gives a locked node the key, as who types it does.
fn unlock(docker: &Docker, key: &str) -> hearth_tests::docker::Finished {
    docker.run_with_input(&["swarm", "unlock"], format!("{key}\n").as_bytes())
}

/// Where a node stands in its swarm.
fn standing(docker: &Docker) -> String {
    let format = "{{.Swarm.LocalNodeState}}";
    let told = docker.run(&["info", "--format", format]).text();
    told.trim().to_owned()
}

#[track_caller]
fn comes_back(docker: &Docker) {
    eventually("it isn't in its swarm again", || {
        (standing(docker) == "active").then_some(())
    });
}

/// A power cut, after which it is locked.
#[track_caller]
fn lose_power(cluster: &Cluster, node: usize) {
    cluster.node(node).kill();
    cluster.node(node).start_again();
    assert_eq!(standing(&cluster.docker(node)), "locked");
}

#[test]
fn a_node_of_a_locked_cluster_does_nothing_after_a_power_cut_before_it_is_given_the_key() {
    if !possible() {
        return;
    }
    // Its own cluster: it is locked for others.
    let cluster = Cluster::start(NODES as u8);
    let docker = cluster.docker(0);
    load_busybox(&docker);
    let key = |node: usize| {
        let told = cluster.docker(node).run(&["swarm", "unlock-key", "-q"]);
        told.text().trim().to_owned()
    };
    docker
        .run(&["swarm", "unlock-key"])
        .fails_saying(&["no unlock key is set"]);
    let said = docker.ok(&["swarm", "update", "--autolock=true"]);
    let first = key(0);
    assert!(
        first.starts_with("SWMKEY-1-") && said.contains(&first),
        "{said}"
    );
    for node in 1..NODES {
        eventually("it isn't told the key", || {
            (key(node) == first).then_some(())
        });
    }
    let there = "hearth.constraint.on=node.hostname==hearth-3";
    run(
        &docker,
        "stays",
        &[
            "--label",
            there,
            "--restart",
            "always",
            "--label",
            "hearth.failover=never",
        ],
    );

    lose_power(&cluster, 2);
    let locked = cluster.docker(2);
    for command in [["ps", "-a"], ["node", "ls"], ["swarm", "unlock-key"]] {
        locked
            .run(&command)
            .fails_saying(&["Swarm is encrypted and needs to be unlocked before it can be used"]);
    }
    let status = |of: &str| {
        let format = "{{.Hostname}} {{.Status}}";
        let listed = docker.run(&["node", "ls", "--format", format]).text();
        let line = listed.lines().find_map(|line| line.strip_prefix(of));
        line.map(|line| line.trim().to_owned())
    };
    eventually("others don't find it gone", || {
        (status("hearth-3")? == "Down").then_some(())
    });
    unlock(&locked, "SWMKEY-1-x").fails_saying(&["no unlock key"]);
    let wrong = format!("SWMKEY-1-{}", "A".repeat(43));
    unlock(&locked, &wrong).fails_saying(&["swarm could not be unlocked: invalid key provided"]);
    unlock(&locked, &first).exits(0);
    comes_back(&locked);
    unlock(&locked, &first).fails_saying(&["swarm is not locked"]);
    becomes(&docker, "stays", "{{.State.Status}}", "running");
    remove(&docker, &["stays"]);

    // One that is off meanwhile opens by the key that it knew, and is told the next one.
    cluster.node(2).kill();
    docker.ok(&["swarm", "unlock-key", "--rotate", "-q"]);
    let second = key(0);
    assert_ne!(first, second);
    cluster.node(2).start_again();
    unlock(&locked, &second).fails_saying(&["invalid key"]);
    unlock(&locked, &first).exits(0);
    comes_back(&locked);
    assert_eq!(key(2), second);
    lose_power(&cluster, 2);
    unlock(&locked, &first).fails_saying(&["invalid key"]);

    // One that nobody opens can be given up, and joins as another by a token.
    locked
        .run(&["swarm", "leave"])
        .fails_saying(&["Please unlock it first or use `--force`"]);
    locked.ok(&["swarm", "leave", "--force"]);
    eventually("it isn't a node of its own", || {
        (standing(&locked) == "inactive").then_some(())
    });
    let address = docker.ok(&["info", "--format", "{{.Swarm.NodeAddr}}"]);
    let token = docker.ok(&["swarm", "join-token", "-q", "manager"]);
    let address = format!("{address}:2377");
    locked.ok(&["swarm", "join", "--token", &token, &address]);
    eventually("it isn't told the key", || (key(2) == second).then_some(()));

    docker.ok(&["swarm", "update", "--autolock=false"]);
    eventually("the lock isn't gone", || (key(2).is_empty()).then_some(()));
    cluster.node(1).kill();
    cluster.node(1).start_again();
    comes_back(&cluster.docker(1));
}
