//! The parts of a unified kernel image (UAPI Group specification 5: sections of a PE file).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Kernel, initial RAM disk and command line, as the image carries them.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Section `.linux`.
    pub kernel: PathBuf,
    /// Section `.initrd`.
    pub initramfs: PathBuf,
    /// Section `.cmdline`.
    pub command_line: String,
}

impl Parts {
    /// Takes `efi` apart, into the folder of this test binary.
    pub fn of(efi: &Path) -> Result<Self> {
        let folder = crate::work_folder();
        let section = |name: &str| -> Result<PathBuf> {
            let path = folder.join(name.trim_start_matches('.'));
            if !path.exists() {
                let partial = tempfile::NamedTempFile::new_in(&folder)?;
                let output = Command::new("objcopy")
                    .args(["-O", "binary", "--only-section", name])
                    .arg(efi)
                    .arg(partial.path())
                    .output()
                    .context("running objcopy (package binutils)")?;
                ensure!(
                    output.status.success(),
                    "objcopy can't take {name} out of {}: {}",
                    efi.display(),
                    String::from_utf8_lossy(&output.stderr)
                );
                partial.persist(&path)?;
            }
            Ok(path)
        };
        let text = fs::read_to_string(section(".cmdline")?)?;
        Ok(Self {
            kernel: section(".linux")?,
            initramfs: section(".initrd")?,
            command_line: text.trim_end_matches(['\0', '\n']).to_owned(),
        })
    }
}
