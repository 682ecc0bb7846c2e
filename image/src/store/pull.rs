//! Pulling: resolve the reference, fetch the layers side by side, unpack them in order as they come.
//!
//! Nobody waits for another's network: pulls of one image at once each fetch it, and the first that is done is kept.

use std::{collections::BTreeSet, fs::File};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tempfile::TempPath;
use tokio::sync::mpsc::{self, Sender};

use super::{
    Store, StoreOptions, WAITING_EVENTS,
    build::{self, Building, Plan, Ready, Words, blocking},
    claims::Claim,
    record::{Held, LayerRecord},
    remove,
};
use crate::{
    Credentials, Digest, Error, ImageId, ImageRef, LayerState, Progress, Pulled,
    registry::{Fetch, Registry, Resolved},
    unpack::LayerFile,
};

/// Layers that wait for being unpacked, opened; the others wait for them in their downloads.
const WAITING_LAYERS: usize = 2;

impl Store {
    /// Pulls for linux/amd64. `progress` hears what docker would show. The bytes of images that the caller has `shown`
    /// to be able to read aren't fetched again; all others are, and hashed, even where the store has them.
    ///
    /// Dropping the future gives up, and leaves nothing.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        auth: &Credentials,
        shown: &BTreeSet<ImageId>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Pulled, Error> {
        let (events, receiver) = mpsc::channel(WAITING_EVENTS);
        build::relay(
            self.pull_telling(reference, auth, shown, events),
            receiver,
            progress,
        )
        .await
    }

    /// The tags of a repository (its reference's own tag doesn't matter), in the registry's order.
    pub async fn tags(
        &self,
        repository: &ImageRef,
        auth: &Credentials,
    ) -> Result<Vec<String>, Error> {
        self.registry(repository, auth)?.tags().await
    }

    /// Asks a registry (`host[:port]`) whether it takes these credentials; keeps nothing.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<(), Error> {
        // The repository matters to token services only, which give a token for one that may not exist.
        let reference: ImageRef = format!("{registry}/login").parse()?;
        self.registry(&reference, credentials)?.login().await
    }

    fn registry(&self, reference: &ImageRef, auth: &Credentials) -> Result<Registry, Error> {
        let StoreOptions {
            insecure_registries,
            dns_servers,
            ..
        } = &self.shared.options;
        Registry::connect(reference, auth, insecure_registries, dns_servers)
    }

    async fn pull_telling(
        &self,
        reference: &ImageRef,
        auth: &Credentials,
        shown: &BTreeSet<ImageId>,
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

        let registry = self.registry(reference, auth)?;
        let resolved = registry.resolve().await?;
        let id = ImageId::from(resolved.config);
        let already_present = shown.contains(&id) && self.shared.held(&id).is_some();
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
            self.fetch(&registry, &resolved, reference, shown, &events)
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
            id,
            digest: resolved.digest,
            already_present,
        })
    }

    async fn fetch(
        &self,
        registry: &Registry,
        resolved: &Resolved,
        reference: &ImageRef,
        shown: &BTreeSet<ImageId>,
        events: &Sender<Progress>,
    ) -> Result<(), Error> {
        let config_json = registry.config(resolved).await?;
        let plan = plan(config_json, resolved, reference)?;
        let source = Source {
            store: self,
            registry,
            readable: self.shared.layers_of(shown),
            events,
        };
        let claim = self.shared.claims.claim(plan.id.digest());
        // While a claim lives, nobody removes the layer.
        let claims: Vec<Claim> = plan
            .layers
            .iter()
            .map(|layer| self.shared.claims.claim(&layer.digest))
            .collect();
        if let Some(held) = self.shared.held(&plan.id) {
            source.prove(&plan, &held).await?;
            let _whole = claim.lock().await;
            // Whoever had it may have removed it meanwhile.
            return match self.shared.held(&plan.id) {
                Some(_) => Ok(()),
                None => Err(Error::NoSuchImage {
                    id: plan.id.to_string(),
                }),
            };
        }
        let (built, fetched) = source.build(&plan).await?;
        let _committing = claim.lock().await;
        if self.shared.held(&plan.id).is_some() {
            return Ok(());
        }
        let digests: Vec<Digest> = plan.layers.iter().map(|layer| layer.digest).collect();
        let shared = self.shared.clone();
        let work = move || {
            for (digest, file) in &fetched {
                shared.layout.keep_copy(file, &shared.layout.blob(digest))?;
            }
            build::commit(&shared, plan, built)
        };
        let committed = self.shared.pool.run(work).await;
        drop(claims);
        if committed.is_err() {
            let shared = self.shared.clone();
            blocking(move || {
                remove::drop_unneeded(&shared, &digests);
                Ok(())
            })
            .await?;
        }
        committed
    }
}

fn plan(config_json: Vec<u8>, resolved: &Resolved, reference: &ImageRef) -> Result<Plan, Error> {
    let name = reference.familiar();
    let (id, config) = build::read_config(&config_json, &name)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != resolved.layers.len() {
        return Err(Error::malformed(
            format!("image {name}"),
            format!(
                "its config has {} layers and its manifest {}",
                diff_ids.len(),
                resolved.layers.len()
            ),
        ));
    }
    let layers = resolved
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| LayerRecord {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            diff_id: *diff_id,
            // Unpacking will see it, or fail.
            seen: true,
        })
        .collect();
    Ok(Plan {
        id,
        config,
        config_json,
        manifest_json: resolved.manifest_json.clone(),
        layers,
    })
}

/// Where one pull's layers come from.
struct Source<'a> {
    store: &'a Store,
    registry: &'a Registry,
    /// Layers that the caller has shown before that it can read, by both of their digests.
    readable: BTreeSet<Digest>,
    events: &'a Sender<Progress>,
}

/// A layer that is ready, and its file if it was fetched: it is to be kept, or vanishes.
struct Fetched {
    ready: Ready,
    file: Option<(Digest, TempPath)>,
}

/// Files that were fetched, to be kept as blobs.
type Files = Vec<(Digest, TempPath)>;

impl Source<'_> {
    async fn tell(&self, layer: &LayerRecord, state: LayerState) {
        let id = layer.digest.short();
        let _ = self.events.send(Progress::Layer { id, state }).await;
    }

    /// The store has the image, from somebody else: the registry must give all of it to this caller too. That a digest
    /// is named proves nothing; that its bytes come does.
    async fn prove(&self, plan: &Plan, held: &Held) -> Result<(), Error> {
        for layer in &plan.layers {
            let state = if self.readable.contains(&layer.diff_id) {
                LayerState::AlreadyExists
            } else {
                LayerState::PullingFsLayer
            };
            self.tell(layer, state).await;
        }
        let proofs: Vec<_> = plan
            .layers
            .iter()
            .zip(&held.record.layers)
            .filter(|(layer, _)| !self.readable.contains(&layer.diff_id))
            .map(|(layer, known)| self.prove_layer(layer, known))
            .collect();
        let mut proofs = stream::iter(proofs).buffered(self.parallel());
        while let Some(()) = proofs.try_next().await? {}
        Ok(())
    }

    async fn prove_layer(&self, layer: &LayerRecord, known: &LayerRecord) -> Result<(), Error> {
        let (_path, file) = self.fetch_file(layer).await?;
        // Compressed bytes that were found to be this layer when it was unpacked needn't be unpacked again.
        if layer.digest != known.digest || !known.seen {
            let layer = layer_file(file, layer, Some(layer.digest));
            build::verify(&self.store.shared, layer, self.events.clone()).await?;
        }
        self.tell(layer, LayerState::PullComplete).await;
        Ok(())
    }

    async fn build(&self, plan: &Plan) -> Result<(build::Built, Files), Error> {
        let shared = &self.store.shared;
        for layer in &plan.layers {
            let state = if self.has(layer) {
                LayerState::AlreadyExists
            } else {
                LayerState::PullingFsLayer
            };
            self.tell(layer, state).await;
        }
        let (sender, mut receiver) = mpsc::channel(WAITING_LAYERS);
        let fetching = async move {
            // Not a mapped stream: its closure would have to be good for any lifetime, and the pull could not be spawned.
            let fetches: Vec<_> = plan
                .layers
                .iter()
                .map(|layer| self.fetch_layer(layer))
                .collect();
            let mut fetched = stream::iter(fetches).buffered(self.parallel());
            while let Some(layer) = fetched.try_next().await? {
                if sender.send(layer).await.is_err() {
                    // Unpacking has failed; its own error is the one to tell.
                    break;
                }
            }
            Ok(())
        };
        let unpacking = async {
            let mut building = Building::begin(shared, Words::Pull, self.events.clone())?;
            let mut files = Files::new();
            for _ in &plan.layers {
                let Fetched { ready, file } = receiver.recv().await.ok_or(Error::Cancelled)?;
                building = building.add(shared, ready).await?;
                if shared.options.keep_layers {
                    files.extend(file);
                }
            }
            Ok((building.finish(shared, plan.id).await?, files))
        };
        let ((), built) = tokio::try_join!(fetching, unpacking)?;
        Ok(built)
    }

    fn parallel(&self) -> usize {
        self.store.shared.options.parallel_layers.max(1)
    }

    /// Whether the layer's bytes are in the store for this caller.
    fn has(&self, layer: &LayerRecord) -> bool {
        self.readable.contains(&layer.digest)
            && self.store.shared.layout.blob(&layer.digest).exists()
    }

    async fn fetch_layer(&self, layer: &LayerRecord) -> Result<Fetched, Error> {
        if self.has(layer)
            && let Ok(file) = File::open(self.store.shared.layout.blob(&layer.digest))
        {
            // What lay on the disk for a while is hashed again.
            let layer = layer_file(file, layer, None);
            let short_id = None;
            let ready = Ready { layer, short_id };
            return Ok(Fetched { ready, file: None });
        }
        let (path, file) = self.fetch_file(layer).await?;
        let ready = Ready {
            layer: layer_file(file, layer, Some(layer.digest)),
            short_id: Some(layer.digest.short()),
        };
        let file = Some((layer.digest, path));
        Ok(Fetched { ready, file })
    }

    /// Fetches a layer, verified, into a file that vanishes with its path.
    async fn fetch_file(&self, layer: &LayerRecord) -> Result<(TempPath, File), Error> {
        let layout = self.store.shared.layout.clone();
        let file = blocking(move || layout.temporary()).await?;
        let writer = file.reopen().map_err(Error::io("opening a layer's file"))?;
        let fetch = Fetch {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            short_id: layer.digest.short(),
            events: self.events.clone(),
        };
        self.registry.fetch_blob(&fetch, writer).await?;
        let reader = file.reopen().map_err(Error::io("opening a layer's file"))?;
        Ok((file.into_temp_path(), reader))
    }
}

fn layer_file(file: File, layer: &LayerRecord, verified: Option<Digest>) -> LayerFile {
    LayerFile {
        file,
        size_bytes: layer.size_bytes,
        diff_id: layer.diff_id,
        verified,
    }
}
