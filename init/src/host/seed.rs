//! Entropy that outlives a boot: without it, a machine without a hardware generator starts each time with what little the kernel
//! has gathered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{entropy, kmsg};

const DIRECTORY: &str = "/data/node";
const SEED_LEN: usize = 32;

/// Feeds the last boot's seed to the kernel and replaces it at once, so that none is ever used twice.
pub fn carry_over() {
    let path = Path::new(DIRECTORY).join("random-seed");
    let old = read(&path);
    if let Err(error) = replace(&path) {
        kmsg::log(&format!("init: writing {}: {error}", path.display()));
        // A seed that stays would be used again at the next boot, so it isn't used at all.
        return;
    }
    if let Some(seed) = old
        && let Err(error) = entropy::add(&seed)
    {
        kmsg::log(&format!("init: seeding the random pool: {error}"));
    }
}

fn read(path: &Path) -> Option<[u8; SEED_LEN]> {
    let mut seed = [0; SEED_LEN];
    File::open(path).ok()?.read_exact(&mut seed).ok()?;
    Some(seed)
}

fn replace(path: &Path) -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let mut seed = [0; SEED_LEN];
    // Not blocking: what the pool has now, mixed with the old seed at the next boot, is no worse than the old one alone.
    getrandom(&mut seed, GetRandomFlags::INSECURE)?;
    let fresh = path.with_extension("fresh");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    fs::rename(fresh, path)?;
    File::open(DIRECTORY)?.sync_all()
}
