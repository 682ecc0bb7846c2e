//! The scheduler over the replicated state: where a new pod goes, and where those go that need another node.
//!
//! Every node has one, kept up from the state: it hears which pods and nodes have changed, and looks at them when it is next asked, each as
//! it is then. So changes cost it next to nothing while nobody asks, a stranger's thousand changes of one pod cost one look, and whoever
//! asks after a change sees it. What it has decided and what isn't committed yet counts as if it were, until it is looked at again.
//!
//! A node that is alone takes everything, whatever labels and limits say, as a docker host does.
//!
//! Locks: the state's first, then the view's, then the news'. An observer takes the last only, and never waits.

mod view;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::moves::Homeless;
use crate::cluster::steward::{Decided, Placer};
use crate::raft::Observer;
use crate::scheduler::{Cluster, Decision, Request, Wants};
use crate::state::{Change, NewContainer, NodeId, Object, PodId, State};

/// Changes that are remembered until somebody asks. A view that has slept through more is made anew: for 100,000 pods in some tenths of a
/// second.
const NEWS_MAX: usize = 1 << 15;
/// Different things that pods want which are known at a time, so that equal ones are one; tenants choose them, each takes some hundred bytes.
const KINDS_MAX: usize = 1 << 13;
/// Images whose places are known at a time.
const IMAGES_MAX: usize = 1 << 10;

/// Where a new pod is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// There is room.
    On(NodeId),
    /// There will be once others have been evicted, which is the leader's to do; why it is nowhere until then.
    Soon(String),
    /// There is none, and why.
    Nowhere(String),
}

/// See the module's page.
#[derive(Default)]
pub struct Placement {
    news: Mutex<News>,
    view: Mutex<View>,
}

/// What has changed and hasn't been looked at, and the revision that changed it last.
struct News {
    /// All of it.
    all: Option<u64>,
    pods: HashMap<PodId, u64>,
    nodes: HashMap<NodeId, u64>,
}

impl Default for News {
    fn default() -> Self {
        Self {
            all: Some(0),
            pods: HashMap::new(),
            nodes: HashMap::new(),
        }
    }
}

/// The state as the scheduler has it.
#[derive(Default)]
struct View {
    cluster: Cluster,
    kinds: HashSet<Arc<Wants>>,
    /// Who has an image, and its bytes.
    images: HashMap<Arc<str>, (BTreeSet<NodeId>, u64)>,
    /// What the last pass has decided: looked at again before the next, whatever has come of it.
    decided: Vec<PodId>,
    /// Why pods are nowhere, by the revision that changed their containers last, as long as [`Cluster::eased`] is the same: gaps in these
    /// words may have become smaller since, which changes nothing for those who wait.
    nowhere: HashMap<PodId, (u64, Arc<str>)>,
    eased: u64,
}

impl News {
    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match &change.object {
                Object::Container(it) => drop(self.pods.insert(it.pod, change.revision)),
                Object::Node(node) => drop(self.nodes.insert(node.id, change.revision)),
                Object::Image { .. } | Object::Cluster => {}
            }
        }
        if let Some(last) = changes.last()
            && self.pods.len() + self.nodes.len() > NEWS_MAX
        {
            self.forget_for(last.revision);
        }
    }

    fn forget_for(&mut self, revision: u64) {
        self.all = Some(revision);
        self.pods.clear();
        self.nodes.clear();
    }
}

/// What is known by a revision; what is newer stays, for whoever asks with a state that has it.
fn take<K: Copy + Eq + std::hash::Hash>(news: &mut HashMap<K, u64>, revision: u64) -> Vec<K> {
    let known = news.extract_if(|_, changed| *changed <= revision);
    known.map(|(key, _)| key).collect()
}

impl Observer for Placement {
    fn applied(&self, _: &State, changes: &[Change]) {
        self.news().note(changes);
    }

    fn replaced(&self, state: &State) {
        self.news().forget_for(state.revision);
    }
}

impl Placement {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of a state.
    fn view(&self, state: &State) -> MutexGuard<'_, View> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, nodes, pods) = {
            let mut news = self.news();
            let all = news.all.take_if(|at| *at <= state.revision).is_some();
            let nodes = take(&mut news.nodes, state.revision);
            (all, nodes, take(&mut news.pods, state.revision))
        };
        if all {
            view.begin(state);
        } else {
            view.look_at(state, nodes, pods);
        }
        view
    }

    /// Where a new container's pod is to go, from the node `own`. It counts as there until the state is looked at again.
    pub fn place(&self, state: &State, own: NodeId, new: &NewContainer) -> Place {
        if state.nodes.size() <= 1 {
            return Place::On(own);
        }
        let mut view = self.view(state);
        let wants = view.kind(view::wants_of(&new.tenant, &new.image, &new.spec));
        view.find_image(state, &wants.image);
        let request = Request::new(new.id.into(), wants);
        match view.cluster.place(&request) {
            Decision::On(node) => {
                // It was there a moment ago, and nobody else has the view.
                let _ = view.cluster.assign(request.pod, node, &request.wants);
                Place::On(node)
            }
            Decision::Preempting { .. } => {
                Place::Soon("it waits for pods of a lower priority to be evicted".to_owned())
            }
            Decision::Nowhere(why) => Place::Nowhere(why.to_string()),
        }
    }

    /// What [`Placement::place`] has said of a pod came to nothing, as far as is known.
    pub fn forget(&self, pod: PodId) {
        self.news().pods.insert(pod, 0);
    }
}

impl Placer for Placement {
    fn pass(&self, state: &State, homeless: &[Homeless]) -> Vec<Decided> {
        if state.nodes.size() <= 1 {
            return alone(state, homeless);
        }
        let mut view = self.view(state);
        let decided = std::mem::take(&mut view.decided);
        view.look_at(state, Vec::new(), decided);
        view.pass(state, homeless)
    }
}

/// What is nowhere goes to the only node; what is there stays.
fn alone(state: &State, homeless: &[Homeless]) -> Vec<Decided> {
    let Some(only) = state.nodes.keys().next() else {
        return Vec::new();
    };
    let nowhere = homeless.iter().filter(|pod| pod.from != Some(*only));
    let there = |pod: &Homeless| Decided {
        pod: pod.pod,
        to: Ok(*only),
        evicted: Vec::new(),
    };
    nowhere.map(there).collect()
}

impl View {
    fn begin(&mut self, state: &State) {
        *self = Self::default();
        let nodes = state.nodes.keys().copied().collect();
        let pods: Vec<PodId> = state.pods.iter().map(|pod| pod.id).collect();
        self.look_at(state, nodes, pods);
    }

    /// Nodes first: a pod can't be on one that isn't known.
    fn look_at(&mut self, state: &State, nodes: Vec<NodeId>, pods: Vec<PodId>) {
        for id in nodes {
            match state.nodes.get(&id) {
                Some(node) => {
                    let mut node = view::node(node);
                    let there = self.images.iter().filter(|(_, (on, _))| on.contains(&id));
                    node.images = there
                        .map(|(image, (_, bytes))| (Arc::clone(image), *bytes))
                        .collect();
                    self.cluster.set_node(node);
                }
                None => {
                    drop(self.cluster.remove_node(id));
                    // Nothing fits now that didn't, but fewer nodes are in the way.
                    self.nowhere.clear();
                }
            }
        }
        for id in pods {
            let on = state.pods.get(&id).and_then(|pod| pod.node);
            let holds = on.and_then(|node| Some((node, view::holds(&state.in_pod(&id))?)));
            let known = holds.is_some_and(|(node, wants)| {
                let wants = self.kind(wants);
                self.cluster.assign(id, node, &wants).is_ok()
            });
            if !known {
                self.cluster.release(&id);
            }
        }
    }

    /// Equal ones are one.
    fn kind(&mut self, wants: Wants) -> Arc<Wants> {
        if let Some(known) = self.kinds.get(&wants) {
            return Arc::clone(known);
        }
        if self.kinds.len() >= KINDS_MAX {
            self.kinds.clear();
        }
        let wants = Arc::new(wants);
        self.kinds.insert(Arc::clone(&wants));
        wants
    }

    /// Nodes say which images they have without anybody hearing of it: it is looked up for those that are asked for.
    fn find_image(&mut self, state: &State, image: &Arc<str>) {
        let none = (BTreeSet::new(), 0);
        let stored = state.stored.get(&**image);
        let known = self.images.get(image).unwrap_or(&none);
        let same = match stored {
            Some(stored) => stored.nodes == known.0 && stored.bytes == known.1,
            None => known.0.is_empty(),
        };
        if same {
            return;
        }
        let now = stored.map_or(none, |stored| (stored.nodes.clone(), stored.bytes));
        if self.images.len() >= IMAGES_MAX {
            for (image, (nodes, _)) in self.images.drain() {
                for node in nodes {
                    self.cluster.set_image(node, &image, None);
                }
            }
        }
        let before = self.images.insert(Arc::clone(image), now.clone());
        let before = before.map(|(nodes, _)| nodes).unwrap_or_default();
        for node in before.difference(&now.0) {
            self.cluster.set_image(*node, image, None);
        }
        for node in &now.0 {
            self.cluster.set_image(*node, image, Some(now.1));
        }
    }

    fn pass(&mut self, state: &State, homeless: &[Homeless]) -> Vec<Decided> {
        if self.cluster.eased() != self.eased {
            self.nowhere.clear();
        }
        let version = |pod: &Homeless| pod.containers.iter().map(|it| it.version).max();
        let mut said = Vec::new();
        let mut asked: HashMap<PodId, &Homeless> = HashMap::new();
        let mut requests = Vec::new();
        let mut looked_up: HashSet<Arc<str>> = HashSet::new();
        for pod in homeless {
            let known = self.nowhere.get(&pod.pod);
            if let Some((at, why)) = known
                && Some(*at) == version(pod)
            {
                said.push(Decided {
                    pod: pod.pod,
                    to: Err(why.to_string()),
                    evicted: Vec::new(),
                });
                continue;
            }
            let Some(wants) = view::asks(&pod.containers) else {
                continue;
            };
            let wants = self.kind(wants);
            if looked_up.insert(Arc::clone(&wants.image)) {
                self.find_image(state, &wants.image);
            }
            self.cluster.release(&pod.pod);
            requests.push(Request::new(pod.pod, wants));
            asked.insert(pod.pod, pod);
        }
        let mut eviction = false;
        let mut decisions: Vec<Decided> = Vec::new();
        for (pod, decision) in self.cluster.pass(requests) {
            let (to, evicted) = match decision {
                Decision::On(node) => (Ok(node), Vec::new()),
                Decision::Preempting { node, victims } => {
                    eviction = true;
                    (Ok(node), victims)
                }
                Decision::Nowhere(why) => (Err(why.to_string()), Vec::new()),
            };
            let from = asked.get(&pod).and_then(|pod| pod.from);
            if to.is_ok() || from.is_some() {
                self.decided.push(pod);
            }
            self.decided.extend(&evicted);
            if let Err(why) = &to
                && let Some(at) = asked.get(&pod).copied().and_then(version)
            {
                self.nowhere.insert(pod, (at, why.as_str().into()));
            }
            decisions.push(Decided { pod, to, evicted });
        }
        // Who was evicted may have left more than was needed.
        if eviction {
            self.nowhere.clear();
        }
        self.eased = self.cluster.eased();
        decisions.extend(said);
        decisions
    }
}

#[cfg(test)]
mod tests;
