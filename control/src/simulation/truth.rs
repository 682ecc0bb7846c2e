//! What is so, whatever any node believes: which process runs where, what was applied, who led; and what of it must never be.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::hooks::true_ns;
use crate::controller::Watchers;
use crate::raft::Observer;
use crate::state::{Change, ContainerId, NodeId, Run, State};

/// The last things that have happened, for whoever reads of a failure.
const REMEMBERED: usize = 400;

/// See the module's page.
#[derive(Default)]
pub struct Truth {
    shared: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of everything that has happened, in order.
    trace: DefaultHasher,
    events: u64,
    last: std::collections::VecDeque<String>,
    /// Everything that has happened is printed.
    tells: bool,
    /// What must never be, and has been.
    violation: Option<String>,
    running: BTreeMap<ContainerId, (NodeId, Run)>,
    /// What each revision was, wherever it was applied.
    revisions: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, NodeId>,
}

impl Known {
    fn note(&mut self, what: &str, of: &dyn Debug) {
        let line = format!("{:>12} {what} {of:?}", true_ns() / 1000);
        line.hash(&mut self.trace);
        self.events += 1;
        if self.tells {
            eprintln!("{line}");
        }
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn violate(&mut self, what: String) {
        self.note("VIOLATION", &what);
        self.violation.get_or_insert(what);
    }
}

impl Truth {
    /// Before anything. `tells`: everything is printed as it happens.
    pub fn new(tells: bool) -> Arc<Self> {
        let truth = Self::default();
        truth.known().tells = tells;
        Arc::new(truth)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has happened.
    pub fn note(&self, what: &str, of: &dyn Debug) {
        self.known().note(what, of);
    }

    /// Something has happened that must not.
    pub fn violate(&self, what: impl Into<String>) {
        self.known().violate(what.into());
    }

    /// What has happened that must not, first of all.
    pub fn violation(&self) -> Option<String> {
        self.known().violation.clone()
    }

    /// A number that is the same where everything that has happened is, and how much that was.
    pub fn trace(&self) -> (u64, u64) {
        let known = self.known();
        (known.trace.finish(), known.events)
    }

    /// The last things that have happened.
    pub fn last(&self) -> Vec<String> {
        self.known().last.iter().cloned().collect()
    }

    /// A process begins.
    pub fn begins(&self, node: NodeId, id: ContainerId, run: Run) {
        let mut known = self.known();
        known.note("begins", &(node, id.short(), run));
        if let Some((other, its)) = known.running.insert(id, (node, run)) {
            known.violate(format!(
                "{} runs twice: on {node} ({run:?}) and on {other} ({its:?})",
                id.short()
            ));
        }
    }

    /// A process ends.
    pub fn ends(&self, node: NodeId, id: ContainerId, run: Run, why: &str) {
        let mut known = self.known();
        known.note("ends", &(node, id.short(), run, why));
        if known.running.get(&id) == Some(&(node, run)) {
            known.running.remove(&id);
        }
    }

    /// Where a container's process runs.
    pub fn runs(&self, id: &ContainerId) -> Option<(NodeId, Run)> {
        self.known().running.get(id).copied()
    }

    /// All that runs.
    pub fn all(&self) -> BTreeMap<ContainerId, (NodeId, Run)> {
        self.known().running.clone()
    }

    /// A node takes another, or itself, to lead.
    pub fn leads(&self, term: u64, leader: NodeId) {
        let mut known = self.known();
        let before = *known.leaders.entry(term).or_insert(leader);
        if before != leader {
            known.violate(format!("{before} and {leader} lead in term {term}"));
        }
    }

    fn applied(&self, node: NodeId, revision: u64, changes: &[Change]) {
        let mut hasher = DefaultHasher::new();
        format!("{changes:?}").hash(&mut hasher);
        let hash = hasher.finish();
        let mut known = self.known();
        if node.0 == 0 || known.tells {
            known.note("applies", &(node, revision, hash));
        }
        let before = *known.revisions.entry(revision).or_insert(hash);
        if before != hash {
            let what =
                format!("revision {revision} is another on {node} than elsewhere: {changes:?}");
            known.violate(what);
        }
    }
}

/// Sees what a node applies, and passes it on.
pub struct Witness {
    /// Who is to know.
    pub truth: Arc<Truth>,
    /// Whose replica it is.
    pub node: NodeId,
    /// Who is to hear of it.
    pub watchers: Arc<Watchers>,
}

impl Observer for Witness {
    fn applied(&self, state: &State, changes: &[Change]) {
        self.truth.applied(self.node, state.revision, changes);
        self.watchers.applied(state, changes);
    }

    fn replaced(&self, state: &State) {
        self.watchers.replaced(state);
    }
}
