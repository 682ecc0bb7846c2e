//! `cargo xtask COMMAND`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask::trial::{self, Options};
use xtask::{bench, checks, fuzz, image, prerequisites, simulate};

/// DHCP in QEMU's user-mode network gives out 16 addresses.
const MOST_NODES: i64 = 16;

/// Everything a developer or a first-time user types.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nodes in QEMU, a first container in a microVM, and a docker context to go on with
    Try(Try),
    /// Build hearth.efi, and print its path last
    Image,
    /// Check everything: formatting, lints, unit tests, and the real image in QEMU
    Test(Test),
    /// Feed strangers' bytes to everything that reads them, guided by coverage
    Fuzz(Fuzz),
    /// Simulate clusters that have bad luck, drawn from seeds
    Simulate(Simulate),
    /// Measure on the instruction clock, and write docs/BENCHMARKS.md
    Bench(Bench),
    /// Connect the nodes of a trial
    #[command(hide = true)]
    Switch {
        /// Where its files are
        dir: PathBuf,
        /// Both ends of each cable
        ports: Vec<u16>,
    },
    /// Forward published ports to a node that runs detached
    #[command(hide = true)]
    ForwardPorts,
}

#[derive(Args)]
struct Try {
    /// How many nodes, on one network
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MOST_NODES))]
    nodes: u8,
    /// Leave the nodes running
    #[arg(long)]
    detach: bool,
    /// Shut down the nodes that run
    #[arg(long, conflicts_with = "detach")]
    stop: bool,
    /// Processors of each [default: with KVM those of this machine, at most 4; emulated 1]
    #[arg(long)]
    cpus: Option<usize>,
    /// Memory of each, such as 2G or 1536M [default: 2G, of several 1G]
    #[arg(long, value_parser = mebibytes)]
    memory: Option<u64>,
    /// Size of each one's data disk when it is made; it takes space only as it fills
    #[arg(long, value_parser = mebibytes, default_value = "32G")]
    disk: u64,
    /// Show everything that the first node's kernel says
    #[arg(long)]
    kernel_log: bool,
}

#[derive(Args)]
struct Test {
    /// Only end-to-end tests whose name contains this
    filter: Option<String>,
}

#[derive(Args)]
struct Fuzz {
    /// Only this target; all of them are the files of tests/fuzz/fuzz_targets
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 5)]
    minutes: u64,
}

#[derive(Args)]
struct Simulate {
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print everything that happens
    #[arg(long)]
    tell: bool,
}

#[derive(Args)]
struct Bench {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure this hearth.efi instead of building one, and leave docs/BENCHMARKS.md alone
    #[arg(long)]
    image: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Try(options) if options.stop => trial::stop(),
        Command::Try(options) => trial::run(&Options {
            detach: options.detach,
            nodes: options.nodes,
            cpus: options.cpus,
            memory_mib: options.memory,
            disk_mib: options.disk,
            kernel_log: options.kernel_log,
        }),
        Command::Image => {
            let efi = image::build(&prerequisites::ensure()?)?;
            println!("{}", efi.display());
            Ok(())
        }
        Command::Test(options) => checks::run(options.filter.as_deref()),
        Command::Fuzz(options) => fuzz::run(
            options.target.as_deref(),
            Duration::from_secs(60 * options.minutes),
        ),
        Command::Simulate(options) => simulate::run(options.seeds, options.seed, options.tell),
        Command::Bench(options) => bench::run(options.image.as_deref(), options.json),
        Command::Switch { dir, ports } => trial::serve(&dir, &ports),
        Command::ForwardPorts => trial::forward_ports(),
    }
}

/// Parses `512M`, `2G`, or a number of MiB.
fn mebibytes(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|mebibytes| *mebibytes > 0)
        .ok_or_else(|| "expected a size such as 2G or 512M".to_owned())
}
