//! File systems that a node copies instead of making: an empty data disk and empty writable layers. Made here, by the
//! distribution's own tools, so that no node needs these tools.
//!
//! They are kept as `hearth_template` packs them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::{paths, process};

/// Part of the cache's key: change it when the making below changes.
const RECIPE: &str = "3";

/// btrfs refuses less than 109 MiB, and grows once it is mounted.
const DATA_BYTES: u64 = 256 << 20;

/// Label by which a node knows a data disk as its own.
pub const DATA_LABEL: &str = "hearth-data";

/// Nothing of it is used until it is written.
pub use hearth_template::WRITABLE_BYTES;
use hearth_template::{SMALL_BYTES, WRITABLE_SUFFIX};

/// The journal is there so that a power cut leaves a file system and not a puzzle: small, for each container has one, and at the front
/// like everything below.
const WRITABLE_JOURNAL: &str = "-Jsize=8,location=0";
const SMALL_JOURNAL: &str = "-Jsize=4,location=0";

/// Options of the writable layers' file systems.
const WRITABLE_OPTIONS: &[&str] = &[
    // One inode per 16 KiB: 650,000 files, and tables of 160 MiB that stay holes in the sparse file.
    "-i16384",
    // All bitmaps and tables at the front: but for some copies of the super block, the used part of the file is short.
    "-G512",
    // A guest grows it while it is mounted: with meta_bg the kernel does so to any size, without blocks kept back for that. It refuses
    // to with sparse_super2.
    "-b4096",
    "-Ometa_bg,^resize_inode",
    // The file's holes read as zeros, so that tables and journal count as cleared: no thread zeroes them in the guest later.
    "-Ediscard,lazy_itable_init=1,lazy_journal_init=1",
    // Nothing is kept back for root: the container's root is who fills it.
    "-m0",
    "-Lwritable",
];

/// The finished templates.
#[derive(Debug, Clone)]
pub struct Templates {
    /// `data.btrfs.template`
    pub data: PathBuf,
    /// `writable.ext4.template` and, for layers that are smaller, `small.ext4.template`.
    pub writable: [PathBuf; 2],
}

/// The templates, from the cache or made now.
pub fn build() -> Result<Templates> {
    let mut key = Sha256::new();
    key.update(format!(
        "{RECIPE} {DATA_BYTES} {DATA_LABEL} {WRITABLE_BYTES} {WRITABLE_JOURNAL} {SMALL_BYTES} {SMALL_JOURNAL} {WRITABLE_OPTIONS:?}"
    ));
    let dir = paths::cache()?
        .join("templates")
        .join(hex::encode(key.finalize()));
    fs::create_dir_all(&dir)?;
    let templates = Templates {
        data: dir.join("data.btrfs.template"),
        writable: ["writable", "small"].map(|name| dir.join(format!("{name}{WRITABLE_SUFFIX}"))),
    };
    make(
        &templates.data,
        DATA_BYTES,
        program("mkfs.btrfs").args(["--quiet", "--label", DATA_LABEL]),
    )?;
    let [writable, small] = &templates.writable;
    for (template, bytes, journal) in [
        (writable, WRITABLE_BYTES, WRITABLE_JOURNAL),
        (small, SMALL_BYTES, SMALL_JOURNAL),
    ] {
        let mut mkfs = program("mkfs.ext4");
        make(
            template,
            bytes,
            mkfs.args(["-q", journal]).args(WRITABLE_OPTIONS),
        )?;
    }
    Ok(templates)
}

/// File system tools live where only an administrator's `PATH` leads.
fn program(name: &str) -> Command {
    Command::new(process::find(name).unwrap_or_else(|| name.into()))
}

fn make(template: &Path, bytes: u64, mkfs: &mut Command) -> Result<()> {
    if template.exists() {
        return Ok(());
    }
    let image = template.with_extension("img");
    let fresh = template.with_extension("fresh");
    if image.exists() {
        fs::remove_file(&image)?;
    }
    File::create(&image)?.set_len(bytes)?;
    process::capture(mkfs.arg(&image))?;
    hearth_template::pack(&File::open(&image)?, File::create(&fresh)?)?;
    fs::remove_file(&image)?;
    fs::rename(&fresh, template)?;
    Ok(())
}
