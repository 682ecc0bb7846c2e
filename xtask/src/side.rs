//! A node with a second process beside PID 1, for what a node without a shell doesn't show: the same kernel, command line and
//! initramfs as in `hearth.efi`, started by QEMU itself, with one more archive behind the initramfs.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::qemu::Boot;
use crate::{cpio, image, process};

/// The package with the second process.
const PACKAGE: &str = "hearth-side";
/// What the kernel starts instead of `/init`; it becomes `/init` at once.
const EXECUTABLE: &str = "side/init";
/// Archives in an initramfs begin at multiples of this (`buffer-format.rst`).
const ALIGNMENT: usize = 4;

/// Takes `efi` apart into `dir` and adds the side process in the given mode, and `files` (name in `/side`, content).
pub fn boot(efi: &Path, dir: &Path, mode: &str, files: &[(&str, Vec<u8>)]) -> Result<Boot> {
    fs::create_dir_all(dir)?;
    let section = |name: &str| -> Result<Vec<u8>> {
        let out = dir.join(name);
        process::capture(
            Command::new("objcopy")
                .args(["--output-target=binary", &format!("--only-section=.{name}")])
                .arg(efi)
                .arg(&out),
        )?;
        fs::read(&out).with_context(|| format!("{} has no section .{name}", efi.display()))
    };
    section("linux")?;
    let mut initramfs = section("initrd")?;
    let command_line = section("cmdline")?;
    let command_line = String::from_utf8_lossy(&command_line);
    let command_line = command_line.trim_end_matches(['\0', '\n']);

    initramfs.resize(initramfs.len().next_multiple_of(ALIGNMENT), 0);
    let executable = image::compile(&[PACKAGE])?.join(PACKAGE);
    let mut archive = cpio::Writer::new(&mut initramfs);
    archive.directory("side", 0o755)?;
    archive.file(EXECUTABLE, 0o755, &fs::read(executable)?)?;
    for (name, data) in files {
        archive.file(&format!("side/{name}"), 0o600, data)?;
    }
    archive.finish()?;
    let path = dir.join("initramfs");
    File::create(&path)?.write_all(&initramfs)?;
    Ok(Boot::Kernel {
        kernel: dir.join("linux"),
        initramfs: Some(path),
        command_line: format!("{command_line} rdinit=/{EXECUTABLE} side={mode}"),
    })
}
