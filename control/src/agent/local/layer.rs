//! Writable layers: each container's own ext4, cloned from one template without copying where the data disk can share blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use hearth_template::Template;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// ext4's.
const BLOCK: u64 = 4096;
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
    let mut template = Template::open(bytes.as_slice())?;
    while let Some((offset, run)) = template.next_run()? {
        file.write_all_at(run, offset)?;
    }
    file.set_len(template.file_system_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    Ok(path)
}

/// The layer in a container's directory, cloned from the template unless it is there; so is the directory made. A layer of more `bytes`
/// than the template's has room behind the file system, which the guest's kernel takes when it first mounts it.
pub fn layer(template: &Path, container: &Path, bytes: u64) -> io::Result<PathBuf> {
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
    let bytes = bytes.next_multiple_of(BLOCK);
    if target.metadata()?.len() < bytes {
        target.set_len(bytes)?;
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

/// What a container's layer takes beyond what every layer begins with, bytes. Of one that isn't there: nothing.
pub fn bytes_written(template: &Path, container: &Path) -> io::Result<u64> {
    // `st_blocks` counts blocks of 512 bytes, whatever the file system's own are (stat(2)).
    let taken = |path: &Path| Ok::<u64, io::Error>(fs::metadata(path)?.blocks() * 512);
    match taken(&container.join(LAYER)) {
        Ok(all) => Ok(all.saturating_sub(taken(template)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; COPY];
    let mut at = 0;
    while at < length {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at))?;
        while at < end {
            let wanted = COPY.min(usize::try_from(end - at).unwrap_or(COPY));
            from.read_exact_at(&mut buffer[..wanted], at)?;
            to.write_all_at(&buffer[..wanted], at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}

/// A file system that is packed as the image's are.
#[cfg(test)]
pub(crate) fn packed(contents: &[u8]) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(contents, 0).unwrap();
    let mut packed = Vec::new();
    hearth_template::pack(&file, &mut packed).unwrap();
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_size_is_what_was_written_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let packed_file = dir.path().join("t.template");
        fs::write(&packed_file, packed(&[1; 1 << 20])).unwrap();
        let template = unpack_template(&packed_file, dir.path()).unwrap();
        let container = dir.path().join("c");
        assert_eq!(bytes_written(&template, &container).unwrap(), 0);
        let path = layer(&template, &container, 0).unwrap();
        assert_eq!(bytes_written(&template, &container).unwrap(), 0);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[2; 1 << 20], 8 << 20).unwrap();
        file.sync_all().unwrap();
        let bytes = bytes_written(&template, &container).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_layer_equals_the_template_and_holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = vec![0u8; 40 << 20];
        contents[5000..5100].fill(7);
        contents[30 << 20..(30 << 20) + 9000].fill(9);
        let file = dir.path().join("t.template");
        fs::write(&file, packed(&contents)).unwrap();
        let template = unpack_template(&file, &dir.path().join("containers")).unwrap();
        assert_eq!(
            unpack_template(&file, &dir.path().join("containers")).unwrap(),
            template
        );
        let container = dir.path().join("c");
        fs::create_dir(&container).unwrap();
        let copy = layer(&template, &container, 0).unwrap();
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
        let file = dir.path().join("t.template");
        fs::write(&file, packed(&[1; 8192])).unwrap();
        let old = unpack_template(&file, &containers).unwrap();
        let mine = layer(&old, dir.path(), 0).unwrap();
        fs::write(&file, packed(&[2; 8192])).unwrap();
        let new = unpack_template(&file, &containers).unwrap();
        assert!(!old.exists() && new.exists());
        assert_eq!(layer(&new, dir.path(), 0).unwrap(), mine);
        assert_eq!(fs::read(mine).unwrap(), [1u8; 8192]);
    }

    #[test]
    fn a_larger_layer_is_the_template_and_a_hole_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.template");
        fs::write(&file, packed(&[1; 8192])).unwrap();
        let template = unpack_template(&file, &dir.path().join("containers")).unwrap();
        let layer = layer(&template, dir.path(), (1 << 30) - 1).unwrap();
        let metadata = fs::metadata(&layer).unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "it is not sparse");
        let mut start = [0; 8193];
        File::open(layer)
            .unwrap()
            .read_exact_at(&mut start, 0)
            .unwrap();
        assert!(start[..8192] == [1; 8192] && start[8192] == 0);
    }
}
