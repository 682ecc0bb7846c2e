//! From a path in an archive to a place in the tree.
//!
//! Paths are inside the image, however builders write them: with a leading slash, with `./`, with `a/../b`. Symlinks on
//! the way are followed, as tools that write `lib/x` over a base whose `lib` is a link to `usr/lib` expect; an absolute
//! one means the image's own root, whichever layer it is from. There is nothing outside that could be reached; what
//! climbs above the root shows that the archive is not what it claims to be, and is refused.

use super::{Attributes, Bytes, Entry, Kind, MAX_DEPTH, Node, NodeId, Problem, Tree};

/// Bytes of a path: Linux's `PATH_MAX` without the final NUL.
const MAX_PATH_BYTES: usize = 4095;

/// Bytes of a component: what Linux and EROFS allow.
const MAX_NAME_BYTES: usize = 255;

/// Symlinks followed in one path: what Linux allows.
const MAX_LINKS: u32 = 40;

/// A directory reached, with the names that lead there.
#[derive(Debug)]
pub(super) struct Place {
    /// From the root (whose name is empty) to the directory itself.
    steps: Vec<(Bytes, NodeId)>,
}

impl Place {
    pub(super) fn directory(&self) -> NodeId {
        self.steps.last().map_or(Tree::ROOT, |step| step.1)
    }
}

/// The components of an entry's path or of a hard link's target, from the image's root, without `.`, `..` and doubled
/// slashes; empty for the root itself.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Problem::new(format!(
            "the path is longer than {MAX_PATH_BYTES} bytes"
        )));
    }
    if path.contains(&0) {
        return Err(Problem::new("the path contains a NUL"));
    }
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            // By the words alone, as dockerd cleans names, before any symlink is looked at.
            b".." => {
                names.pop().ok_or_else(|| {
                    Problem::new(
                        "the path climbs above the root; entries must stay inside the image",
                    )
                })?;
            }
            name if name.len() > MAX_NAME_BYTES => {
                return Err(Problem::new(format!(
                    "a name is longer than {MAX_NAME_BYTES} bytes"
                )));
            }
            name => names.push(name),
        }
    }
    Ok(names)
}

impl Tree {
    /// Walks to a directory. With `create`, makes what is missing and marks the way as touched by `layer`;
    /// without, `None` says that something is missing.
    pub(super) fn walk(
        &mut self,
        names: &[&[u8]],
        layer: u32,
        create: bool,
    ) -> Result<Option<Place>, Problem> {
        let mut steps = vec![(Bytes::default(), Self::ROOT)];
        let mut pending: Vec<Bytes> = names.iter().rev().map(|&name| name.into()).collect();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if *name == *b".." {
                // Only a link's target can say this.
                if steps.len() == 1 {
                    return Err(Problem::new(
                        "the path climbs out of the image through a symlink",
                    ));
                }
                steps.pop();
                continue;
            }
            let here = steps.last().map_or(Self::ROOT, |step| step.1);
            let found = self
                .children(here)
                .and_then(|children| children.get(&name))
                .copied();
            let next = match found {
                Some(entry) => entry,
                None if create => self.imply_directory(here, name.clone(), layer)?,
                None => return Ok(None),
            };
            match &self.node(next.node).kind {
                Kind::Directory(_) => {
                    if steps.len() >= MAX_DEPTH {
                        return Err(Problem::new(format!(
                            "directories are nested deeper than {MAX_DEPTH}"
                        )));
                    }
                    steps.push((name, next.node));
                }
                Kind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::new("too many symlinks on the path"));
                    }
                    if target.first() == Some(&b'/') {
                        steps.truncate(1);
                    }
                    let parts: Vec<Bytes> = target
                        .split(|&byte| byte == b'/')
                        .filter(|part| !part.is_empty() && *part != b".")
                        .map(Into::into)
                        .collect();
                    pending.extend(parts.into_iter().rev());
                }
                // There is nothing below it.
                _ if !create => return Ok(None),
                _ => {
                    return Err(Problem::new(format!(
                        "{:?} on the path is not a directory",
                        String::from_utf8_lossy(&name)
                    )));
                }
            }
        }
        if create {
            self.mark(&steps, layer);
        }
        Ok(Some(Place { steps }))
    }

    /// A directory that an archive leaves unsaid: root's, and open to read for all, as other unpackers make it.
    fn imply_directory(
        &mut self,
        parent: NodeId,
        name: Bytes,
        layer: u32,
    ) -> Result<Entry, Problem> {
        let attributes = Attributes {
            permissions: 0o755,
            ..Attributes::default()
        };
        let node = self.add_node(Node {
            attributes,
            kind: Kind::Directory(Default::default()),
            names: 0,
        })?;
        self.link(parent, name, node, layer)
    }

    fn mark(&mut self, steps: &[(Bytes, NodeId)], layer: u32) {
        for pair in steps.windows(2) {
            if let [(_, parent), (name, _)] = pair
                && let Some(entry) = self
                    .children_mut(*parent)
                    .and_then(|children| children.get_mut(name))
            {
                entry.touched = layer;
            }
        }
    }
}
