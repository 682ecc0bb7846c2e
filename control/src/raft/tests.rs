//! What a replica promises across restarts.

pub(crate) mod cluster;
mod damage;
mod rest;

use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft::testing::StoreBuilder;

use super::disk::Disk;
use super::log::LogStore;
use super::machine::Machine;
use super::rest::Rest;
use super::{DiskThread, Executor, NoPeers, Observer, Replica, Shared, Start, Types, Work};
use crate::state::{Change, Command, Outcome, Refusal, State, Stored, Telling, What};

/// openraft's own suite asks this for storage that is empty.
struct Empty;

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for Empty {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Machine), openraft::StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let thread = Arc::new(DiskThread::start().unwrap());
        let disk = Disk::open(dir.path().into(), 0, thread).await.unwrap();
        disk.needs_no_snapshot();
        let log = LogStore::new(disk.clone(), Rest::new()).await.unwrap();
        let shared = Arc::new(Shared {
            state: Default::default(),
            observer: Arc::new(Nobody),
        });
        let machine = Machine::restore(disk, shared).await.unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_is_what_openraft_expects() {
    openraft::testing::Suite::test_all(Empty).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_go_once_the_snapshot_that_stands_for_them_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path()).await;
    for n in 0..5 {
        replica.propose(load(n)).await.unwrap().unwrap();
    }
    let log = LogStore::new(replica.disk.clone(), Rest::new());
    let mut log = log.await.unwrap();
    let upto = log.get_log_state().await.unwrap().last_log_id.unwrap();
    let mut purge = tokio::spawn({
        let mut log = log.clone();
        async move { log.purge(upto).await }
    });
    let entries = (Bound::Unbounded, Bound::Unbounded);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut purge).await;
    assert!(early.is_err());
    assert!(!replica.disk.entries(entries).await.unwrap().is_empty());
    replica.leader.raft.trigger().snapshot().await.unwrap();
    purge.await.unwrap().unwrap();
    assert!(replica.disk.entries(entries).await.unwrap().is_empty());
    // Nor does it wait for one that never comes.
    let mut later = upto;
    later.index += 1;
    replica.disk.poison();
    assert!(log.purge(later).await.is_err());
    replica.close().await;
    assert_eq!(open(dir.path()).await.state().images.size(), 5);
}

struct Nobody;
impl Observer for Nobody {
    fn applied(&self, _: &State, _: &[Change]) {}
    fn replaced(&self, _: &State) {}
}

/// Takes note of what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<(What, u64)>>);
impl Observer for Notes {
    fn applied(&self, _: &State, changes: &[Change]) {
        let noted = changes
            .iter()
            .map(|change| (change.what.clone(), change.at_ns));
        self.0.lock().unwrap().extend(noted);
    }
    fn replaced(&self, _: &State) {}
}

async fn open(dir: &std::path::Path) -> Replica {
    Replica::open(dir, 7, Arc::new(Nobody)).await.unwrap()
}

fn load(n: u64) -> Command {
    Command::AddImage {
        tenant: "owner".parse().unwrap(),
        at_ns: n,
        image: format!("sha256:{n:064x}"),
        names: vec![format!("image:{n}")],
        repo_digest: None,
        telling: Telling::Load,
        stored: Stored::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_the_file_is_copied_away_under_a_running_replica() {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path()).await;
    for n in 0..20 {
        assert_eq!(replica.propose(load(n)).await.unwrap(), Ok(Outcome::Done));
        // The file as a power cut after the answer would leave it.
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(
            dir.path().join("replica.redb"),
            copy.path().join("replica.redb"),
        )
        .unwrap();
        if n % 7 == 0 {
            let revived = open(copy.path()).await;
            assert_eq!(*revived.state(), *replica.state());
            assert_eq!(revived.node(), replica.node());
            assert_eq!(revived.propose(load(99)).await.unwrap(), Ok(Outcome::Done));
            revived.close().await;
        }
    }
    replica.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_gives_the_same_state_and_goes_on_also_past_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for round in 0..4u64 {
        let replica = open(dir.path()).await;
        assert_eq!(
            replica.state().images.size() as u64,
            next.min(super::ENTRIES_PER_SNAPSHOT)
        );
        for _ in 0..super::ENTRIES_PER_SNAPSHOT / 2 + round {
            replica
                .propose(load(next % super::ENTRIES_PER_SNAPSHOT))
                .await
                .unwrap()
                .unwrap();
            next += 1;
        }
        let (before, revision) = (replica.state().clone(), replica.state().revision);
        assert_eq!(revision, next);
        replica.close().await;
        drop(replica);
        let again = open(dir.path()).await;
        assert_eq!(*again.state(), before);
        again.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_answer_and_events_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Arc::<Notes>::default();
    let observer = Arc::<Notes>::clone(&notes);
    let replica = Replica::open(dir.path(), 7, observer).await.unwrap();
    let untag = Command::Untag {
        tenant: "owner".parse().unwrap(),
        at_ns: 0,
        name: "image:1".into(),
    };
    assert_eq!(
        replica.propose(untag.clone()).await.unwrap(),
        Err(Refusal::NoSuchImage("image:1".into()))
    );
    replica.propose(load(1)).await.unwrap().unwrap();
    replica.propose(untag).await.unwrap().unwrap();
    let noted = [(What::Loaded, 1), (What::Untagged, 0)];
    assert_eq!(*notes.0.lock().unwrap(), noted);
    replica.close().await;
}

/// Does what it is given when told to.
struct Gate(Mutex<Option<Vec<Work>>>, DiskThread);

impl Gate {
    fn open(&self) {
        for work in self.0.lock().unwrap().take().into_iter().flatten() {
            self.1.execute(work);
        }
    }
}

impl Executor for Gate {
    fn execute(&self, work: Work) {
        match &mut *self.0.lock().unwrap() {
            Some(waiting) => waiting.push(work),
            None => self.1.execute(work),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_for_the_disk_share_its_next_write_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate(Default::default(), DiskThread::start().unwrap()));
    let disk: Arc<dyn Executor> = Arc::<Gate>::clone(&gate);
    let notes = Arc::<Notes>::default();
    let observer = Arc::<Notes>::clone(&notes);
    let start = Start {
        storage: dir.path().into(),
        random: 7,
        founds: Some(String::new()),
        executor: disk,
        transport: Arc::new(NoPeers),
    };
    let replica = Replica::start(start, observer).await.unwrap();
    replica.led().await.unwrap();
    let entries = || {
        replica
            .leader
            .raft
            .metrics()
            .borrow()
            .last_log_index
            .unwrap()
    };
    let before = entries();
    *gate.0.lock().unwrap() = Some(Vec::new());
    let mut answers = Vec::new();
    for n in 0..100 {
        let replica = replica.clone();
        let mut answer = Box::pin(async move { replica.propose(load(n)).await });
        assert!(futures_util::poll!(&mut answer).is_pending());
        answers.push(answer);
    }
    gate.open();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Ok(Outcome::Done));
    }
    let times = notes
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(_, at)| *at)
        .collect::<Vec<_>>();
    assert_eq!(times, (0..100).collect::<Vec<_>>());
    assert!(entries() - before <= 2, "{} entries", entries() - before);
    replica.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commands_do_not_share_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path()).await;
    let before = replica
        .leader
        .raft
        .metrics()
        .borrow()
        .last_log_index
        .unwrap();
    let large = |n: u64| {
        let Command::AddImage {
            tenant,
            at_ns,
            image,
            repo_digest,
            telling,
            stored,
            ..
        } = load(n)
        else {
            unreachable!()
        };
        let names = vec![format!("image:{}", "x".repeat(700 << 10))];
        Command::AddImage {
            tenant,
            at_ns,
            image,
            names,
            repo_digest,
            telling,
            stored,
        }
    };
    let all = futures_util::future::join_all((0..3).map(|n| replica.propose(large(n)))).await;
    assert!(all.iter().all(|answer| answer.as_ref().unwrap().is_ok()));
    assert_eq!(
        replica
            .leader
            .raft
            .metrics()
            .borrow()
            .last_log_index
            .unwrap()
            - before,
        3
    );
    replica.close().await;
}

#[test]
fn a_command_is_committed_while_all_threads_for_blocking_work_are_stalled() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (release, stalled) = std::sync::mpsc::channel::<()>();
        let stalled = tokio::task::spawn_blocking(move || stalled.recv());
        let replica = open(dir.path()).await;
        assert_eq!(replica.propose(load(1)).await.unwrap(), Ok(Outcome::Done));
        replica.close().await;
        assert_eq!(open(dir.path()).await.state().images.size(), 1);
        assert!(!stalled.is_finished());
        release.send(()).unwrap();
        stalled.await.unwrap().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fills the file system of TMPDIR, which has to be a small btrfs of its own"]
async fn commands_are_taken_on_a_full_disk() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path()).await;
    let mut filler = std::fs::File::create(dir.path().join("filler")).unwrap();
    for size in [1 << 20, 4096, 1] {
        let noise: Vec<u8> = (0..size as u32)
            .map(|n| (n.wrapping_mul(2654435761) >> 13) as u8)
            .collect();
        while filler
            .write_all(&noise)
            .and_then(|()| filler.sync_data())
            .is_ok()
        {}
    }
    assert!(std::fs::write(dir.path().join("more"), vec![1; 1 << 20]).is_err());
    for n in 0..2 * super::ENTRIES_PER_SNAPSHOT {
        replica.propose(load(n % 1000)).await.unwrap().unwrap();
    }
    replica.close().await;
    assert_eq!(open(dir.path()).await.state().images.size(), 1000);
}
