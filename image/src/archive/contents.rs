//! Paths inside an image archive. They only name things to each other; still, one that climbs out shows an archive that
//! was made to do harm.

use crate::Error;

fn climbing(path: &[u8]) -> Error {
    Error::malformed(
        format!("image archive, entry {:?}", String::from_utf8_lossy(path)),
        "the path leads out of the archive",
    )
}

/// An entry's path from the archive's root, without `.`, `..` and doubled slashes.
pub(super) fn entry_path(path: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(path)
        .map_err(|_| Error::malformed("image archive", "the name of a file in it is not UTF-8"))?;
    resolve(Vec::new(), text)
}

/// Where a symlink leads, which may go up as long as it stays inside.
pub(super) fn symlink_target(link: &str, target: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(target).map_err(|_| climbing(target))?;
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    if text.starts_with('/') {
        parts.clear();
    }
    resolve(parts, text)
}

fn resolve<'a>(mut parts: Vec<&'a str>, text: &'a str) -> Result<String, Error> {
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(|| climbing(text.as_bytes()))?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_layers_are_followed_and_none_leaves_the_archive() {
        assert_eq!(
            symlink_target("a/layer.tar", b"../b/layer.tar").unwrap(),
            "b/layer.tar"
        );
        assert!(symlink_target("a/layer.tar", b"../../etc/passwd").is_err());
        assert_eq!(
            symlink_target("a/layer.tar", b"/b/layer.tar").unwrap(),
            "b/layer.tar"
        );
        assert_eq!(entry_path(b"./a//b").unwrap(), "a/b");
        assert!(entry_path(b"a/../../b").is_err());
        assert_eq!(entry_path(b"/a/../b").unwrap(), "b");
    }
}
