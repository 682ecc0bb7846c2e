//! The merged file tree of an image, as metadata in memory: what the layers say, without their files' contents.
//!
//! Names exist only here. Nothing of a stranger's archive ever becomes a path on the host, so there is nothing that
//! could be escaped from; [`path`] refuses what tries, because it shows that the archive is not what it claims to be.

mod merge;
mod path;

use std::collections::BTreeMap;

pub(crate) use merge::{Change, Problem};

/// Files, directories and everything else that an image may have, superseded ones included.
///
/// The largest images in use have some hundred thousand; each costs about 200 bytes of memory here.
pub(crate) const MAX_NODES: usize = 1_000_000;

/// Bytes of names, link targets and extended attributes in an image: they are held in memory while it's unpacked. A
/// hundred bytes for each of the most files that it may have.
pub(crate) const MAX_METADATA_BYTES: usize = 100 * MAX_NODES;

/// Depth of directories below the root; `PATH_MAX` allows 2048, and nobody needs as many.
const MAX_DEPTH: usize = 2048;

/// One path component or a link's target; Linux doesn't promise UTF-8.
pub(crate) type Bytes = Box<[u8]>;

/// Index of a node in its tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Time of last change of the content.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Mtime {
    /// Since 1970, may be negative.
    pub(crate) seconds: i64,
    /// 0 to 999 999 999.
    pub(crate) nanoseconds: u32,
}

/// What every kind of file has.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Attributes {
    /// The lower twelve bits of `st_mode`: set-uid, set-gid, sticky, rwx.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// Full names (`user.x`, `security.capability`) and values.
    pub(crate) xattrs: BTreeMap<Bytes, Bytes>,
}

/// Where a file's content lies in the image file.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// First block; meaningless if `size_bytes` is 0.
    pub(crate) block: u32,
    pub(crate) size_bytes: u64,
}

/// Numbers of a device node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    /// Below 4096.
    pub(crate) major: u32,
    /// Below 2^20.
    pub(crate) minor: u32,
}

/// What kind of file a node is, with what that kind has of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Directory(BTreeMap<Bytes, Entry>),
    File(Extent),
    Symlink(Bytes),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) node: NodeId,
    /// The layer that last said something about this very name.
    layer: u32,
    /// The layer that last said something about this name or one below it.
    touched: u32,
}

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) kind: Kind,
    /// How many names lead here; 0: superseded, on no path any more.
    pub(crate) names: u32,
}

/// The tree. The root is always there and always a directory.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    metadata_bytes: usize,
    /// Contents that no name leads to any more, for whoever stored them to free.
    freed: Vec<Extent>,
    /// Files that layers of aufs keep for hard links, by layer and name. No name of the image's own leads to them.
    aufs_links: BTreeMap<(u32, Bytes), NodeId>,
    /// Entries looked at by whiteouts so far, bounded so that a small archive can't ask for endless work.
    whiteout_work: u64,
}

impl Tree {
    pub(crate) const ROOT: NodeId = NodeId(0);

    /// An empty root directory that anyone may enter.
    pub(crate) fn new() -> Self {
        let root = Node {
            attributes: Attributes {
                permissions: 0o755,
                ..Attributes::default()
            },
            kind: Kind::Directory(BTreeMap::new()),
            names: 1,
        };
        Self {
            nodes: vec![root],
            metadata_bytes: 0,
            freed: Vec::new(),
            aufs_links: BTreeMap::new(),
            whiteout_work: 0,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// How many nodes were ever made: the bound of [`NodeId::index`].
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes the contents that became unreachable since the last call.
    pub(crate) fn take_freed(&mut self) -> Vec<Extent> {
        std::mem::take(&mut self.freed)
    }

    fn children(&self, id: NodeId) -> Option<&BTreeMap<Bytes, Entry>> {
        match &self.nodes[id.index()].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Bytes, Entry>> {
        match &mut self.nodes[id.index()].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }
}
