//! What connects nodes without machines: a bridge in a network of its own, and a cable to each node's.

use std::process::Command;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// The nodes' network; a node's number is its last byte.
const NETWORK: &str = "10.77.0";
/// The link of a node's end.
const LINK: &str = "eth0";

/// A program of iproute2 with its arguments, to be run in the bridge's network.
type Order = (Vec<String>, SyncSender<Result<()>>);

/// It lasts as long as the test binary.
#[derive(Clone)]
pub struct Bridge(Sender<Order>);

/// A node's way to the bridge.
pub struct Cable {
    bridge: Bridge,
    number: u8,
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("starting iproute2's ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {said}", arguments.join(" "));
    }
    Ok(())
}

impl Bridge {
    /// One without cables.
    pub fn start() -> Result<Self> {
        let (orders, ordered) = channel::<Order>();
        thread::spawn(move || {
            // SAFETY: the flag doesn't concern the file table.
            let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            for (arguments, done) in ordered {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let result = unshared
                    .context("a network of its own")
                    .and_then(|()| ip(&arguments));
                // Nobody waits: whoever asked has panicked.
                let _ = done.send(result);
            }
        });
        let bridge = Self(orders);
        bridge.run("link add hub type bridge")?;
        bridge.run("link set hub up")?;
        Ok(bridge)
    }

    fn run(&self, arguments: &str) -> Result<()> {
        let (done, told) = sync_channel(1);
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        self.0
            .send((arguments, done))
            .ok()
            .context("the bridge's thread has ended")?;
        told.recv().context("the bridge's thread has ended")?
    }

    /// A cable for the node of this number.
    pub fn cable(&self, number: u8) -> Cable {
        Cable {
            bridge: self.clone(),
            number,
        }
    }

    /// Whether what is sent over a node's cable arrives.
    #[track_caller]
    pub fn set(&self, number: u8, whole: bool) {
        let way = if whole { "up" } else { "down" };
        self.run(&format!("link set port{number} {way}"))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }
}

impl Cable {
    /// Plugs it into the network of the calling thread, which has an address then.
    pub fn plug_in(&self) -> Result<()> {
        let number = self.number;
        let thread = gettid().as_raw_nonzero();
        self.bridge.run(&format!(
            "link add port{number} type veth peer name {LINK} netns {thread}"
        ))?;
        self.bridge
            .run(&format!("link set port{number} master hub up"))?;
        let address = format!("{NETWORK}.{number}/24");
        ip(&["addr", "add", &address, "dev", LINK])?;
        ip(&["link", "set", LINK, "up"])?;
        ip(&["link", "set", "lo", "up"])
    }
}
