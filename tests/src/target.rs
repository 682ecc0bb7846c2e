//! What the cases drive: a Hearth node, or, to check the cases themselves, a dockerd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::archive::Image;
use crate::docker::Docker;
use crate::faults::{Fault, Proxy};
use crate::images;
use crate::node::{Node, Setup};
use crate::registry::Registry;

/// Names a reference dockerd's endpoint (`unix:///…`): the cases then run against it and no node is booted. What
/// both can't pass alike a case skips by asking [`Target::is_hearth`].
pub const REFERENCE: &str = "HEARTH_TESTS_REFERENCE";

/// The docker CLI under test, if it isn't the one on the `PATH`: the tests run with the distribution's as well.
pub const DOCKER_CLI: &str = "HEARTH_TESTS_DOCKER";

/// What answers the docker CLI.
enum Kind {
    Hearth(Box<Node>),
    Reference,
}

/// A running node with what belongs around it.
pub struct Target {
    kind: Kind,
    docker: Docker,
    registry: Registry,
    private_registry: Registry,
    dropping: Proxy,
    always_dropping: Proxy,
    corrupting: Proxy,
    slow: Proxy,
    silent: Proxy,
    broken: Proxy,
    unlisted: Proxy,
    /// A port that nothing listens on, and that the node may speak plain HTTP to.
    down_port: u16,
    /// The tags that have been loaded; held while one is being loaded, so that it's loaded once.
    loaded: Mutex<Vec<String>>,
}

/// The target of this test binary: booted by the first case that asks, ended with the binary.
pub fn shared() -> &'static Target {
    static SHARED: OnceLock<Target> = OnceLock::new();
    SHARED.get_or_init(Target::start)
}

/// The docker CLI under test.
pub fn cli() -> PathBuf {
    std::env::var_os(DOCKER_CLI).map_or_else(|| "docker".into(), PathBuf::from)
}

impl Target {
    fn start() -> Self {
        let registry = Registry::start();
        let private_registry = Registry::start_private();
        let proxy = |fault| Proxy::start(registry.port(), fault);
        let dropping = proxy(Fault::Drops { times: 2 });
        let always_dropping = proxy(Fault::AlwaysDrops);
        let corrupting = proxy(Fault::WrongBytes);
        let slow = proxy(Fault::Slow);
        let silent = proxy(Fault::Silent);
        let broken = proxy(Fault::Broken);
        let unlisted = proxy(Fault::Drops { times: 0 });
        let down_port = crate::registry::free_port().expect("loopback has a free port");
        let cli = cli();
        let (kind, docker) = match std::env::var(REFERENCE) {
            Ok(endpoint) => (Kind::Reference, Docker::new(&cli, ["-H", &endpoint])),
            Err(_) => {
                let insecure = [
                    registry.port(),
                    private_registry.port(),
                    dropping.port(),
                    always_dropping.port(),
                    corrupting.port(),
                    slow.port(),
                    silent.port(),
                    broken.port(),
                    down_port,
                ];
                let insecure = insecure.map(|port| format!("10.0.2.2:{port}")).to_vec();
                let node = Node::boot(&Setup {
                    insecure,
                    ..Setup::default()
                });
                let docker = Docker::new(&cli, node.docker_arguments());
                (Kind::Hearth(Box::new(node)), docker)
            }
        };
        Self {
            kind,
            docker,
            registry,
            private_registry,
            dropping,
            always_dropping,
            corrupting,
            slow,
            silent,
            broken,
            unlisted,
            down_port,
            loaded: Mutex::default(),
        }
    }

    /// Whether this is what we ship, and not the dockerd that the cases are checked against.
    pub fn is_hearth(&self) -> bool {
        matches!(self.kind, Kind::Hearth(_))
    }

    /// The node; none when the cases run against a dockerd.
    pub fn node(&self) -> Option<&Node> {
        match &self.kind {
            Kind::Hearth(node) => Some(node),
            Kind::Reference => None,
        }
    }

    /// The docker CLI, with the owner's certificate.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// A real registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A real registry that asks for [`crate::registry::CREDENTIALS`].
    pub fn private_registry(&self) -> &Registry {
        &self.private_registry
    }

    /// The registry behind a connection that breaks off twice in the middle of a layer.
    pub fn dropping(&self) -> &Proxy {
        &self.dropping
    }

    /// The registry behind a connection that breaks off in every layer.
    pub fn always_dropping(&self) -> &Proxy {
        &self.always_dropping
    }

    /// The registry, serving layers with a wrong byte.
    pub fn corrupting(&self) -> &Proxy {
        &self.corrupting
    }

    /// The registry behind a slow connection.
    pub fn slow(&self) -> &Proxy {
        &self.slow
    }

    /// A registry that accepts connections and says nothing.
    pub fn silent(&self) -> &Proxy {
        &self.silent
    }

    /// A registry that answers everything with a server error.
    pub fn broken(&self) -> &Proxy {
        &self.broken
    }

    /// The registry, faultless, on a port that the node may not speak plain HTTP to.
    pub fn unlisted(&self) -> &Proxy {
        &self.unlisted
    }

    /// The port of a registry that is down.
    pub fn down_port(&self) -> u16 {
        self.down_port
    }

    /// How the node and its containers call this machine's loopback.
    pub fn host_address(&self) -> &'static str {
        match self.kind {
            // QEMU's user-mode network: the host, as its guests see it.
            Kind::Hearth(_) => "10.0.2.2",
            Kind::Reference => "127.0.0.1",
        }
    }

    /// What a container connects to, and what a server of the test binds, so that they meet.
    pub fn meeting_point(&self) -> (&'static str, &'static str) {
        match self.kind {
            Kind::Hearth(_) => ("10.0.2.2", "127.0.0.1"),
            Kind::Reference => ("172.17.0.1", "172.17.0.1"),
        }
    }

    /// `name` in the registry on `port`, as the node must call it.
    pub fn image_at(&self, port: u16, name: &str) -> String {
        format!("{}:{port}/{name}", self.host_address())
    }

    /// Where this machine reaches the port that `container` publishes as `port` (`80/tcp`).
    #[track_caller]
    pub fn published(&self, container: &str, port: &str) -> SocketAddr {
        let printed = self.docker.ok(&["port", container, port]);
        let node_port: u16 = printed
            .lines()
            .find_map(|line| line.rsplit_once(':')?.1.parse().ok())
            .unwrap_or_else(|| {
                panic!("`docker port {container} {port}` prints no port: {printed:?}")
            });
        match &self.kind {
            Kind::Hearth(node) => node.forward(node_port, port.ends_with("/udp")),
            Kind::Reference => SocketAddr::from(([127, 0, 0, 1], node_port)),
        }
    }

    /// Loads `image` as `tag` once; the tag.
    #[track_caller]
    pub fn loaded(&self, tag: &str, image: impl FnOnce() -> Image) -> String {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.iter().any(|known| known == tag) {
            let archive = image().docker_archive(tag);
            self.docker.run_with_input(&["load"], &archive).exits(0);
            loaded.push(tag.to_owned());
        }
        tag.to_owned()
    }

    /// The tag of the busybox image, present on the node.
    #[track_caller]
    pub fn busybox(&self) -> String {
        self.loaded("hearth-test/busybox:latest", || images::busybox().clone())
    }
}
