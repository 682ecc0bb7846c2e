//! Over the connection between two nodes, on this machine's own network.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use hearth_image::{Contents, Digest, ImageId, Part, Store};
use tempfile::TempDir;

use super::super::{Fetcher, Holder, OverPeers, Reach, Served};
use super::{load, store};
use crate::cluster::service::Part as _;
use crate::peers::tests::{Pair, TWO, pair, run};
use crate::peers::{RecvHalf, Refusal, SendHalf, Service};
use crate::state::NodeId;

/// Node two, which does nothing else.
struct Door(Served);

#[async_trait]
impl Service for Door {
    fn is_for_strangers(&self, _: &str) -> bool {
        false
    }
    async fn call(&self, from: Option<NodeId>, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        self.0.call(from.unwrap(), path, body).await
    }
    async fn open(
        &self,
        from: Option<NodeId>,
        path: &str,
        first: Bytes,
        send: SendHalf,
        receive: RecvHalf,
    ) {
        self.0.open(from.unwrap(), path, first, send, receive).await;
    }
}

struct Two {
    dir: TempDir,
    image: ImageId,
    contents: Contents,
    pair: Pair,
    reach: Arc<OverPeers>,
    holder: Holder,
}

impl Two {
    /// Node two has the image.
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let full = store(&dir, "full").await;
        let image = load(&full).await;
        let contents = full.contents(&image).await.unwrap();
        let pair = pair(Arc::new(Door(Served::new(full)))).await;
        Self {
            dir,
            image,
            contents,
            reach: Arc::new(OverPeers(pair.one.clone())),
            holder: Holder {
                node: TWO,
                address: pair.address.clone(),
            },
            pair,
        }
    }

    async fn own(&self) -> (Store, Fetcher) {
        let own = store(&self.dir, "own").await;
        let fetcher = Fetcher::new(own.clone(), Arc::<OverPeers>::clone(&self.reach));
        (own, fetcher)
    }

    fn root(&self) -> Part {
        Part::Root {
            image: self.image,
            root: self.contents.root,
            from: 0,
        }
    }
}

#[test]
fn an_image_that_one_node_has_comes_to_another() {
    run(async {
        let two = Two::new().await;
        let (own, fetcher) = two.own().await;
        let holders = [two.holder.clone()];
        let fetched = fetcher.fetch(&two.image, &two.contents, &holders);
        fetched.await.unwrap();
        assert_eq!(own.contents(&two.image).await.unwrap(), two.contents);
        fetcher.fetch_layers(&two.image, &holders).await.unwrap();
        assert_eq!(own.missing_layers(&two.image).await.unwrap(), []);
    });
}

#[test]
fn what_a_node_does_not_have_or_know_it_says_so() {
    run(async {
        let two = Two::new().await;
        let (_, fetcher) = two.own().await;
        let other = Digest::of(b"another").into();
        let holders = [two.holder.clone()];
        let fetched = fetcher.fetch(&other, &two.contents, &holders).await;
        let words = fetched.unwrap_err().to_string();
        assert!(words.contains("no such image"), "{words}");
        let nonsense = Bytes::from_static(b"nonsense");
        let patience = crate::peers::tests::PATIENCE;
        for path in [super::super::PART, "/image/later"] {
            let (node, address) = (TWO, &two.holder.address);
            let opened = two
                .pair
                .one
                .open(node, address, path, nonsense.clone(), patience);
            let (_send, mut receive) = opened.await.unwrap();
            receive.recv().await.unwrap_err();
        }
    });
}

#[test]
fn who_wants_no_more_makes_room_for_others() {
    run(async {
        let two = Two::new().await;
        for _ in 0..20 {
            let mut chunks = two.reach.open(&two.holder, two.root()).await.unwrap();
            chunks.next().await.unwrap().unwrap();
        }
        // Those who are silent keep their places.
        let (one, other) = (
            two.reach.open(&two.holder, two.root()).await.unwrap(),
            two.reach.open(&two.holder, two.root()).await.unwrap(),
        );
        drop((one, other));
        let mut chunks = two.reach.open(&two.holder, two.root()).await.unwrap();
        chunks.next().await.unwrap().unwrap();
    });
}
