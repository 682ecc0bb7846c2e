//! The first container's image: the distribution's static busybox, in the form that `docker save` writes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::process;

/// What the image is called.
pub const NAME: &str = "busybox:latest";

/// Users and groups that programs ask for by name.
const ACCOUNTS: [(&str, &str); 2] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// The first container's image as an archive for `docker load`.
pub fn archive(busybox: &Path) -> Result<Vec<u8>> {
    archive_as(busybox, NAME, &["sh"])
}

/// The same under another name and with another command.
pub fn archive_as(busybox: &Path, name: &str, command: &[&str]) -> Result<Vec<u8>> {
    let layer = layer(busybox)?;
    let digest = hex::encode(Sha256::digest(&layer));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Cmd": command, "Env": ["PATH=/bin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask try" }],
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_name = format!("{digest}/layer.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]).to_string();

    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in [
        (config_name.as_str(), config.as_bytes()),
        (&layer_name, &layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        file(&mut archive, name, 0o644, data)?;
    }
    Ok(archive.into_inner()?)
}

fn layer(busybox: &Path) -> Result<Vec<u8>> {
    let executable = fs::read(busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let applets = process::capture(Command::new(busybox).arg("--list"))?;
    let mut archive = tar::Builder::new(Vec::new());
    for (directory, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        let mut header = header(tar::EntryType::Directory, mode);
        archive.append_data(&mut header, directory, std::io::empty())?;
    }
    file(&mut archive, "bin/busybox", 0o755, &executable)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    for (name, text) in ACCOUNTS {
        file(&mut archive, name, 0o644, text.as_bytes())?;
    }
    Ok(archive.into_inner()?)
}

fn file(archive: &mut tar::Builder<impl Write>, name: &str, mode: u32, data: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(data.len() as u64);
    archive.append_data(&mut header, name, data)?;
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}
