//! Which tenant has which images, and what it calls them.

use super::Result;
use crate::state::{
    Action, Event, EventKind, ImageRecord, Outcome, Refusal, State, TagRecord, Tenant,
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
    pub action: &'a Action,
}

impl State {
    pub(super) fn add_image(
        &mut self,
        tenant: &Tenant,
        at_ns: u64,
        image: &str,
        arrival: Arrival<'_>,
        events: &mut Vec<Event>,
    ) -> Result {
        // Another name for an image that the tenant has: it may have removed it since it was looked up.
        let key = (tenant.clone(), image.to_owned());
        if *arrival.action == Action::Tag && !self.images.contains_key(&key) {
            return Err(Refusal::NoSuchImage(image.to_owned()));
        }
        self.check_room(tenant, &key, &arrival)?;
        let mut record = self.images.get(&key).cloned().unwrap_or(ImageRecord {
            repo_digests: Vec::new(),
            arrived_ns: at_ns,
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
            let id = if *arrival.action == Action::Pull {
                name
            } else {
                image
            };
            events.push(event(tenant, id, arrival.action.clone(), at_ns).with("name", name));
        }
        if arrival.names.is_empty() {
            events.push(event(tenant, image, arrival.action.clone(), at_ns).with("name", image));
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
        let from = || (tenant.clone(), String::new());
        match self.images.get(key) {
            None => {
                let own = self.images.range(from()..);
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
        let own = self.tags.range(from()..);
        let count = own.take_while(|((owner, _), _)| owner == tenant).count();
        room("names of images", count + new, MAX_NAMES)
    }

    pub(super) fn untag(
        &mut self,
        tenant: &Tenant,
        at_ns: u64,
        name: &str,
        events: &mut Vec<Event>,
    ) -> Result {
        if name.contains('@') {
            return self.forget_digest(tenant, at_ns, name, events);
        }
        let key = (tenant.clone(), name.to_owned());
        let record = self
            .tags
            .get(&key)
            .ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        events.push(event(tenant, &record.image, Action::Untag, at_ns).with("name", name));
        self.tags.remove_mut(&key);
        Ok(Outcome::Done)
    }

    fn forget_digest(
        &mut self,
        tenant: &Tenant,
        at_ns: u64,
        name: &str,
        events: &mut Vec<Event>,
    ) -> Result {
        let known = self.images.iter().find(|((owner, _), record)| {
            owner == tenant && record.repo_digests.iter().any(|digest| digest == name)
        });
        let (key, record) = known.ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        events.push(event(tenant, &key.1, Action::Untag, at_ns).with("name", name));
        let (key, mut record) = (key.clone(), record.clone());
        record.repo_digests.retain(|digest| digest != name);
        self.images.insert_mut(key, record);
        Ok(Outcome::Done)
    }

    pub(super) fn remove_image(
        &mut self,
        tenant: &Tenant,
        at_ns: u64,
        image: &str,
        force: bool,
        events: &mut Vec<Event>,
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
                container: container.id.short().to_owned(),
            });
        }
        let names: Vec<String> = self
            .tags
            .iter()
            .filter(|((owner, _), record)| owner == tenant && record.image == image)
            .map(|((_, name), _)| name.clone())
            .collect();
        for name in names {
            events.push(event(tenant, image, Action::Untag, at_ns).with("name", &name));
            self.tags.remove_mut(&(tenant.clone(), name));
        }
        self.images.remove_mut(&key);
        events.push(event(tenant, image, Action::Delete, at_ns).with("name", image));
        Ok(Outcome::Done)
    }
}

fn event(tenant: &Tenant, id: &str, action: Action, at_ns: u64) -> Event {
    Event {
        revision: 0,
        tenant: tenant.clone(),
        kind: EventKind::Image,
        action,
        id: id.into(),
        attributes: Default::default(),
        at_ns,
    }
}
