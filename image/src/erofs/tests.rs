//! Random trees go in, and another reader finds them.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use erofs_rs::{EroFS, backend::SliceImage};
use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::{ContentWriter, Segment, finish};
use crate::pieces::Pieces;
use crate::tree::{Attributes, Bytes, Change, Device, Kind, Mtime, Tree};

/// What is put in and what must come out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(u32, u32),
    Fifo,
}

type Described = (Made, Attributes);

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![0x2bu8..0x2f, b'a'..b'd', any::<u8>()], 1..250)
        .prop_map(|name| {
            name.into_iter()
                .filter(|byte| !matches!(byte, 0 | b'/'))
                .collect()
        })
        .prop_filter("a name", |name: &Vec<u8>| {
            !name.is_empty() && name != b"." && name != b".." && !name.starts_with(b".wh.")
        })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let xattrs = prop::collection::btree_map(
        prop_oneof![
            "user\\.[a-z]{1,200}",
            "trusted\\.[a-z]{1,9}",
            Just("security.capability".to_owned())
        ]
        .prop_map(|name| Bytes::from(name.into_bytes())),
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 2000..9000)
        ]
        .prop_map(Bytes::from),
        0..4,
    );
    (
        0u16..0o10000,
        any::<u32>(),
        any::<u32>(),
        any::<i32>(),
        0u32..1_000_000_000,
        xattrs,
    )
        .prop_map(
            |(permissions, uid, gid, seconds, nanoseconds, xattrs)| Attributes {
                permissions,
                uid,
                gid,
                mtime: Mtime {
                    seconds: seconds.into(),
                    nanoseconds,
                },
                xattrs,
            },
        )
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        2 => Just(Made::Directory),
        3 => prop_oneof![0usize..200, 4000usize..4200, Just(8192usize), 0usize..30_000]
            .prop_flat_map(|size| prop::collection::vec(any::<u8>(), size)).prop_map(Made::File),
        2 => prop::collection::vec(1u8.., 1..4095).prop_map(Made::Symlink),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Made::Device(major, minor)),
        1 => Just(Made::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_trees_are_found_by_another_reader(
        items in prop::collection::vec((any::<prop::sample::Index>(), names(), made(), attributes()), 0..60),
    ) {
        let file = NamedTempFile::new().unwrap();
        let mut contents = ContentWriter::new(file.reopen().unwrap());
        let mut tree = Tree::new();
        let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
        let mut expected: BTreeMap<Vec<u8>, Described> = BTreeMap::new();
        for (parent, name, made, attributes) in items {
            let mut path = directories[parent.index(directories.len())].clone();
            path.push(b'/');
            path.extend(name);
            if path.len() > 2000 || expected.contains_key(&path) {
                continue;
            }
            let kind = match &made {
                Made::Directory => {
                    directories.push(path.clone());
                    None
                }
                Made::File(content) => {
                    let length = content.len() as u64;
                    let segments = [Segment { offset: 0, length }];
                    let extent = contents.store(length, &segments, &mut content.as_slice()).unwrap();
                    Some(Kind::File(extent))
                }
                Made::Symlink(target) => Some(Kind::Symlink(target.as_slice().into())),
                Made::Device(major, minor) => {
                    Some(Kind::CharDevice(Device { major: *major, minor: *minor }))
                }
                Made::Fifo => Some(Kind::Fifo),
            };
            let change = match kind {
                Some(kind) => Change::Other(attributes.clone(), kind),
                None => Change::Directory(attributes.clone()),
            };
            tree.apply(&path[1..], 1, change).unwrap();
            expected.insert(path, (made, attributes));
        }
        let (written, pieces) = finish(contents, &tree, [7; 16]).unwrap();
        prop_assert_eq!(pieces, Pieces::of(&written).unwrap());

        let bytes = fs::read(file.path()).unwrap();
        let checked = Command::new("fsck.erofs")
            .arg("--extract").arg(file.path()).stdout(Stdio::null()).status();
        if let Ok(status) = checked {
            prop_assert!(status.success());
        }
        prop_assert_eq!(found(&bytes), expected);
    }
}

fn found(bytes: &[u8]) -> BTreeMap<Vec<u8>, Described> {
    let image = EroFS::new(SliceImage::new(bytes)).unwrap();
    let mut found = BTreeMap::new();
    for entry in image.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let inode = entry.inode;
        let kind = inode.file_type();
        let made = if kind.is_dir() {
            Made::Directory
        } else if kind.is_file() {
            let mut content = Vec::new();
            image
                .open_inode_file(inode)
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            Made::File(content)
        } else if kind.is_symlink() {
            Made::Symlink(image.read_link_inode(inode).unwrap().as_bytes().to_vec())
        } else if let Some((major, minor)) = inode.device() {
            Made::Device(major, minor)
        } else {
            Made::Fifo
        };
        let (seconds, nanoseconds) = inode.modified_unix();
        let xattrs = image.xattrs_inode(inode).unwrap();
        let attributes = Attributes {
            permissions: (inode.permissions().mode() & 0o7777) as u16,
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: Mtime {
                seconds,
                nanoseconds,
            },
            xattrs: xattrs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        };
        let mut path = b"/".to_vec();
        let full = entry.dir_entry.path();
        path.extend(
            full.as_bytes()
                .strip_prefix(b"/")
                .unwrap_or(full.as_bytes()),
        );
        found.insert(path, (made, attributes));
    }
    found
}
