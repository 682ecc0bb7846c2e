//! `hearth.efi`: our executables, both kernels and the templates, put together by mkosi as one unified kernel image.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::kernel::{self, Built};
use crate::prerequisites::Prerequisites;
use crate::templates::{self, Templates};
use crate::{cpio, elf, paths, process};

/// What our executables are compiled for: named, so that flags for it don't reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages that go into the image, and the executables they give.
const PACKAGES: [&str; 4] = [
    "hearth-init",
    "hearth-guest-init",
    "hearth-control",
    "hearth-vmm",
];

/// Directories of the running system, to be mounted over or filled.
const DIRECTORIES: [&str; 9] = [
    "data",
    "dev",
    "etc",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/lib/hearth",
];

/// Directories of the guest's initial RAM disk; the first executables mount over them.
const GUEST_DIRECTORIES: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "pod"];

/// Read and written by nobody but the kernel's own loader, and executed.
const EXECUTABLE: u32 = 0o755;

/// Builds everything that isn't up to date, and returns the path of `hearth.efi`.
pub fn build(prerequisites: &Prerequisites) -> Result<PathBuf> {
    let (host, guest) = kernel::build_both(&prerequisites.source)?;
    let templates = templates::build()?;
    let executables = compile(&PACKAGES)?;
    let efi = paths::project().join("target/hearth.efi");

    lay_out(&executables, &guest, &templates)?;
    lay_out_kernel(&host, &prerequisites.mkosi.stub)?;
    let stamp = paths::build().join("stamp");
    let fingerprint = fingerprint(&host)?;
    if efi.exists() && fs::read_to_string(&stamp).is_ok_and(|last| last == fingerprint) {
        return Ok(efi);
    }

    let output = paths::build().join("output");
    fs::create_dir_all(&output)?;
    // What version 25 calls not bootable still is a unified kernel image; version 24 makes none of it.
    let bootable = if prerequisites.mkosi.version >= 25 {
        "no"
    } else {
        "auto"
    };
    process::run_logged(
        prerequisites
            .mkosi
            .command()
            .arg(format!("--bootable={bootable}"))
            .args(["--force", "build"])
            .current_dir(paths::project()),
        &paths::build().join("mkosi.log"),
    )?;
    fs::rename(output.join("hearth.efi"), &efi).context("mkosi left no hearth.efi")?;
    fs::write(stamp, fingerprint)?;
    Ok(efi)
}

/// Compiles the executables of some packages statically and returns the directory that they are in.
pub fn compile(packages: &[&str]) -> Result<PathBuf> {
    // A directory of its own: other flags than the tests', and neither is to undo what the other compiled.
    let target = paths::project().join("target/static");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--bins",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&target);
    for package in packages {
        cargo.args(["--package", package]);
    }
    cargo
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .current_dir(paths::project());
    // On a terminal cargo shows how far it is; a log needs no line for each crate.
    if !io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    eprintln!("    compiling {}", packages.join(", "));
    let status = cargo.status().context("starting cargo")?;
    anyhow::ensure!(
        status.success(),
        "our executables don't compile ({status}), see above"
    );
    Ok(target.join(TARGET).join("release"))
}

/// The host's root, as it will be in RAM.
fn lay_out(executables: &Path, guest: &Built, templates: &Templates) -> Result<()> {
    let root = fresh("root")?;
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    let hearth = root.join("usr/lib/hearth");
    for directory in ["guest", "templates"] {
        fs::create_dir_all(hearth.join(directory))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    fs::write(
        root.join("usr/lib/os-release"),
        format!("ID=hearth\nNAME=Hearth\nPRETTY_NAME=\"Hearth {version}\"\nVERSION_ID={version}\n"),
    )?;
    for (executable, place) in [
        ("init", root.join("init")),
        ("control", hearth.join("control")),
        ("vmm", hearth.join("vmm")),
    ] {
        install(&executables.join(executable), &place, EXECUTABLE)?;
    }
    fs::write(
        hearth.join("guest/vmlinux"),
        elf::packed(&fs::read(&guest.file)?)?,
    )?;
    guest_initramfs(
        &executables.join("guest-init"),
        &hearth.join("guest/initramfs"),
    )?;
    install(
        &templates.data,
        &hearth.join("templates/data.btrfs.template"),
        0o644,
    )?;
    for template in &templates.writable {
        let name = template.file_name().context("a template has a name")?;
        install(template, &hearth.join("templates").join(name), 0o644)?;
    }
    Ok(())
}

/// What mkosi takes the kernel and the stub from, and removes again from the root.
fn lay_out_kernel(host: &Built, stub: &Path) -> Result<()> {
    let extra = fresh("kernel")?;
    let modules = extra.join("usr/lib/modules").join(kernel::release(host)?);
    let stubs = extra.join("usr/lib/systemd/boot/efi");
    fs::create_dir_all(&modules)?;
    fs::create_dir_all(&stubs)?;
    install(&host.file, &modules.join("vmlinuz"), 0o644)?;
    install(stub, &stubs.join("linuxx64.efi.stub"), 0o644)?;
    // There are no modules; without these, mkosi would run depmod inside the image.
    for index in [
        "modules.dep",
        "modules.dep.bin",
        "modules.symbols",
        "modules.symbols.bin",
    ] {
        fs::write(modules.join(index), "")?;
    }
    Ok(())
}

/// The microVM's initial RAM disk: guest init, and nothing else.
fn guest_initramfs(guest_init: &Path, place: &Path) -> Result<()> {
    let init = fs::read(guest_init).with_context(|| format!("reading {}", guest_init.display()))?;
    let mut archive = cpio::Writer::new(BufWriter::new(File::create(place)?));
    for directory in GUEST_DIRECTORIES {
        archive.directory(directory, 0o755)?;
    }
    // The kernel opens it for init before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", EXECUTABLE, &init)?;
    archive
        .finish()?
        .into_inner()
        .map_err(|error| error.into_error())?;
    Ok(())
}

fn fresh(name: &str) -> Result<PathBuf> {
    let dir = paths::build().join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn install(from: &Path, to: &Path, permissions: u32) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(permissions))?;
    Ok(())
}

/// A hash of everything that mkosi reads.
fn fingerprint(host: &Built) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(host.file.as_os_str().as_encoded_bytes());
    let mut files = vec![paths::project().join("mkosi.conf")];
    files.extend(files_under(&paths::build().join("root"))?);
    for file in files {
        hash.update(file.as_os_str().as_encoded_bytes());
        io::copy(&mut File::open(&file)?, &mut hash)?;
    }
    Ok(hex::encode(hash.finalize()))
}

fn files_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        if entry.file_type()?.is_dir() {
            files.extend(files_under(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
