//! Docker's list of contents: `manifest.json` (Docker image specification v1.2, "Combined Image JSON + Filesystem
//! Changeset Format").

use serde::Deserialize;

use super::{
    FoundImage, FoundLayer, Held, contents,
    spool::{self, Spool},
};
use crate::{Error, ImageRef, go_json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn images(spool: &Spool, manifest: &[u8]) -> Result<Vec<FoundImage>, Error> {
    let items: Vec<Item> = go_json::from_slice(manifest)
        .map_err(|err| Error::malformed("manifest.json of the image archive", err.to_string()))?;
    let (mut images, mut held) = (Vec::new(), Held::default());
    for item in &items {
        let image = image(spool, item)?;
        held.add(&image)?;
        images.push(image);
    }
    Ok(images)
}

fn image(spool: &Spool, item: &Item) -> Result<FoundImage, Error> {
    let config = spool.expect(&item.config)?;
    check_name(&item.config, config)?;
    let layers = item
        .layers
        .iter()
        .flatten()
        .map(|path| {
            // What isn't here may be left out; what would lie elsewhere may not.
            contents::entry_path(path.as_bytes())?;
            let file = spool.file(path);
            if let Some(file) = file {
                check_name(path, file)?;
            }
            Ok(file.map(FoundLayer::from))
        })
        .collect::<Result<_, Error>>()?;
    let tags = item
        .repo_tags
        .iter()
        .flatten()
        .map(|tag| tag.parse())
        .collect::<Result<Vec<ImageRef>, _>>()?;
    Ok(FoundImage {
        tags,
        config_json: spool::read(config, &item.config)?,
        manifest_json: None,
        layers,
    })
}

/// Since docker 25 files are blobs of an OCI layout, and have the digest that their name says. Older names promise nothing: that
/// of `<hex>/layer.tar` is the id of a history, and people edit what lies in `<hex>.json`, which dockerd takes.
fn check_name(path: &str, file: &spool::SpooledFile) -> Result<(), Error> {
    let hex = path.strip_prefix("blobs/sha256/");
    match hex.map(|hex| format!("sha256:{hex}").parse()) {
        Some(Ok(digest)) => spool::check(file, &digest, path),
        _ => Ok(()),
    }
}
