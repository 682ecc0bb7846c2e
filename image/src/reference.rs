//! Names of images, as a user types them and as a registry knows them.

use std::{fmt, str::FromStr};

use oci_distribution::Reference;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where a name without a registry leads.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The part of the default registry that needs no naming.
const DEFAULT_NAMESPACE: &str = "library/";

/// A parsed image reference: registry, repository, and a tag or a digest or both.
///
/// ```
/// use hearth_image::ImageRef;
/// let image: ImageRef = "busybox".parse().unwrap();
/// assert_eq!(image.to_string(), "docker.io/library/busybox:latest");
/// assert_eq!(image.familiar(), "busybox:latest");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(Reference);

impl ImageRef {
    /// Host and optional port of the registry; `docker.io` if none was named.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository inside the registry, `library/` included.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The tag; `latest` if the reference had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, with its algorithm.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// The repository as docker shows it: without `docker.io/` and `library/`, unless what is left would be read as another name.
    pub fn familiar_name(&self) -> String {
        let (registry, repository) = (self.registry(), self.repository());
        let full = || format!("{registry}/{repository}");
        if registry != DEFAULT_REGISTRY {
            return full();
        }
        match repository.strip_prefix(DEFAULT_NAMESPACE) {
            Some(short) if is_image_id(short) => full(),
            // `docker.io/library/a/b` must not become `a/b`, which is another repository.
            Some(short) if !short.contains('/') => short.to_owned(),
            // Nor `docker.io/quay.io/a` a repository of quay.io.
            _ if leads_to_a_registry(repository) => full(),
            _ => repository.to_owned(),
        }
    }

    /// The reference as docker shows it, with tag and digest.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = self.tag() {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = self.digest() {
            text = format!("{text}@{digest}");
        }
        text
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, Error> {
        format!("{}/{}:{tag}", self.registry(), self.repository()).parse()
    }

    /// The same repository by digest, as in docker's RepoDigests.
    pub fn with_digest(&self, digest: &crate::Digest) -> Self {
        Self(Reference::with_digest(
            self.registry().to_owned(),
            self.repository().to_owned(),
            digest.to_string(),
        ))
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::InvalidReference {
            reference: text.chars().take(300).collect(),
            reason: reason.to_owned(),
        };
        // Such a name could never be told from an image's ID.
        if is_image_id(text) {
            return Err(bad("64 hex digits are an image ID, not a repository"));
        }
        // What the parser takes for letters, docker only does where they are ASCII's.
        if !text.is_ascii() {
            return Err(bad("invalid reference format"));
        }
        let reference = Reference::try_from(text).map_err(|err| {
            let name = text.rsplit_once('@').map_or(text, |(name, _)| name);
            if name.rsplit('/').next().is_some_and(|last| {
                last.split(':')
                    .next()
                    .unwrap_or(last)
                    .bytes()
                    .any(|b| b.is_ascii_uppercase())
            }) {
                return bad("repository name must be lowercase");
            }
            bad(&err.to_string())
        })?;
        if let Some(digest) = reference.digest()
            && digest.bytes().any(|b| b.is_ascii_uppercase())
        {
            return Err(bad("invalid checksum digest format"));
        }
        Ok(Self(with_domain(reference)))
    }
}

fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether docker takes what is in front of the first slash for a registry's name.
fn leads_to_a_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| {
        first == "localhost"
            || first.contains(|c: char| matches!(c, '.' | ':') || c.is_ascii_uppercase())
    })
}

/// No repository has capital letters, so what has some in front of it is a registry's name to docker, even without a dot.
/// Nothing that is written out may be a name that isn't taken again: names are kept as text.
fn with_domain(reference: Reference) -> Reference {
    let Some((domain, repository)) = reference.repository().split_once('/') else {
        return reference;
    };
    if !domain.bytes().any(|b| b.is_ascii_uppercase()) {
        return reference;
    }
    let (domain, repository) = (domain.to_owned(), repository.to_owned());
    match (reference.tag().map(str::to_owned), reference.digest()) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(domain, repository, tag, digest.to_owned())
        }
        (Some(tag), None) => Reference::with_tag(domain, repository, tag),
        (None, digest) => {
            Reference::with_digest(domain, repository, digest.unwrap_or_default().to_owned())
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn familiar(text: &str) -> String {
        text.parse::<ImageRef>().unwrap().familiar()
    }

    #[test]
    fn names_are_shown_as_docker_shows_them() {
        assert_eq!(familiar("busybox"), "busybox:latest");
        assert_eq!(familiar("docker.io/library/busybox:1.36"), "busybox:1.36");
        assert_eq!(familiar("grafana/grafana"), "grafana/grafana:latest");
        assert_eq!(familiar("10.0.2.2:5000/a/b:c"), "10.0.2.2:5000/a/b:c");
        assert_eq!(familiar("localhost/a"), "localhost/a:latest");
        assert_eq!(familiar("docker.io/library/a/b"), "library/a/b:latest");
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(
            familiar(&format!("busybox@{digest}")),
            format!("busybox@{digest}")
        );
        assert_eq!(
            familiar(&format!("busybox:1@{digest}")),
            format!("busybox:1@{digest}")
        );
    }

    #[test]
    fn what_is_shown_is_read_as_the_same_name() {
        let hex = "ab".repeat(32);
        for text in [
            "docker.io/quay.io/a:1",
            "docker.io/localhost/a:1",
            "docker.io/library/quay.io/a:1",
            "docker.io/library/a.b:1",
            &format!("docker.io/library/{hex}:1"),
        ] {
            let reference: ImageRef = text.parse().unwrap();
            let name: ImageRef = reference.familiar_name().parse().unwrap();
            assert_eq!(name.repository(), reference.repository(), "{text}");
            assert_eq!(name.registry(), reference.registry(), "{text}");
            assert_eq!(familiar(text).parse::<ImageRef>().unwrap(), reference);
        }
    }

    #[test]
    fn capital_letters_make_a_registry_and_every_name_is_taken_again_as_it_is_written() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for text in [
            "MyHost/a/b:1".to_owned(),
            format!("MyHost/a@{digest}"),
            format!("MyHost/a:1@{digest}"),
        ] {
            let reference: ImageRef = text.parse().unwrap();
            assert_eq!(reference.registry(), "MyHost");
            assert_eq!(reference.to_string(), text);
            assert_eq!(text.parse::<ImageRef>().unwrap(), reference);
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "",
            "Busybox",
            "a//b",
            "a:",
            ":tag",
            "a@sha256:12",
            "-a",
            "a b",
            "a:\u{e9}",
            "A/B",
            "docker.io/A/b",
            &format!("a@sha256:{}", "AB".repeat(32)),
            &"f".repeat(64),
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?} was taken");
        }
    }
}
