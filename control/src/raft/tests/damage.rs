//! What a replica makes of a file that isn't what it has left.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use openraft::Vote;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Database, ReadableDatabase, ReadableTable};

use super::{load, open};
use crate::raft::disk::{Disk, DiskError, LOG, META};
use crate::raft::{DiskThread, Replica, ReplicaError, seal};
use crate::state::Outcome;

const FILE: &str = "replica.redb";
const MARK: &str = "replica.mark";
/// A tenth of a second each on a slow machine.
const FLIPS: usize = 120;

async fn written(commands: u64) -> (tempfile::TempDir, Replica) {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path()).await;
    for n in 0..commands {
        assert_eq!(replica.propose(load(n)).await.unwrap(), Ok(Outcome::Done));
    }
    (dir, replica)
}

fn copied(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in [FILE, MARK] {
        std::fs::copy(from.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// What others count on: its vote and its entries.
async fn promises(dir: &Path) -> Result<(Option<Vote<u64>>, Vec<Vec<u8>>), DiskError> {
    let thread = Arc::new(DiskThread::start().unwrap());
    let disk = Disk::open(dir.into(), 0, thread).await?;
    let vote = disk.get("vote").await?;
    let entries = disk.entries((Bound::Unbounded, Bound::Unbounded)).await?;
    disk.close().await?;
    Ok((vote, entries))
}

async fn refuses(dir: &Path) -> bool {
    let opened = Replica::open(dir, 7, Arc::new(super::Nobody)).await;
    matches!(opened, Err(ReplicaError::Disk(DiskError::Damaged(_))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_is_found_or_changes_nothing() {
    // Enough for what is kept to be a good part of what isn't zero: a file that was written few times is mostly earlier versions of a page.
    let (dir, replica) = written(200).await;
    let cut = copied(dir.path());
    replica.close().await;
    let mut luck = StdRng::seed_from_u64(7);
    let mut found = 0;
    for left in [&cut, &dir] {
        let expected = promises(copied(left.path()).path()).await.unwrap();
        assert!(expected.0.is_some() && expected.1.len() > 20);
        let bytes = std::fs::read(left.path().join(FILE)).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for _ in 0..FLIPS / 2 {
            let copy = copied(left.path());
            let mut bytes = bytes.clone();
            let at = used[luck.random_range(0..used.len())];
            bytes[at] ^= 1 << luck.random_range(0..8);
            std::fs::write(copy.path().join(FILE), &bytes).unwrap();
            match promises(copy.path()).await {
                Ok(kept) => assert!(kept == expected, "byte {at}"),
                Err(_) => found += 1,
            }
        }
    }
    assert!(found > FLIPS / 8, "{found} of {FLIPS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_in_what_is_kept_is_found() {
    let (dir, replica) = written(20).await;
    replica.close().await;
    let kept: Vec<Vec<u8>> = {
        let database = Database::open(dir.path().join(FILE)).unwrap();
        let read = database.begin_read().unwrap();
        let (log, meta) = (
            read.open_table(LOG).unwrap(),
            read.open_table(META).unwrap(),
        );
        let entries = log
            .iter()
            .unwrap()
            .map(|entry| entry.unwrap().1.value().to_vec());
        let named =
            ["vote", "committed"].map(|name| meta.get(name).unwrap().unwrap().value().to_vec());
        entries.chain(named).collect()
    };
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    let mut luck = StdRng::seed_from_u64(7);
    for value in kept {
        let copy = copied(dir.path());
        let (at, bit) = (luck.random_range(0..value.len()), luck.random_range(0..8));
        // Wherever it stands: pages that nothing leads to any more have it too.
        let mut bytes = bytes.clone();
        let places = bytes.windows(value.len()).enumerate();
        let places: Vec<usize> = places
            .filter(|(_, found)| *found == value)
            .map(|(place, _)| place)
            .collect();
        assert!(!places.is_empty());
        for place in places {
            bytes[place + at] ^= 1 << bit;
        }
        std::fs::write(copy.path().join(FILE), &bytes).unwrap();
        assert!(
            promises(copy.path()).await.is_err(),
            "bit {bit} of byte {at}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_the_newest_or_gone_is_refused() {
    let (dir, replica) = written(3).await;
    let before = copied(dir.path());
    assert_eq!(replica.propose(load(9)).await.unwrap(), Ok(Outcome::Done));
    replica.close().await;
    let newest = std::fs::read(dir.path().join(FILE)).unwrap();
    std::fs::copy(before.path().join(FILE), dir.path().join(FILE)).unwrap();
    assert!(refuses(dir.path()).await);
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    assert!(refuses(dir.path()).await);
    std::fs::write(dir.path().join(FILE), newest).unwrap();
    let revived = open(dir.path()).await;
    assert_eq!(revived.state().images.size(), 4);
    revived.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_is_lost_or_old_says_nothing() {
    let (dir, replica) = written(3).await;
    let before = copied(dir.path());
    assert_eq!(replica.propose(load(9)).await.unwrap(), Ok(Outcome::Done));
    replica.close().await;
    std::fs::copy(before.path().join(MARK), dir.path().join(MARK)).unwrap();
    open(dir.path()).await.close().await;
    std::fs::remove_file(dir.path().join(MARK)).unwrap();
    let revived = open(dir.path()).await;
    assert_eq!(revived.state().images.size(), 4);
    revived.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_version_without_checksums_has_left_is_taken_up() {
    let (dir, replica) = written(5).await;
    replica.close().await;
    {
        let database = Database::open(dir.path().join(FILE)).unwrap();
        let read = database.begin_read().unwrap();
        let write = database.begin_write().unwrap();
        for entry in read.open_table(LOG).unwrap().iter().unwrap() {
            let (index, value) = entry.unwrap();
            let index = index.value();
            let bare = seal::unseal(&index.to_be_bytes(), value.value()).unwrap();
            write.open_table(LOG).unwrap().insert(index, bare).unwrap();
        }
        for value in read.open_table(META).unwrap().iter().unwrap() {
            let (name, value) = value.unwrap();
            let bare = seal::unseal(name.value().as_bytes(), value.value()).unwrap();
            let mut meta = write.open_table(META).unwrap();
            match name.value() {
                "commits" | "last" => drop(meta.remove(name.value()).unwrap()),
                name => drop(meta.insert(name, bare).unwrap()),
            }
        }
        write.commit().unwrap();
    }
    std::fs::remove_file(dir.path().join(MARK)).unwrap();
    let revived = open(dir.path()).await;
    assert_eq!(revived.state().images.size(), 5);
    assert_eq!(revived.propose(load(9)).await.unwrap(), Ok(Outcome::Done));
    revived.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_version_with_two_leaders_in_a_term_has_left_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path().join(FILE)).unwrap();
    let write = database.begin_write().unwrap();
    for line in include_str!("../testdata/leader-ids").lines() {
        let (name, value) = line.split_once(' ').unwrap();
        let value = hex::decode(value).unwrap();
        let value = value.as_slice();
        match name.parse::<u64>() {
            Ok(index) => drop(write.open_table(LOG).unwrap().insert(index, value)),
            Err(_) => drop(write.open_table(META).unwrap().insert(name, value)),
        }
    }
    write.commit().unwrap();
    drop(database);
    let (vote, entries) = promises(dir.path()).await.unwrap();
    assert_eq!((vote, entries.len()), (Some(Vote::new_committed(1, 7)), 7));
    for images in [5, 6] {
        let revived = open(dir.path()).await;
        assert_eq!(revived.state().images.size(), images);
        let outcome = revived.propose(load(10)).await.unwrap();
        assert_eq!(outcome, Ok(Outcome::Done));
        revived.close().await;
    }
}
