//! Pulling: resolve the reference, fetch the layers side by side, unpack them in order as they come.

use std::fs::File;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc::{self, Sender};

use super::{
    Store, StoreOptions, WAITING_EVENTS,
    build::{self, Plan, Ready, Words, blocking},
    record::LayerRecord,
    remove,
};
use crate::{
    Credentials, Digest, Error, ImageRef, LayerState, Progress, Pulled,
    registry::{Fetch, Registry, Resolved},
    unpack::LayerFile,
};

impl Store {
    /// Pulls for linux/amd64. `progress` hears what docker would show.
    ///
    /// Dropping the future gives up; layers that came whole stay for the next try.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        auth: &Credentials,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Pulled, Error> {
        let (events, receiver) = mpsc::channel(WAITING_EVENTS);
        build::relay(
            self.pull_telling(reference, auth, events),
            receiver,
            progress,
        )
        .await
    }

    /// Asks a registry (`host[:port]`) whether it takes these credentials; keeps nothing.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<(), Error> {
        // The repository matters to token services only, which give a token for one that may not exist.
        let reference: ImageRef = format!("{registry}/login").parse()?;
        let options = &self.shared.options;
        let (insecure, dns) = (&options.insecure_registries, &options.dns_servers);
        Registry::connect(&reference, credentials, insecure, dns)?
            .login()
            .await
    }

    async fn pull_telling(
        &self,
        reference: &ImageRef,
        auth: &Credentials,
        events: Sender<Progress>,
    ) -> Result<Pulled, Error> {
        let tell = async |event| {
            // Nobody listens: the work is wanted all the same.
            let _ = events.send(event).await;
        };
        let id = reference
            .tag()
            .or(reference.digest())
            .unwrap_or_default()
            .to_owned();
        let repository = reference.repository().to_owned();
        tell(Progress::PullingFrom { repository, id }).await;

        let StoreOptions {
            insecure_registries,
            dns_servers,
            ..
        } = &self.shared.options;
        let registry = Registry::connect(reference, auth, insecure_registries, dns_servers)?;
        let resolved = registry.resolve().await?;
        let image_claim = self.shared.claims.claim(&resolved.config);
        let _building = image_claim.lock().await;
        let already_present = self.shared.held(&resolved.config.into()).is_some();
        if already_present {
            for layer in &resolved.layers {
                let id = layer.digest.short();
                tell(Progress::Layer {
                    id,
                    state: LayerState::AlreadyExists,
                })
                .await;
            }
        } else {
            self.fetch_and_build(&registry, &resolved, reference, &events)
                .await?;
        }
        tell(Progress::Status(format!("Digest: {}", resolved.digest))).await;
        let name = reference.familiar();
        tell(Progress::Status(if already_present {
            format!("Status: Image is up to date for {name}")
        } else {
            format!("Status: Downloaded newer image for {name}")
        }))
        .await;
        Ok(Pulled {
            id: resolved.config.into(),
            digest: resolved.digest,
            already_present,
        })
    }

    async fn fetch_and_build(
        &self,
        registry: &Registry,
        resolved: &Resolved,
        reference: &ImageRef,
        events: &Sender<Progress>,
    ) -> Result<(), Error> {
        let config_json = registry.config(resolved).await?;
        let (id, config) = build::read_config(&config_json, &reference.familiar())?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != resolved.layers.len() {
            return Err(Error::malformed(
                format!("image {}", reference.familiar()),
                format!(
                    "its config has {} layers and its manifest {}",
                    diff_ids.len(),
                    resolved.layers.len()
                ),
            ));
        }
        let layers: Vec<LayerRecord> = resolved
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| LayerRecord {
                digest: layer.digest,
                size_bytes: layer.size_bytes,
                diff_id: *diff_id,
            })
            .collect();
        let plan = Plan {
            id,
            config,
            config_json,
            manifest_json: resolved.manifest_json.clone(),
            layers: layers.clone(),
        };
        let built = self.fetch_and_unpack(registry, &plan, events).await;
        let committed = match built {
            Ok(built) => {
                let shared = self.shared.clone();
                blocking(move || build::commit(&shared, plan, built)).await
            }
            Err(err) => Err(err),
        };
        // After a network's failure there will be another try, which needs what has come so far.
        if let Err(err) = &committed
            && !matches!(err, Error::Unreachable { .. } | Error::Registry { .. })
        {
            let shared = self.shared.clone();
            let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            blocking(move || {
                remove::drop_unneeded(&shared, &digests);
                Ok(())
            })
            .await?;
        }
        committed
    }

    async fn fetch_and_unpack(
        &self,
        registry: &Registry,
        plan: &Plan,
        events: &Sender<Progress>,
    ) -> Result<build::Built, Error> {
        // While a claim lives, nobody removes the layer.
        let _claims: Vec<_> = plan
            .layers
            .iter()
            .map(|layer| self.shared.claims.claim(&layer.digest))
            .collect();
        for layer in &plan.layers {
            let state = if self.shared.layout.blob(&layer.digest).exists() {
                LayerState::AlreadyExists
            } else {
                LayerState::PullingFsLayer
            };
            let _ = events
                .send(Progress::Layer {
                    id: layer.digest.short(),
                    state,
                })
                .await;
        }
        let count = plan.layers.len();
        let (ready, mut unpacking) =
            build::start(&self.shared, plan.id, count, Words::Pull, events.clone());
        let fetching = async {
            let parallel = self.shared.options.parallel_layers.max(1);
            // Not a mapped stream: its closure would have to be good for any lifetime, and the pull could not be spawned.
            let fetches: Vec<_> = plan
                .layers
                .iter()
                .map(|layer| self.fetch_layer(registry, layer, events))
                .collect();
            let mut fetched = stream::iter(fetches).buffered(parallel);
            while let Some(layer) = fetched.try_next().await? {
                if ready.send(layer).await.is_err() {
                    // The thread has failed; its own error is the one to tell.
                    break;
                }
            }
            drop(ready);
            Ok(())
        };
        tokio::select! {
            fetched = fetching => {
                let unpacked = build::join(unpacking).await;
                fetched.and(unpacked)
            }
            unpacked = &mut unpacking => build::joined(unpacked),
        }
    }

    async fn fetch_layer(
        &self,
        registry: &Registry,
        layer: &LayerRecord,
        events: &Sender<Progress>,
    ) -> Result<Ready, Error> {
        let claim = self.shared.claims.claim(&layer.digest);
        let _exclusive = claim.lock().await;
        let path = self.shared.layout.blob(&layer.digest);
        if let Ok(file) = File::open(&path) {
            // What lay on the disk for a while is hashed again.
            return ready(file, layer, None, None);
        }
        let layout = self.shared.layout.clone();
        let file = blocking(move || layout.temporary()).await?;
        let writer = file.reopen().map_err(Error::io("opening a layer's file"))?;
        let short_id = layer.digest.short();
        let fetch = Fetch {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            short_id: short_id.clone(),
            events: events.clone(),
        };
        registry.fetch_blob(&fetch, writer).await?;
        let reader = file.reopen().map_err(Error::io("opening a layer's file"))?;
        if self.shared.options.keep_layers {
            let layout = self.shared.layout.clone();
            blocking(move || layout.keep(file, &path)).await?;
        }
        ready(reader, layer, Some(layer.digest), Some(short_id))
    }
}

fn ready(
    file: File,
    layer: &LayerRecord,
    verified: Option<Digest>,
    short_id: Option<String>,
) -> Result<Ready, Error> {
    let (size_bytes, diff_id) = (layer.size_bytes, layer.diff_id);
    Ok(Ready {
        layer: LayerFile {
            file,
            size_bytes,
            diff_id,
            verified,
        },
        short_id,
    })
}
