//! A connection that follows a process.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::{Acknowledge, FrameError, Reply};

use super::process::{Next, Process, THREAD_STACK};

/// Sends `Started`, the output from `from` on, what memory has run out, and the exit, and takes acknowledgements in between.
pub fn follow(
    mut connection: UnixStream,
    process: &Arc<Process>,
    from: u64,
) -> Result<(), FrameError> {
    process.acknowledge(from);
    protocol::write(
        &mut connection,
        &Reply::Started {
            pid: process.pid,
            init_age_ns: super::boot::age_ns(),
        },
    )?;

    let gone = Arc::new(AtomicBool::new(false));
    let reader = connection.try_clone()?;
    let (reader_process, reader_gone) = (Arc::clone(process), Arc::clone(&gone));
    thread::Builder::new()
        .stack_size(THREAD_STACK)
        .spawn(move || take_acknowledgements(reader, &reader_process, &reader_gone))?;

    let (mut offset, mut oom_kills) = (from, 0);
    let sent = loop {
        match process.next(offset, oom_kills, &gone) {
            Next::Output(output) => {
                offset = output.offset + output.data.len() as u64;
                if let Err(error) = protocol::write(&mut connection, &Reply::Output(output)) {
                    break Err(error);
                }
            }
            Next::OutOfMemory(kills) => {
                oom_kills = kills;
                if let Err(error) = protocol::write(&mut connection, &Reply::OutOfMemory { kills })
                {
                    break Err(error);
                }
            }
            Next::Exited(exit) => break protocol::write(&mut connection, &Reply::Exited(exit)),
            Next::Gone => break Ok(()),
        }
    };
    // The reader ends when the host closes its side, or now if this side has failed.
    let how = if sent.is_ok() {
        Shutdown::Write
    } else {
        Shutdown::Both
    };
    let _ = connection.shutdown(how);
    sent
}

fn take_acknowledgements(mut reader: UnixStream, process: &Process, gone: &AtomicBool) {
    while let Ok(Some(Acknowledge { offset })) = protocol::read(&mut reader) {
        process.acknowledge(offset);
    }
    process.give_up(gone);
}
