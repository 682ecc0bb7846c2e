//! Looks into a root file system with a reader that isn't ours, and has the file system's own checker look too.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod exchange;
pub mod fake;
pub mod source;
pub mod victim;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use erofs_rs::{EroFS, backend::SliceImage};
use hearth_image::{Error, ImageId, Loaded, Progress, Store, StoreOptions};
use hearth_tests::{archive::Image, layer::Layer};
use serde_json::json;
use tempfile::TempDir;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    Device(u32, u32),
    Other,
}

/// A path in a root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub what: What,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    pub inode: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All paths but the root, with a leading slash.
pub type Paths = BTreeMap<String, Seen>;

/// A store in a directory of its own.
pub struct Place {
    pub dir: TempDir,
    pub store: Store,
}

impl Place {
    pub async fn new() -> Self {
        Self::with(StoreOptions::default()).await
    }

    pub async fn with(options: StoreOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), options).await.unwrap();
        Self { dir, store }
    }

    pub async fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, Error> {
        load(&self.store, archive).await
    }

    /// Loads an image made of these layers and looks into it.
    pub async fn look(&self, layers: Vec<Layer>) -> Result<Paths, Error> {
        let loaded = self.load(&image(layers).docker_archive("test:1")).await?;
        Ok(paths(&self.store.root_file(&loaded[0].id)))
    }

    /// Files under the store's directory, without its own four directories.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    let relative = path.strip_prefix(self.dir.path()).unwrap();
                    files.push(relative.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

/// An image of these layers that runs `/bin/sh`.
pub fn image(layers: Vec<Layer>) -> Image {
    let layers = layers.into_iter().map(Layer::finish).collect();
    Image::new(json!({ "Cmd": ["/bin/sh"] }), layers)
}

/// The store's root file of an image.
pub fn root_bytes(store: &Store, id: &ImageId) -> Vec<u8> {
    fs::read(store.root_file(id)).unwrap()
}

/// Reads everything, after the checker has found no fault.
pub fn paths(root: &Path) -> Paths {
    check(root);
    let bytes = fs::read(root).unwrap();
    assert_eq!(bytes.len() % 4096, 0, "a device has whole pages");
    let fs = EroFS::new(SliceImage::new(&bytes)).unwrap();
    let mut seen = Paths::new();
    for entry in fs.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let inode = entry.inode;
        let kind = inode.file_type();
        let what = if kind.is_file() {
            let mut content = Vec::new();
            fs.open_inode_file(inode)
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            What::File(content)
        } else if kind.is_dir() {
            What::Directory
        } else if kind.is_symlink() {
            let target = fs.read_link_inode(inode).unwrap();
            What::Symlink(String::from_utf8_lossy(target.as_bytes()).into_owned())
        } else if let Some((major, minor)) = inode.device() {
            What::Device(major, minor)
        } else {
            What::Other
        };
        let path = String::from_utf8_lossy(entry.dir_entry.path().as_bytes()).into_owned();
        let path = format!("/{}", path.trim_start_matches('/'));
        let old = seen.insert(
            path.clone(),
            Seen {
                what,
                mode: inode.permissions().mode() & 0o7777,
                owner: (inode.uid(), inode.gid()),
                mtime: inode.modified_unix(),
                links: inode.nlink(),
                inode: inode.id(),
                xattrs: fs.xattrs_inode(inode).unwrap(),
            },
        );
        assert!(old.is_none(), "{path} is there twice");
    }
    seen
}

/// Says that this test can't run here, past the harness, which holds back what passing tests print: `cargo xtask test` counts it.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// erofs-utils' own opinion, contents included.
pub fn check(root: &Path) {
    let output = match Command::new("fsck.erofs")
        .arg("--extract")
        .arg(root)
        .output()
    {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED in part: fsck.erofs is missing; install erofs-utils");
            return;
        }
        output => output.unwrap(),
    };
    assert!(
        output.status.success(),
        "fsck.erofs: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The names of a directory's entries.
pub fn names(paths: &Paths) -> Vec<&str> {
    paths.keys().map(String::as_str).collect()
}

/// A file's content.
pub fn content<'a>(paths: &'a Paths, path: &str) -> &'a [u8] {
    match &paths[path].what {
        What::File(content) => content,
        other => panic!("{path} is {other:?}"),
    }
}

/// Bytes that don't compress: a layer of them is as large as they are, packed or not.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// What a pull said, as docker would show it: `id: text`.
#[derive(Default)]
pub struct Said(pub Vec<String>);

impl Said {
    pub fn hear(&mut self, event: Progress) {
        self.0.push(match &event {
            Progress::Layer { id, .. } => format!("{id}: {event}"),
            _ => event.to_string(),
        });
    }

    /// How often a text was said.
    pub fn count(&self, text: &str) -> usize {
        self.0.iter().filter(|line| line.contains(text)).count()
    }
}

/// Loads an archive for somebody who has shown nothing before.
pub async fn load(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>, Error> {
    let (shown, mut loaded) = (BTreeSet::new(), Vec::new());
    let done = store.load(archive, &shown, &mut loaded, &mut |_| {}).await;
    done.map(|()| loaded)
}
