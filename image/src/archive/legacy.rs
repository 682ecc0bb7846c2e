//! What `docker save` wrote before 1.10: a folder for each layer, and a list of names (Docker image specification v1.0).
//!
//! ```text
//! repositories          {"name": {"tag": "ID"}}
//! ID/VERSION            1.0
//! ID/json               what became the config, with the parent's id
//! ID/layer.tar
//! ```
//!
//! The Engine took these up to version 28. Ids were random, so the image gets its own here, as it did there: of a config made
//! of the topmost layer's document, with the digests of all layers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    FoundImage, FoundLayer, Held, MAX_CONFIGS_BYTES,
    spool::{self, Spool},
    too_large,
};
use crate::{
    Error, ImageRef,
    compression::{Compression, compression_of},
    store::MAX_LAYERS,
};

/// Fields of the document that are about its place in this archive, or on the machine that wrote it.
const OF_THE_ARCHIVE: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// As far as more than the topmost layer's document matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container_config: Option<BuildStep>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct BuildStep {
    cmd: Option<Vec<String>>,
}

/// One layer with what made it.
struct Step {
    parent: Option<String>,
    history: Value,
    layer: FoundLayer,
}

/// Layers that were looked at, by their ids: several images may stand on one.
struct Steps<'a> {
    spool: &'a Spool,
    known: BTreeMap<String, Step>,
    documents_bytes: usize,
}

pub(super) fn images(spool: &Spool, repositories: &[u8]) -> Result<Vec<FoundImage>, Error> {
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(repositories).map_err(|err| {
            Error::malformed("list of repositories of the image archive", err.to_string())
        })?;
    let mut tags = BTreeMap::<&str, Vec<ImageRef>>::new();
    for (name, ids) in &repositories {
        for (tag, id) in ids {
            tags.entry(id)
                .or_default()
                .push(format!("{name}:{tag}").parse()?);
        }
    }
    let mut steps = Steps {
        spool,
        known: BTreeMap::new(),
        documents_bytes: 0,
    };
    let (mut images, mut held) = (Vec::new(), Held::default());
    for (id, tags) in tags {
        let image = steps.image(id, tags)?;
        held.add(&image)?;
        images.push(image);
    }
    Ok(images)
}

impl Steps<'_> {
    fn image(&mut self, top: &str, tags: Vec<ImageRef>) -> Result<FoundImage, Error> {
        let mut ids = Vec::new();
        let mut next = Some(top.to_owned());
        while let Some(id) = next {
            // A circle ends here too.
            if ids.len() == MAX_LAYERS {
                return Err(too_large(
                    "the number of layers of an image",
                    MAX_LAYERS.to_string(),
                ));
            }
            next = self.look_at(&id)?.parent.clone();
            ids.push(id);
        }
        let steps: Vec<&Step> = ids
            .iter()
            .rev()
            .filter_map(|id| self.known.get(id))
            .collect();
        let path = document_path(top);
        let json = spool::read(self.spool.expect(&path)?, &path)?;
        let mut config: Map<String, Value> =
            serde_json::from_slice(&json).map_err(|err| malformed(&path, &err))?;
        for field in OF_THE_ARCHIVE {
            config.remove(field);
        }
        let diff_ids: Vec<_> = steps
            .iter()
            .map(|step| step.layer.digest.to_string())
            .collect();
        let history: Vec<_> = steps.iter().map(|step| step.history.clone()).collect();
        config.insert(
            "rootfs".to_owned(),
            json!({ "type": "layers", "diff_ids": diff_ids }),
        );
        config.insert("history".to_owned(), Value::Array(history));
        Ok(FoundImage {
            tags,
            config_json: Value::Object(config).to_string().into_bytes(),
            manifest_json: None,
            layers: steps.iter().map(|step| Some(step.layer.clone())).collect(),
        })
    }

    fn look_at(&mut self, id: &str) -> Result<&Step, Error> {
        // Not its entry: what is missing is looked up in between, and may fail.
        if !self.known.contains_key(id) {
            let step = self.read(id)?;
            self.known.insert(id.to_owned(), step);
        }
        Ok(&self.known[id])
    }

    fn read(&mut self, id: &str) -> Result<Step, Error> {
        let path = document_path(id);
        let json = spool::read(self.spool.expect(&path)?, &path)?;
        self.documents_bytes += json.len();
        if self.documents_bytes > MAX_CONFIGS_BYTES {
            let limit = format!("{MAX_CONFIGS_BYTES} bytes");
            return Err(too_large("the documents of layers", limit));
        }
        let document: Document =
            serde_json::from_slice(&json).map_err(|err| malformed(&path, &err))?;
        let file = self.spool.expect(&format!("{id}/layer.tar"))?;
        let layer = FoundLayer::from(file);
        if compression_of(&layer.path)? != Compression::None {
            return Err(Error::malformed(
                format!("{id}/layer.tar of the image archive"),
                "it is compressed, which no docker of its time wrote: load the image into a newer docker and save it again",
            ));
        }
        let made_by = document.container_config.unwrap_or_default().cmd;
        let mut history = Map::new();
        for (name, value) in [
            ("created", document.created),
            ("author", document.author),
            ("comment", document.comment),
            ("created_by", made_by.map(|words| words.join(" "))),
        ] {
            if let Some(value) = value {
                history.insert(name.to_owned(), value.into());
            }
        }
        Ok(Step {
            parent: document.parent.filter(|parent| !parent.is_empty()),
            history: Value::Object(history),
            layer,
        })
    }
}

fn document_path(id: &str) -> String {
    format!("{id}/json")
}

fn malformed(path: &str, err: &serde_json::Error) -> Error {
    let path: String = path.chars().take(200).collect();
    Error::malformed(format!("{path} of the image archive"), err.to_string())
}
