//! Where a node's Docker API is on this machine, and who may use it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xtask::identity::{Identity, Pair};

use crate::docker::Docker;

/// The port of a node's Docker API, on the node.
pub const PORT: u16 = 2376;

/// A node that hasn't answered by then hangs: in emulation, on a busy machine, it takes a tenth of it.
const START_HUNG: Duration = Duration::from_secs(300);
/// How often it is asked until it answers.
const ASK: Duration = Duration::from_millis(200);

/// A node's API, and its owner's certificates.
pub struct Api {
    identity: Identity,
    port: u16,
}

impl Api {
    /// On `port` of loopback.
    pub fn on(port: u16, identity: Identity) -> Self {
        Self { identity, port }
    }

    /// Where it is on loopback.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its owner's CA and certificates.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the docker CLI needs to reach the node with the certificate in `folder`.
    pub fn arguments_with(&self, folder: &Path) -> Vec<OsString> {
        let file = |option: &str, name: &str| {
            OsString::from(format!("--{option}={}", folder.join(name).display()))
        };
        vec![
            OsString::from(format!("--host=tcp://{}", self.address())),
            "--tlsverify".into(),
            file("tlscacert", "ca.pem"),
            file("tlscert", "cert.pem"),
            file("tlskey", "key.pem"),
        ]
    }

    /// What the docker CLI needs to reach the node as its owner.
    pub fn docker_arguments(&self) -> Vec<OsString> {
        self.arguments_with(&self.identity.owner_dir())
    }

    /// The owner's docker CLI.
    pub fn docker(&self) -> Docker {
        Docker::new(&crate::target::cli(), self.docker_arguments())
    }

    /// The docker of another tenant than the owner, and the folder with its certificate.
    #[track_caller]
    pub fn tenant(&self, organisation: &str) -> (Docker, TempDir) {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let authority = self.identity.authority();
        let pair = authority
            .client(organisation, "somebody")
            .expect("a certificate can be made");
        client_folder(folder.path(), authority.certificate(), &pair);
        let docker = Docker::new(&crate::target::cli(), self.arguments_with(folder.path()));
        (docker, folder)
    }

    /// Waits until the owner's docker gets an answer. `ended` says that nothing will come any more; `said` is what a failure shows.
    #[track_caller]
    pub fn wait(&self, ended: impl Fn() -> Option<String>, said: impl Fn() -> String) {
        let begun = Instant::now();
        let docker = self.docker();
        loop {
            let mut command = docker.command(&["version", "--format", "{{.Server.Version}}"]);
            command.stdin(Stdio::null());
            let output = command
                .output()
                .unwrap_or_else(|error| panic!("can't start docker: {error}"));
            if output.status.success() {
                eprintln!(
                    "the node answered after {:.1} s",
                    begun.elapsed().as_secs_f32()
                );
                return;
            }
            if let Some(what) = ended() {
                panic!("{what} before the node answered:\n{}", said());
            }
            assert!(
                begun.elapsed() < START_HUNG,
                "hung: the node doesn't answer: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                said()
            );
            std::thread::sleep(ASK);
        }
    }
}

/// A folder as docker wants it: `ca.pem`, `cert.pem`, `key.pem`.
#[track_caller]
pub fn client_folder(folder: &Path, ca: &str, pair: &Pair) {
    for (name, text) in [
        ("ca.pem", ca),
        ("cert.pem", &pair.certificate),
        ("key.pem", &pair.key),
    ] {
        std::fs::write(folder.join(name), text).expect("the temporary folder is writable");
    }
}
