//! What a container has written: kept in two files, `log` and, once that has grown to [`FILE_BYTES_MAX`], the one before it, `log.1`.
//!
//! One writer, the pump of the run that is on; any number of readers, each with descriptors of its own. It is
//! synced where a run ends, before its exit is committed: what is in the page cache survives this process, and a machine that loses
//! power while a run is on loses the microVM that wrote it as well.

mod lines;
mod reader;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use record::{Kind, MAGIC, Record};

use crate::agent::{LogOptions, LogStream, Stream};

/// A file's size when the next one is begun. A container that writes without end then takes twice this of the node's disk.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A container's log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    file_bytes_max: u64,
    /// The file that is written to, opened at the first write or resumption.
    writer: Mutex<Option<Writer>>,
    progress: watch::Sender<Progress>,
}

/// What followers wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// Files begun since this process opened the log.
    generation: u64,
    /// Records written since then.
    written: u64,
    /// A run is on.
    running: bool,
}

struct Writer {
    file: File,
    length: u64,
    next_offset: u64,
}

impl Log {
    /// The log in a container's directory. Touches nothing yet.
    pub fn new(dir: &Path) -> Self {
        Self::with_limit(dir, FILE_BYTES_MAX)
    }

    fn with_limit(dir: &Path, file_bytes_max: u64) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        let shared = Shared {
            dir: dir.to_owned(),
            file_bytes_max,
            writer: Mutex::default(),
            progress,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A run begins; its output counts from 0.
    pub fn begin_run(&self, at_ns: u64) -> io::Result<()> {
        self.shared.progress.send_modify(|p| p.running = true);
        self.write(Kind::Run, at_ns, 0, Bytes::new())
    }

    /// The run that is on goes on under a new process. Returns the first byte of its output that isn't here.
    pub fn resume_run(&self) -> io::Result<u64> {
        self.shared.progress.send_modify(|p| p.running = true);
        self.shared.with_writer(|writer| Ok(writer.next_offset))
    }

    /// Returns once all that was written is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.with_writer(|writer| writer.file.sync_all())
    }

    /// The run that was on is over: followers come to their end.
    pub fn end_run(&self) {
        // Whoever writes next opens it again: an open file for every container that ever ran would be too many.
        self.shared
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.progress.send_modify(|p| p.running = false);
    }

    /// Output, in order.
    pub fn append(&self, stream: Stream, at_ns: u64, offset: u64, data: Bytes) -> io::Result<()> {
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        self.write(kind, at_ns, offset, data)
    }

    /// What has been written, and what will be.
    pub fn read(&self, options: LogOptions) -> LogStream {
        reader::read(self.clone(), options)
    }

    fn write(&self, kind: Kind, at_ns: u64, offset: u64, data: Bytes) -> io::Result<()> {
        let record = Record {
            kind,
            at_ns,
            offset,
            data,
        };
        let begun = self.shared.with_writer(|writer| {
            let full = writer.length + record.size() > self.shared.file_bytes_max;
            let begun = full && writer.length > MAGIC.len() as u64;
            if begun {
                fs::rename(self.shared.current(), self.shared.previous())?;
                let next_offset = writer.next_offset;
                *writer = Writer::open(&self.shared.current())?;
                writer.append(&Record {
                    kind: Kind::Continued,
                    at_ns,
                    offset: next_offset,
                    data: Bytes::new(),
                })?;
            }
            writer.append(&record)?;
            Ok(begun)
        })?;
        self.shared.progress.send_modify(|p| {
            p.generation += u64::from(begun);
            p.written += 1;
        });
        Ok(())
    }
}

impl Shared {
    fn current(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn previous(&self) -> PathBuf {
        self.dir.join("log.1")
    }

    fn with_writer<T>(&self, work: impl FnOnce(&mut Writer) -> io::Result<T>) -> io::Result<T> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match writer.take() {
            Some(writer) => writer,
            None => Writer::open(&self.current())?,
        };
        work(writer.insert(opened))
    }
}

impl Writer {
    /// Opens a file at its end; a record that was cut short is dropped.
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut writer = Self {
            length: file.metadata()?.len(),
            file,
            next_offset: 0,
        };
        let mut magic = [0; MAGIC.len()];
        let sound = writer.length >= MAGIC.len() as u64 && {
            std::os::unix::fs::FileExt::read_exact_at(&writer.file, &mut magic, 0)?;
            magic == MAGIC
        };
        if !sound {
            writer.file.set_len(0)?;
            writer.file.write_all(&MAGIC)?;
            writer.length = MAGIC.len() as u64;
            return Ok(writer);
        }
        let end = Record::end(&writer.file, writer.length)?;
        if end < writer.length {
            writer.file.set_len(end)?;
            writer.length = end;
        }
        if let Some((_, last)) = Record::before(&writer.file, end)? {
            writer.next_offset = last.next_offset();
        }
        Ok(writer)
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(record.size() as usize);
        record.write(&mut bytes);
        if let Err(error) = self.file.write_all(&bytes) {
            // What a full disk has let through of it is no record.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += record.size();
        self.next_offset = record.next_offset();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
