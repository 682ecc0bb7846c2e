//! Configuration fragments: what they ask for, and whether a resolved configuration grants it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// All fragments of one kernel.
#[derive(Debug, Clone)]
pub struct Fragments {
    text: String,
}

impl Fragments {
    /// Reads the `*.config` files of a folder, in the order of their names.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut files = fs::read_dir(dir)
            .with_context(|| format!("reading {}", dir.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "config")
        });
        files.sort();
        let mut text = String::new();
        for file in files {
            text += &fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
        }
        Ok(Self { text })
    }

    /// One after another, as Kconfig takes them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Fails with the name of every option that Kconfig dropped or changed, because something it depends on is off.
    pub fn check(&self, config: &str) -> Result<()> {
        let granted = options(config);
        let mut missing = Vec::new();
        for (name, asked) in options(&self.text) {
            let granted = granted.get(name).copied().unwrap_or(OFF);
            if granted != asked {
                missing.push(format!("{name}={asked} (is {granted})"));
            }
        }
        if !missing.is_empty() {
            bail!(
                "not set as asked, look up what they depend on: {}",
                missing.join(", ")
            );
        }
        Ok(())
    }
}

/// Value of an option that is off.
const OFF: &str = "n";

fn options(config: &str) -> BTreeMap<&str, &str> {
    config
        .lines()
        .filter_map(|line| match line.strip_prefix("# ") {
            Some(comment) => Some((comment.strip_suffix(" is not set")?, OFF)),
            None => line.split_once('='),
        })
        .filter(|(name, _)| name.starts_with("CONFIG_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(text: &str) -> Fragments {
        Fragments {
            text: text.to_owned(),
        }
    }

    #[test]
    fn an_option_that_did_not_stick_is_named() {
        let asked =
            fragments("CONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\n# Why: CONFIG_D=y\n");
        asked.check("CONFIG_A=y\nCONFIG_B=\"x\"\n").unwrap();
        let error = asked
            .check("# CONFIG_A is not set\nCONFIG_B=\"y\"\nCONFIG_C=y\n")
            .unwrap_err()
            .to_string();
        for name in [
            "CONFIG_A=y (is n)",
            "CONFIG_B=\"x\" (is \"y\")",
            "CONFIG_C=n (is y)",
        ] {
            assert!(error.contains(name), "{error}");
        }
    }
}
