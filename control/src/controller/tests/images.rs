//! Images that come in archives.

use hearth_image::ImageId;

use super::node::{Node, node, owner, until};
use crate::agent::keeper::Images as _;
use crate::state::{Command, Report, Stored, Telling, Tenant};

/// An archive of `docker save` with two images, of which the second has a layer.
fn two_images() -> Vec<u8> {
    let layer = vec![0; 1024];
    let config = |layers: &[String]| {
        serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": layers } }).to_string()
    };
    let digest = hearth_image::Digest::of(&layer).to_string();
    let manifest =
        r#"[{"Config":"a","RepoTags":["a:1"]},{"Config":"b","RepoTags":["b:1"],"Layers":["l"]}]"#;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("a", config(&[]).as_bytes()),
        ("b", config(&[digest]).as_bytes()),
        ("l", layer.as_slice()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn a_load_that_is_given_up_leaves_no_image_that_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let controller = node(dir.path()).await.controller;
    let archive = two_images();
    let begun = tokio::sync::Notify::new();
    // The second image's layer is heard of when the first image is stored.
    let mut hear = |_| begun.notify_one();
    let owner = owner();
    tokio::select! {
        biased;
        () = begun.notified() => {}
        _ = controller.load(&owner, archive.as_slice(), &mut hear) => {
            panic!("it was meant to be given up")
        }
    }
    controller.flush().await;
    let left = controller.inner.images.store.list().await.unwrap();
    assert!(
        left.iter().all(|image| !image.diff_ids().is_empty()),
        "{left:?}"
    );
}

#[tokio::test]
async fn the_images_of_an_archive_are_the_tenants_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let controller = node(dir.path()).await.controller;
    let archive = two_images();
    let (owner, mut quiet) = (owner(), |_| {});
    let load = controller.load(&owner, archive.as_slice(), &mut quiet);
    let (loaded, done) = load.await;
    done.unwrap();
    let names: Vec<_> = loaded.iter().map(|image| image.names.join(" ")).collect();
    assert_eq!(names, ["a:1", "b:1"]);
    controller.collect_unowned_images().await.unwrap();
    let held = controller.inner.images.store.list().await.unwrap();
    assert_eq!(held.len(), 2);
    let state = controller.state();
    let owned = |id: String| state.images.contains_key(&(owner.clone(), id));
    assert!(held.iter().all(|image| owned(image.id.to_string())));
}

/// The second image of the archive, in a store.
async fn second_of_two(store: &hearth_image::Store) -> ImageId {
    let (archive, shown, mut loaded) = (two_images(), Default::default(), Vec::new());
    store
        .load(archive.as_slice(), &shown, &mut loaded, &mut |_| {})
        .await
        .unwrap();
    loaded[1].id
}

/// An image that another node has, and has told of as a tenant's.
async fn of_another(node: &Node) -> ImageId {
    let other = node.joined_by_another().await;
    let store = &node.elsewhere;
    let id = second_of_two(store).await;
    let add = Command::AddImage {
        tenant: owner(),
        at_ns: 0,
        image: id.to_string(),
        names: vec!["b:1".into()],
        repo_digest: None,
        telling: Telling::Load,
        stored: Stored {
            contents: store.contents(&id).await.unwrap().to_bytes().to_vec(),
            bytes: 4096,
            nodes: [other].into(),
        },
    };
    node.controller.propose(add).await.unwrap();
    id
}

fn has_told(node: &Node, image: &ImageId) -> bool {
    let own = node.controller.inner.replica.node();
    let state = node.controller.state();
    let stored = state.stored.get(&image.to_string());
    stored.is_some_and(|stored| stored.nodes.contains(&own))
}

async fn has(node: &Node, image: &ImageId) -> bool {
    let store = &node.controller.inner.images.store;
    store.image(image).await.unwrap().is_some()
}

fn remove(image: &ImageId) -> Command {
    Command::RemoveImage {
        tenant: owner(),
        at_ns: 0,
        image: image.to_string(),
        force: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_only_another_node_has_is_described_brought_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = of_another(&node).await;
    let there = node.elsewhere.image(&id).await.unwrap().unwrap();
    let told = node
        .controller
        .image(&id.to_string())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&told.config, told.size_bytes),
        (&there.config, there.size_bytes)
    );
    assert!(!has(&node, &id).await && !has_told(&node, &id));
    let name = id.to_string();
    let bring = || node.controller.bring(&name);
    let (one, other) = tokio::join!(bring(), bring());
    one.and(other).unwrap();
    assert!(has(&node, &id).await);
    until(|| has_told(&node, &id)).await;
    // It is here for whoever has it already, and for nobody else.
    let other: Tenant = "other".parse().unwrap();
    let state = node.controller.state();
    assert!(!state.images.keys().any(|(tenant, _)| *tenant == other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_no_node_has_any_more_is_said_to_be_pulled_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = of_another(&node).await.to_string();
    let gone = Command::Report {
        node: node.other(),
        at_ns: 0,
        report: Report::Image {
            image: id.clone(),
            contents: vec![],
            bytes: 0,
            present: false,
        },
    };
    node.controller.propose(gone).await.unwrap();
    let words = node.controller.bring(&id).await.unwrap_err().to_string();
    assert!(
        words.contains("no node that is there has it: pull"),
        "{words}"
    );
    assert_eq!(node.controller.image(&id).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_anywhere_goes_from_this_nodes_store() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = of_another(&node).await;
    node.controller.bring(&id.to_string()).await.unwrap();
    until(|| has_told(&node, &id)).await;
    // By a request to another node: nothing here is asked.
    node.controller.propose(remove(&id)).await.unwrap();
    while has(&node, &id).await {
        tokio::task::yield_now().await;
    }
    until(|| !has_told(&node, &id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_had_while_it_was_alone_others_know_when_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let store = &node.controller.inner.images.store;
    let id = second_of_two(store).await;
    // As an earlier version has committed it.
    let add = Command::AddImage {
        tenant: owner(),
        at_ns: 0,
        image: id.to_string(),
        names: vec![],
        repo_digest: None,
        telling: Telling::Load,
        stored: Stored::default(),
    };
    node.controller.propose(add).await.unwrap();
    node.joined_by_another().await;
    until(|| has_told(&node, &id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_and_its_node_are_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let before = node.controller.state().revision;
    let (archive, mut quiet) = (two_images(), |_| {});
    let owner = owner();
    let load = node.controller.load(&owner, archive.as_slice(), &mut quiet);
    let (loaded, done) = load.await;
    done.unwrap();
    for image in &loaded {
        assert!(has_told(&node, &image.id.parse().unwrap()));
    }
    let revision = node.controller.state().revision;
    assert_eq!(revision, before + loaded.len() as u64);
}
