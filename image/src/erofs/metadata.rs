//! The back part of the image file: inodes and directories, then the superblock that makes it all valid.

use std::{
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use super::{
    BLOCK_BYTES, ContentWriter, WriteError,
    directory::{self, DirEntry},
    format::{self, FileType, INODE_BYTES, Inode, Layout, NO_BLOCK, SLOT_BYTES, Superblock},
    xattr,
};
use crate::{
    pieces::Pieces,
    tree::{Kind, NodeId, Tree},
};

/// Where the root's inode starts at the earliest: not at 0, so that its number isn't 0.
const ROOT_OFFSET: u64 = 64;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// An inode with its place.
struct Placed {
    node: NodeId,
    parent: NodeId,
    /// From the start of the metadata.
    offset: u64,
    xattr_bytes: u64,
    /// Of a directory or symlink; a file's is in its extent.
    data_bytes: u64,
    layout: Layout,
    /// First block of what isn't inline.
    block: u32,
}

impl Placed {
    fn inline_bytes(&self) -> u64 {
        match self.layout {
            Layout::Plain => 0,
            Layout::Inline => self.data_bytes % BLOCK_BYTES,
        }
    }

    fn bytes(&self) -> u64 {
        INODE_BYTES + self.xattr_bytes + self.inline_bytes()
    }
}

/// Writes the tree behind the contents and completes the file, which it returns with the digests of its pieces. Nothing is
/// synced yet.
pub(crate) fn finish(
    mut contents: ContentWriter,
    tree: &Tree,
    uuid: [u8; 16],
) -> Result<(File, Pieces), WriteError> {
    let (placed, nids) = place(&mut contents, tree)?;
    write_blocks(&contents, tree, &placed, &nids)?;

    let metadata_block = contents.next_block;
    let metadata_bytes = placed.last().map_or(0, |last| last.offset + last.bytes());
    // erofs-utils' checker looks for a header of attributes behind the last inode, even where it has none.
    contents.allocate(metadata_bytes + xattr::HEADER_BYTES as u64)?;
    let blocks = contents.next_block;
    write_inodes(&contents.file, tree, &placed, &nids, metadata_block)?;

    let superblock = Superblock {
        // The root comes first: at ROOT_OFFSET, or at the next block where it wouldn't be whole otherwise.
        root_nid: placed
            .first()
            .map_or(0, |root| (root.offset / SLOT_BYTES) as u16),
        inodes: placed.len() as u64,
        blocks,
        metadata_block,
        uuid,
    }
    .to_block();
    contents
        .file
        .write_all_at(&superblock, 0)
        .map_err(WriteError::Write)?;
    let size_bytes = u64::from(blocks) * BLOCK_BYTES;
    contents
        .file
        .set_len(size_bytes)
        .map_err(WriteError::Write)?;
    // The superblock, and what stands behind the contents, is read again: it was written a moment ago.
    contents.pieces.put(0, &superblock);
    let pieces = contents
        .pieces
        .finish(&contents.file, size_bytes)
        .map_err(WriteError::Write)?;
    Ok((contents.file, pieces))
}

/// Gives every reachable inode its place, the root first, then level by level in the order of names; and the nid of
/// each node, by index.
fn place(
    contents: &mut ContentWriter,
    tree: &Tree,
) -> Result<(Vec<Placed>, Vec<Option<u64>>), WriteError> {
    let mut nids = vec![None; tree.len()];
    let mut placed: Vec<Placed> = Vec::new();
    let mut end = ROOT_OFFSET;
    // `placed` is its own queue: what stands before `next` has had its children placed.
    let mut next = 0;
    let mut found = vec![(Tree::ROOT, Tree::ROOT)];
    loop {
        for (node, parent) in found.drain(..) {
            if nids[node.index()].is_some() {
                continue;
            }
            let inode = place_one(contents, tree, node, parent, end)?;
            nids[node.index()] = Some(inode.offset / SLOT_BYTES);
            end = inode.offset + inode.bytes();
            placed.push(inode);
        }
        let Some(inode) = placed.get(next) else {
            return Ok((placed, nids));
        };
        next += 1;
        if let Kind::Directory(children) = &tree.node(inode.node).kind {
            found.extend(children.values().map(|entry| (entry.node, inode.node)));
        }
    }
}

fn place_one(
    contents: &mut ContentWriter,
    tree: &Tree,
    id: NodeId,
    parent: NodeId,
    end: u64,
) -> Result<Placed, WriteError> {
    let node = tree.node(id);
    let xattr_bytes = xattr::size_bytes(&node.attributes.xattrs);
    let data_bytes = match &node.kind {
        Kind::Directory(children) => directory::size_bytes(names(children.keys().map(|n| &**n))),
        Kind::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let tail = data_bytes % BLOCK_BYTES;
    // The kernel wants inline data whole within one block.
    let fits = tail > 0 && INODE_BYTES + xattr_bytes + tail <= BLOCK_BYTES;
    let layout = if fits { Layout::Inline } else { Layout::Plain };
    let unbroken = if fits {
        INODE_BYTES + xattr_bytes + tail
    } else {
        INODE_BYTES
    };
    let mut offset = end.next_multiple_of(SLOT_BYTES);
    if offset % BLOCK_BYTES + unbroken > BLOCK_BYTES {
        offset = offset.next_multiple_of(BLOCK_BYTES);
    }
    let in_blocks = if fits { data_bytes - tail } else { data_bytes };
    let block = match &node.kind {
        Kind::File(extent) if extent.size_bytes > 0 => extent.block,
        _ if in_blocks > 0 => contents.allocate(in_blocks)?,
        _ => NO_BLOCK,
    };
    Ok(Placed {
        node: id,
        parent,
        offset,
        xattr_bytes,
        data_bytes,
        layout,
        block,
    })
}

/// A directory's names with `.` and `..` where they belong. Only names that begin with a byte below `.` come first.
fn names<'a>(own: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let mut dots = [b".".as_slice(), b"..".as_slice()].into_iter().peekable();
    let mut own = own.peekable();
    std::iter::from_fn(move || match (dots.peek(), own.peek()) {
        (Some(dot), Some(name)) if *name < *dot => own.next(),
        (Some(_), _) => dots.next(),
        (None, _) => own.next(),
    })
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory(_) => FileType::Directory,
        Kind::File(_) => FileType::Regular,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice(_) => FileType::CharDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
    }
}

/// The data of a directory or symlink, wherever it goes.
fn data(tree: &Tree, inode: &Placed, nids: &[Option<u64>]) -> Vec<u8> {
    // Every reachable node was placed.
    let nid = |id: NodeId| nids[id.index()].unwrap_or_default();
    match &tree.node(inode.node).kind {
        Kind::Directory(children) => {
            let entries: Vec<_> = names(children.keys().map(|name| &**name))
                .map(|name| {
                    let target = match name {
                        b"." => inode.node,
                        b".." => inode.parent,
                        _ => children.get(name).map_or(inode.node, |entry| entry.node),
                    };
                    let file_type = file_type(&tree.node(target).kind);
                    DirEntry {
                        name,
                        nid: nid(target),
                        file_type,
                    }
                })
                .collect();
            directory::to_bytes(&entries)
        }
        Kind::Symlink(target) => target.to_vec(),
        _ => Vec::new(),
    }
}

/// Writes what of directories and symlinks isn't inline.
fn write_blocks(
    contents: &ContentWriter,
    tree: &Tree,
    placed: &[Placed],
    nids: &[Option<u64>],
) -> Result<(), WriteError> {
    for inode in placed {
        let in_blocks = inode.data_bytes - inode.inline_bytes();
        if in_blocks > 0 {
            let data = data(tree, inode, nids);
            let at = u64::from(inode.block) * BLOCK_BYTES;
            contents
                .file
                .write_all_at(&data[..in_blocks as usize], at)
                .map_err(WriteError::Write)?;
        }
    }
    Ok(())
}

fn write_inodes(
    file: &File,
    tree: &Tree,
    placed: &[Placed],
    nids: &[Option<u64>],
    metadata_block: u32,
) -> Result<(), WriteError> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let start = u64::from(metadata_block) * BLOCK_BYTES;
    out.seek(SeekFrom::Start(start))
        .map_err(WriteError::Write)?;
    let mut at = 0;
    for (serial, inode) in placed.iter().enumerate() {
        let node = tree.node(inode.node);
        // Padding is less than a block: unbroken parts are at most one.
        let padding = [0; BLOCK_BYTES as usize];
        out.write_all(&padding[..(inode.offset - at) as usize])
            .map_err(WriteError::Write)?;

        let (size_bytes, block_or_device) = match &node.kind {
            Kind::File(extent) => (extent.size_bytes, inode.block),
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                (0, format::encode_device(*device))
            }
            Kind::Fifo => (0, 0),
            Kind::Directory(_) | Kind::Symlink(_) => (inode.data_bytes, inode.block),
        };
        let links = match &node.kind {
            Kind::Directory(children) => {
                let subdirectories = children
                    .values()
                    .filter(|entry| matches!(tree.node(entry.node).kind, Kind::Directory(_)));
                2 + subdirectories.count() as u32
            }
            _ => node.names,
        };
        let header = Inode {
            file_type: file_type(&node.kind),
            layout: inode.layout,
            xattr_count: xattr::count(inode.xattr_bytes),
            attributes: &node.attributes,
            size_bytes,
            block_or_device,
            // Only for 32-bit programs; unique while MAX_NODES is below 2^32.
            serial: serial as u32 + 1,
            links,
        };
        out.write_all(&header.to_bytes())
            .map_err(WriteError::Write)?;
        out.write_all(&xattr::to_bytes(&node.attributes.xattrs))
            .map_err(WriteError::Write)?;
        if inode.inline_bytes() > 0 {
            let data = data(tree, inode, nids);
            let from = data.len() - inode.inline_bytes() as usize;
            out.write_all(&data[from..]).map_err(WriteError::Write)?;
        }
        at = inode.offset + inode.bytes();
    }
    out.flush().map_err(WriteError::Write)
}
