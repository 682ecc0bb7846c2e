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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn loopback() -> (TcpListener, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        (listener, port)
    }

    #[test]
    fn an_end_is_passed_on_and_the_answer_to_it_comes_back() {
        let ((near, near_port), (far, far_port)) = (loopback(), loopback());
        start(near, far_port);
        let mut client = TcpStream::connect(("127.0.0.1", near_port)).expect("it is relayed");
        client.write_all(b"question").expect("it is new");
        client.shutdown(Shutdown::Write).expect("it is new");
        let (mut server, _) = far.accept().expect("somebody comes");
        let mut heard = String::new();
        server.read_to_string(&mut heard).expect("it ends");
        assert_eq!(heard, "question");
        server.write_all(b"answer").expect("the client listens");
        drop(server);
        heard.clear();
        client.read_to_string(&mut heard).expect("it ends");
        assert_eq!(heard, "answer");
    }

    #[test]
    fn where_nobody_listens_a_connection_ends_at_once() {
        let ((near, near_port), (far, far_port)) = (loopback(), loopback());
        drop(far);
        start(near, far_port);
        let mut client = TcpStream::connect(("127.0.0.1", near_port)).expect("it is relayed");
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
}
