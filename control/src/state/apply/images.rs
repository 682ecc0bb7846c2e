//! Which tenant has which images, and what it calls them.

use super::{Changes, Result};
use crate::state::{
    ImageRecord, NodeId, Object, Outcome, Refusal, State, Stored, TagRecord, Telling, Tenant, What,
};

/// Images of one tenant. The state is held in memory, and what a tenant sets must not fill it.
const MAX_IMAGES: u32 = 10_000;

/// Names of one tenant's images.
const MAX_NAMES: u32 = 10_000;

/// Digests under which a tenant knows one image: one for each repository that it was pulled from.
const MAX_DIGESTS: u32 = 100;

/// How an image came to a tenant.
pub(super) struct Arrival<'a> {
    pub names: &'a [String],
    pub repo_digest: Option<&'a str>,
    pub telling: Telling,
    pub stored: &'a Stored,
}

impl State {
    pub(super) fn add_image(
        &mut self,
        tenant: &Tenant,
        image: &str,
        arrival: Arrival<'_>,
        changes: &mut Changes,
    ) -> Result {
        // Another name for an image that the tenant has: it may have removed it since it was looked up.
        let key = (tenant.clone(), image.to_owned());
        if arrival.telling == Telling::Tag && !self.images.contains_key(&key) {
            return Err(Refusal::NoSuchImage(image.to_owned()));
        }
        self.check_room(tenant, &key, &arrival)?;
        let mut record = self.images.get(&key).cloned().unwrap_or(ImageRecord {
            repo_digests: Vec::new(),
            arrived_ns: changes.at_ns,
        });
        if let Some(digest) = arrival.repo_digest
            && !record.repo_digests.iter().any(|known| known == digest)
        {
            record.repo_digests.push(digest.to_owned());
        }
        self.images.insert_mut(key, record);
        for name in arrival.names {
            self.tags.insert_mut(
                (tenant.clone(), name.clone()),
                TagRecord {
                    image: image.to_owned(),
                },
            );
            // Docker calls a pulled image by its name and every other by its id.
            let id = match arrival.telling {
                Telling::Pull => name,
                Telling::Load | Telling::Tag => image,
            };
            changes.tell(object(tenant, id, name), arrival.telling.what());
        }
        if arrival.names.is_empty() {
            changes.tell(object(tenant, image, image), arrival.telling.what());
        }
        let Stored {
            contents,
            bytes,
            nodes,
        } = arrival.stored;
        for node in nodes {
            self.image_on(*node, image, contents, *bytes, true);
        }
        Ok(Outcome::Done)
    }

    fn check_room(
        &self,
        tenant: &Tenant,
        key: &(Tenant, String),
        arrival: &Arrival<'_>,
    ) -> std::result::Result<(), Refusal> {
        let room = |what: &str, count: usize, limit: u32| {
            if count > limit as usize {
                let what = what.to_owned();
                return Err(Refusal::TooMany { what, limit });
            }
            Ok(())
        };
        let least = (tenant.clone(), String::new());
        match self.images.get(key) {
            None => {
                let own = self.images.from(&least);
                let count = own.take_while(|((owner, _), _)| owner == tenant).count();
                room("images", count + 1, MAX_IMAGES)?;
            }
            Some(record) => {
                let known = |digest: &&str| record.repo_digests.iter().any(|one| one == digest);
                let new = arrival.repo_digest.filter(|digest| !known(digest));
                let count = record.repo_digests.len() + new.iter().len();
                room("digests of one image", count, MAX_DIGESTS)?;
            }
        }
        let known = |name: &&String| self.tags.contains_key(&(tenant.clone(), (*name).clone()));
        let new = arrival.names.iter().filter(|name| !known(name)).count();
        if new == 0 {
            return Ok(());
        }
        let own = self.tags.from(&least);
        let count = own.take_while(|((owner, _), _)| owner == tenant).count();
        room("names of images", count + new, MAX_NAMES)
    }

    pub(super) fn untag(&mut self, tenant: &Tenant, name: &str, changes: &mut Changes) -> Result {
        if name.contains('@') {
            return self.forget_digest(tenant, name, changes);
        }
        let key = (tenant.clone(), name.to_owned());
        let record = self
            .tags
            .get(&key)
            .ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        changes.tell(object(tenant, &record.image, name), What::Untagged);
        self.tags.remove_mut(&key);
        Ok(Outcome::Done)
    }

    fn forget_digest(&mut self, tenant: &Tenant, name: &str, changes: &mut Changes) -> Result {
        let known = self.images.iter().find(|((owner, _), record)| {
            owner == tenant && record.repo_digests.iter().any(|digest| digest == name)
        });
        let (key, record) = known.ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        changes.tell(object(tenant, &key.1, name), What::Untagged);
        let (key, mut record) = (key.clone(), record.clone());
        record.repo_digests.retain(|digest| digest != name);
        self.images.insert_mut(key, record);
        Ok(Outcome::Done)
    }

    pub(super) fn remove_image(
        &mut self,
        tenant: &Tenant,
        image: &str,
        force: bool,
        changes: &mut Changes,
    ) -> Result {
        let key = (tenant.clone(), image.to_owned());
        if !self.images.contains_key(&key) {
            return Err(Refusal::NoSuchImage(image.to_owned()));
        }
        let in_the_way = self
            .containers
            .of_image(image)
            .find(|c| c.tenant == *tenant && (c.is_up() || !force));
        if let Some(container) = in_the_way {
            return Err(Refusal::ImageInUse {
                image: image.to_owned(),
                container: container.id.short(),
            });
        }
        let names: Vec<String> = self
            .tags
            .iter()
            .filter(|((owner, _), record)| owner == tenant && record.image == image)
            .map(|((_, name), _)| name.clone())
            .collect();
        for name in names {
            changes.tell(object(tenant, image, &name), What::Untagged);
            self.tags.remove_mut(&(tenant.clone(), name));
        }
        self.images.remove_mut(&key);
        self.forget_bytes(image);
        changes.tell(object(tenant, image, image), What::Removed);
        Ok(Outcome::Done)
    }

    /// A member has an image's bytes, or has them no more.
    pub(super) fn image_on(
        &mut self,
        node: NodeId,
        image: &str,
        contents: &[u8],
        bytes: u64,
        present: bool,
    ) -> Outcome {
        let before = self.stored.get(image).cloned().unwrap_or_default();
        let mut stored = before.clone();
        if present && self.nodes.contains_key(&node) {
            // Who is first is believed, for others have got it from there, or made the same of the same layers. What somebody of another
            // version has made instead can't be checked by these, and is of use to nobody else.
            if stored.nodes.is_empty() {
                (stored.contents, stored.bytes) = (contents.to_vec(), bytes);
            }
            if stored.contents == contents {
                stored.nodes.insert(node);
            }
        } else if !present {
            stored.nodes.remove(&node);
        }
        if stored == before {
            return Outcome::Unchanged;
        }
        self.stored.insert_mut(image.to_owned(), stored);
        self.forget_bytes(image);
        Outcome::Done
    }

    /// What is known of bytes that no node has goes when nobody needs them.
    pub(super) fn forget_bytes(&mut self, image: &str) {
        let is_nowhere = |stored: &Stored| stored.nodes.is_empty();
        if self.stored.get(image).is_some_and(is_nowhere) && !self.is_needed(image) {
            self.stored.remove_mut(image);
        }
    }

    /// Some tenant has an image, or a container was made of it.
    pub fn is_needed(&self, image: &str) -> bool {
        self.containers.of_image(image).next().is_some()
            || self.images.keys().any(|(_, id)| id == image)
    }
}

impl Telling {
    fn what(self) -> What {
        match self {
            Self::Pull => What::Pulled,
            Self::Load => What::Loaded,
            Self::Tag => What::Tagged,
        }
    }
}

fn object(tenant: &Tenant, id: &str, name: &str) -> Object {
    Object::Image {
        tenant: tenant.clone(),
        id: id.to_owned(),
        name: name.to_owned(),
    }
}
