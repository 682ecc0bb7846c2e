//! What the cases drive: a booted Hearth node; a Hearth node without a machine, where no virtual machine is needed; or, to check
//! the cases themselves, a dockerd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::api::Api;
use crate::archive::Image;
use crate::docker::Docker;
use crate::faults::{Fault, Proxy};
use crate::images;
use crate::native::{self, Native};
use crate::node::{Node, Setup};
use crate::registry::Registry;

/// Names a reference dockerd's endpoint (`unix:///…`): the cases then run against it and no node is booted. What
/// both can't pass alike a case skips by asking [`Target::is_hearth`].
pub const REFERENCE: &str = "HEARTH_TESTS_REFERENCE";

/// The docker CLI under test, if it isn't the one on the `PATH`: the tests run with the distribution's as well.
pub const DOCKER_CLI: &str = "HEARTH_TESTS_DOCKER";

/// If it is set, cases that need no virtual machine run on a booted node all the same.
pub const BOOTED: &str = "HEARTH_TESTS_BOOTED";

/// QEMU's user-mode network: the host, as its guests see it.
const MACHINES_HOST: &str = "10.0.2.2";
const LOOPBACK: &str = "127.0.0.1";

/// What answers the docker CLI.
enum Kind {
    Booted(Box<Node>),
    Native(Box<Native>),
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
    SHARED.get_or_init(|| Target::start(true))
}

/// As [`shared`], for cases in which a container is made and listed but no program of it has to do anything: nothing is booted. What
/// programs there are, the scripted monitor knows. Where this machine doesn't let us start a node so, it is [`shared`].
pub fn plain() -> &'static Target {
    static PLAIN: OnceLock<Option<Target>> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        let other = [BOOTED, REFERENCE]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
        (!other && native::possible()).then(|| Target::start(false))
    });
    plain.as_ref().unwrap_or_else(|| shared())
}

/// The docker CLI under test.
pub fn cli() -> PathBuf {
    std::env::var_os(DOCKER_CLI).map_or_else(|| "docker".into(), PathBuf::from)
}

impl Target {
    fn start(booted: bool) -> Self {
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
        let mut ports = vec![
            registry.port(),
            private_registry.port(),
            dropping.port(),
            always_dropping.port(),
            corrupting.port(),
            slow.port(),
            silent.port(),
            broken.port(),
        ];
        let insecure = |host: &str| {
            let ports = ports.iter().chain([&down_port]);
            ports.map(|port| format!("{host}:{port}")).collect()
        };
        let (kind, docker) = match std::env::var(REFERENCE) {
            Ok(endpoint) => (Kind::Reference, Docker::new(&cli, ["-H", &endpoint])),
            Err(_) if booted => {
                let node = Node::boot(&Setup {
                    insecure: insecure(MACHINES_HOST),
                    ..Setup::default()
                });
                let docker = node.docker();
                (Kind::Booted(Box::new(node)), docker)
            }
            Err(_) => {
                let insecure = insecure(LOOPBACK);
                ports.push(unlisted.port());
                let native = Native::start(&ports, &insecure);
                let docker = native.api().docker();
                (Kind::Native(Box::new(native)), docker)
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
        !matches!(self.kind, Kind::Reference)
    }

    /// The node's API and its owner's certificates; none when the cases run against a dockerd.
    pub fn api(&self) -> Option<&Api> {
        match &self.kind {
            Kind::Booted(node) => Some(node.api()),
            Kind::Native(native) => Some(native.api()),
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
            Kind::Booted(_) => MACHINES_HOST,
            Kind::Native(_) | Kind::Reference => LOOPBACK,
        }
    }

    /// What a container connects to, and what a server of the test binds, so that they meet.
    pub fn meeting_point(&self) -> (&'static str, &'static str) {
        match self.kind {
            Kind::Booted(_) => (MACHINES_HOST, LOOPBACK),
            Kind::Native(_) => panic!("no container of a node without a machine has a network"),
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
            Kind::Booted(node) => node.forward(node_port, port.ends_with("/udp")),
            Kind::Native(_) => panic!("nobody listens in a container of a node without a machine"),
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
