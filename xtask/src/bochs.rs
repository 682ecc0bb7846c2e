//! A machine in Bochs, which emulates Intel's processors with their virtualization, as QEMU doesn't: slowly, with one
//! processor, and without a way in from outside. What happens in it shows on its serial line.
//!
//! It starts like a PC of old: the BIOS reads isolinux from a CD, and isolinux the kernel and its initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::qemu::Boot;

/// The emulator itself; the distribution's `bochs` is a script around it.
pub const PROGRAM: &str = "bochs-bin";
/// One of isolinux' two stages, in the places where Debian has them, and the other.
pub const ISOLINUX: [&str; 2] = [
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
];
/// What starts the machine.
pub const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
/// And its screen, which nobody sees.
pub const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";
/// MiB: a node and a few containers.
const MEMORY_MIB: u64 = 1024;
/// Bytes of a cylinder of the geometry that Bochs takes for a disk (16 heads of 63 sectors): a disk has whole ones.
pub const CYLINDER: u64 = 16 * 63 * 512;

/// The command that runs `boot` with `disk` until it is killed, its files in `dir`; the serial line goes to `dir`'s `console`.
pub fn command(dir: &Path, boot: &Boot, disk: &Path) -> Result<Command> {
    let cd = cd(dir, boot)?;
    let settings = dir.join("bochsrc");
    fs::write(&settings, configuration(dir, &cd, disk))?;
    // Debian's has its debugger built in, which waits for a first command.
    let debugger = dir.join("debugger");
    fs::write(&debugger, "c\n")?;
    let mut bochs = Command::new(PROGRAM);
    bochs.arg("-q").arg("-f").arg(settings);
    bochs.arg("-rc").arg(debugger).current_dir(dir);
    Ok(bochs)
}

fn configuration(dir: &Path, cd: &Path, disk: &Path) -> String {
    let (cd, disk) = (cd.display(), disk.display());
    let dir = dir.display();
    // More than one processor, and Bochs 2.7 loses interrupts. Its only display that needs neither a screen nor a terminal is rfb.
    format!(
        "megs: {MEMORY_MIB}\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         cpu: model=corei7_haswell_4770, count=1, ips=200000000, ignore_bad_msrs=1\n\
         display_library: rfb, options=\"timeout=0\"\n\
         pci: enabled=1, chipset=i440fx, slot1=e1000\n\
         e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
         ata0-master: type=disk, path=\"{disk}\", mode=flat\n\
         ata1-master: type=cdrom, path=\"{cd}\", status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev=\"{dir}/console\"\n\
         log: {dir}/bochs.log\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         debug: action=ignore\n"
    )
}

/// A CD that starts `boot`.
fn cd(dir: &Path, boot: &Boot) -> Result<PathBuf> {
    let Boot::Kernel {
        kernel,
        initramfs: Some(initramfs),
        command_line,
    } = boot
    else {
        bail!("isolinux starts a kernel with an initramfs");
    };
    let root = dir.join("cd");
    fs::create_dir_all(&root)?;
    for file in ISOLINUX.map(Path::new) {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, root.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    fs::copy(kernel, root.join("linux"))?;
    fs::copy(initramfs, root.join("initramfs"))?;
    fs::write(
        root.join("isolinux.cfg"),
        format!(
            "DEFAULT hearth\nLABEL hearth\n KERNEL linux\n INITRD initramfs\n APPEND {command_line}\n"
        ),
    )?;
    let image = dir.join("cd.iso");
    // El Torito without an emulated floppy: the BIOS loads four sectors of isolinux, which finds the rest by the table in its head.
    process::capture(
        Command::new("genisoimage")
            .args(["-quiet", "-l", "-b", "isolinux.bin", "-c", "boot.cat"])
            .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
            .arg("-o")
            .arg(&image)
            .arg(&root),
    )?;
    Ok(image)
}
