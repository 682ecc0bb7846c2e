//! Writes a layer's tar, entry by entry; also those that no honest tool would write.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// All times in test layers: fixed, so that the same content is the same digest (2024-01-01T00:00:00Z).
const MTIME: u64 = 1_704_067_200;

/// A layer being written. Owners are 0:0 unless said otherwise; paths are relative, without a leading slash.
pub struct Layer {
    tar: Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self {
            tar: Builder::new(Vec::new()),
        }
    }

    /// A directory.
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.owned_dir(path, mode, 0, 0)
    }

    /// A directory that belongs to `uid`:`gid`.
    pub fn owned_dir(self, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = header(EntryType::Directory, mode, 0);
        header.set_uid(uid);
        header.set_gid(gid);
        self.entry(header, path, &[])
    }

    /// A regular file.
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.owned_file(path, mode, 0, 0, content)
    }

    /// A regular file that belongs to `uid`:`gid`; ids above the header's octal fields are written in base 256.
    pub fn owned_file(self, path: &str, mode: u32, uid: u64, gid: u64, content: &[u8]) -> Self {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        header.set_uid(uid);
        header.set_gid(gid);
        self.entry(header, path, content)
    }

    /// A regular file with extended attributes, carried as `SCHILY.xattr.*` records as docker writes them.
    pub fn file_with_xattrs(
        mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        xattrs: &[(&str, &[u8])],
    ) -> Self {
        let named: Vec<(String, &[u8])> = xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value))
            .collect();
        self.tar
            .append_pax_extensions(named.iter().map(|(name, value)| (name.as_str(), *value)))
            .expect("writing to memory can't fail");
        self.file(path, mode, content)
    }

    /// A symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar
            .append_link(&mut header, path, target)
            .expect("writing to memory can't fail");
        self
    }

    /// A hard link to an earlier path of the same layer.
    pub fn hard_link(mut self, path: &str, target: &str) -> Self {
        let mut header = header(EntryType::Link, 0o644, 0);
        self.tar
            .append_link(&mut header, path, target)
            .expect("writing to memory can't fail");
        self
    }

    /// A file whose stored name is exactly `name`: climbing, absolute, whatever an attacker would write.
    pub fn raw_named_file(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
        let field = &mut header.as_old_mut().name;
        assert!(
            name.len() < field.len(),
            "raw names must fit the header's field"
        );
        field.fill(0);
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.tar
            .append(&header, content)
            .expect("writing to memory can't fail");
        self
    }

    /// A link whose stored name and target are exactly these.
    pub fn raw_link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = header(kind, 0o644, 0);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.tar
            .append(&header, io::empty())
            .expect("writing to memory can't fail");
        self
    }

    /// A file about which a pax header says more.
    pub fn file_with_pax(mut self, path: &str, content: &[u8], records: &[(&str, &str)]) -> Self {
        let records = records.iter().map(|(key, value)| (*key, value.as_bytes()));
        self.tar
            .append_pax_extensions(records)
            .expect("writing to memory can't fail");
        self.file(path, 0o644, content)
    }

    /// A named pipe.
    pub fn fifo(self, path: &str) -> Self {
        self.entry(header(EntryType::Fifo, 0o644, 0), path, &[])
    }

    /// Everything under `root`, in the order of names, owners 0:0.
    pub fn tree(mut self, root: &Path) -> Result<Self> {
        self.subtree(root, Path::new(""))?;
        Ok(self)
    }

    fn subtree(&mut self, root: &Path, relative: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let folder = root.join(relative);
        let mut names = folder
            .read_dir()
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .with_context(|| format!("reading {}", folder.display()))?;
        names.sort();
        for name in names {
            let inner = relative.join(&name);
            let outer = root.join(&inner);
            let metadata = outer
                .symlink_metadata()
                .with_context(|| format!("reading {}", outer.display()))?;
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                let mut header = header(EntryType::Directory, mode, 0);
                self.tar.append_data(&mut header, &inner, io::empty())?;
                self.subtree(root, &inner)?;
            } else if metadata.is_symlink() {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                self.tar
                    .append_link(&mut header, &inner, outer.read_link()?)?;
            } else {
                let mut content = Vec::new();
                std::fs::File::open(&outer)
                    .and_then(|mut file| file.read_to_end(&mut content))
                    .with_context(|| format!("reading {}", outer.display()))?;
                let mut header = header(EntryType::Regular, mode, content.len() as u64);
                self.tar
                    .append_data(&mut header, &inner, content.as_slice())?;
            }
        }
        Ok(())
    }

    /// The finished tar.
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("writing to memory can't fail")
    }

    fn entry(mut self, mut header: Header, path: &str, content: &[u8]) -> Self {
        self.tar
            .append_data(&mut header, path, content)
            .expect("writing to memory can't fail");
        self
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header
}
