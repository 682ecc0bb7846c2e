//! A registry with a fault: a proxy in front of the real one that misbehaves when a layer passes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Responses at least this long are layers; what is shorter (manifests, configurations) passes unharmed.
const LAYER_BYTES: u64 = 64 * 1024;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first transfers of a layer break off in the middle; the ones after that are whole.
    Drops {
        /// How many break off.
        times: u32,
    },
    /// Every transfer of a layer breaks off after its first quarter.
    AlwaysDrops,
    /// One byte in the middle of each layer isn't what it should be.
    WrongBytes,
    /// Layers come a little at a time, with pauses: slow, but never stopping.
    Slow,
    /// Connections are accepted, and then nothing is ever said.
    Silent,
    /// Every request is answered with a server error.
    Broken,
}

/// A proxy with a fault, in front of the registry on `upstream`. It serves until the test binary ends.
pub struct Proxy {
    port: u16,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one on a free port of loopback.
    pub fn start(upstream: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ranges);
        thread::spawn(move || {
            let broken_off = Arc::new(AtomicU32::new(0));
            for client in listener.incoming().filter_map(Result::ok) {
                let (seen, broken_off) = (Arc::clone(&seen), Arc::clone(&broken_off));
                // A client that goes away in the middle is nothing to report.
                thread::spawn(move || serve(client, upstream, fault, &seen, &broken_off));
            }
        });
        Self { port, ranges }
    }

    /// The port on this machine's loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `Range` headers seen so far: that a transfer was resumed, and where.
    pub fn ranges(&self) -> Vec<String> {
        self.ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Serves one request: each connection is closed after its answer, which every HTTP client copes with.
fn serve(
    client: TcpStream,
    upstream: u16,
    fault: Fault,
    ranges: &Mutex<Vec<String>>,
    broken_off: &AtomicU32,
) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut client = client;
    if fault == Fault::Silent {
        io::copy(&mut from_client, &mut io::sink())?;
        return Ok(());
    }
    let head = read_head(&mut from_client)?;
    if fault == Fault::Broken {
        return client.write_all(
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut request = String::new();
    for line in head.lines() {
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range:") {
            ranges
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(range.trim().to_owned());
        }
        if !lower.starts_with("connection:") {
            request += line;
            request += "\r\n";
        }
    }
    request += "Connection: close\r\n\r\n";
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(request.as_bytes())?;
    let mut from_server = BufReader::new(server);
    let head = read_head(&mut from_server)?;
    client.write_all(head.as_bytes())?;
    client.write_all(b"\r\n")?;
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0u64);
    if length < LAYER_BYTES || head.starts_with("HTTP/1.1 404") {
        io::copy(&mut from_server, &mut client)?;
        return client.shutdown(Shutdown::Write);
    }
    match fault {
        Fault::Drops { times } => {
            if broken_off.fetch_add(1, Ordering::Relaxed) < times {
                io::copy(&mut from_server.take(length / 2), &mut client)?;
                return client.shutdown(Shutdown::Both);
            }
            io::copy(&mut from_server, &mut client)?;
        }
        Fault::AlwaysDrops => {
            io::copy(&mut from_server.take(length / 4), &mut client)?;
            return client.shutdown(Shutdown::Both);
        }
        Fault::WrongBytes => {
            io::copy(&mut from_server.by_ref().take(length / 2), &mut client)?;
            let mut byte = [0];
            from_server.read_exact(&mut byte)?;
            client.write_all(&[!byte[0]])?;
            io::copy(&mut from_server, &mut client)?;
        }
        Fault::Slow => {
            let piece = length / SLOW_PIECES + 1;
            while io::copy(&mut from_server.by_ref().take(piece), &mut client)? > 0 {
                thread::sleep(SLOW_PAUSE);
            }
        }
        Fault::Silent | Fault::Broken => unreachable!("answered above"),
    }
    client.shutdown(Shutdown::Write)
}

/// A slow layer comes in this many pieces,
const SLOW_PIECES: u64 = 20;
/// with a pause after each: the fault itself is one of time.
const SLOW_PAUSE: Duration = Duration::from_millis(250);

/// The lines up to the empty one, which isn't included.
fn read_head(stream: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[before..].trim().is_empty() {
            head.truncate(before);
            return Ok(head);
        }
    }
}
