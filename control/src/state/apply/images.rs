//! Which tenant has which images, and what it calls them.

use super::Result;
use crate::state::{Event, EventKind, ImageRecord, Outcome, Refusal, State, TagRecord, Tenant};

/// How an image came to a tenant.
pub(super) struct Arrival<'a> {
    pub names: &'a [String],
    pub repo_digest: Option<&'a str>,
    pub action: &'a str,
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
        if arrival.action == "tag" && !self.images.contains_key(&key) {
            return Err(Refusal::NoSuchImage(image.to_owned()));
        }
        let record = self
            .images
            .entry((tenant.clone(), image.to_owned()))
            .or_insert_with(|| ImageRecord {
                repo_digests: Vec::new(),
                arrived_ns: at_ns,
            });
        if let Some(digest) = arrival.repo_digest
            && !record.repo_digests.iter().any(|known| known == digest)
        {
            record.repo_digests.push(digest.to_owned());
        }
        for name in arrival.names {
            self.tags.insert(
                (tenant.clone(), name.clone()),
                TagRecord {
                    image: image.to_owned(),
                },
            );
            // Docker calls a pulled image by its name and every other by its id.
            let id = if arrival.action == "pull" {
                name
            } else {
                image
            };
            events.push(event(tenant, id, arrival.action, at_ns).with("name", name));
        }
        if arrival.names.is_empty() {
            events.push(event(tenant, image, arrival.action, at_ns).with("name", image));
        }
        Ok(Outcome::Done)
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
        let record = self
            .tags
            .remove(&(tenant.clone(), name.to_owned()))
            .ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        events.push(event(tenant, &record.image, "untag", at_ns).with("name", name));
        Ok(Outcome::Done)
    }

    fn forget_digest(
        &mut self,
        tenant: &Tenant,
        at_ns: u64,
        name: &str,
        events: &mut Vec<Event>,
    ) -> Result {
        let known = self.images.iter_mut().find(|((owner, _), record)| {
            owner == tenant && record.repo_digests.iter().any(|digest| digest == name)
        });
        let ((_, image), record) = known.ok_or_else(|| Refusal::NoSuchImage(name.to_owned()))?;
        record.repo_digests.retain(|digest| digest != name);
        events.push(event(tenant, image, "untag", at_ns).with("name", name));
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
            .values()
            .find(|c| c.tenant == *tenant && c.image == image && (c.is_up() || !force));
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
            events.push(event(tenant, image, "untag", at_ns).with("name", &name));
            self.tags.remove(&(tenant.clone(), name));
        }
        self.images.remove(&key);
        events.push(event(tenant, image, "delete", at_ns).with("name", image));
        Ok(Outcome::Done)
    }
}

fn event(tenant: &Tenant, id: &str, action: &str, at_ns: u64) -> Event {
    Event {
        revision: 0,
        tenant: tenant.clone(),
        kind: EventKind::Image,
        action: action.into(),
        id: id.into(),
        attributes: Default::default(),
        at_ns,
    }
}
