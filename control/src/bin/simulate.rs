//! `simulate --seeds N [--seed S]`: simulates clusters with bad luck (`hearth_control::simulation`), each in a process of its own.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use hearth_control::simulation::{self, Bug, ELSEWHERE, Plan, WRITES_AGAIN};

/// The state of what `getrandom` gives in this process.
static LUCK: AtomicU64 = AtomicU64::new(0);

/// The kernel's randomness, which std's and others' hash maps and random numbers begin with, is no accident here: getrandom(2)'s
/// interface, for which std leaves room. Splitmix64 (Steele, Lea, Flood 2014).
///
/// # Safety
///
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _: u32) -> isize {
    for at in 0..length {
        let mut z = LUCK.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // SAFETY: within what the caller has room for.
        unsafe { buffer.add(at).write((z ^ (z >> 31)) as u8) };
    }
    length as isize
}

struct Options {
    seeds: u64,
    first: u64,
    jobs: usize,
    bug: Option<&'static str>,
    /// This process simulates the first seed, and nothing else.
    one: bool,
    tells: bool,
}

const BUGS: [(&str, Bug); 3] = [
    ("acknowledge-before-fsync", Bug::AcknowledgeBeforeFsync),
    ("skip-lease", Bug::SkipLease),
    ("trust-the-disk", Bug::TrustTheDisk),
];

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 1,
        first: 0,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        bug: None,
        one: false,
        tells: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let next = arguments.next();
            let number = next.and_then(|text| text.parse::<u64>().ok());
            number.ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number()?,
            "--seed" => options.first = number()?,
            "--jobs" => options.jobs = number()? as usize,
            "--bug" => {
                let name = arguments.next().unwrap_or_default();
                let known = BUGS.iter().find(|(known, _)| *known == name);
                let (name, _) = known.ok_or_else(|| format!("no such bug: {name}"))?;
                options.bug = Some(name);
            }
            "--one" => options.one = true,
            "--tell" => options.tells = true,
            other => return Err(format!("{other}: not known")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match options.one {
        true => one(&options),
        false => all(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Of a processor's time: a hundred times what a history takes. Whoever goes round and round in it, so that no time passes there, never ends.
const CPU_S_MAX: u64 = 300;

/// What has panicked, in a task that nobody waits for perhaps. redb may: the disk that it reads isn't always what it wrote.
static PANICKED: Mutex<Option<String>> = Mutex::new(None);

fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let file = panic.location().map_or("", |at| at.file());
        if !file.contains("/redb-") {
            let mut first = PANICKED.lock().unwrap_or_else(|error| error.into_inner());
            first.get_or_insert(panic.to_string());
        }
    }));
}

/// Simulates one seed, in this process; it prints a line of figures for whoever has started it.
fn one(options: &Options) -> io::Result<bool> {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(io::stderr)
            .without_time()
            .init();
    }
    let dir = tempfile::tempdir()?;
    // Its threads are gone before anything begins.
    let preparing = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let at = dir.path().join("images");
    let opened = hearth_image::Store::open(&at, Default::default());
    let images = preparing.block_on(opened).map_err(io::Error::other)?;
    drop(preparing);
    LUCK.store(options.first, Ordering::Relaxed);
    let bug = BUGS.iter().find(|(name, _)| Some(*name) == options.bug);
    let plan = Plan {
        seed: options.first,
        bug: bug.map(|(_, bug)| *bug),
        tells: options.tells,
    };
    note_panics();
    let limit = Rlimit {
        current: Some(CPU_S_MAX),
        maximum: None,
    };
    setrlimit(Resource::Cpu, limit)?;
    let mut report = simulation::run(plan, dir.path(), images)?;
    let panicked = PANICKED
        .lock()
        .unwrap_or_else(|error| error.into_inner())
        .take();
    if let Some(panicked) = panicked {
        // First of all: what else has failed, has for that.
        report.failure = Some(match report.failure {
            Some(failure) => format!("{panicked}\n{failure}"),
            None => panicked,
        });
    }
    let millis = |all: &[Duration]| {
        let all: Vec<String> = all.iter().map(|it| it.as_millis().to_string()).collect();
        all.join(",")
    };
    println!(
        "trace={:016x} events={} simulated={} asked={} answered={} writes={} elsewhere={}",
        report.trace,
        report.events,
        report.simulated.as_millis(),
        report.asked.0,
        report.asked.1,
        millis(&report.writes_again),
        millis(&report.elsewhere),
    );
    if let Some(failure) = &report.failure {
        if !options.tells {
            for line in &report.last {
                eprintln!("{line}");
            }
        }
        eprintln!("seed {}: {failure}", options.first);
    }
    Ok(report.failure.is_none())
}

#[derive(Default)]
struct Sum {
    figures: BTreeMap<String, Vec<u64>>,
    failed: Vec<u64>,
}

/// Simulates all seeds, some at a time, and says what came of it.
fn all(options: &Options) -> io::Result<bool> {
    let program = std::env::current_exe()?;
    let next = AtomicU64::new(options.first);
    let end = options.first + options.seeds;
    let sum = Mutex::new(Sum::default());
    let work = || -> io::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(());
            }
            let mut command = Command::new(&program);
            command.args(["--one", "--seed", &seed.to_string()]);
            if let Some(bug) = options.bug {
                command.args(["--bug", bug]);
            }
            if options.tells {
                command.arg("--tell");
            }
            let done = command.stdin(Stdio::null()).output()?;
            let mut sum = sum.lock().unwrap_or_else(|error| error.into_inner());
            let line = String::from_utf8_lossy(&done.stdout);
            for (name, value) in line.split_whitespace().filter_map(|it| it.split_once('=')) {
                let values = value
                    .split(',')
                    .filter_map(|value| value.parse::<u64>().ok());
                sum.figures
                    .entry(name.to_owned())
                    .or_default()
                    .extend(values);
            }
            if options.seeds == 1 {
                print!("{line}");
            }
            if !done.status.success() {
                sum.failed.push(seed);
                io::stderr().write_all(&done.stderr)?;
                if done.status.code().is_none() {
                    eprintln!("seed {seed}: {}", done.status);
                }
                eprintln!(
                    "seed {seed} has failed; again, with everything that happens: cargo xtask simulate --seed {seed} --tell"
                );
            } else if options.tells {
                io::stderr().write_all(&done.stderr)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")))
        })
    })?;
    let sum = sum.into_inner().unwrap_or_else(|error| error.into_inner());
    report(options, &sum);
    Ok(sum.failed.is_empty())
}

fn report(options: &Options, sum: &Sum) {
    let total = |name: &str| {
        sum.figures
            .get(name)
            .map_or(0, |values| values.iter().sum::<u64>())
    };
    println!(
        "{} seeds, {} failed; {} s simulated, {} events, {} of {} requests answered well",
        options.seeds,
        sum.failed.len(),
        total("simulated") / 1000,
        total("events"),
        total("answered"),
        total("asked"),
    );
    for (name, what, limit) in [
        (
            "writes",
            "writes again after a leader's death",
            WRITES_AGAIN,
        ),
        ("elsewhere", "a dead node's pods elsewhere", ELSEWHERE),
    ] {
        let mut values = sum.figures.get(name).cloned().unwrap_or_default();
        values.sort_unstable();
        let at = |part: usize| values.get((values.len().saturating_sub(1)) * part / 100);
        if let (Some(least), Some(half), Some(most), Some(all)) = (at(0), at(50), at(95), at(100)) {
            println!(
                "{what}, ms: least {least}, half of them {half}, 95 % {most}, most {all} (at most {})",
                limit.as_millis()
            );
        }
    }
    if !sum.failed.is_empty() {
        println!("failed: {:?}", sum.failed);
    }
}
