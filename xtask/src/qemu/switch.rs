//! The switch of a segment. It knows by their addresses who is where, so that none hears what is for another: the user-mode network would
//! answer in the name of whomever it hears somebody speak to.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::Plug;

/// The longest frame: QEMU's cards don't send longer ones (`NET_BUFSIZE`), and IEEE 802.3's are much shorter.
const LONGEST_FRAME: usize = 69 * 1024;

/// Two addresses and a type (IEEE 802.3, 3.1.1).
const ETHERNET_HEADER: usize = 14;
const BROADCAST: [u8; 6] = [0xff; 6];
/// In the first byte of a destination: for many (IEEE 802.3, 3.2.3).
const GROUP: u8 = 1;

/// The head of a file of frames (libpcap's `pcap-savefile(5)`): magic for microseconds, version 2.4, offset and accuracy of its clock's zone,
/// the most that is kept of a frame, and Ethernet.
const FILE_HEAD: [u32; 6] = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, LONGEST_FRAME as u32, 1];

/// Which frames a cut cable loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All of them.
    Both,
    /// Those that the machine sends: it hears and isn't heard.
    FromMachine,
    /// Those that it is sent: it is heard and doesn't hear.
    ToMachine,
}

/// A switch that runs on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Switch {
    /// Held for one frame, and for one change: whoever has cut a cable knows that nothing comes by it any more.
    state: Arc<Mutex<State>>,
    /// Where the thread is woken: the switch's end of the first cable.
    wake: SocketAddrV4,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    ports: Vec<Port>,
    capture: Option<File>,
    ended: bool,
}

#[derive(Debug)]
struct Port {
    plug: Plug,
    socket: Arc<UdpSocket>,
    cut: Option<Way>,
}

impl Switch {
    /// Connects the ends of these cables; the first is the way out.
    pub(super) fn start(plugs: &[Plug]) -> Result<Self> {
        let mut ports = Vec::new();
        for plug in plugs {
            let (_, here) = plug.ends();
            let socket = UdpSocket::bind(here).context("somebody took a port of the switch's")?;
            socket.set_nonblocking(true)?;
            ports.push(Port {
                plug: *plug,
                socket: Arc::new(socket),
                cut: None,
            });
        }
        let wake = ports.first().context("a switch has a port")?.plug.ends().1;
        let sockets: Vec<_> = ports.iter().map(|port| Arc::clone(&port.socket)).collect();
        let state = Arc::new(Mutex::new(State {
            ports,
            capture: None,
            ended: false,
        }));
        let thread = thread::spawn({
            let state = Arc::clone(&state);
            move || run(&state, &sockets)
        });
        Ok(Self {
            state,
            wake,
            thread: Some(thread),
        })
    }

    /// Cuts a machine's cable; a way that was cut before and isn't any more is mended.
    pub fn cut(&self, plug: Plug, way: Way) {
        self.set(plug, Some(way));
    }

    /// Mends a machine's cable.
    pub fn heal(&self, plug: Plug) {
        self.set(plug, None);
    }

    fn set(&self, plug: Plug, cut: Option<Way>) {
        for port in &mut locked(&self.state).ports {
            if port.plug == plug {
                port.cut = cut;
            }
        }
    }

    /// Writes every frame that arrives from now on to a file, in pcap's format. What a cut cable loses on its way from a machine doesn't arrive;
    /// what it loses on its way to one does.
    pub fn capture(&self, file: &Path) -> Result<()> {
        let mut out = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        out.write_all(&FILE_HEAD.map(u32::to_ne_bytes).concat())?;
        locked(&self.state).capture = Some(out);
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        locked(&self.state).ended = true;
        let woken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket.send_to(&[], self.wake));
        // Without a socket to wake it by, it ends with the process.
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(state: &Mutex<State>, sockets: &[Arc<UdpSocket>]) {
    let mut frame = vec![0; LONGEST_FRAME];
    loop {
        let mut waiting: Vec<_> = sockets
            .iter()
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        if let Err(error) = poll(&mut waiting, None)
            && error != rustix::io::Errno::INTR
        {
            eprintln!("  the switch can't wait for frames: {error}");
            return;
        }
        // One of each in turn: nobody who sends much keeps others from sending.
        for (number, socket) in sockets.iter().enumerate() {
            let Ok((length, from)) = socket.recv_from(&mut frame) else {
                continue;
            };
            let mut state = locked(state);
            if state.ended {
                return;
            }
            // Anybody on this machine can send there.
            let (machine, _) = state.ports[number].plug.ends();
            if from == machine.into() && length >= ETHERNET_HEADER {
                state.arrived(number, &frame[..length]);
            }
        }
    }
}

impl State {
    fn arrived(&mut self, from: usize, frame: &[u8]) {
        if matches!(self.ports[from].cut, Some(Way::Both | Way::FromMachine)) {
            return;
        }
        self.keep(frame);
        for (number, port) in self.ports.iter().enumerate() {
            let lost = matches!(port.cut, Some(Way::Both | Way::ToMachine));
            if number != from && !lost && self.is_for(number, frame) {
                // To a machine without power, or one that doesn't keep up, it is lost, as on any Ethernet.
                let _ = port.socket.send_to(frame, port.plug.ends().0);
            }
        }
    }

    fn is_for(&self, number: usize, frame: &[u8]) -> bool {
        let to = &frame[..6];
        let way_out = number == 0;
        if to == BROADCAST {
            return true;
        }
        if to[0] & GROUP != 0 {
            // The user-mode network would carry it on into this machine's own.
            return !way_out;
        }
        match self.ports[1..]
            .iter()
            .position(|port| port.plug.mac() == to)
        {
            Some(machine) => machine + 1 == number,
            None => way_out,
        }
    }

    fn keep(&mut self, frame: &[u8]) {
        let Some(file) = &mut self.capture else {
            return;
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The format has 32 bits for each.
        let length = frame.len() as u32;
        let head = [now.as_secs() as u32, now.subsec_micros(), length, length];
        let mut record = head.map(u32::to_ne_bytes).concat();
        record.extend_from_slice(frame);
        if let Err(error) = file.write_all(&record) {
            eprintln!("  frames are no longer kept: {error}");
            self.capture = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::qemu::Segment;

    /// How long a frame may take that comes, on a machine where everything hangs.
    const HUNG: Duration = Duration::from_secs(60);
    /// A type of frames for experiments (IEEE 802, 9.2.4).
    const EXPERIMENTS: [u8; 2] = [0x88, 0xb5];
    /// Names are asked for there (RFC 6762, with RFC 1112, section 6.4).
    const MULTICAST: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];

    /// What is at the end of a cable.
    struct End(UdpSocket, Plug);

    impl End {
        fn of(plug: Plug) -> Self {
            let socket = UdpSocket::bind(plug.ends().0).expect("it is free");
            socket.set_read_timeout(Some(HUNG)).expect("it isn't zero");
            Self(socket, plug)
        }

        fn say(&self, to: [u8; 6], text: &str) {
            let mut frame = [to, self.1.mac()].concat();
            frame.extend(EXPERIMENTS);
            frame.extend(text.as_bytes());
            let sent = self.0.send_to(&frame, self.1.ends().1);
            sent.expect("the switch listens");
        }

        fn hear(&self) -> String {
            let mut frame = [0; 2048];
            let length = self.0.recv(&mut frame).expect("a frame comes");
            String::from_utf8_lossy(&frame[ETHERNET_HEADER..length]).into_owned()
        }
    }

    /// A switch for three machines, the way out, and the machines.
    fn connected(dir: &Path) -> (Switch, [End; 4]) {
        let segment = Segment::plan(dir, 3).expect("loopback has free ports");
        let plugs = segment.plugs();
        let switch = Switch::start(&plugs).expect("its ports are free");
        (switch, [0, 1, 2, 3].map(|number| End::of(plugs[number])))
    }

    /// What one says, those hear, and nothing else before it: frames come in order. Said twice, since between two frames of one cable the switch
    /// has looked at all the others; so what was said before by anybody has been switched by then.
    #[track_caller]
    fn said(from: &End, text: &str, hear: &[&End]) {
        for _ in 0..2 {
            from.say(BROADCAST, text);
            for end in hear {
                assert_eq!(end.hear(), text, "heard by {:?}", end.1);
            }
        }
    }

    #[test]
    fn a_cut_cable_loses_what_it_is_cut_for_and_nothing_else() {
        let dir = tempfile::tempdir().expect("the temporary folder is writable");
        let (switch, [out, one, two, three]) = connected(dir.path());
        let capture = dir.path().join("frames");
        switch.capture(&capture).expect("the folder is writable");
        said(&one, "all hear", &[&out, &two, &three]);
        switch.cut(one.1, Way::FromMachine);
        one.say(BROADCAST, "nobody hears");
        said(&two, "one hears", &[&out, &one, &three]);
        switch.cut(one.1, Way::ToMachine);
        said(&two, "one doesn't hear", &[&out, &three]);
        said(&one, "one is heard", &[&out, &two, &three]);
        switch.cut(one.1, Way::Both);
        one.say(BROADCAST, "nobody hears");
        said(&two, "one doesn't hear either", &[&out, &three]);
        switch.heal(one.1);
        said(&two, "all hear again", &[&out, &one, &three]);
        // One that is gone harms nobody, and finds its place again. It is the first that each frame goes to: the last one has heard of all before.
        let first = one.1;
        drop(one);
        said(&two, "two are left", &[&out, &three]);
        let one = End::of(first);
        said(&two, "and back", &[&out, &one, &three]);

        let captured = fs::read(&capture).expect("it was captured");
        let has = |text: &str| {
            let mut windows = captured.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        assert!(has("two are left") && has("one doesn't hear either"));
        assert!(!has("nobody hears"));
    }

    #[test]
    fn a_frame_is_heard_by_those_that_it_is_for() {
        let dir = tempfile::tempdir().expect("the temporary folder is writable");
        let (_switch, [out, one, two, three]) = connected(dir.path());
        one.say(two.1.mac(), "for two");
        one.say([2, 0, 0, 0, 0, 1], "for whoever is outside");
        one.say(MULTICAST, "for the machines");
        one.say(BROADCAST, "for all");
        let heard = [&out, &two, &three].map(|end| {
            let mut heard = Vec::new();
            while heard.last().is_none_or(|text| text != "for all") {
                heard.push(end.hear());
            }
            heard
        });
        assert_eq!(heard[0], ["for whoever is outside", "for all"]);
        assert_eq!(heard[1], ["for two", "for the machines", "for all"]);
        assert_eq!(heard[2], ["for the machines", "for all"]);
    }

    #[test]
    fn nobody_but_the_cables_ends_is_heard() {
        let dir = tempfile::tempdir().expect("the temporary folder is writable");
        let (_switch, [_out, one, two, _three]) = connected(dir.path());
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let frame = [&BROADCAST[..], &two.1.mac(), &EXPERIMENTS, b"strange"].concat();
        let sent = stranger.send_to(&frame, two.1.ends().1);
        sent.expect("the switch listens");
        two.say(BROADCAST, "known");
        assert_eq!(one.hear(), "known");
    }
}
