//! Distribution packages, unpacked into a root file system without being installed.
//!
//! apt resolves against an empty status file, so the answer doesn't depend on what this machine has installed. Of
//! the resolved packages only those that a recipe names are taken whole; of the others only the shared libraries
//! that a program in the root really needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The program interpreter of x86-64 (System V ABI, AMD64 supplement, section 5.2.1).
const INTERPRETER: &str = "ld-linux-x86-64.so.2";

/// A package as apt resolved it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The exact version.
    pub version: String,
}

/// What installing `package` on an empty system would fetch, without recommendations.
pub fn resolve(package: &str) -> Result<Vec<Package>> {
    let empty_status = tempfile::NamedTempFile::new()?;
    // What has been downloaded before would not be named.
    let no_archives = tempfile::tempdir()?;
    let output = Command::new("apt-get")
        .arg("-o")
        .arg(format!(
            "Dir::State::Status={}",
            empty_status.path().display()
        ))
        .arg("-o")
        .arg(format!(
            "Dir::Cache::Archives={}",
            no_archives.path().display()
        ))
        .args([
            "-o",
            "Debug::NoLocking=1",
            "--no-install-recommends",
            "--print-uris",
            "-y",
            "-qq",
        ])
        .args(["install", package])
        .output()
        .context("running apt-get: the test images are made from the distribution's packages")?;
    ensure!(
        output.status.success(),
        "apt-get can't resolve {package}; if its lists are missing, run `apt-get update`: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut packages: Vec<Package> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1).and_then(parse_file_name))
        .collect();
    packages.sort();
    ensure!(
        !packages.is_empty(),
        "apt-get resolved {package} to nothing"
    );
    Ok(packages)
}

/// `name_version_arch.deb`, where a colon in the version is written `%3a`.
fn parse_file_name(file: &str) -> Option<Package> {
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(Package {
        name: name.to_owned(),
        version: version.replace("%3a", ":"),
    })
}

/// Downloads `packages` into `folder` and unpacks them under `root`.
pub fn unpack(packages: &[Package], folder: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::create_dir_all(root)?;
    let missing: Vec<String> = packages
        .iter()
        .filter(|package| deb_of(folder, package).is_none())
        .map(|package| format!("{}={}", package.name, package.version))
        .collect();
    if !missing.is_empty() {
        let output = Command::new("apt-get")
            .arg("-qq")
            .arg("download")
            .args(&missing)
            .current_dir(folder)
            .output()
            .context("running apt-get download")?;
        ensure!(
            output.status.success(),
            "apt-get can't download {}; if its lists are old, run `apt-get update`: {}",
            missing.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for package in packages {
        let Some(deb) = deb_of(folder, package) else {
            bail!(
                "apt-get downloaded no file for {} {}",
                package.name,
                package.version
            );
        };
        let status = Command::new("dpkg-deb")
            .arg("-x")
            .arg(&deb)
            .arg(root)
            .status()?;
        ensure!(status.success(), "dpkg-deb can't unpack {}", deb.display());
    }
    Ok(())
}

fn deb_of(folder: &Path, package: &Package) -> Option<PathBuf> {
    let wanted = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
    folder
        .read_dir()
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&wanted) && name.ends_with(".deb")
        })
        .map(|entry| entry.path())
}

/// Copies from `libraries` into `root` every shared library that a program in `root` needs, and the program
/// interpreter.
pub fn add_needed_libraries(root: &Path, libraries: &Path) -> Result<()> {
    let available = index_by_name(libraries)?;
    let mut present: BTreeSet<String> = BTreeSet::new();
    let mut queue: Vec<PathBuf> = Vec::new();
    for file in files_below(root)? {
        if let Some(name) = file.file_name() {
            present.insert(name.to_string_lossy().into_owned());
        }
        if !file.is_symlink() && is_elf(&file) {
            queue.push(file);
        }
    }
    let mut needed = if queue.is_empty() {
        vec![]
    } else {
        vec![INTERPRETER.to_owned()]
    };
    loop {
        while let Some(name) = needed.pop() {
            if !present.insert(name.clone()) {
                continue;
            }
            let Some(found) = available.get(&name) else {
                continue;
            };
            // The ABI fixes where the interpreter is, whatever folder the package ships it in.
            let relative = match name.as_str() {
                INTERPRETER => Path::new("lib64").join(INTERPRETER),
                _ => found.strip_prefix(libraries)?.to_owned(),
            };
            let target = root.join(relative);
            fs::create_dir_all(target.parent().context("a library lies in a folder")?)?;
            let source = behind_links(libraries, found)?;
            fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
            queue.push(target);
        }
        let Some(file) = queue.pop() else {
            return Ok(());
        };
        needed = needed_by(&file)?;
    }
}

/// Follows `path`'s symbolic links, taking absolute ones as relative to `root` and not to this machine.
fn behind_links(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    while path.is_symlink() {
        let target = path.read_link()?;
        path = match target.strip_prefix("/") {
            Ok(inside) => root.join(inside),
            Err(_) => path
                .parent()
                .context("a link lies in a folder")?
                .join(target),
        };
    }
    Ok(path)
}

fn index_by_name(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    Ok(files_below(folder)?
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            name.contains(".so").then_some((name, path))
        })
        .collect())
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

fn needed_by(path: &Path) -> Result<Vec<String>> {
    let output = Command::new("readelf")
        .args(["-d", "-W"])
        .arg(path)
        .output()
        .context("running readelf (package binutils)")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect())
}

/// All files and symbolic links under `root`, not following links.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder
            .read_dir()
            .with_context(|| format!("reading {}", folder.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_survives_the_file_name() {
        assert_eq!(
            parse_file_name("zlib1g_1%3a1.2.13.dfsg-1_amd64.deb"),
            Some(Package {
                name: "zlib1g".into(),
                version: "1:1.2.13.dfsg-1".into()
            })
        );
    }
}
