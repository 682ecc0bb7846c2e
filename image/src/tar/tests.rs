//! Whatever the bytes are, reading ends, with entries or with an error.

use std::io::Read;

use proptest::prelude::*;

use super::{BLOCK_BYTES, EntryKind, Reader, TarEntry, TarError, header::Header};
use crate::tree::Mtime;

/// Reads everything, contents included.
fn read_all(bytes: &[u8]) -> Result<Vec<(TarEntry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content)?;
        let stored: u64 = entry.segments.iter().map(|segment| segment.length).sum();
        assert!(content.len() as u64 <= stored);
        let mut end = 0;
        for segment in &entry.segments {
            assert!(segment.offset >= end && segment.length > 0);
            end = segment.offset + segment.length;
        }
        assert!(end <= entry.size_bytes);
        entries.push((entry, content));
    }
    Ok(entries)
}

/// A header block with a right checksum.
fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sign(&mut block);
    block
}

fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn with_content(mut header: Vec<u8>, content: &[u8]) -> Vec<u8> {
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(BLOCK_BYTES), 0);
    header
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let mut length = key.len() + value.len() + 3;
        while length != key.len() + value.len() + 3 + length.to_string().len() {
            length = key.len() + value.len() + 3 + length.to_string().len();
        }
        content += &format!("{length} {key}={value}\n");
    }
    with_content(
        header("pax", b'x', content.len() as u64),
        content.as_bytes(),
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn any_signed_header_is_read_without_a_panic(
        block in prop::collection::vec(any::<u8>(), BLOCK_BYTES),
        kind in prop::sample::select(b"\x000123456789xgLKSVDMX".to_vec()),
        small in any::<bool>(),
        rest in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let mut block = block;
        block[156] = kind;
        if small {
            block[124..136].copy_from_slice(b"00000000777\0");
        }
        sign(&mut block);
        block.extend(rest);
        let _ = read_all(&block);
    }

    #[test]
    fn any_pax_records_are_read_without_a_panic(
        records in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.major",
                    "GNU.sparse.name", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.offset",
                    "GNU.sparse.numbytes", "GNU.sparse.map", "SCHILY.xattr.user.x",
                ]),
                prop_oneof!["[0-9]{0,20}", "[0-9,]{0,20}", "-?[0-9]{1,4}\\.[0-9]{0,12}", "\\PC{0,8}"],
            ),
            0..6,
        ),
        content in prop::collection::vec(prop_oneof![any::<u8>(), b'0'..=b'9', Just(b'\n')], 0..1500),
    ) {
        let records: Vec<_> = records.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mut archive = pax(&records);
        archive.extend(with_content(header("f", b'0', content.len() as u64), &content));
        let _ = read_all(&archive);
    }

    #[test]
    fn an_archive_cut_in_an_entry_is_never_taken_for_whole(
        sizes in prop::collection::vec(0usize..1200, 1..5),
        at in any::<prop::sample::Index>(),
    ) {
        let mut archive = Vec::new();
        let mut boundaries = vec![0];
        for size in &sizes {
            archive.extend(with_content(header("f", b'0', *size as u64), &vec![1; *size]));
            boundaries.push(archive.len());
        }
        let cut = at.index(archive.len());
        let read = read_all(&archive[..cut]);
        match boundaries.iter().position(|&boundary| boundary == cut) {
            Some(entries) => prop_assert_eq!(read.unwrap().len(), entries),
            None => prop_assert!(matches!(read, Err(TarError::CutShort))),
        }
    }

    #[test]
    fn numbers_of_both_kinds_are_read_as_written(value in any::<i64>()) {
        let mut block = header("f", b'0', 0);
        if (0..=0o77777777777).contains(&value) {
            block[136..147].copy_from_slice(format!("{value:011o}").as_bytes());
        } else {
            block[136..148].copy_from_slice(&i128::from(value).to_be_bytes()[4..]);
            block[136] |= 0x80;
        }
        sign(&mut block);
        let block: [u8; BLOCK_BYTES] = block.try_into().unwrap();
        prop_assert_eq!(Header::parse(&block).unwrap().unwrap().mtime().unwrap(), value);
    }
}

#[test]
fn pax_says_more_than_the_header_can() {
    let long = format!("{}p", "p/".repeat(300));
    let mut archive = pax(&[
        ("path", &long),
        ("uid", "4294967294"),
        ("mtime", "-1.25"),
        ("size", "3"),
        ("SCHILY.xattr.user.a", "1\n=2"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
    ]);
    archive.extend(with_content(header("short", b'0', 0), b"abc"));
    let entries = read_all(&archive).unwrap();
    let (entry, content) = &entries[0];
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.attributes.uid, 4_294_967_294);
    assert_eq!(
        entry.attributes.mtime,
        Mtime {
            seconds: -2,
            nanoseconds: 750_000_000
        }
    );
    assert_eq!(
        entry.attributes.xattrs.len(),
        1,
        "overlayfs' own attributes stay outside"
    );
    assert_eq!(
        entry.attributes.xattrs[b"user.a".as_slice()].as_ref(),
        b"1\n=2"
    );
    assert_eq!(content, b"abc");
}

#[test]
fn long_names_of_gnu_tar_belong_to_the_next_entry_only() {
    let mut archive = with_content(header("././@LongLink", b'L', 201), &[b'l'; 200]);
    archive.extend(with_content(
        header("././@LongLink", b'K', 151),
        &[b'k'; 150],
    ));
    archive.extend(header("cut", b'2', 0));
    archive.extend(header("own", b'0', 0));
    let entries = read_all(&archive).unwrap();
    assert_eq!(entries[0].0.path, vec![b'l'; 200]);
    assert_eq!(entries[0].0.link, vec![b'k'; 150]);
    assert_eq!(entries[0].0.kind, EntryKind::Symlink);
    assert_eq!(entries[1].0.path, b"own");
}

#[test]
fn headers_that_pile_up_before_an_entry_are_bounded_together() {
    let value = "v".repeat(60_000);
    for one in [
        pax(&[("SCHILY.xattr.user.a", &value)]),
        pax(&[("GNU.sparse.offset", "1"), ("GNU.sparse.numbytes", "1")]),
        with_content(header("l", b'L', 600), &[b'l'; 600]),
        header("empty", b'x', 0),
    ] {
        let mut archive = one.repeat((2 << 20) / one.len());
        archive.extend(header("f", b'0', 0));
        let read = read_all(&archive);
        assert!(matches!(read, Err(TarError::Malformed(_))), "{read:?}");
        // Before each entry anew.
        let mut archive = [one, header("f", b'0', 0)].concat();
        archive = archive.repeat(3);
        assert!(!matches!(read_all(&archive), Err(TarError::CutShort)));
    }
}

#[test]
fn owners_are_what_chown_makes_of_them() {
    // In the header, as GNU writes what octal digits can't say.
    for (id, owner) in [(-2, u32::MAX - 1), (-1, 0), (i64::from(u32::MAX), 0)] {
        let mut block = header("f", b'0', 0);
        block[108..116].copy_from_slice(&id.to_be_bytes());
        block[108] |= 0x80;
        sign(&mut block);
        assert_eq!(read_all(&block).unwrap()[0].0.attributes.uid, owner);
        let mut archive = pax(&[("gid", &id.to_string())]);
        archive.extend(header("f", b'0', 0));
        assert_eq!(read_all(&archive).unwrap()[0].0.attributes.gid, owner);
    }
    for id in ["4294967296", "-2147483649", "--1", "1e3"] {
        let mut archive = pax(&[("uid", id)]);
        archive.extend(header("f", b'0', 0));
        assert!(matches!(read_all(&archive), Err(TarError::Malformed(_))));
    }
}

#[test]
fn a_pax_record_without_a_value_takes_back_what_was_said() {
    let mut archive = pax(&[("size", "7"), ("uid", "7"), ("gid", "7"), ("mtime", "7")]);
    archive.extend(pax(&[
        ("size", ""),
        ("uid", ""),
        ("gid", ""),
        ("mtime", ""),
    ]));
    archive.extend(with_content(header("f", b'0', 3), b"abc"));
    let (entry, content) = &read_all(&archive).unwrap()[0];
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (0, 0));
    assert_eq!(entry.attributes.mtime, Mtime::default());
    assert_eq!(content, b"abc");
}

#[test]
fn a_name_with_a_slash_at_its_end_is_a_directory_only_where_there_are_no_types() {
    for (kind, read_as) in [(0, EntryKind::Directory), (b'0', EntryKind::File)] {
        // What it says of a content is there in either case.
        let mut archive = with_content(header("d/", kind, 3), b"abc");
        archive.extend(header("after", b'0', 0));
        let entries = read_all(&archive).unwrap();
        assert_eq!(entries[0].0.kind, read_as);
        assert_eq!(entries[1].0.path, b"after");
    }
}

#[test]
fn a_symlink_has_the_permissions_of_symlinks() {
    let entries = read_all(&header("l", b'2', 0)).unwrap();
    assert_eq!(entries[0].0.attributes.permissions, 0o777);
}

#[test]
fn only_files_and_directories_have_attributes_of_users() {
    for (kind, count) in [(b'0', 2), (b'5', 2), (b'2', 1), (b'3', 1), (b'6', 1)] {
        let mut archive = pax(&[
            ("SCHILY.xattr.user.a", "1"),
            ("SCHILY.xattr.security.selinux", "x"),
        ]);
        archive.extend(header("e", kind, 0));
        let entries = read_all(&archive).unwrap();
        assert_eq!(entries[0].0.attributes.xattrs.len(), count, "{kind}");
    }
}

#[test]
fn what_is_no_tar_is_told_so() {
    for junk in [&b"this is no tar at all. "[..], b"{\"a\": 1}\n", &[0xff]] {
        let err = read_all(&junk.repeat(1000)).unwrap_err().to_string();
        assert!(err.contains("not a tar archive"), "{err}");
    }
}
