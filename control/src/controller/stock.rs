//! What this node's store has: told to the others, and cleared of what nobody needs any more.
//!
//! Level-triggered, as the keeper of containers is: whatever has woken it, it compares the store with the state and makes both agree. A
//! node that is alone tells nobody; who removes an image there clears the store at once.
//!
//! | the state | the store | so |
//! |---|---|---|
//! | somebody needs it, this node is no holder | has it | tell |
//! | this node is a holder | hasn't it | tell |
//! | nobody needs it | has it | remove, then tell |
//! | what may be started elsewhere needs it, too few nodes have it, and this is the next | hasn't it | bring, then tell |

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::{Controller, Error};
use crate::agent::keeper::Images;
use crate::clock::now_ns;
use crate::cluster::moves;
use crate::raft::Observer;
use crate::state::{Change, Command, Node, NodeId, Object, Outcome, Report, State, Stored, What};

/// Before another try at what couldn't be done: there was no leader, or something arrived that nobody has yet. Nobody waits for it.
const AGAIN: Duration = Duration::from_secs(2);

/// Nodes that are to have an image that something needs which may be started elsewhere: one may die.
const COPIES: usize = 2;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Whether the others know what is here.
    Own,
    /// Whether somebody still needs this image.
    Image(String),
    /// Whether somebody needs each image that is here.
    All,
}

/// What has yet to be looked at: images that nobody may need any more, or all.
#[derive(Default)]
struct Pending {
    images: BTreeSet<String>,
    all: bool,
}

impl Pending {
    fn note(&mut self, look: Look) {
        match look {
            Look::Own => {}
            Look::Image(image) => drop(self.images.insert(image)),
            Look::All => self.all = true,
        }
    }

    fn is_empty(&self) -> bool {
        self.images.is_empty() && !self.all
    }
}

/// Tells a stock what to look at. The state machine's observer: it must not wait.
#[derive(Default)]
pub struct Waker {
    // Held for an insertion or a move.
    pending: Mutex<Pending>,
    woken: Notify,
}

impl Waker {
    /// Something may have to be done.
    pub(super) fn look(&self, look: Look) {
        self.pending().note(look);
        self.woken.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Waker {
    fn applied(&self, state: &State, changes: &[Change]) {
        if is_alone(state) {
            return;
        }
        for change in changes {
            match (&change.object, &change.what) {
                (Object::Image { id, .. }, What::Removed) => self.look(Look::Image(id.clone())),
                (Object::Container(it), What::Removed) => self.look(Look::Image(it.image.clone())),
                (Object::Node(_), _) => self.look(Look::Own),
                (Object::Container(it), What::Wanted | What::Started | What::Moved)
                    if moves::may_move(it) && is_rare(state, &it.image) =>
                {
                    self.look(Look::Own);
                }
                _ => {}
            }
        }
    }

    fn replaced(&self, _: &State) {
        self.look(Look::All);
    }
}

/// Fewer nodes have it than [`COPIES`].
fn is_rare(state: &State, image: &str) -> bool {
    let stored = state.stored.get(image);
    stored.is_some_and(|stored| stored.nodes.len() < COPIES)
}

fn is_alone(state: &State) -> bool {
    state.nodes.size() <= 1
}

/// The images of which this node is to bring a copy: what may be started elsewhere needs them, and too few nodes that are there have them. All
/// nodes come to the same without asking each other: of an image, those are next that have it not and whose number is the least.
fn spares(state: &State, own: NodeId) -> Vec<String> {
    let there = |node: &&Node| node.takes_pods();
    let needed = |image: &str| {
        let mut containers = state.containers.of_image(image);
        containers.any(|it| it.wanted.up && moves::may_move(it))
    };
    let mut spares = Vec::new();
    for (image, stored) in state.stored.iter() {
        let holders = stored.nodes.iter().filter(|node| state.is_ready(**node));
        let lacking = COPIES.saturating_sub(holders.count());
        if lacking == 0 || stored.nodes.contains(&own) || !needed(image) {
            continue;
        }
        let others = state.nodes.values().filter(there).map(|node| node.id);
        let mut next: Vec<(u64, NodeId)> = others
            .filter(|node| !stored.nodes.contains(node))
            .map(|node| (rank(image, node), node))
            .collect();
        next.sort_unstable();
        if next.iter().take(lacking).any(|(_, node)| *node == own) {
            spares.push(image.clone());
        }
    }
    spares
}

/// The same everywhere, and another for each image, so that no node has all copies.
fn rank(image: &str, node: NodeId) -> u64 {
    let digest = Sha256::new()
        .chain_update(image)
        .chain_update(node.0.to_le_bytes())
        .finalize();
    u64::from_le_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
}

/// See the module's page.
pub struct Stock {
    controller: Controller,
    waker: Arc<Waker>,
    pending: Pending,
}

impl Stock {
    pub(super) fn new(controller: Controller) -> (Self, Arc<Waker>) {
        let waker = Arc::<Waker>::default();
        waker.look(Look::All);
        let stock = Self {
            controller,
            waker: Arc::clone(&waker),
            pending: Pending::default(),
        };
        (stock, waker)
    }

    /// Sees to everything, for ever. It may be begun before the state is as the others have it: it waits for that.
    pub async fn run(mut self) {
        loop {
            {
                let mut more = self.waker.pending();
                self.pending.images.append(&mut more.images);
                self.pending.all |= std::mem::take(&mut more.all);
            }
            let done = self.settle().await;
            if let Err(error) = &done {
                tracing::debug!(%error, "what this node has of images is told later");
            }
            let woken = self.waker.woken.notified();
            match done.is_ok() && self.pending.is_empty() {
                true => woken.await,
                false => drop(tokio::time::timeout(AGAIN, woken).await),
            }
        }
    }

    /// Does what can be done now; the rest is still to be looked at.
    async fn settle(&mut self) -> Result<(), Error> {
        if is_alone(&self.controller.state()) {
            self.pending = Pending::default();
            return Ok(());
        }
        // What has been acknowledged to somebody elsewhere is known here, too: nobody needs it whom the state doesn't name.
        self.controller.inner.replica.barrier().await?;
        while let Some(image) = self.pending.images.first().cloned() {
            if let Err(error) = self.controller.collect_image(&image).await {
                tracing::warn!(image, %error, "an image that nobody needs stays until the next start");
            }
            self.pending.images.remove(&image);
        }
        // What has arrived, and is committed as somebody's in a moment, looks as if it were nobody's.
        if self.pending.all && !self.controller.inner.images.is_arriving() {
            self.controller.collect_unowned_images().await?;
            self.pending.all = false;
        }
        while self.tell().await? {}
        self.bring_spares().await
    }

    /// Has a copy here of what would be missed if its only holder died.
    async fn bring_spares(&self) -> Result<(), Error> {
        let spares = spares(
            &self.controller.state(),
            self.controller.inner.replica.node(),
        );
        for image in spares {
            self.controller.bring(&image).await?;
        }
        Ok(())
    }

    /// Returns whether something was told that the state took for news.
    async fn tell(&self) -> Result<bool, Error> {
        let inner = &self.controller.inner;
        let (node, store) = (inner.replica.node(), &inner.images.store);
        let told: Vec<String> = {
            let state = self.controller.state();
            let told = state.stored.iter();
            let told = told.filter(|(_, stored)| stored.nodes.contains(&node));
            told.map(|(image, _)| image.clone()).collect()
        };
        let mut is_news = false;
        // In this order: what is told as present is in the store before.
        for image in told {
            if self.controller.own_image(&image).await?.is_none() {
                is_news |= self.report(image, Stored::default(), false).await?;
            }
        }
        for image in store.list().await? {
            let name = image.id.to_string();
            let stored = self.controller.stored(&image.id).await;
            if !stored.nodes.is_empty() && self.is_wanted(&name, &stored) {
                is_news |= self.report(name, stored, true).await?;
            }
        }
        Ok(is_news)
    }

    /// Somebody needs it, and no node has other bytes of it, beside which these are of no use to anybody.
    fn is_wanted(&self, image: &str, stored: &Stored) -> bool {
        let state = self.controller.state();
        let known = state.stored.get(image);
        let is_same =
            known.is_none_or(|known| known.nodes.is_empty() || known.contents == stored.contents);
        is_same && state.is_needed(image)
    }

    async fn report(&self, image: String, stored: Stored, present: bool) -> Result<bool, Error> {
        let Stored {
            contents, bytes, ..
        } = stored;
        let report = Command::Report {
            node: self.controller.inner.replica.node(),
            at_ns: now_ns(),
            report: Report::Image {
                image,
                contents,
                bytes,
                present,
            },
        };
        Ok(self.controller.propose(report).await? == Outcome::Done)
    }
}
