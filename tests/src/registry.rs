//! A real registry (the distribution's docker-registry) on loopback, and what is pushed into it.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::archive::{self, Encoding, Image, OCI_INDEX, OCI_MANIFEST, Stored};
use crate::process;

/// The credentials of a registry that asks for some.
pub const CREDENTIALS: &str = "hearth:open-sesame";

/// [`CREDENTIALS`] as htpasswd keeps them: bcrypt of the lowest cost.
const HTPASSWD: &str = "hearth:$2b$04$flZUavszLrN7mi.2whlFX.sWFWYyI.JrAEw91FzF/4MI1mZZkEQhy\n";

/// A running docker-registry with an empty store of its own.
pub struct Registry {
    port: u16,
    child: Child,
    agent: ureq::Agent,
    authorization: Option<String>,
    /// Store and configuration; removed with the registry.
    _folder: TempDir,
}

impl Registry {
    /// Starts one that anybody may read and write.
    pub fn start() -> Self {
        Self::with_auth(false)
            .unwrap_or_else(|error| panic!("can't start docker-registry: {error:#}"))
    }

    /// Starts one that asks for [`CREDENTIALS`] by HTTP basic authentication.
    pub fn start_private() -> Self {
        Self::with_auth(true)
            .unwrap_or_else(|error| panic!("can't start docker-registry: {error:#}"))
    }

    fn with_auth(private: bool) -> Result<Self> {
        let folder = tempfile::tempdir_in(crate::work_folder())?;
        let port = free_port()?;
        let store = folder.path().join("store");
        let passwords = folder.path().join("htpasswd");
        fs::write(&passwords, HTPASSWD)?;
        // YAML is a superset of JSON.
        let mut config = json!({
            "version": 0.1,
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": store } },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        if private {
            config["auth"] = json!({ "htpasswd": { "realm": "hearth", "path": passwords } });
        }
        let config_file = folder.path().join("config.yml");
        fs::write(&config_file, config.to_string())?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log"))?);
        let child = process::spawn_bound(command)
            .context("running docker-registry: `cargo xtask test` installs it")?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let authorization =
            private.then(|| format!("Basic {}", crate::docker::base64(CREDENTIALS.as_bytes())));
        let registry = Self {
            port,
            child,
            agent,
            authorization,
            _folder: folder,
        };
        process::eventually("docker-registry doesn't answer", || {
            let answer = registry
                .agent
                .get(format!("http://127.0.0.1:{port}/v2/"))
                .call();
            answer.ok().map(|_| ())
        });
        Ok(registry)
    }

    /// The port on this machine's loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Pushes `image` as `repository:tag`, its layers encoded as `encoding`; the manifest's digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image, encoding: Encoding) -> String {
        self.push_stored(repository, tag, &image.stored(encoding))
    }

    /// Pushes a manifest and its blobs as `repository:tag`; the manifest's digest.
    pub fn push_stored(&self, repository: &str, tag: &str, stored: &Stored) -> String {
        self.try_push(repository, tag, stored)
            .unwrap_or_else(|error| panic!("pushing {repository}:{tag}: {error:#}"))
    }

    /// Pushes `image` as a list that has it for this platform, and another image for another; the list's digest.
    pub fn push_list(&self, repository: &str, tag: &str, image: &Image, other: &Image) -> String {
        let push = |image: &Image| {
            let stored = image.stored(Encoding::Gzip);
            let digest = self.push_stored(
                repository,
                &archive::digest(&stored.manifest)[7..19],
                &stored,
            );
            (digest, stored.manifest.len())
        };
        let (ours, our_size) = push(image);
        let (theirs, their_size) = push(other);
        let entry = |digest: &str, size: usize, architecture: &str| -> Value {
            json!({
                "mediaType": OCI_MANIFEST,
                "digest": digest,
                "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let list = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entry(&theirs, their_size, "riscv64"), entry(&ours, our_size, "amd64")],
        });
        let stored = Stored {
            manifest: list.to_string().into_bytes(),
            media_type: OCI_INDEX,
            blobs: vec![],
        };
        self.push_stored(repository, tag, &stored)
    }

    fn try_push(&self, repository: &str, tag: &str, stored: &Stored) -> Result<String> {
        for blob in &stored.blobs {
            self.upload(repository, blob)?;
        }
        let url = format!(
            "http://127.0.0.1:{}/v2/{repository}/manifests/{tag}",
            self.port
        );
        let request = self.authorize(self.agent.put(&url));
        let mut answer = request
            .header("Content-Type", stored.media_type)
            .send(stored.manifest.as_slice())?;
        let status = answer.status();
        ensure!(
            status == 201,
            "manifest: {status} {}",
            answer.body_mut().read_to_string()?
        );
        Ok(archive::digest(&stored.manifest))
    }

    fn upload(&self, repository: &str, blob: &[u8]) -> Result<()> {
        let base = format!("http://127.0.0.1:{}", self.port);
        let digest = archive::digest(blob);
        let url = format!("{base}/v2/{repository}/blobs/uploads/");
        let mut answer = self.authorize(self.agent.post(&url)).send_empty()?;
        let status = answer.status();
        ensure!(
            status == 202,
            "upload: {status} {}",
            answer.body_mut().read_to_string()?
        );
        let location = answer
            .headers()
            .get("Location")
            .and_then(|value| value.to_str().ok())
            .context("the registry answered an upload without a location")?;
        let location = if location.starts_with('/') {
            format!("{base}{location}")
        } else {
            location.to_owned()
        };
        let separator = if location.contains('?') { '&' } else { '?' };
        let request = self.authorize(
            self.agent
                .put(format!("{location}{separator}digest={digest}")),
        );
        let mut answer = request
            .header("Content-Type", "application/octet-stream")
            .send(blob)?;
        let status = answer.status();
        ensure!(
            status == 201,
            "blob: {status} {}",
            answer.body_mut().read_to_string()?
        );
        Ok(())
    }

    fn authorize<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It ends with the test binary in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on loopback that nothing listens on at the moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
