//! From the kernel to the node's loop.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::config::{self, Config};
use super::console::Console;
use super::facts::{DIRECTORY, Facts};
use super::node::Node;
use super::power::Signals;
use super::{VERSION, mounts, network, power, processor};
use crate::netlink::Netlink;
use crate::{kmsg, stdio};

/// Name of a node that was given none and has no Ethernet link either.
const NAME: &str = "hearth";

/// Runs PID 1; never returns but to end in a panic of the kernel, where not even /proc can be mounted.
pub fn run() -> i32 {
    let mounted = mounts::mount_all();
    let console = Console::open();
    kmsg::log_panics("init");
    if let Err(error) = mounted
        .map_err(io::Error::other)
        .and_then(|()| stdio::fill())
    {
        console.warn(&error.to_string());
        return 1;
    }
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            console.warn(&format!("signals can't be caught: {error}"));
            return 1;
        }
    };
    power::claim_ctrl_alt_del();
    mounts::set_up_kernel();
    if let Err(error) = fs::create_dir_all(DIRECTORY) {
        console.warn(&format!("making {DIRECTORY}: {error}"));
    }
    let (config, api) = configure(&console);
    // Lives as long as the machine; DHCP's client borrows it.
    let hostname: &'static str = Box::leak(hostname(&config).into_boxed_str());
    if let Err(errno) = rustix::system::sethostname(hostname.as_bytes()) {
        kmsg::log(&format!("init: setting the host name: {errno}"));
    }
    console.say(&format!("Hearth {VERSION}, node {hostname}"));
    let (weaknesses, siblings) = (processor::weaknesses(), processor::siblings());
    for line in processor::describe(&weaknesses, siblings) {
        console.say(&line);
    }
    let facts = Facts {
        version: VERSION.to_owned(),
        hostname: hostname.to_owned(),
        siblings,
        weaknesses,
        ..Facts::default()
    };
    Node::new(console, signals, config.network, facts, api).run()
}

/// Reads the configuration and leaves a copy for the controller. With a faulty one there is no controller, for it would have to guess
/// what its owner means; whoever has the console is told.
fn configure(console: &Console) -> (Config, Api) {
    let found = match config::read() {
        Ok(Some(found)) => found,
        Ok(None) => {
            console.warn(
                "no hearth.toml was found, so the API does not listen. Give one by QEMU's -fw_cfg \
                 name=opt/org.hearth/hearth.toml,file=hearth.toml or on a FAT disk labelled HEARTH.",
            );
            config::Found {
                source: "nowhere".to_owned(),
                text: String::new(),
            }
        }
        Err(error) => {
            console.warn(&format!(
                "{error}. The node runs without the API; mend the file's place and restart."
            ));
            return (Config::default(), Api::Off);
        }
    };
    match config::parse(&found.text) {
        Ok(config) => {
            if config.identity.is_none() && !found.text.is_empty() {
                console.warn("hearth.toml has no [identity], so the API does not listen: add ca, certificate and key.");
            }
            if let Err(error) = leave_copy(&found.text) {
                console.warn(&format!("writing {DIRECTORY}/hearth.toml: {error}"));
            }
            let api = if config.identity.is_some() {
                Api::Listens
            } else {
                Api::Silent
            };
            (config, api)
        }
        Err(error) => {
            console.warn(&format!(
                "hearth.toml (from {}): {error}. The node runs without the API; mend the file and restart.",
                found.source
            ));
            (Config::default(), Api::Off)
        }
    }
}

/// What becomes of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// The controller runs and listens.
    Listens,
    /// The controller runs, and has no identity to listen with.
    Silent,
    /// There is no controller.
    Off,
}

fn leave_copy(text: &str) -> io::Result<()> {
    let path = Path::new(DIRECTORY).join("hearth.toml");
    fs::write(&path, "")?;
    // Before there is a key in it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::write(&path, text)
}

/// The name given, or one from the first Ethernet link's address.
fn hostname(config: &Config) -> String {
    if let Some(name) = &config.node.name {
        return name.0.clone();
    }
    let links = Netlink::open()
        .and_then(|mut netlink| netlink.links())
        .unwrap_or_default();
    match links
        .iter()
        .find(|link| network::is_port(link) && link.address.len() == 6)
    {
        Some(link) => {
            let [.., a, b, c] = link.address[..] else {
                return NAME.to_owned();
            };
            format!("{NAME}-{a:02x}{b:02x}{c:02x}")
        }
        None => NAME.to_owned(),
    }
}
