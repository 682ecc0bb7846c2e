//! `[cluster]`: which machines a node belongs to, and what it is among them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

/// Hexadecimal digits that hold 128 bits.
const HEX_MIN: usize = 32;
/// Characters of base64 that hold 128 bits.
const BASE64_MIN: usize = 22;
/// Fewer different characters than these are not random: of 22 random ones of base64, and of 32 hexadecimal digits, there are more but
/// once in millions.
const DIFFERENT_MIN: usize = 8;
/// Longest name of a domain (RFC 1035, section 2.3.4), as text.
const HOST_MAX: usize = 253;
/// Longest label of a domain's name, from the same section.
const HOST_LABEL_MAX: usize = 63;
/// Longest key and longest value of a label.
const LABEL_MAX: usize = 255;
/// The label that `zone` is.
const ZONE: &str = "zone";

/// `[cluster]`
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Cluster {
    /// What all sticks of one cluster share.
    pub token: Token,
    /// Who makes certificates for nodes: PEM.
    pub issuer_certificate: String,
    /// Its key: PEM. Absent: the node can join, and can't found a cluster.
    pub issuer_key: Option<String>,
    /// Where other nodes may be found.
    pub addresses: Vec<MemberAddress>,
    /// Whether they are looked for on the link.
    pub discovery: bool,
    /// The node's zone.
    pub zone: Option<String>,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
}

/// A secret that nobody can guess.
#[derive(PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

/// `host` or `host:port`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MemberAddress(pub String);

/// The section as it is written, before its keys are held against each other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    token: Token,
    issuer_certificate: String,
    issuer_key: Option<String>,
    #[serde(default)]
    addresses: Vec<MemberAddress>,
    #[serde(default = "yes")]
    discovery: bool,
    zone: Option<LabelValue>,
    #[serde(default)]
    labels: BTreeMap<LabelKey, LabelValue>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct LabelKey(String);

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct LabelValue(String);

fn yes() -> bool {
    true
}

impl TryFrom<Written> for Cluster {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.addresses.is_empty() && !written.discovery && written.issuer_key.is_none() {
            return Err(
                "with neither discovery nor addresses nor issuer_key there is no cluster that this node could join or found"
                    .to_owned(),
            );
        }
        let labels: BTreeMap<_, _> = written
            .labels
            .into_iter()
            .map(|(key, value)| (key.0, value.0))
            .collect();
        if labels.contains_key(ZONE) {
            return Err(
                "the label zone has a key of its own: write zone = \"…\" under [cluster]"
                    .to_owned(),
            );
        }
        Ok(Self {
            token: written.token,
            issuer_certificate: written.issuer_certificate,
            issuer_key: written.issuer_key,
            addresses: written.addresses,
            discovery: written.discovery,
            zone: written.zone.map(|zone| zone.0),
            labels,
        })
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(token: String) -> Result<Self, String> {
        let hex = token.bytes().all(|b| b.is_ascii_hexdigit());
        let base64 = token
            .trim_end_matches('=')
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_'));
        let least = if hex { HEX_MIN } else { BASE64_MIN };
        let different = token.bytes().collect::<BTreeSet<_>>().len();
        if !base64 || token.trim_end_matches('=').len() < least || different < DIFFERENT_MIN {
            return Err(format!(
                "a token is a secret of at least 128 random bits: {HEX_MIN} hexadecimal digits or {BASE64_MIN} characters of base64; `openssl rand -hex 32` makes a good one"
            ));
        }
        Ok(Self(token))
    }
}

impl TryFrom<String> for MemberAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if is_address(&text) {
            Ok(Self(text))
        } else {
            Err(format!(
                "{text:?} is no place to find a node at: write a name or an address, and a port if it isn't 2377, such as 192.0.2.5, node.example.com:2377 or [2001:db8::5]:2377"
            ))
        }
    }
}

fn is_address(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    // Digits alone, since Rust's numbers may have a sign.
    let port = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    host && port
}

fn is_host(name: &str) -> bool {
    name.len() <= HOST_MAX
        && name.split('.').all(|label| {
            (1..=HOST_LABEL_MAX).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl TryFrom<String> for LabelKey {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let begins = key
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !plain || !begins || key.len() > LABEL_MAX {
            return Err(format!(
                "{key:?} is no label: use letters, digits, hyphens, underscores and dots, a letter first, at most {LABEL_MAX}"
            ));
        }
        Ok(Self(key))
    }
}

impl TryFrom<String> for LabelValue {
    type Error = String;

    fn try_from(value: String) -> Result<Self, String> {
        if value.is_empty() || value.len() > LABEL_MAX || value.chars().any(char::is_control) {
            return Err(format!(
                "{value:?} is no label's value: use 1 to {LABEL_MAX} printable characters"
            ));
        }
        Ok(Self(value))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const TOKEN: &str = "9f86d081884c7d659a2feaa0c55ad015";

    fn section(lines: &str) -> Result<Cluster, String> {
        let text = format!(
            "[cluster]\ntoken = \"{TOKEN}\"\nissuer_certificate = \"i\"\n{lines}\n[identity]\nca = \"a\"\n"
        );
        parse(&text).map(|config| config.cluster.unwrap())
    }

    #[test]
    fn a_full_section_is_understood() {
        let cluster = section(
            "issuer_key = \"k\"\naddresses = [\"192.0.2.5\", \"node.example.com:99\", \"2001:db8::5\", \"[2001:db8::5]:99\"]\ndiscovery = false\nzone = \"Haus 1\"\nlabels = { disk = \"ssd\", \"org.example.rack\" = \"7\" }\n",
        )
        .unwrap();
        assert_eq!(cluster.addresses.len(), 4);
        assert!(!cluster.discovery);
        assert_eq!(cluster.zone.unwrap(), "Haus 1");
        assert_eq!(cluster.labels["org.example.rack"], "7");
        let short = section("").unwrap();
        assert!(short.discovery && short.issuer_key.is_none() && short.labels.is_empty());
    }

    #[test]
    fn a_token_is_random_and_long() {
        for good in [
            TOKEN,
            "n4bQgYhMfWWaL+qgxVrQFQ",
            "n4bQgYhMfWWaL+qgxVrQFQ==",
            "n4bQgYhMfWWaL-qgxVrQ_Q",
        ] {
            assert!(Token::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hunter2",
            "9f86d081884c7d659a2feaa0c55ad01",
            "n4bQgYhMfWWaL+qgxVrQF",
            "n4bQgYhMfWWaL+qgxVrQF====",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "correct horse battery staple",
        ] {
            let text = format!("\n[cluster]\ntoken = \"{bad}\"\nissuer_certificate = \"i\"\n");
            let error = parse(&text).unwrap_err();
            assert!(
                error.starts_with("line 3: ") && error.contains("openssl rand"),
                "{error}"
            );
            assert!(
                bad.is_empty() || !error.contains(bad),
                "secrets aren't shown"
            );
        }
    }

    #[test]
    fn faults_name_their_line() {
        for (line, what) in [
            ("tokn = \"x\"", "tokn"),
            ("addresses = [\"http://a\"]", "http://a"),
            ("addresses = [\"a:0\"]", "a:0"),
            ("addresses = [\"a:+1\"]", "a:+1"),
            ("addresses = [\"[1.2.3.4]:1\"]", "1.2.3.4"),
            ("addresses = [\"-a\"]", "-a"),
            ("discovery = 1", "boolean"),
            ("zone = \"\"", "label"),
            ("labels = { \"1a\" = \"b\" }", "1a"),
            ("labels = { a = \"b\\u0007\" }", "printable"),
        ] {
            let error = section(line).unwrap_err();
            assert!(
                error.starts_with("line 4: ") && error.contains(what),
                "{line}: {error}"
            );
        }
        for (lines, what) in [
            ("discovery = false", "issuer_key"),
            ("labels = { zone = \"a\" }", "under [cluster]"),
        ] {
            let error = section(lines).unwrap_err();
            assert!(
                error.starts_with("line 1: ") && error.contains(what),
                "{error}"
            );
        }
    }
}
