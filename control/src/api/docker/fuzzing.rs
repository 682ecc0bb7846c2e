//! What clients send: bodies, queries and headers, without the node behind them.

use bollard_stubs::models::{ExecConfig, ExecStartConfig};
use hearth_image::RunConfig;
use hyper::header::{HeaderMap, HeaderValue};

use super::answer::JSON;
use super::detach::DetachKeys;
use super::query::Query;
use super::version::ApiVersion;
use super::{body, containers, images, system, timestamps};
use crate::state::encoding;
use crate::state::{ContainerSpec, Signal};

/// The body of one of the operations that take JSON. The first byte says which; a container's may have its image's configuration in front,
/// up to a NUL. A container that is taken can be kept.
pub fn json_body(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 5 {
        0 => create(rest, &RunConfig::default()),
        1 => {
            let nul = rest.iter().position(|byte| *byte == 0);
            let (image, rest) = rest.split_at(nul.unwrap_or(0));
            if let Ok(image) = hearth_image::go_json::from_slice(image) {
                create(rest.get(1..).unwrap_or_default(), &image);
            }
        }
        2 => {
            if let Ok(exec) = body::decode::<ExecConfig>(Some(JSON), rest) {
                let _ = DetachKeys::parse(exec.detach_keys.as_deref());
            }
        }
        3 => drop(body::decode::<ExecStartConfig>(Some(JSON), rest)),
        _ => system::read_login(rest),
    }
}

fn create(body: &[u8], image: &RunConfig) {
    if let Ok(spec) = containers::understand(body, image) {
        let bytes = encoding::encode(&spec).expect("a container that was taken");
        let again: ContainerSpec = encoding::decode(&bytes).expect("a container that was kept");
        assert_eq!(again, spec);
    }
}

/// A path and what stands behind its `?`.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (path, text) = text.split_once('?').unwrap_or(("", text));
    let (version, _) = ApiVersion::of_path(path);
    let _ = version.map(ApiVersion::check);
    let Ok(query) = Query::checked(text) else {
        return;
    };
    let names = ["label", "label!", "name", "until", "dangling"];
    if let Ok(filters) = query.filters(&names) {
        let _ = filters.labels(|_| Some("value"));
        let _ = filters.truth("dangling");
        let until = filters.values("until").first();
        let _ = timestamps::bound("until", until.map(String::as_str));
    }
    for name in ["since", "until"] {
        if let Ok(Some(at)) = timestamps::bound(name, query.get(name)) {
            let _ = (
                timestamps::rfc3339(at),
                timestamps::aligned(at),
                timestamps::ago(at),
            );
        }
    }
    let _ = images::check_platform(query.get("platform"));
    let _ = DetachKeys::parse(query.get("detachKeys"));
    let _ = (query.number::<u16>("h"), query.flag("all"));
    let _ = query.get("signal").map(str::parse::<Signal>);
    let name = query.get("fromImage").unwrap_or_default();
    images::understand(name, query.get("tag"));
}

/// `X-Registry-Auth`.
pub fn registry_auth(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        headers.insert("x-registry-auth", value);
    }
    images::read_credentials(&headers);
}
