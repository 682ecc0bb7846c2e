//! Where containers' writable layers lie: each in a directory of its own, `CONTAINER@EPOCH`, after the container and the epoch that it
//! was made in. A link of the container's name leads to it. So a container that comes back to a node begins with a fresh layer, and the
//! old one can be another container's by then ([`Layer`]).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::state::{ContainerId, Layer};

fn name(layer: Layer) -> String {
    format!("{}@{}", layer.container, layer.epoch)
}

/// Has a container's link lead to its layer's directory, which is made if it isn't there.
pub fn place(containers: &Path, id: &ContainerId, layer: Layer) -> io::Result<PathBuf> {
    let (name, link) = (name(layer), containers.join(id.to_string()));
    fs::create_dir_all(containers.join(&name))?;
    if fs::read_link(&link).is_ok_and(|to| to == Path::new(&name)) {
        return Ok(link);
    }
    let beside = containers.join(format!("{id}.new"));
    tolerate(fs::remove_file(&beside))?;
    symlink(&name, &beside)?;
    fs::rename(&beside, &link)?;
    Ok(link)
}

/// Takes a container's link away, and what it leads to unless that is one of `others`.
pub fn remove(link: &Path, others: &[Layer]) -> io::Result<()> {
    let Ok(to) = fs::read_link(link) else {
        return Ok(());
    };
    let kept = others.iter().any(|layer| Path::new(&name(*layer)) == to);
    let dir = link.with_file_name(to);
    tolerate(fs::remove_file(link))?;
    match kept {
        true => Ok(()),
        false => tolerate(fs::remove_dir_all(dir)),
    }
}

/// The containers that have a link.
pub fn present(containers: &Path) -> io::Result<Vec<ContainerId>> {
    let mut ids = Vec::new();
    for file in fs::read_dir(containers)? {
        ids.extend(
            file?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<ContainerId>().ok()),
        );
    }
    Ok(ids)
}

/// Removes all that isn't one of these containers' own: its creation or removal was cut short.
pub fn sweep(containers: &Path, known: &[(ContainerId, Layer)]) -> io::Result<()> {
    let links: BTreeSet<String> = known.iter().map(|(id, _)| id.to_string()).collect();
    let dirs: BTreeSet<String> = known.iter().map(|(_, layer)| name(*layer)).collect();
    for file in fs::read_dir(containers)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let Some((id, rest)) = name.split_at_checked(ID_DIGITS) else {
            continue;
        };
        if id.parse::<ContainerId>().is_err() || links.contains(&name) || dirs.contains(&name) {
            continue;
        }
        if rest.starts_with('@') {
            fs::remove_dir_all(file.path())?;
        } else {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Of a container's id as text.
const ID_DIGITS: usize = 64;

fn tolerate(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_stays_while_a_container_has_it_and_what_nobody_has_goes() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n| ContainerId::from_random([n; 32]);
        let layer = |epoch| Layer {
            container: id(1),
            epoch,
        };
        let names = || -> BTreeSet<String> {
            let files = fs::read_dir(dir.path()).unwrap();
            files
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let link = place(dir.path(), &id(1), layer(1)).unwrap();
        fs::write(link.join("data"), "old").unwrap();
        // It comes again in a later epoch, and another container keeps what was.
        place(dir.path(), &id(1), layer(3)).unwrap();
        assert!(!link.join("data").exists());
        let kept = place(dir.path(), &id(2), layer(1)).unwrap();
        assert_eq!(fs::read(kept.join("data")).unwrap(), b"old");
        sweep(dir.path(), &[(id(2), layer(1))]).unwrap();
        assert_eq!(names(), [id(2).to_string(), name(layer(1))].into());
        place(dir.path(), &id(3), layer(1)).unwrap();
        assert_eq!(present(dir.path()).unwrap().len(), 2);
        remove(&kept, &[layer(1)]).unwrap();
        assert_eq!(names(), [id(3).to_string(), name(layer(1))].into());
        for _ in 0..2 {
            remove(&dir.path().join(id(3).to_string()), &[layer(2)]).unwrap();
            assert!(names().is_empty());
        }
    }
}
