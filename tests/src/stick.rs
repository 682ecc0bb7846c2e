//! A USB stick that boots a node, made as its owner would make it: one FAT file system with two files.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// Room for the image and the configuration.
const BYTES: u64 = 128 << 20;

/// Makes a disk image at `stick` of `efi` and `configuration` (`hearth.toml`).
pub fn make(stick: &Path, efi: &Path, configuration: &Path) -> Result<()> {
    File::create(stick)?.set_len(BYTES)?;
    let mkfs = xtask::process::find("mkfs.vfat").unwrap_or_else(|| "mkfs.vfat".into());
    xtask::process::capture(
        Command::new(mkfs)
            .args(["-F", "32", "-n", "HEARTH"])
            .arg(stick),
    )?;
    let tool = |name: &str| {
        let mut tool = Command::new(name);
        tool.arg("-i").arg(stick);
        tool
    };
    xtask::process::capture(tool("mmd").args(["::/EFI", "::/EFI/BOOT"]))?;
    xtask::process::capture(tool("mcopy").arg(efi).arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    xtask::process::capture(tool("mcopy").arg(configuration).arg("::/hearth.toml"))?;
    Ok(())
}
