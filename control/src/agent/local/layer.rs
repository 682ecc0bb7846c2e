//! Writable layers: each container's own ext4, cloned from one template without copying where the data disk can share blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom as Hole;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Blocks of zeros of this size stay holes: the file systems' own block size.
const BLOCK: usize = 4096;
/// Copied at a time.
const COPY: usize = 128 << 10;
/// Of the template's unpacked form, in the containers' directory.
const TEMPLATE_PREFIX: &str = "template.ext4-";
/// Of a writable layer, in a container's directory.
const LAYER: &str = "writable.ext4";

/// Unpacks the template into `dir` unless it is there, under a name that changes with its contents; removes others.
pub fn unpack_template(compressed: &Path, dir: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(compressed)?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{TEMPLATE_PREFIX}{hash}"));
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(TEMPLATE_PREFIX)
            && entry.path() != path
        {
            fs::remove_file(entry.path())?;
        }
    }
    if path.exists() {
        return Ok(path);
    }
    let partial = dir.join(format!("{TEMPLATE_PREFIX}partial"));
    let file = File::create(&partial)?;
    write_sparse(
        &mut zstd::stream::read::Decoder::with_buffer(bytes.as_slice())?,
        &file,
    )?;
    file.set_len(file.metadata()?.len().max(ext4_length(&partial)?))?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    Ok(path)
}

/// Bytes that an ext4's super block states, 0 if it is none: the packed template ends with its last byte that isn't zero, for
/// zeros take time to unpack. Block count, block size and magic number as in the kernel's `filesystems/ext4/super.rst`.
fn ext4_length(file: &Path) -> io::Result<u64> {
    let mut super_block = [0; 1024];
    if let Err(error) = File::open(file)?.read_exact_at(&mut super_block, 1024) {
        return if error.kind() == io::ErrorKind::UnexpectedEof {
            Ok(0)
        } else {
            Err(error)
        };
    }
    let word = |at: usize| u64::from(super_block[at]) | u64::from(super_block[at + 1]) << 8;
    let double = |at: usize| word(at) | word(at + 2) << 16;
    if word(0x38) != 0xef53 {
        return Ok(0);
    }
    let blocks = double(0x4) | double(0x150) << 32;
    let block_bytes = 1024u64.checked_shl(word(0x18) as u32).unwrap_or(0);
    Ok(blocks.saturating_mul(block_bytes))
}

/// The layer in a container's directory, cloned from the template unless it is there; so is the directory made.
pub fn layer(template: &Path, container: &Path) -> io::Result<PathBuf> {
    let path = container.join(LAYER);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(container)?;
    let partial = container.join("writable.ext4.partial");
    let source = File::open(template)?;
    let target = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&partial)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => {}
        // Not on a file system with shared blocks (RAM, say).
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            copy_sparse(&source, &target)?;
        }
        Err(error) => return Err(error.into()),
    }
    // A container that was answered for has its layer after a power cut: the file, its name, and its directory's.
    target.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(container)?.sync_all()?;
    if let Some(containers) = container.parent() {
        File::open(containers)?.sync_all()?;
    }
    Ok(path)
}

fn write_sparse(from: &mut impl Read, mut to: &File) -> io::Result<()> {
    let mut buffer = vec![0; COPY];
    let mut length = 0u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        for block in buffer[..filled].chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(length))?;
                to.write_all(block)?;
            }
            length += block.len() as u64;
        }
    }
    to.set_len(length)
}

fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; COPY];
    let mut at = 0;
    while at < length {
        at = match rustix::fs::seek(from, Hole::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, Hole::Hole(at))?;
        while at < end {
            let wanted = COPY.min(usize::try_from(end - at).unwrap_or(COPY));
            from.read_exact_at(&mut buffer[..wanted], at)?;
            to.write_all_at(&buffer[..wanted], at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_layer_equals_the_template_and_holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = vec![0u8; 40 << 20];
        contents[5000..5100].fill(7);
        contents[30 << 20..(30 << 20) + 9000].fill(9);
        let packed = dir.path().join("t.zst");
        fs::write(&packed, zstd::encode_all(contents.as_slice(), 1).unwrap()).unwrap();
        let template = unpack_template(&packed, &dir.path().join("containers")).unwrap();
        assert_eq!(
            unpack_template(&packed, &dir.path().join("containers")).unwrap(),
            template
        );
        let container = dir.path().join("c");
        fs::create_dir(&container).unwrap();
        let copy = layer(&template, &container).unwrap();
        for path in [&template, &copy] {
            assert!(fs::read(path).unwrap() == contents, "{path:?} differs");
            assert!(
                fs::metadata(path).unwrap().blocks() * 512 < 1 << 20,
                "{path:?} is not sparse"
            );
        }
    }

    #[test]
    fn a_new_template_replaces_the_old_and_a_written_layer_stays() {
        let dir = tempfile::tempdir().unwrap();
        let containers = dir.path().join("containers");
        let packed = dir.path().join("t.zst");
        fs::write(
            &packed,
            zstd::encode_all([1u8; 8192].as_slice(), 1).unwrap(),
        )
        .unwrap();
        let old = unpack_template(&packed, &containers).unwrap();
        let mine = layer(&old, dir.path()).unwrap();
        fs::write(
            &packed,
            zstd::encode_all([2u8; 8192].as_slice(), 1).unwrap(),
        )
        .unwrap();
        let new = unpack_template(&packed, &containers).unwrap();
        assert!(!old.exists() && new.exists());
        assert_eq!(layer(&new, dir.path()).unwrap(), mine);
        assert_eq!(fs::read(mine).unwrap(), [1u8; 8192]);
    }
}
