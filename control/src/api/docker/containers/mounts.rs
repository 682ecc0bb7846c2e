//! What is mounted in a container: memory only, yet.

use std::collections::BTreeMap;

use bollard_stubs::models::{HostConfig, Mount, MountTmpfsOptions, MountType};

use crate::api::docker::errors::ApiError;

/// Mount points of tmpfs with their options, from `Tmpfs` and `Mounts`.
pub fn tmpfs(host: &HostConfig) -> Result<BTreeMap<String, String>, ApiError> {
    if host.binds.iter().flatten().next().is_some() {
        return Err(ApiError::unsupported(
            "bind mounts and volumes (-v, --mount) are",
        ));
    }
    let mut found = BTreeMap::new();
    for (target, options) in host.tmpfs.iter().flatten() {
        let target = destination(target).map_err(ApiError::bad_request)?;
        found.insert(target, options.clone());
    }
    let mut points: Vec<String> = Vec::new();
    for mount in host.mounts.iter().flatten() {
        let (target, options) = of_mount(mount)?;
        if points.contains(&target) {
            return Err(ApiError::bad_request(format!(
                "Duplicate mount point: {}",
                mount.target.as_deref().unwrap_or_default()
            )));
        }
        points.push(target.clone());
        found.insert(target, options);
    }
    Ok(found)
}

/// A mount point as docker takes it, without what a path may have too much.
fn destination(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        ));
    }
    match clean(path).as_str() {
        "/" => Err("invalid specification: destination can't be '/'".to_owned()),
        clean => Ok(clean.to_owned()),
    }
}

/// The shortest name of an absolute path that doesn't look at the file system.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn of_mount(mount: &Mount) -> Result<(String, String), ApiError> {
    match mount.typ {
        Some(MountType::TMPFS) => {}
        None => return Err(unknown_type("")),
        Some(_) => {
            return Err(ApiError::unsupported(
                "bind mounts and volumes (-v, --mount) are",
            ));
        }
    }
    let invalid = |reason: &str| {
        ApiError::bad_request(format!("invalid mount config for type \"tmpfs\": {reason}"))
    };
    for (option, given) in [
        ("BindOptions", mount.bind_options.is_some()),
        ("VolumeOptions", mount.volume_options.is_some()),
        ("ImageOptions", mount.image_options.is_some()),
        (
            "Source",
            mount
                .source
                .as_ref()
                .is_some_and(|source| !source.is_empty()),
        ),
    ] {
        if given {
            return Err(invalid(&format!("field {option} must not be specified")));
        }
    }
    let target = match mount.target.as_deref() {
        None | Some("") => return Err(invalid("field Target must not be empty")),
        Some(target) => destination(target).map_err(|reason| invalid(&reason))?,
    };
    let asked = mount.tmpfs_options.clone().unwrap_or_default();
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned()];
    if mount.read_only == Some(true) {
        options.push("ro".to_owned());
    }
    options.extend(tmpfs_options(&asked).map_err(|reason| invalid(&reason))?);
    Ok((target, options.join(",")))
}

fn tmpfs_options(asked: &MountTmpfsOptions) -> Result<Vec<String>, String> {
    let mut options = Vec::new();
    match asked.size_bytes {
        Some(size) if size < 0 => return Err("size must not be negative".to_owned()),
        Some(size) if size > 0 => options.push(format!("size={size}")),
        _ => {}
    }
    match asked.mode {
        Some(mode) if mode < 0 => return Err("mode must not be negative".to_owned()),
        Some(mode) if mode > 0 => options.push(format!("mode={mode:o}")),
        _ => {}
    }
    for option in asked.options.iter().flatten() {
        match option.as_slice() {
            [flag] => options.push(flag.clone()),
            [key, value] => options.push(format!("{key}={value}")),
            _ => return Err("invalid option array length".to_owned()),
        }
    }
    Ok(options)
}

/// docker's words for a kind of mount that it doesn't know.
pub fn unknown_type(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "invalid mount config for type {name:?}: mount type unknown"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(asked: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        tmpfs(&serde_json::from_value(asked).unwrap()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn memory_is_mounted_where_both_ways_of_asking_say() {
        let found = read(json!({
            "Tmpfs": { "/a/": "size=5m", "/b/./c/../d": "" },
            "Mounts": [{ "Type": "tmpfs", "Target": "/e", "ReadOnly": true,
                "TmpfsOptions": { "SizeBytes": 4096, "Mode": 0o1777, "Options": [["exec"], ["uid", "3"]] } }],
        }))
        .unwrap();
        assert_eq!(found["/a"], "size=5m");
        assert_eq!(found["/b/d"], "");
        assert_eq!(
            found["/e"],
            "nosuid,nodev,noexec,ro,size=4096,mode=1777,exec,uid=3"
        );
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        for (asked, words) in [
            (
                json!({"Tmpfs": {"/": ""}}),
                "invalid specification: destination can't be '/'",
            ),
            (
                json!({"Tmpfs": {"/a/../..": ""}}),
                "invalid specification: destination can't be '/'",
            ),
            (
                json!({"Tmpfs": {".": ""}}),
                "invalid mount path: '.' mount path must be absolute",
            ),
            (
                json!({"Tmpfs": {"rel": ""}}),
                "invalid mount path: 'rel' mount path must be absolute",
            ),
            (
                json!({"Tmpfs": {"": ""}}),
                "invalid mount path: '' mount path must be absolute",
            ),
            (
                json!({"Mounts": [{"Target": "/a"}]}),
                "invalid mount config for type \"\": mount type unknown",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": ""}]}),
                "invalid mount config for type \"tmpfs\": field Target must not be empty",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": "x"}]}),
                "invalid mount config for type \"tmpfs\": invalid mount path: 'x' mount path must be absolute",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": "/"}]}),
                "invalid mount config for type \"tmpfs\": invalid specification: destination can't be '/'",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": "/a", "Source": "/b"}]}),
                "invalid mount config for type \"tmpfs\": field Source must not be specified",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": "/a", "BindOptions": {}}]}),
                "invalid mount config for type \"tmpfs\": field BindOptions must not be specified",
            ),
            (
                json!({"Mounts": [{"Type": "tmpfs", "Target": "/a"}, {"Type": "tmpfs", "Target": "/a/"}]}),
                "Duplicate mount point: /a/",
            ),
        ] {
            assert_eq!(read(asked.clone()).unwrap_err(), words, "{asked}");
        }
        for asked in [
            json!({"Binds": ["/a:/b"]}),
            json!({"Mounts": [{"Type": "volume", "Target": "/a"}]}),
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/a"}]}),
        ] {
            let refusal = read(asked.clone()).unwrap_err();
            assert!(
                refusal.contains("not supported by Hearth yet"),
                "{asked}: {refusal}"
            );
        }
    }
}
