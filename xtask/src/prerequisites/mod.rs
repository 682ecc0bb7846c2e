//! What the machine must have: what is missing is installed through apt when this user may, else the one command that
//! does it is printed. What would replace something of the user's is unpacked into the cache instead.

mod apt;
mod mkosi;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use mkosi::Mkosi;

use crate::kernel::{self, Source};
use crate::{bochs, process};

/// Something needed, and the package that brings it.
struct Need {
    what: &'static str,
    package: &'static str,
    present: fn() -> bool,
}

/// Everything found or installed.
#[derive(Debug)]
pub struct Prerequisites {
    /// The kernels' source.
    pub source: Source,
    /// What puts the image together.
    pub mkosi: Mkosi,
    /// The distribution's static busybox, for the first container.
    pub busybox: PathBuf,
}

const fn need(what: &'static str, package: &'static str, present: fn() -> bool) -> Need {
    Need {
        what,
        package,
        present,
    }
}

fn program(name: &str) -> bool {
    process::find(name).is_some()
}

const NEEDS: &[Need] = &[
    need("QEMU", "qemu-system-x86", || program("qemu-system-x86_64")),
    need("UEFI firmware for QEMU", "ovmf", || {
        crate::qemu::firmware().is_some()
    }),
    need("a C compiler and make", "build-essential", || {
        program("gcc") && program("make")
    }),
    need("flex", "flex", || program("flex")),
    need("bison", "bison", || program("bison")),
    need("bc", "bc", || program("bc")),
    need("headers of libelf", "libelf-dev", || {
        Path::new("/usr/include/gelf.h").exists()
    }),
    need("xz", "xz-utils", || program("xz")),
    need("zstd", "zstd", || program("zstd")),
    need("cpio", "cpio", || program("cpio")),
    need("depmod", "kmod", || program("depmod")),
    need("mkfs.btrfs", "btrfs-progs", || program("mkfs.btrfs")),
    need("mkfs.ext4", "e2fsprogs", || program("mkfs.ext4")),
    need("bubblewrap", "bubblewrap", || program("bwrap")),
    need("newuidmap", "uidmap", || program("newuidmap")),
    need("python3", "python3", || {
        Path::new("/usr/bin/python3").exists()
    }),
    need("python3's pefile", "python3-pefile", || {
        Path::new("/usr/lib/python3/dist-packages/pefile.py").exists()
    }),
];

const DOCKER: &str = "the docker CLI";

/// Looks for everything, and brings what is missing.
pub fn ensure() -> Result<Prerequisites> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.present)()).collect();
    let source = find_source();
    let docker = program("docker");
    let mkosi = Mkosi::find()?;
    if !missing.is_empty() || source.is_none() || !docker || mkosi.is_none() {
        let mut names: Vec<&str> = missing.iter().map(|need| need.what).collect();
        names.extend((!docker).then_some(DOCKER));
        names.extend(source.is_none().then_some("the kernel's source"));
        names.extend(mkosi.is_none().then_some("mkosi 24 or later"));
        eprintln!("Missing: {}", names.join(", "));
        // Fresh machines come without package lists, and old lists name packages that are gone.
        apt::update()?;
        let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        if !docker {
            // Where the CLI has a package of its own, no daemon comes with it.
            let own = apt::candidate("docker-cli").is_some();
            packages.push(if own { "docker-cli" } else { "docker.io" });
        }
        if source.is_none() && apt::candidate(kernel::SOURCE_PACKAGE).is_some() {
            packages.push(kernel::SOURCE_PACKAGE);
        }
        if mkosi.is_none() {
            packages.extend(Mkosi::packages());
        }
        if !packages.is_empty() {
            apt::install(&packages)?;
        }
    }
    if let Some(need) = NEEDS.iter().find(|need| !(need.present)()) {
        bail!(
            "{} is still missing after installing {}: look into it by hand",
            need.what,
            need.package
        );
    }
    let source = match find_source() {
        Some(source) => source,
        None => backported_source()?,
    };
    let mkosi = match Mkosi::find()? {
        Some(mkosi) => mkosi,
        None => Mkosi::unpack()?,
    };
    Ok(Prerequisites {
        source,
        mkosi,
        busybox: busybox()?,
    })
}

/// What only the tests look at things with.
const NEEDS_OF_TESTS: &[Need] = &[
    need("mkfs.vfat", "dosfstools", || program("mkfs.vfat")),
    // What plugs nodes without machines together.
    need("ip", "iproute2", || program("ip")),
    need("mcopy", "mtools", || program("mcopy")),
    need("fsck.erofs", "erofs-utils", || program("fsck.erofs")),
    need("getfattr", "attr", || program("getfattr")),
    need("Bochs", "bochs", || program(bochs::PROGRAM)),
    // A display that Bochs can do without, but its package can't: this is the smallest.
    need("a display of Bochs'", "bochs-term", || {
        program(bochs::PROGRAM)
    }),
    // Its package takes SeaBIOS for these, where that is there already; Bochs' own settings name its own.
    need("a BIOS of Bochs'", "bochsbios", || {
        Path::new(bochs::BIOS).exists()
    }),
    need("a BIOS for Bochs' screen", "vgabios", || {
        Path::new(bochs::VGA_BIOS).exists()
    }),
    need("isolinux", "isolinux", || {
        Path::new(bochs::ISOLINUX[0]).exists()
    }),
    // isolinux' package asks for it only softly.
    need("isolinux' other stage", "syslinux-common", || {
        Path::new(bochs::ISOLINUX[1]).exists()
    }),
    need("genisoimage", "genisoimage", || program("genisoimage")),
];

/// Brings what only the tests need.
pub fn ensure_for_tests() -> Result<()> {
    let missing = NEEDS_OF_TESTS.iter().filter(|need| !(need.present)());
    let packages: Vec<&str> = missing.map(|need| need.package).collect();
    if !packages.is_empty() {
        apt::update()?;
        apt::install(&packages)?;
    }
    Ok(())
}

/// The registry that the end-to-end tests pull from; unpacked only, for as a package it would start a service.
pub fn registry() -> Result<PathBuf> {
    match process::find("docker-registry") {
        Some(file) => Ok(file),
        None => {
            let root = apt::unpack(
                "docker-registry",
                apt::Origin::Release,
                &["docker-registry"],
            )?;
            Ok(root.join("usr/bin/docker-registry"))
        }
    }
}

fn find_source() -> Option<Source> {
    let archive = archive(Path::new("/"))?;
    Some(Source {
        archive,
        version: apt::installed(kernel::SOURCE_PACKAGE)?,
    })
}

fn archive(root: &Path) -> Option<PathBuf> {
    let file = root
        .join("usr/src")
        .join(format!("{}.tar.xz", kernel::SOURCE_PACKAGE));
    file.exists().then_some(file)
}

fn backported_source() -> Result<Source> {
    let package = kernel::SOURCE_PACKAGE;
    let root = apt::unpack(package, apt::Origin::Backports, &[package])?;
    let archive =
        archive(&root).with_context(|| format!("{package} from the backports holds no source"))?;
    // The package is not installed, so that its version is only in the documentation's changelog; size will do.
    let version = format!("backports-{}", fs::metadata(&archive)?.len());
    Ok(Source { archive, version })
}

/// The distribution's static busybox.
pub fn busybox() -> Result<PathBuf> {
    let own = PathBuf::from("/bin/busybox");
    if fs::read(&own).is_ok_and(|elf| is_static(&elf)) {
        return Ok(own);
    }
    let root = apt::unpack("busybox-static", apt::Origin::Release, &["busybox-static"])?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|file| root.join(file))
        .into_iter()
        .find(|file| file.exists())
        .with_context(|| {
            format!(
                "busybox-static holds no busybox: look into {}",
                root.display()
            )
        })
}

/// Whether an x86-64 executable asks for no interpreter (ELF-64 specification: program headers, `PT_INTERP`).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let word = |at: usize| {
        elf.get(at..at + 2)
            .map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    let (Some(offset), Some(size), Some(count)) = (elf.get(32..40), word(54), word(56)) else {
        return false;
    };
    let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes were taken"));
    let Ok(offset) = usize::try_from(offset) else {
        return false;
    };
    elf.starts_with(b"\x7fELF")
        && (0..count).all(|index| {
            let at = offset.saturating_add(index * size);
            elf.get(at..at.saturating_add(4))
                .is_some_and(|kind| kind != PT_INTERP.to_le_bytes())
        })
}
