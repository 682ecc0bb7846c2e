//! Writable layers: each container's own ext4, cloned from one template without copying where the data disk can share blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use hearth_template::{Template, WRITABLE_SUFFIX};
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

/// Empty file systems of several sizes, unpacked. A layer begins as a clone of the largest that is no larger than it.
#[derive(Debug, Clone)]
pub struct Templates(Vec<(u64, PathBuf)>);

impl Templates {
    /// Unpacks those in `packed` into `dir` unless they are there, under names that change with their contents; removes others.
    pub fn unpack(packed: &Path, dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut templates = Vec::new();
        for entry in fs::read_dir(packed)? {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .ends_with(WRITABLE_SUFFIX.as_bytes())
            {
                let path = unpack(&entry.path(), dir)?;
                templates.push((fs::metadata(&path)?.len(), path));
            }
        }
        templates.sort();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let ours = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(TEMPLATE_PREFIX.as_bytes());
            if ours && templates.iter().all(|(_, path)| *path != entry.path()) {
                fs::remove_file(entry.path())?;
            }
        }
        if templates.is_empty() {
            return Err(io::Error::other(format!(
                "no template of a writable layer is in {}",
                packed.display()
            )));
        }
        Ok(Self(templates))
    }

    fn of(&self, bytes: u64) -> &Path {
        let Self(templates) = self;
        let larger = templates.partition_point(|(length, _)| *length <= bytes);
        &templates[larger.saturating_sub(1)].1
    }
}

fn unpack(packed: &Path, dir: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(packed)?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    let path = dir.join(format!("{TEMPLATE_PREFIX}{hash}"));
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

/// The layer in a container's directory, cloned from a template unless it is there; so is the directory made. A layer of more `bytes`
/// than the template's has room behind the file system, which the guest's kernel takes when it first mounts it.
pub fn layer(templates: &Templates, container: &Path, bytes: u64) -> io::Result<PathBuf> {
    let path = container.join(LAYER);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(container)?;
    let partial = container.join("writable.ext4.partial");
    let source = File::open(templates.of(bytes))?;
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
pub fn bytes_written(templates: &Templates, container: &Path) -> io::Result<u64> {
    // `st_blocks` counts blocks of 512 bytes, whatever the file system's own are (stat(2)).
    let taken = |metadata: fs::Metadata| metadata.blocks() * 512;
    match fs::metadata(container.join(LAYER)) {
        Ok(layer) => {
            let template = fs::metadata(templates.of(layer.len()))?;
            Ok(taken(layer).saturating_sub(taken(template)))
        }
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

/// A template of a test's, packed as the image's are.
#[cfg(test)]
pub(crate) fn template(dir: &Path, name: &str, contents: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, contents).unwrap();
    let packed = File::create(dir.join(format!("{name}{WRITABLE_SUFFIX}"))).unwrap();
    hearth_template::pack(&file, packed).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node's directories.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn packed(&self) -> PathBuf {
            self.0.path().join("packed")
        }

        fn containers(&self) -> PathBuf {
            self.0.path().join("containers")
        }

        fn container(&self) -> PathBuf {
            self.containers().join("c")
        }

        fn pack(&self, name: &str, contents: &[u8]) {
            template(&self.packed(), name, contents);
        }

        fn templates(&self) -> Templates {
            Templates::unpack(&self.packed(), &self.containers()).unwrap()
        }
    }

    #[test]
    fn a_layers_size_is_what_was_written_to_it() {
        let place = Place::new();
        place.pack("large", &[1; 1 << 20]);
        place.pack("small", &[2; 8192]);
        let templates = place.templates();
        for bytes in [(1 << 20) - 4096, 16 << 20] {
            let container = place.containers().join(bytes.to_string());
            assert_eq!(bytes_written(&templates, &container).unwrap(), 0);
            let path = layer(&templates, &container, bytes).unwrap();
            assert_eq!(bytes_written(&templates, &container).unwrap(), 0);
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&[3; 512 << 10], bytes - (512 << 10))
                .unwrap();
            file.sync_all().unwrap();
            let written = bytes_written(&templates, &container).unwrap();
            assert!(
                (512 << 10..1 << 20).contains(&written),
                "{written} of {bytes}"
            );
        }
    }

    #[test]
    fn a_layer_equals_the_template_and_holes_stay_holes() {
        let place = Place::new();
        let mut contents = vec![0u8; 40 << 20];
        contents[5000..5100].fill(7);
        contents[30 << 20..(30 << 20) + 9000].fill(9);
        place.pack("t", &contents);
        let templates = place.templates();
        assert_eq!(place.templates().of(0), templates.of(0));
        let copy = layer(&templates, &place.container(), 0).unwrap();
        for path in [templates.of(0), &copy] {
            assert!(fs::read(path).unwrap() == contents, "{path:?} differs");
            assert!(
                fs::metadata(path).unwrap().blocks() * 512 < 1 << 20,
                "{path:?} is not sparse"
            );
        }
    }

    #[test]
    fn a_new_template_replaces_the_old_and_a_written_layer_stays() {
        let place = Place::new();
        place.pack("t", &[1; 8192]);
        let old = place.templates();
        let mine = layer(&old, &place.container(), 0).unwrap();
        place.pack("t", &[2; 8192]);
        let new = place.templates();
        assert!(!old.of(0).exists() && new.of(0).exists());
        assert_eq!(layer(&new, &place.container(), 0).unwrap(), mine);
        assert_eq!(fs::read(mine).unwrap(), [1u8; 8192]);
    }

    #[test]
    fn a_layer_is_the_largest_template_that_fits_and_a_hole_behind_it() {
        let place = Place::new();
        place.pack("large", &[1; 1 << 20]);
        place.pack("small", &[2; 8192]);
        let templates = place.templates();
        for (bytes, of, fill) in [
            (8192, 8192, 2),
            ((1 << 20) - 1, 8192, 2),
            (1 << 20, 1 << 20, 1),
            ((1 << 30) - 1, 1 << 20, 1),
        ] {
            let layer = layer(
                &templates,
                &place.containers().join(bytes.to_string()),
                bytes,
            )
            .unwrap();
            let metadata = fs::metadata(&layer).unwrap();
            assert_eq!(metadata.len(), bytes.next_multiple_of(BLOCK));
            assert!(metadata.blocks() * 512 < 2 << 20, "it is not sparse");
            let mut start = vec![0; of + 1];
            let length = File::open(layer).unwrap().read_at(&mut start, 0).unwrap();
            assert!(start[..of].iter().all(|byte| *byte == fill), "{bytes}");
            assert!(start[of..length].iter().all(|byte| *byte == 0), "{bytes}");
        }
    }

    #[test]
    fn without_a_template_no_node_starts() {
        let place = Place::new();
        fs::create_dir(place.packed()).unwrap();
        fs::write(place.packed().join("data.btrfs.template"), "").unwrap();
        assert!(Templates::unpack(&place.packed(), &place.containers()).is_err());
    }
}
