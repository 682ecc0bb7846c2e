//! What apt is asked to do: say what it has, install, or fetch packages that are unpacked into the user's cache and change
//! nothing on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::sources;
use crate::{paths, process};

/// The machine's release, such as `bookworm`.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release has no VERSION_CODENAME: this works on Debian 12 and later")
}

/// The version that would be installed, if there is one.
pub fn candidate(package: &str) -> Option<String> {
    let policy = process::capture(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )
    .ok()?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The version that is installed.
pub fn installed(package: &str) -> Option<String> {
    let format = "--showformat=${db:Status-Status} ${Version}";
    let shown =
        process::capture(Command::new("dpkg-query").args(["--show", format, package])).ok()?;
    shown.strip_prefix("installed ").map(str::to_owned)
}

/// Brings the package lists up to date, if this user may.
pub fn update() -> Result<()> {
    if let Some(mut command) = privileged("apt-get") {
        eprintln!("    apt-get update");
        process::capture(command.args(["update", "--quiet"]))?;
    }
    Ok(())
}

/// Installs packages, or says which command would.
pub fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    let Some(mut command) = privileged("apt-get") else {
        bail!("these packages are needed; install them and run this again:\n    {by_hand}");
    };
    finish_what_was_interrupted();
    eprintln!("    apt-get install {}", packages.join(" "));
    let log = paths::cache()?.join("apt.log");
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .arg(format!(
            "--option=DPkg::Lock::Timeout={}",
            LOCK_PATIENCE.as_secs()
        ))
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::run_logged(&mut command, &log).with_context(|| format!("try it yourself: {by_hand}"))
}

/// How long apt waits for another of its kind, such as a machine's own daily upgrade.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// Has dpkg configure what somebody's interrupted installation left unpacked: before that apt-get installs nothing at all.
/// Where there is nothing left it changes nothing, and where it fails, what apt says next is the better message.
fn finish_what_was_interrupted() {
    if let Some(mut command) = privileged("dpkg") {
        command
            .args(["--configure", "--pending"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        let _ = process::capture(&mut command);
    }
}

/// `program` with the right to change the machine, if that can be had without asking for a password.
fn privileged(program: &str) -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        return Some(Command::new(program));
    }
    process::find("sudo")?;
    process::capture(Command::new("sudo").args(["--non-interactive", "true"])).ok()?;
    let mut command = Command::new("sudo");
    command.args([
        "--non-interactive",
        "--preserve-env=DEBIAN_FRONTEND",
        program,
    ]);
    Some(command)
}

/// Where [`unpack`] takes packages from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The machine's own release.
    Release,
    /// That release's backports, from the same mirror, whether the machine itself uses them or not.
    Backports,
}

/// The root of packages that were unpacked before.
pub fn unpacked(set: &str) -> Result<Option<PathBuf>> {
    let root = root(set)?;
    Ok(root.exists().then_some(root))
}

fn root(set: &str) -> Result<PathBuf> {
    Ok(paths::cache()?
        .join("packages")
        .join(format!("{}-{set}", codename()?)))
}

/// Packages unpacked under one root in the cache. Nothing is fetched if they are there already.
pub fn unpack(set: &str, origin: Origin, packages: &[&str]) -> Result<PathBuf> {
    let root = root(set)?;
    if root.exists() {
        return Ok(root);
    }
    eprintln!(
        "    unpacking {} into {}",
        packages.join(", "),
        root.display()
    );
    let work = root.with_extension("fresh");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let (downloads, unpacked) = (work.join("downloads"), work.join("root"));
    fs::create_dir_all(&downloads)?;
    fs::create_dir_all(&unpacked)?;
    let options = match origin {
        Origin::Release => Vec::new(),
        Origin::Backports => backports(&work, &codename()?)?,
    };
    process::capture(
        Command::new("apt-get")
            .args(&options)
            .arg("download")
            .args(packages)
            .current_dir(&downloads),
    )
    .with_context(|| format!("fetching {}: is the network there?", packages.join(", ")))?;
    for package in fs::read_dir(&downloads)? {
        process::capture(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(package?.path())
                .arg(&unpacked),
        )?;
    }
    fs::rename(&unpacked, &root)?;
    fs::remove_dir_all(&work)?;
    Ok(root)
}

/// Options that make apt see nothing but the backports, with lists and locks of its own, so that no privilege is needed.
fn backports(work: &Path, codename: &str) -> Result<Vec<String>> {
    let apt = work.join("apt");
    for dir in ["lists/partial", "archives/partial", "parts"] {
        fs::create_dir_all(apt.join(dir))?;
    }
    let list = apt.join("backports.list");
    fs::write(&list, sources::of_release(codename)?.backports(codename))?;
    let settings = [
        ("Dir::Etc::sourcelist", list),
        ("Dir::Etc::sourceparts", apt.join("parts")),
        ("Dir::State::lists", apt.join("lists")),
        ("Dir::Cache", apt.clone()),
    ];
    let mut options = vec!["--option=APT::Sandbox::User=".to_owned()];
    options.extend(
        settings
            .iter()
            .map(|(name, path)| format!("--option={name}={}", path.display())),
    );
    process::capture(Command::new("apt-get").args(&options).arg("update"))
        .with_context(|| format!("reading the list of {codename}-backports"))?;
    Ok(options)
}
