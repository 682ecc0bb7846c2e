//! Reading a log: from its beginning or its last lines, up to its end or on and on.

use std::fs::File;
use std::io;

use tokio::sync::{mpsc, watch};

use super::lines::Lines;
use super::record::{Kind, MAGIC, Record};
use super::{Log, Progress};
use crate::agent::{LogOptions, LogRecord, LogStream, Stream};

/// Records read before others get their turn and the client its lines.
const BATCH: usize = 64;
/// Lines on their way to a client that is slow.
const QUEUE: usize = 64;

/// Starts reading. The reading ends with the stream's drop.
pub(super) fn read(log: Log, options: LogOptions) -> LogStream {
    let (to, mut from) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = deliver(log, options, &to).await {
            // The client is gone when this fails, and needs no error any more.
            let _ = to.send(Err(error)).await;
        }
    });
    Box::pin(futures_util::stream::poll_fn(move |context| {
        from.poll_recv(context)
    }))
}

type Sink = mpsc::Sender<io::Result<LogRecord>>;

async fn deliver(log: Log, options: LogOptions, to: &Sink) -> io::Result<()> {
    let mut progress = log.shared.progress.subscribe();
    let opened = blocking({
        let (log, options) = (log.clone(), options.clone());
        move || Cursor::open(log, options)
    });
    let Some(mut cursor) = opened.await? else {
        return Ok(());
    };
    loop {
        // Before reading: what is written while this reads is seen by the next round.
        let seen = *progress.borrow_and_update();
        let (returned, lines) = blocking(move || {
            let mut lines = Vec::new();
            cursor.read(seen, &mut lines).map(|()| (cursor, lines))
        })
        .await?;
        cursor = returned;
        for line in lines {
            if options.until_ns.is_some_and(|until| line.at_ns > until) {
                return Ok(());
            }
            if to.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if cursor.at_end && !wait_for_more(&options, seen, &mut progress, to).await {
            return Ok(());
        }
    }
}

/// False where no more is to come, or nobody to take it.
async fn wait_for_more(
    options: &LogOptions,
    seen: Progress,
    progress: &mut watch::Receiver<Progress>,
    to: &Sink,
) -> bool {
    if !options.follow || !seen.running {
        return false;
    }
    tokio::select! {
        changed = progress.changed() => changed.is_ok(),
        () = to.closed() => false,
    }
}

/// What has been passed on the way back.
struct Back {
    tail: usize,
    /// Ends of lines, of both streams.
    lines: usize,
    /// For each stream that has had output: how many ends of lines there are from its earliest to the end. That line may have begun earlier.
    earliest: [Option<usize>; 2],
}

impl Back {
    fn new(tail: usize) -> Self {
        Self {
            tail,
            lines: 0,
            earliest: [None; 2],
        }
    }

    /// True where the last `tail` lines lie wholly ahead.
    fn enough(&mut self, record: &Record) -> bool {
        let ends = record.data.iter().filter(|byte| **byte == b'\n').count();
        self.lines += ends;
        let stream = match record.kind {
            Kind::Stdout => 0,
            Kind::Stderr => 1,
            Kind::Run | Kind::Continued => return false,
        };
        let earliest = self.earliest[stream].get_or_insert(0);
        if ends > 0 {
            *earliest = self.lines;
        }
        self.earliest
            .iter()
            .flatten()
            .all(|lines| *lines > self.tail)
    }
}

/// Where a reader is.
struct Cursor {
    log: Log,
    options: LogOptions,
    file: File,
    generation: u64,
    /// The previous file, if it is to be read first.
    older: Option<File>,
    at: u64,
    lines: Lines,
    /// Lines that are passed over because of `tail`; counted down.
    skip: usize,
    at_end: bool,
}

impl Cursor {
    /// None: the container has no files yet.
    fn open(log: Log, options: LogOptions) -> io::Result<Option<Self>> {
        let generation = log.shared.progress.borrow().generation;
        let open = |path| match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let older = open(log.shared.previous())?;
        let Some(file) = open(log.shared.current())? else {
            return match log.shared.with_writer(|_| Ok(())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                made => made.and_then(|()| Self::open(log, options)),
            };
        };
        let mut cursor = Self {
            log,
            generation,
            older,
            file,
            at: MAGIC.len() as u64,
            lines: Lines::default(),
            skip: 0,
            at_end: false,
            options,
        };
        if let Some(tail) = cursor.options.tail {
            cursor.seek_tail(tail)?;
        }
        Ok(Some(cursor))
    }

    fn wanted(&self, kind: Kind) -> bool {
        match kind {
            Kind::Stdout => self.options.stdout,
            Kind::Stderr => self.options.stderr,
            Kind::Run | Kind::Continued => true,
        }
    }

    /// Goes back from the end until enough lines lie ahead, then counts how many too many they are.
    fn seek_tail(&mut self, tail: usize) -> io::Result<()> {
        let mut back = Back::new(tail);
        let mut start = None;
        let mut files = vec![(&self.file, false)];
        files.extend(self.older.as_ref().map(|older| (older, true)));
        'files: for (file, is_older) in files {
            let mut at = Record::end(file, file.metadata()?.len())?;
            while let Some((before, record)) = Record::before(file, at)? {
                at = before;
                start = Some((is_older, at));
                if self.wanted(record.kind) && back.enough(&record) {
                    break 'files;
                }
            }
            if at > MAGIC.len() as u64 {
                // Nobody reads on over what is no record.
                break;
            }
        }
        let Some((in_older, at)) = start else {
            return Ok(());
        };
        if !in_older {
            self.older = None;
        }
        // Count the lines ahead as they will be delivered, on a cursor of its own.
        let mut count = Self {
            log: self.log.clone(),
            options: LogOptions {
                follow: false,
                tail: None,
                ..self.options.clone()
            },
            file: self.file.try_clone()?,
            generation: self.generation,
            older: self.older.as_ref().map(File::try_clone).transpose()?,
            at,
            lines: Lines::default(),
            skip: 0,
            at_end: false,
        };
        let stopped = Progress {
            generation: self.generation,
            ..Progress::default()
        };
        let mut ahead = 0;
        let mut lines = Vec::new();
        while !count.at_end {
            count.read(stopped, &mut lines)?;
            ahead += lines.len();
            lines.clear();
        }
        self.at = at;
        self.skip = ahead.saturating_sub(tail);
        Ok(())
    }

    /// Reads up to [`BATCH`] records' lines.
    fn read(&mut self, progress: Progress, lines: &mut Vec<LogRecord>) -> io::Result<()> {
        self.at_end = false;
        for _ in 0..BATCH {
            let file = self.older.as_ref().unwrap_or(&self.file);
            let length = file.metadata()?.len();
            if let Some(record) = Record::read(file, self.at, length)? {
                self.at += record.size();
                if self.wanted(record.kind) {
                    self.lines.push(&record, lines);
                }
            } else if self.older.take().is_some() {
                self.at = MAGIC.len() as u64;
            } else if self.generation < progress.generation {
                // This file was complete before `progress` was looked at, and is read to its end.
                self.file = File::open(self.log.shared.current())?;
                self.generation = progress.generation;
                self.at = MAGIC.len() as u64;
            } else {
                self.at_end = true;
                break;
            }
        }
        if self.at_end && !(self.options.follow && progress.running) {
            self.lines.flush(lines);
        }
        let since = self.options.since_ns.unwrap_or(0);
        lines.retain(|line| {
            let skipped = self.skip > 0;
            self.skip = self.skip.saturating_sub(1);
            let selected = match line.stream {
                Stream::Stdout => self.options.stdout,
                Stream::Stderr => self.options.stderr,
            };
            !skipped && selected && line.at_ns >= since
        });
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
