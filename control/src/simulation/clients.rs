//! Clients: what they ask of the nodes, as luck has it, and what they were answered.
//!
//! Names of images are registers, which are written by tagging and read after a barrier; their histories are checked for linearizability
//! once they are over. Of containers it is remembered what the last answer promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::history::History;
use super::hooks::{one_in, pick};
use super::life::Life;
use super::machine::DEAF;
use super::truth::Truth;
use crate::clock::now_ns;
use crate::controller::{Controller, Error};
use crate::state::{
    Command, ContainerId, ContainerSpec, RestartPolicy, State, Stored, Telling, Tenant,
};

/// The image of all containers.
pub const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
/// Registers that are in use at a time.
const KEYS: u64 = 3;
/// Operations on a register, after which it is another's turn: what is to be tried grows quickly with those that have had no answer.
const OPERATIONS_MAX: usize = 40;
/// Containers that there are at a time.
const CONTAINERS_MAX: usize = 10;
/// After that a client goes its way, and doesn't know.
const PATIENCE: Duration = Duration::from_secs(45);

/// Whose everything is.
pub fn tenant() -> Tenant {
    super::parsed("owner")
}

/// What all clients know together.
pub struct Clients {
    truth: Arc<Truth>,
    shared: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    operations: u64,
    acknowledged: u64,
    /// Of registers' operations; each writes its number.
    invoked: u64,
    keys: BTreeMap<u64, (u64, History)>,
    retired: Vec<(String, History)>,
    containers: BTreeMap<ContainerId, Container>,
}

/// What is known of a container.
#[derive(Debug, Clone)]
struct Container {
    policy: RestartPolicy,
    /// Somebody asks something of it.
    busy: bool,
    /// What the last answer promises.
    promise: Promise,
    /// An answer is missing, and what was asked may be done at any time.
    uncertain: bool,
    /// Its removal was asked for.
    leaves: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Nothing,
    Up,
    Down,
    Gone,
}

impl Clients {
    /// None yet.
    pub fn new(truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            truth: Arc::clone(truth),
            shared: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many were asked, and so many answered well.
    pub fn count(&self) -> (u64, u64) {
        let known = self.known();
        (known.operations, known.acknowledged)
    }

    /// One thing is asked of a node, whose process may die meanwhile.
    pub async fn ask(self: Arc<Self>, controller: Controller, life: Life) {
        self.known().operations += 1;
        let asked = async {
            match pick(0..10) {
                0..3 => self.write(&controller).await,
                3..6 => self.read(&controller).await,
                6 => self.create(&controller).await,
                _ => self.change(&controller).await,
            }
        };
        let answered = tokio::select! {
            biased;
            () = life.ended() => false,
            () = asked => true,
            () = tokio::time::sleep(PATIENCE) => false,
        };
        if !answered {
            self.truth.note("no answer", &());
        }
    }

    /// The register's name, and who invokes.
    fn invoke(&self, writes: bool) -> (u64, String, u64) {
        let mut known = self.known();
        let key = pick(0..KEYS);
        known.invoked += 1;
        let by = known.invoked;
        let (turn, history) = known.keys.entry(key).or_default();
        let name = name(key, *turn);
        self.truth.note("invokes", &(&name, by, writes));
        history.invoke(by, writes.then_some(by));
        if history.len() >= OPERATIONS_MAX {
            *turn += 1;
            let over = std::mem::take(history);
            known.retired.push((name.clone(), over));
        }
        (key, name, by)
    }

    fn returns(&self, key: u64, of: &str, by: u64, found: Option<u64>) {
        self.truth.note("returns", &(of, by, found));
        let mut known = self.known();
        known.acknowledged += 1;
        let Known { keys, retired, .. } = &mut *known;
        let mut retired = retired.iter_mut().filter(|(name, _)| name == of);
        let history = match keys.get_mut(&key) {
            Some((turn, history)) if name(key, *turn) == of => Some(history),
            _ => retired.next().map(|(_, history)| history),
        };
        if let Some(history) = history {
            history.returns(by, found);
        }
    }

    /// Has a name mean another image.
    pub async fn write(&self, controller: &Controller) {
        let (key, name, by) = self.invoke(true);
        if controller.propose(tag(&name, by)).await.is_ok() {
            self.returns(key, &name, by, None);
        }
    }

    async fn read(&self, controller: &Controller) {
        let (key, name, by) = self.invoke(false);
        if controller.barrier().await.is_err() {
            return;
        }
        let found = value(&controller.state(), &name);
        self.returns(key, &name, by, Some(found));
    }

    async fn create(&self, controller: &Controller) {
        let there = self
            .known()
            .containers
            .values()
            .filter(|it| it.promise != Promise::Gone)
            .count();
        if there >= CONTAINERS_MAX {
            return;
        }
        let policy = match pick(0..6) {
            0 => RestartPolicy::No,
            1 => RestartPolicy::OnFailure { maximum_retries: 0 },
            2 => RestartPolicy::UnlessStopped,
            _ => RestartPolicy::Always,
        };
        let deaf = one_in(8);
        let spec = ContainerSpec {
            restart: policy.clone(),
            command: vec![if deaf { DEAF } else { "serve" }.to_owned()],
            stop_timeout_s: Some(2),
            ..ContainerSpec::default()
        };
        let owner = tenant();
        let made = controller.create(&owner, None, IMAGE, "busybox", spec);
        let Ok(id) = made.await else {
            return;
        };
        self.truth.note("created", &(id.short(), &policy));
        let mut known = self.known();
        known.acknowledged += 1;
        let container = Container {
            policy,
            busy: false,
            promise: Promise::Nothing,
            uncertain: false,
            leaves: false,
        };
        known.containers.insert(id, container);
    }

    fn take(&self) -> Option<(ContainerId, Container)> {
        let mut known = self.known();
        let free: Vec<ContainerId> = known
            .containers
            .iter()
            .filter(|(_, it)| !it.busy && it.promise != Promise::Gone)
            .map(|(id, _)| *id)
            .collect();
        if free.is_empty() {
            return None;
        }
        let id = free[pick(0..free.len() as u64) as usize];
        let container = known.containers.get_mut(&id)?;
        // It stays so where no answer comes, unless the client says otherwise: whatever was asked may be done at any time.
        container.busy = true;
        container.uncertain = true;
        Some((id, container.clone()))
    }

    async fn change(&self, controller: &Controller) {
        let Some((id, before)) = self.take() else {
            return;
        };
        // It has been seen: nodes that lag would not know it.
        if controller.barrier().await.is_err() {
            return self.put_back(&id, before);
        }
        let stays = before.policy != RestartPolicy::Always;
        let keeps = matches!(
            before.policy,
            RestartPolicy::Always | RestartPolicy::UnlessStopped
        );
        let mut after = before.clone();
        let what = pick(0..10);
        let (word, done) = match what {
            0..5 => {
                after.promise = if keeps { Promise::Up } else { Promise::Nothing };
                ("start", controller.start(&id).await.map(drop))
            }
            5..9 => {
                after.promise = if stays {
                    Promise::Down
                } else {
                    Promise::Nothing
                };
                ("stop", controller.stop(&id, None, None).await.map(drop))
            }
            _ => {
                if let Some(container) = self.known().containers.get_mut(&id) {
                    container.leaves = true;
                }
                (after.promise, after.leaves) = (Promise::Gone, true);
                ("remove", controller.remove(&id, true).await)
            }
        };
        self.truth.note(word, &(id.short(), &done));
        match done {
            Ok(()) => self.known().acknowledged += 1,
            Err(Error::Unavailable(_)) => {
                // Uncertain, but others may ask something else of it.
                if let Some(container) = self.known().containers.get_mut(&id) {
                    container.busy = false;
                }
                return;
            }
            // It was refused, or could not be done, which changes what can be promised.
            Err(_) => after.promise = Promise::Nothing,
        }
        self.put_back(&id, after);
    }

    fn put_back(&self, id: &ContainerId, after: Container) {
        if let Some(container) = self.known().containers.get_mut(id) {
            *container = Container {
                busy: false,
                ..after
            };
        }
    }

    /// Whether what was promised is so, once everything has come to rest.
    pub fn check(&self, state: &State) {
        for (id, container) in &self.known().containers {
            let found = state.placed(id);
            let word = |what: &str| {
                let words = format!("{} {what}: {container:?}, {found:?}", id.short());
                self.truth.violate(words);
            };
            match &found {
                None if !container.leaves => word("was made, and is lost"),
                Some(_) if container.promise == Promise::Gone => {
                    word("was removed, and is there");
                }
                Some(placed) if !container.uncertain => match container.promise {
                    Promise::Up if !placed.wanted.up => word("was started, and nobody wants it up"),
                    Promise::Down if placed.wanted.up => word("was stopped, and is wanted up"),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Whether each history is one that a register could have.
    pub fn check_histories(&self) {
        let known = self.known();
        let running = known.keys.iter();
        let running = running.map(|(key, (turn, history))| (name(*key, *turn), history));
        let retired = known.retired.iter();
        let retired = retired.map(|(name, history)| (name.clone(), history));
        for (name, history) in running.chain(retired) {
            if !history.is_linearizable() {
                self.truth
                    .violate(format!("{name} is not linearizable: {history:?}"));
            }
        }
    }

    /// Containers that are there, as far as clients can know.
    pub fn containers(&self) -> BTreeSet<ContainerId> {
        self.known().containers.keys().copied().collect()
    }
}

fn name(key: u64, turn: u64) -> String {
    format!("register-{key}-{turn}:latest")
}

fn tag(name: &str, value: u64) -> Command {
    Command::AddImage {
        tenant: tenant(),
        at_ns: now_ns(),
        image: format!("sha256:{value:064x}"),
        names: vec![name.to_owned()],
        repo_digest: None,
        telling: Telling::Load,
        stored: Stored::default(),
    }
}

fn value(state: &State, name: &str) -> u64 {
    let record = state.tags.get(&(tenant(), name.to_owned()));
    let digits = record.and_then(|record| record.image.strip_prefix("sha256:"));
    digits.map_or(0, |digits| u64::from_str_radix(digits, 16).unwrap_or(0))
}

/// What makes the image of all containers known.
pub fn image() -> Command {
    Command::AddImage {
        tenant: tenant(),
        at_ns: now_ns(),
        image: IMAGE.to_owned(),
        names: vec!["busybox:latest".to_owned()],
        repo_digest: None,
        telling: Telling::Load,
        stored: Stored::default(),
    }
}
