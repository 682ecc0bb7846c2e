//! A tenant that asks for more than its part.

use hearth_tests::images;
use hearth_tests::native::{self, Native};

/// What the owner's file gives `guests`.
const GUESTS: &str = "\n[tenants.guests]\nmemory_gib = 1\ncontainers = 3\npriority = \"batch\"\n";

#[test]
fn a_tenant_gets_its_part_and_is_told_what_is_left() {
    if !native::possible() {
        return;
    }
    let node = Native::configured(GUESTS);
    let (guests, _folder) = node.api().tenant("guests");
    guests.run_with_input(
        &["load"],
        &images::busybox().docker_archive("busybox:latest"),
    );
    let create = |arguments: &[&str]| {
        let command = [&["create"], arguments, &["busybox", "true"]].concat();
        guests.run(&command)
    };
    create(&[])
        .exits(1)
        .fails_saying(&["guests", "quota", "--memory"]);
    create(&["-m", "768m", "--name", "first"]).exits(0);
    create(&["-m", "512m"]).exits(1).fails_saying(&[
        "quota exceeded",
        "guests",
        "768",
        "1 GiB",
        "512",
    ]);
    create(&["-m", "64m", "--label", "hearth.priority=production"])
        .exits(1)
        .fails_saying(&["priority", "guests", "batch"]);
    create(&["-m", "64m", "--label", "hearth.priority=batch"]).exits(0);
    create(&["-m", "64m"]).exits(0);
    create(&["-m", "64m"])
        .exits(1)
        .fails_saying(&["quota exceeded", "3"]);
    // What is removed is there again, and what the node restarts with counts as before.
    node.kill();
    node.start_again();
    create(&["-m", "64m"]).exits(1);
    guests.ok(&["rm", "first"]);
    create(&["-m", "512m"]).exits(0);
    // Nobody else is held to that.
    let owner = node.api().docker();
    owner.run_with_input(
        &["load"],
        &images::busybox().docker_archive("busybox:latest"),
    );
    for _ in 0..4 {
        owner.ok(&["create", "-m", "768m", "busybox", "true"]);
    }
}
