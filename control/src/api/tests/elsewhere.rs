//! A node is asked for an image that only another one has.

use hyper::{Method, StatusCode};

use super::node::{read, run, server};
use crate::image_peers::tests::Direct;
use crate::state::{Command, FEATURES, NodeId, NodeIs, NodeWanted};

#[test]
fn an_image_of_another_node_is_listed_inspected_used_and_removed_as_there() {
    run(async {
        let (there, here) = (server().await, server().await);
        let mut client = there.client("acme").await;
        client.load_image().await;
        let other = NodeId(7);
        let join = Command::Join {
            node: other,
            at_ns: 0,
            is: Box::new(NodeIs {
                features: FEATURES,
                address: Some(([192, 0, 2, 7], 2377).into()),
                ..NodeIs::default()
            }),
            wanted: NodeWanted::default(),
        };
        here.controller.propose(join).await.unwrap();
        let image = {
            let state = there.controller.state();
            let ((tenant, id), _) = state.images.iter().next().unwrap();
            let mut stored = state.stored.get(id).unwrap().clone();
            stored.nodes = [other].into();
            Command::AddImage {
                tenant: tenant.clone(),
                at_ns: 0,
                image: id.clone(),
                names: vec!["tiny:latest".into()],
                repo_digest: None,
                telling: crate::state::Telling::Load,
                stored,
            }
        };
        here.controller.propose(image).await.unwrap();
        let mut client_here = here.client("acme").await;
        let (status, shown) = client_here.get("/images/tiny/json").await;
        assert_eq!(
            status,
            StatusCode::NOT_FOUND,
            "nobody can be asked: {shown}"
        );
        let (_stock, _waker) = here
            .controller
            .reach_images(Direct::to(there.images().await));
        for path in ["/images/json", "/images/tiny/json", "/images/tiny/history"] {
            let (told, shown) = (client.get(path).await, client_here.get(path).await);
            assert_eq!(told.0, StatusCode::OK);
            assert_eq!(told, shown, "{path}");
        }
        let body = serde_json::json!({ "Image": "tiny" });
        client_here.create(body).await;
        let path = "/images/tiny:latest?force=1";
        let removed = client_here.send(Method::DELETE, path, "", &[]).await;
        let (status, removed) = read(removed.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{removed}");
        assert_eq!(removed[0]["Untagged"], "tiny:latest");
        assert_eq!(
            client_here.get("/images/json").await.1,
            serde_json::json!([])
        );
    });
}
