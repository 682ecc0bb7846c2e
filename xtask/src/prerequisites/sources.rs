//! The machine's own apt sources, read to learn which mirror it uses: `sources.list(5)`, both formats.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One place that packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Where, such as a mirror's address.
    pub uri: String,
    /// Release names, such as `bookworm`.
    pub suites: Vec<String>,
    /// Such as `main`.
    pub components: Vec<String>,
    /// The key file that signs it, where one is named.
    pub signed_by: Option<String>,
}

impl Repository {
    /// The same mirror's backports, in the one-line format.
    pub fn backports(&self, codename: &str) -> String {
        let signed = self
            .signed_by
            .as_ref()
            .map_or(String::new(), |key| format!("[signed-by={key}] "));
        format!("deb {signed}{} {codename}-backports main\n", self.uri)
    }
}

/// The repository that the release itself comes from.
pub fn of_release(codename: &str) -> Result<Repository> {
    read(Path::new("/etc/apt"))?
        .into_iter()
        .find(|repository| {
            repository.suites.iter().any(|suite| suite == codename)
                && repository.components.iter().any(|component| component == "main")
        })
        .with_context(|| {
            format!("no apt source of this machine offers {codename}'s main packages: add one in /etc/apt/sources.list.d")
        })
}

fn read(etc: &Path) -> Result<Vec<Repository>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
        for part in parts {
            files.push(part?.path());
        }
    }
    files.sort();
    let mut repositories = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => repositories.extend(text.lines().filter_map(one_line)),
            Some("sources") => repositories.extend(stanzas(&text)),
            _ => {}
        }
    }
    Ok(repositories)
}

/// `deb [options] uri suite component…`
fn one_line(line: &str) -> Option<Repository> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Repository {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

/// Stanzas of `Key: value`, separated by empty lines; a line that begins with a space goes on the one before.
fn stanzas(text: &str) -> Vec<Repository> {
    let mut repositories = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            repositories.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                *value += &format!("\n{}", line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    repositories
}

fn stanza(fields: &[(String, String)]) -> Vec<Repository> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    if !words("types").iter().any(|kind| kind == "deb") || field("enabled") == Some("no") {
        return Vec::new();
    }
    // A key may also stand in the stanza itself; it can't be named in one line then, and apt's own keys must do.
    let signed_by = field("signed-by").filter(|key| key.starts_with('/') && !key.contains('\n'));
    words("uris")
        .into_iter()
        .map(|uri| Repository {
            uri,
            suites: words("suites"),
            components: words("components"),
            signed_by: signed_by.map(str::to_owned),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_name_the_same_repository() {
        let old = one_line(
            "deb [arch=amd64 signed-by=/usr/k.gpg] http://mirror.example/debian trixie main contrib # why",
        );
        let new = stanzas(
            "# comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\n\
             Components: main contrib\nSigned-By: /usr/k.gpg\n\nTypes: deb-src\nURIs: x\nSuites: trixie\n",
        );
        assert_eq!(vec![old.unwrap()], new);
        assert_eq!(
            new[0].backports("trixie"),
            "deb [signed-by=/usr/k.gpg] http://mirror.example/debian trixie-backports main\n"
        );
    }

    #[test]
    fn sources_that_are_off_are_not_used() {
        assert_eq!(
            one_line("# deb http://mirror.example/debian trixie main"),
            None
        );
        assert_eq!(
            one_line("deb-src http://mirror.example/debian trixie main"),
            None
        );
        assert!(stanzas("Types: deb\nEnabled: no\nURIs: x\nSuites: y\n").is_empty());
    }
}
