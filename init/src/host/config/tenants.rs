//! `[tenants.NAME]`: what a tenant may have. It is control's to keep to.

use serde::Deserialize;

/// Characters of a tenant's name: an organisation's in a certificate (RFC 5280, appendix A.1, ub-organization-name).
const NAME_MAX: usize = 64;

/// Whose certificates name it so.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct TenantName(pub String);

/// The most of each; absent: no bound.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// GiB that its containers' `--memory` may come to.
    pub memory_gib: Option<u32>,
    /// Processors that their `--cpus` may come to.
    pub cpus: Option<u32>,
    /// GiB that their layers may come to.
    pub disk_gib: Option<u32>,
    /// How many there may be, stopped ones included.
    pub containers: Option<u32>,
    /// The highest that they may have.
    pub priority: Option<Priority>,
}

/// As in the label `hearth.priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Takes what is left over.
    BestEffort,
    /// Gets done, whenever.
    Batch,
    /// Serves somebody who waits.
    Production,
    /// Evicts production, anybody's.
    Monitoring,
}

impl TryFrom<String> for TenantName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let length = name.chars().count();
        if length == 0 || length > NAME_MAX || name.chars().any(char::is_control) {
            return Err(format!(
                "{name:?} is no tenant: one is named as the organisation (O) of its certificates, by 1 to {NAME_MAX} printable characters"
            ));
        }
        Ok(Self(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn tenants_have_bounds_by_name() {
        let config = parse(
            "[tenants.acme]\nmemory_gib = 8\ncpus = 4\npriority = \"best-effort\"\n[tenants.\"Brave & S\u{f6}hne\"]\ncontainers = 0\n",
        )
        .unwrap();
        let acme = &config.tenants[&TenantName("acme".to_owned())];
        assert_eq!((acme.memory_gib, acme.containers), (Some(8), None));
        assert_eq!(acme.priority, Some(Priority::BestEffort));
        assert_eq!(config.tenants.len(), 2);
    }

    #[test]
    fn what_is_no_tenant_or_no_bound_is_an_error() {
        for wrong in [
            "[tenants.\"\"]\n",
            "[tenants.acme]\nmemory = 8\n",
            "[tenants.acme]\ncpus = -1\n",
            "[tenants.acme]\npriority = \"first\"\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
