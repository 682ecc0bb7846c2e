//! What an owner makes for a node on FAT: a USB stick that boots it, with two files, or a disk with its configuration alone.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use xtask::{bochs, process};

/// Room for the image and the configuration.
const BYTES: u64 = 128 << 20;
/// Some 16 MiB, more than enough for a configuration and for FAT16.
const CYLINDERS: u64 = 32;

/// Makes a disk image at `stick` of `efi` and `configuration` (`hearth.toml`).
pub fn make(stick: &Path, efi: &Path, configuration: &Path) -> Result<()> {
    format(stick, BYTES, "32")?;
    process::capture(tool("mmd", stick).args(["::/EFI", "::/EFI/BOOT"]))?;
    process::capture(tool("mcopy", stick).arg(efi).arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    process::capture(
        tool("mcopy", stick)
            .arg(configuration)
            .arg("::/hearth.toml"),
    )?;
    Ok(())
}

/// Makes a disk image at `disk` of `configuration` (`hearth.toml`) alone, for a machine in Bochs.
pub fn make_configuration(disk: &Path, configuration: &Path) -> Result<()> {
    format(disk, CYLINDERS * bochs::CYLINDER, "16")?;
    process::capture(tool("mcopy", disk).arg(configuration).arg("::/hearth.toml"))?;
    Ok(())
}

fn format(disk: &Path, bytes: u64, fat: &str) -> Result<()> {
    File::create(disk)?.set_len(bytes)?;
    let mkfs = process::find("mkfs.vfat").unwrap_or_else(|| "mkfs.vfat".into());
    let mut mkfs = Command::new(mkfs);
    process::capture(mkfs.args(["-F", fat, "-n", "HEARTH"]).arg(disk))?;
    Ok(())
}

fn tool(name: &str, disk: &Path) -> Command {
    let mut tool = Command::new(name);
    tool.arg("-i").arg(disk);
    tool
}
