//! One layer's entry on top of what lower layers left (OCI image specification, layer.md).
//!
//! Whiteouts hide what lower layers have and never what their own layer adds, wherever in the archive they stand.

use super::{
    Attributes, Bytes, Entry, Extent, Kind, MAX_METADATA_BYTES, MAX_NODES, Node, NodeId, Tree,
    path::{self, Place},
};

/// Entries that whiteouts may look at in one image. A whiteout looks at what it removes and at what its own layer put
/// beside that; honest images stay within a small multiple of their size.
const MAX_WHITEOUT_WORK: u64 = 200_000_000;

/// The beginning of a whiteout's name.
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The beginning of names that only aufs understands, to be ignored.
const AUFS: &[u8] = b".wh..wh.";
/// All but this one, a directory at the root: there aufs keeps files that have several names. Layers of 2013 have it.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// Why an entry can't be accepted; the caller knows which entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem(pub(crate) String);

impl Problem {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What an archive's entry asks for.
#[derive(Debug)]
pub(crate) enum Change {
    /// A directory; its children stay if there is one already.
    Directory(Attributes),
    /// Anything else but a hard link, replacing what has that name.
    Other(Attributes, Kind),
    /// One more name for what is at this path.
    HardLink(Vec<u8>),
}

impl Tree {
    /// Whether an entry of this name says what to hide, rather than what to add.
    pub(crate) fn is_whiteout(path: &[u8]) -> bool {
        let name = path
            .rsplit(|&byte| byte == b'/')
            .find(|name| !name.is_empty());
        name.is_some_and(|name| name.starts_with(WHITEOUT))
    }

    /// Applies an entry of `layer`; layers come in ascending order, from 1.
    pub(crate) fn apply(&mut self, path: &[u8], layer: u32, change: Change) -> Result<(), Problem> {
        let names = path::components(path)?;
        let Some((name, parents)) = names.split_last() else {
            return match change {
                Change::Directory(attributes) => {
                    self.nodes[Self::ROOT.index()].attributes = attributes;
                    Ok(())
                }
                _ => Err(Problem::new("the root of the image must be a directory")),
            };
        };
        if let [of_aufs, _, ..] = names.as_slice()
            && of_aufs.starts_with(AUFS)
        {
            return self.keep_for_links(parents, name, layer, change);
        }
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            return Err(Problem::new("a whiteout can't be a directory"));
        }
        if name.starts_with(WHITEOUT) {
            return match self.walk(parents, layer, false)? {
                Some(place) => self.white_out(&place, name, layer),
                None => Ok(()),
            };
        }
        match change {
            Change::Directory(attributes) => self.put_directory(parents, name, layer, attributes),
            Change::Other(attributes, kind) => {
                self.count(&attributes, &kind)?;
                let node = self.add_node(Node {
                    attributes,
                    kind,
                    names: 0,
                })?;
                let place = self.walk_creating(parents, layer)?;
                self.replace(place.directory(), (*name).into(), node, layer)
            }
            Change::HardLink(target) => self.put_hard_link(parents, name, layer, &target),
        }
    }

    fn walk_creating(&mut self, parents: &[&[u8]], layer: u32) -> Result<Place, Problem> {
        self.walk(parents, layer, true)?
            .ok_or_else(|| Problem::new("the path's parent could not be made"))
    }

    fn put_directory(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        layer: u32,
        attributes: Attributes,
    ) -> Result<(), Problem> {
        let place = self.walk_creating(parents, layer)?;
        let parent = place.directory();
        self.count(&attributes, &Kind::Fifo)?;
        let old = self
            .children(parent)
            .and_then(|children| children.get(name))
            .copied();
        if let Some(entry) = old
            && matches!(self.node(entry.node).kind, Kind::Directory(_))
        {
            self.nodes[entry.node.index()].attributes = attributes;
            if let Some(entry) = self.children_mut(parent).and_then(|all| all.get_mut(name)) {
                entry.layer = layer;
                entry.touched = layer;
            }
            return Ok(());
        }
        let kind = Kind::Directory(Default::default());
        let node = self.add_node(Node {
            attributes,
            kind,
            names: 0,
        })?;
        self.replace(parent, name.into(), node, layer)
    }

    fn put_hard_link(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        layer: u32,
        target: &[u8],
    ) -> Result<(), Problem> {
        let missing = || {
            Problem::new(format!(
                "it is a hard link to {:?}, which does not exist",
                String::from_utf8_lossy(target)
            ))
        };
        let target_names = path::components(target)?;
        let (target_name, target_parents) = target_names.split_last().ok_or_else(missing)?;
        let node = if target_parents == [AUFS_LINKS] {
            let key = (layer, Bytes::from(*target_name));
            *self.aufs_links.get(&key).ok_or_else(missing)?
        } else {
            let found = self
                .walk(target_parents, layer, false)?
                .ok_or_else(missing)?;
            self.children(found.directory())
                .and_then(|children| children.get(*target_name))
                .ok_or_else(missing)?
                .node
        };
        if matches!(self.node(node).kind, Kind::Directory(_)) {
            return Err(Problem::new("it is a hard link to a directory"));
        }
        let place = self.walk_creating(parents, layer)?;
        let old = self
            .children(place.directory())
            .and_then(|all| all.get(name));
        if old.is_some_and(|entry| entry.node == node) {
            // A link to itself under the same name; replacing would free the content first.
            return Ok(());
        }
        self.replace(place.directory(), name.into(), node, layer)
    }

    /// What lies in one of aufs' own directories: nothing of the image's, but a file may be what hard links lead to.
    fn keep_for_links(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        layer: u32,
        change: Change,
    ) -> Result<(), Problem> {
        let Change::Other(attributes, kind @ Kind::File(extent)) = change else {
            return Ok(());
        };
        if parents != [AUFS_LINKS] {
            if extent.size_bytes > 0 {
                self.freed.push(extent);
            }
            return Ok(());
        }
        self.count(&attributes, &kind)?;
        self.charge(name.len())?;
        let node = self.add_node(Node {
            attributes,
            kind,
            names: 0,
        })?;
        self.aufs_links.insert((layer, name.into()), node);
        Ok(())
    }

    /// Gives `node` this name, dropping what had it.
    fn replace(
        &mut self,
        parent: NodeId,
        name: Bytes,
        node: NodeId,
        layer: u32,
    ) -> Result<(), Problem> {
        let old = self
            .children_mut(parent)
            .and_then(|children| children.remove(&name));
        if let Some(entry) = old {
            self.drop_subtree(entry.node);
        }
        self.link(parent, name, node, layer).map(drop)
    }

    pub(super) fn link(
        &mut self,
        parent: NodeId,
        name: Bytes,
        node: NodeId,
        layer: u32,
    ) -> Result<Entry, Problem> {
        self.charge(name.len())?;
        let entry = Entry {
            node,
            layer,
            touched: layer,
        };
        let children = self
            .children_mut(parent)
            .ok_or_else(|| Problem::new("the path's parent is not a directory"))?;
        children.insert(name, entry);
        self.nodes[node.index()].names += 1;
        Ok(entry)
    }

    pub(super) fn add_node(&mut self, node: Node) -> Result<NodeId, Problem> {
        let index = u32::try_from(self.nodes.len())
            .ok()
            .filter(|_| self.nodes.len() < MAX_NODES);
        let index = index
            .ok_or_else(|| Problem::new(format!("the image has more than {MAX_NODES} files")))?;
        self.nodes.push(node);
        Ok(NodeId(index))
    }

    fn count(&mut self, attributes: &Attributes, kind: &Kind) -> Result<(), Problem> {
        let xattrs: usize = attributes
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let target = if let Kind::Symlink(target) = kind {
            target.len()
        } else {
            0
        };
        self.charge(xattrs + target)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Problem> {
        self.metadata_bytes += bytes;
        if self.metadata_bytes > MAX_METADATA_BYTES {
            return Err(Problem::new(format!(
                "names and attributes of the image take more than {MAX_METADATA_BYTES} bytes"
            )));
        }
        Ok(())
    }

    fn white_out(&mut self, place: &Place, name: &[u8], layer: u32) -> Result<(), Problem> {
        let directory = place.directory();
        // layer.md, "Opaque Whiteout".
        if name == OPAQUE {
            return self.hide_lower(directory, layer);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        // layer.md, "Whiteouts": the name behind the prefix is what is hidden, and only in lower layers.
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Problem::new(
                "the whiteout names nothing that could be removed",
            ));
        }
        let found = self
            .children(directory)
            .and_then(|children| children.get(hidden))
            .copied();
        match found {
            Some(entry) if entry.touched < layer => {
                if let Some(children) = self.children_mut(directory) {
                    children.remove(hidden);
                }
                self.drop_subtree(entry.node);
                Ok(())
            }
            // The layer itself has put this name there; what it kept from below still goes.
            Some(entry) => self.hide_lower(entry.node, layer),
            None => Ok(()),
        }
    }

    /// Removes what lower layers have in a directory, and keeps what `layer` has put there, however deep.
    fn hide_lower(&mut self, directory: NodeId, layer: u32) -> Result<(), Problem> {
        let mut pending = vec![directory];
        let mut doomed = Vec::new();
        while let Some(id) = pending.pop() {
            let Some(children) = self.children_mut(id) else {
                continue;
            };
            let looked_at = children.len() as u64;
            children.retain(|_, entry| {
                if entry.touched < layer {
                    doomed.push(entry.node);
                    return false;
                }
                pending.push(entry.node);
                true
            });
            self.whiteout_work += looked_at;
            if self.whiteout_work > MAX_WHITEOUT_WORK {
                return Err(Problem::new("the image's whiteouts ask for too much work"));
            }
        }
        for node in doomed {
            self.drop_subtree(node);
        }
        Ok(())
    }

    /// Takes one name from a node; what has no name left frees its content and its children.
    fn drop_subtree(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let node = &mut self.nodes[id.index()];
            node.names = node.names.saturating_sub(1);
            if node.names > 0 {
                continue;
            }
            match std::mem::replace(&mut node.kind, Kind::Fifo) {
                Kind::Directory(children) => {
                    pending.extend(children.into_values().map(|entry| entry.node));
                }
                Kind::File(
                    extent @ Extent {
                        size_bytes: 1.., ..
                    },
                ) => self.freed.push(extent),
                _ => {}
            }
            node.attributes.xattrs.clear();
        }
    }
}
