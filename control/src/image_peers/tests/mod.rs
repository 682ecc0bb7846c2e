//! A few stores, and what can happen between them.

mod wire;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use hearth_image::{
    Chunks, Contents, Digest, Error, ImageId, Part, SourceError, Store, StoreOptions,
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::{Elsewhere, Exports, FetchError, Fetcher, Holder, Reach, Whereabouts};
use crate::state::NodeId;

/// The way to one other store, without a network.
pub struct Direct(pub Exports);

impl Direct {
    pub fn to(store: Store) -> Arc<Self> {
        Arc::new(Self(Exports::new(store)))
    }
}

#[async_trait]
impl Reach for Direct {
    async fn open(&self, _: &Holder, part: Part) -> Result<Chunks, SourceError> {
        let answer = self.0.answer(NodeId(0), part).await;
        answer.map_err(|error| SourceError(error.to_string()))
    }
}

/// What a node does when it is asked.
#[derive(Debug, Clone, Copy)]
enum Nature {
    Honest,
    /// Isn't there.
    Gone,
    /// Has no such image.
    Without,
    /// Each stream breaks after so many bytes.
    Breaks(usize),
    /// The byte there is another one, of each stream.
    Lies(usize),
    /// Sends what comes without end.
    Babbles,
}

struct Node {
    exports: Exports,
    nature: Nature,
}

/// The nodes, by their ids, which are their addresses too.
#[derive(Default)]
struct Nodes {
    nodes: HashMap<NodeId, Node>,
    opened: Mutex<Vec<(NodeId, Part)>>,
    /// So many streams may be opened, if it is there.
    gate: Option<Semaphore>,
}

impl Nodes {
    fn opened(&self) -> Vec<(NodeId, Part)> {
        self.opened.lock().unwrap().clone()
    }
}

#[async_trait]
impl Reach for Nodes {
    async fn open(&self, holder: &Holder, part: Part) -> Result<Chunks, SourceError> {
        self.opened.lock().unwrap().push((holder.node, part));
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let node = &self.nodes[&holder.node];
        assert_eq!(holder, &at(holder.node.0));
        let answer = node.exports.answer(NodeId(0), part).await;
        let answer = answer.map_err(|error| SourceError(error.to_string()));
        let mut bytes = match node.nature {
            Nature::Honest | Nature::Without => return answer,
            Nature::Gone => return Err(SourceError("no route".into())),
            Nature::Babbles => return Ok(stream::repeat(Ok(Bytes::from_static(b"blah"))).boxed()),
            _ => answer?.try_collect::<Vec<Bytes>>().await?.concat(),
        };
        match node.nature {
            Nature::Breaks(after) => {
                bytes.truncate(after);
                let broken = Err(SourceError("broken".into()));
                let chunk = (after > 0).then(|| Ok(bytes.into()));
                Ok(stream::iter(chunk.into_iter().chain([broken])).boxed())
            }
            Nature::Lies(at) => {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1;
                Ok(stream::iter([Ok(bytes.into())]).boxed())
            }
            _ => unreachable!("answered above"),
        }
    }
}

fn at(node: u64) -> Holder {
    Holder {
        node: NodeId(node),
        address: format!("{node}:2377"),
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn archive() -> Vec<u8> {
    let noise: Vec<u8> = (0..9000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let layer = tar(&[("a", b"a"), ("noise", &noise)]);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let list = br#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["layer.tar"]}]"#;
    tar(&[
        ("c.json", config.as_bytes()),
        ("layer.tar", &layer),
        ("manifest.json", list),
    ])
}

/// The archive's image, in a store.
async fn load(store: &Store) -> ImageId {
    let mut loaded = Vec::new();
    let archive = archive();
    let shown = BTreeSet::new();
    store
        .load(archive.as_slice(), &shown, &mut loaded, &mut |_| {})
        .await
        .unwrap();
    loaded[0].id
}

async fn store(dir: &TempDir, name: &str) -> Store {
    let path = dir.path().join(name);
    Store::open(&path, StoreOptions::default()).await.unwrap()
}

/// Some nodes, from 1 on, of which all but those without it have the image; and an empty one that fetches.
struct Cluster {
    _dir: TempDir,
    image: ImageId,
    contents: Contents,
    nodes: Arc<Nodes>,
    own: Store,
    fetcher: Fetcher,
    holders: Vec<Holder>,
}

impl Cluster {
    async fn new(natures: &[Nature], gate: Option<usize>) -> Self {
        let dir = TempDir::new().unwrap();
        let full = store(&dir, "full").await;
        let empty = store(&dir, "empty").await;
        let image = load(&full).await;
        let contents = full.contents(&image).await.unwrap();
        let nodes = natures.iter().enumerate().map(|(position, &nature)| {
            let store = match nature {
                Nature::Without => empty.clone(),
                _ => full.clone(),
            };
            let exports = Exports::new(store);
            (NodeId(position as u64 + 1), Node { exports, nature })
        });
        let nodes = Arc::new(Nodes {
            nodes: nodes.collect(),
            gate: gate.map(Semaphore::new),
            ..Nodes::default()
        });
        let own = store(&dir, "own").await;
        Self {
            image,
            contents,
            own: own.clone(),
            fetcher: Fetcher::new(own, nodes.clone()),
            nodes,
            holders: (1..=natures.len() as u64).map(at).collect(),
            _dir: dir,
        }
    }

    async fn fetch(&self) -> Result<(), FetchError> {
        self.fetch_from(&self.holders).await
    }

    async fn fetch_from(&self, holders: &[Holder]) -> Result<(), FetchError> {
        self.fetcher
            .fetch(&self.image, &self.contents, holders)
            .await
    }

    async fn has_it(&self) -> bool {
        self.own.image(&self.image).await.unwrap().is_some()
    }

    fn asked(&self) -> Vec<u64> {
        self.nodes.opened().iter().map(|(node, _)| node.0).collect()
    }
}

fn natures() -> impl Strategy<Value = Vec<Nature>> {
    let nature = prop_oneof![
        Just(Nature::Honest),
        Just(Nature::Gone),
        Just(Nature::Without),
        Just(Nature::Babbles),
        (0..20_000usize).prop_map(Nature::Breaks),
        (0..20_000usize).prop_map(Nature::Lies),
    ];
    prop::collection::vec(nature, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_honest_node_is_enough_and_otherwise_each_is_named(natures in natures()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let cluster = Cluster::new(&natures, None).await;
            let fetched = cluster.fetch().await;
            assert_eq!(cluster.has_it().await, fetched.is_ok(), "{fetched:?}");
            let one_is_honest = natures.iter().any(|nature| matches!(nature, Nature::Honest));
            match fetched {
                Ok(()) => {
                    let contents = cluster.own.contents(&cluster.image).await.unwrap();
                    assert_eq!(contents, cluster.contents);
                }
                Err(error) => {
                    assert!(!one_is_honest, "{error}");
                    let FetchError::NoneGave { asked, .. } = error else {
                        panic!("it is a node's fault: {error}");
                    };
                    let named: Vec<_> = asked.into_iter().map(|(holder, _)| holder).collect();
                    assert!(named.iter().all(|holder| cluster.holders.contains(holder)));
                    assert_eq!(named.len(), cluster.holders.len());
                }
            }
        });
    }
}

#[tokio::test]
async fn nodes_are_asked_in_order_and_no_more_of_them_than_need_be() {
    let cluster = Cluster::new(&[Nature::Gone, Nature::Honest, Nature::Honest], None).await;
    cluster.fetch().await.unwrap();
    assert_eq!(cluster.asked(), [1, 2, 2]);
    cluster.fetch().await.unwrap();
    assert_eq!(cluster.asked().len(), 3, "it is here");
}

#[tokio::test]
async fn an_error_says_who_was_asked_and_why_each_failed() {
    let natures = [
        Nature::Gone,
        Nature::Without,
        Nature::Lies(30),
        Nature::Breaks(100),
    ];
    let cluster = Cluster::new(&natures, None).await;
    let error = cluster.fetch().await.unwrap_err().to_string();
    for word in [
        "node 1 at 1:2377",
        "no route",
        "no such image",
        "node 3",
        "has sent something else",
        "broken",
    ] {
        assert!(error.contains(word), "{word:?} in {error}");
    }
    let error = cluster.fetch_from(&[]).await.unwrap_err().to_string();
    assert!(error.contains("none is known"), "{error}");
    assert!(!cluster.has_it().await);
}

#[tokio::test]
async fn who_wants_the_same_shares_the_work() {
    let cluster = Cluster::new(&[Nature::Honest], None).await;
    let (one, other, third) = tokio::join!(cluster.fetch(), cluster.fetch(), cluster.fetch());
    one.and(other).and(third).unwrap();
    assert_eq!(cluster.asked().len(), 2, "a description and a root");
}

#[tokio::test]
async fn one_who_gives_up_takes_nothing_from_the_others() {
    let cluster = Cluster::new(&[Nature::Honest], Some(1)).await;
    let mut first = Box::pin(cluster.fetch());
    // The description comes, and the root isn't given yet.
    while cluster.asked().len() < 2 {
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut second = Box::pin(cluster.fetch());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    cluster.nodes.gate.as_ref().unwrap().add_permits(1);
    second.await.unwrap();
    assert_eq!(cluster.asked().len(), 2, "nothing was asked for again");
}

#[tokio::test]
async fn when_nobody_wants_it_any_more_it_ends() {
    let cluster = Cluster::new(&[Nature::Honest], Some(1)).await;
    let mut only = Box::pin(cluster.fetch());
    while cluster.asked().len() < 2 {
        assert!((&mut only).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(only);
    assert!(!cluster.has_it().await);
    cluster.nodes.gate.as_ref().unwrap().add_permits(2);
    cluster.fetch().await.unwrap();
    assert!(cluster.has_it().await);
}

#[tokio::test]
async fn who_joins_has_its_own_nodes_asked_too() {
    let cluster = Cluster::new(&[Nature::Gone, Nature::Honest], None).await;
    let (gone, honest) = (&cluster.holders[..1], &cluster.holders[1..]);
    let (one, other) = tokio::join!(cluster.fetch_from(gone), cluster.fetch_from(honest));
    assert!(matches!(one, Err(FetchError::NoneGave { .. })), "{one:?}");
    other.unwrap();
}

#[tokio::test]
async fn what_this_node_cannot_take_is_not_asked_of_every_node() {
    let cluster = Cluster::new(&[Nature::Honest, Nature::Honest], None).await;
    let wrong = Contents {
        root_bytes: 1,
        ..cluster.contents
    };
    let fetched = cluster
        .fetcher
        .fetch(&cluster.image, &wrong, &cluster.holders)
        .await;
    assert!(
        matches!(fetched, Err(FetchError::Here { .. })),
        "{fetched:?}"
    );
    assert!(cluster.asked().is_empty());
}

#[tokio::test]
async fn layers_come_from_whoever_has_them() {
    let cluster = Cluster::new(&[Nature::Without, Nature::Lies(700), Nature::Honest], None).await;
    cluster.fetch().await.unwrap();
    let missing = cluster.own.missing_layers(&cluster.image).await.unwrap();
    assert_eq!(missing.len(), 1);
    let fetch = || {
        cluster
            .fetcher
            .fetch_layers(&cluster.image, &cluster.holders)
    };
    let (one, other) = tokio::join!(fetch(), fetch());
    one.and(other).unwrap();
    assert!(
        cluster
            .own
            .missing_layers(&cluster.image)
            .await
            .unwrap()
            .is_empty()
    );
    let layers = cluster.nodes.opened();
    let layers = layers
        .iter()
        .filter(|(_, part)| matches!(part, Part::Layer { .. }));
    assert_eq!(layers.count(), 3, "one has it fetched, the other finds it");
}

#[tokio::test]
async fn one_node_takes_its_own_share_of_streams_and_no_other() {
    let cluster = Cluster::new(&[Nature::Honest], None).await;
    let exports = &cluster.nodes.nodes[&NodeId(1)].exports;
    let part = Part::Root {
        image: cluster.image,
        root: cluster.contents.root,
        from: 0,
    };
    let answer = |node| exports.answer(NodeId(node), part);
    let mut held = vec![answer(7).await.unwrap(), answer(7).await.unwrap()];
    let mut third = Box::pin(answer(7));
    tokio::select! {
        biased;
        _ = &mut third => panic!("a third stream of two"),
        other = answer(8) => held.push(other.unwrap()),
    }
    // Who only wants to know what an image is doesn't wait for that.
    let description = Part::Description {
        image: cluster.image,
    };
    held.push(exports.answer(NodeId(7), description).await.unwrap());
    drop(held.remove(0));
    held.push(third.await.unwrap());
    assert!(matches!(
        exports
            .answer(
                NodeId(9),
                Part::Description {
                    image: Digest::of(b"no").into()
                }
            )
            .await
            .err(),
        Some(Error::NoSuchImage { .. })
    ));
}

#[tokio::test]
async fn what_an_image_is_is_told_by_the_first_who_knows_and_remembered() {
    let cluster = Cluster::new(&[Nature::Gone, Nature::Lies(40), Nature::Honest], None).await;
    let elsewhere = Elsewhere::new(cluster.nodes.clone());
    let wanted = Whereabouts {
        image: cluster.image,
        contents: cluster.contents,
        disk_bytes: 7,
        holders: cluster.holders.clone(),
    };
    let told = elsewhere.describe(vec![wanted.clone()]).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].id, told[0].disk_bytes), (cluster.image, 7));
    assert_eq!(told[0].size_bytes, cluster.contents.size_bytes);
    assert_eq!(cluster.asked(), [1, 2, 3]);
    assert_eq!(elsewhere.describe(vec![wanted]).await, told);
    assert_eq!(cluster.asked().len(), 3, "it is remembered");
    assert!(!cluster.has_it().await, "nothing of it has come");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_asked_for_one_image_of_many() {
    let cluster = Cluster::new(&[Nature::Gone], None).await;
    let elsewhere = Elsewhere::new(cluster.nodes.clone());
    let wanted = |n: u8| Whereabouts {
        image: Digest::of([n]).into(),
        contents: cluster.contents,
        disk_bytes: 7,
        holders: cluster.holders.clone(),
    };
    let told = elsewhere.describe((0..100).map(wanted).collect()).await;
    assert_eq!(told, []);
    // As many as are asked for at the same time, at most.
    assert!(cluster.asked().len() <= 8, "{:?}", cluster.asked().len());
}
