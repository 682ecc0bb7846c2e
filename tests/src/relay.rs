//! Connections passed on from one network namespace to another. A socket stays in the namespace of the thread that made it.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// Passes what connects to `listener` on to `port` of loopback, until the test binary ends. Connections are made in the namespace of the
/// calling thread, wherever the listener is.
pub fn start(listener: TcpListener, port: u16) {
    thread::spawn(move || {
        for near in listener.incoming().filter_map(Result::ok) {
            // Nobody listens there: whoever came is sent away.
            if let Ok(far) = TcpStream::connect(("127.0.0.1", port)) {
                // It comes to an end by itself where either side has gone.
                let _ = pass(near, far);
            }
        }
    });
}

fn pass(near: TcpStream, far: TcpStream) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let back = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || copy(near, far));
    thread::spawn(move || copy(back.0, back.1));
    Ok(())
}

/// Copies until either end has gone; the other direction goes on.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Read);
    }
}
