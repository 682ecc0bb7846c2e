//! Where the replica's file is read and written: never among the node's other work.
//!
//! A command waits for the disk. Were that done by the threads that everybody's file I/O shares, a few clients that stall there would
//! stop every tenant's commands.

use std::io;
use std::sync::mpsc::{Sender, channel};

/// One piece of work on the file; it tells its result by itself.
pub type Work = Box<dyn FnOnce() + Send>;

/// Does the replica's file I/O. Called from within the async runtime: it must not block.
pub trait Executor: Send + Sync + 'static {
    /// Have `work` done after all that was handed over before. Work that can't be done any more is dropped, which whoever waits for it
    /// notices.
    fn execute(&self, work: Work);
}

/// A thread that does nothing else. It ends when the executor is dropped and what was handed over is done.
pub struct DiskThread {
    /// Not bounded by itself: each of the few tasks of openraft that hand over work waits for it before it goes on.
    work: Sender<Work>,
}

impl DiskThread {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = channel::<Work>();
        std::thread::Builder::new()
            .name("raft-disk".to_owned())
            .spawn(move || receiver.into_iter().for_each(|work| work()))?;
        Ok(Self { work: sender })
    }
}

impl Executor for DiskThread {
    fn execute(&self, work: Work) {
        // The thread is gone only after a panic in its work; then the work is dropped here.
        let _ = self.work.send(work);
    }
}
