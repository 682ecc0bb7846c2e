//! Boots a node as the end-to-end tests do, prints how to talk to it, and stays until its input ends.

use hearth_tests::node::{Node, Setup};

fn main() {
    let node = Node::boot(&Setup {
        side: std::env::args().any(|argument| argument == "--side"),
        ..Setup::default()
    });
    let arguments: Vec<_> = node
        .api()
        .docker_arguments()
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    println!("docker {}", arguments.join(" "));
    let _ = std::io::stdin().read_line(&mut String::new());
}
