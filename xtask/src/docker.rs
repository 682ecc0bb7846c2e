//! The docker CLI, pointed at a node.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// The context that `cargo xtask try` makes for its user.
pub const CONTEXT: &str = "hearth";

/// Settings of the user's that would lead the CLI elsewhere.
const ELSEWHERE: [&str; 5] = [
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
];

/// Makes or updates the context: the node's API on a port of loopback, with the owner's certificate.
pub fn create_context(port: u16, owner_dir: &Path) -> Result<()> {
    let file = |name: &str| owner_dir.join(name).display().to_string();
    let endpoint = format!(
        "host=tcp://127.0.0.1:{port},ca={},cert={},key={}",
        file("ca.pem"),
        file("cert.pem"),
        file("key.pem")
    );
    let exists = process::capture(plain().args(["context", "inspect", CONTEXT])).is_ok();
    let verb = if exists { "update" } else { "create" };
    process::capture(
        plain()
            .args([
                "context",
                verb,
                CONTEXT,
                "--description",
                "A Hearth node in QEMU",
                "--docker",
            ])
            .arg(endpoint),
    )
    .context("making the docker context")?;
    Ok(())
}

/// The CLI on the node.
pub fn command() -> Command {
    let mut command = plain();
    command.args(["--context", CONTEXT]);
    command
}

/// How long a node that is up may take to tell its version. While it boots, connections to its forwarded port neither
/// succeed nor fail.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Version of the engine whose API is on a port of loopback, if it answers.
pub fn server_version(port: u16, owner_dir: &Path) -> Result<String> {
    let file = |option: &str, name: &str| format!("--{option}={}", owner_dir.join(name).display());
    let version = process::capture_within(
        plain()
            .arg(format!("--host=tcp://127.0.0.1:{port}"))
            .arg("--tlsverify")
            .arg(file("tlscacert", "ca.pem"))
            .arg(file("tlscert", "cert.pem"))
            .arg(file("tlskey", "key.pem"))
            .args(["version", "--format", "{{.Server.Version}}"]),
        ANSWER_TIMEOUT,
    )?;
    Ok(version.trim().to_owned())
}

fn plain() -> Command {
    let mut command = Command::new("docker");
    for variable in ELSEWHERE {
        command.env_remove(variable);
    }
    command
}
