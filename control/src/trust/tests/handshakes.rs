//! Who gets in, and who is told what.

use std::io;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Room of a connection in memory, bytes: more than a handshake has.
const ROOM: usize = 64 << 10;

/// What each side believes of the other, client first, when both have heard a byte from the other.
async fn meet(
    client: ClientConfig,
    name: ServerName<'static>,
    server: ServerConfig,
) -> Result<(Peer, Option<Peer>), String> {
    let (near, far) = tokio::io::duplex(ROOM);
    let dial = async {
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"a").await?;
        stream.flush().await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
        Ok::<_, io::Error>(peer_of(connection).unwrap().unwrap())
    };
    let answer = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"b").await?;
        stream.flush().await?;
        Ok::<_, io::Error>(peer_of(stream.get_ref().1).unwrap())
    };
    match tokio::join!(dial, answer) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (client, server) => Err(format!(
            "client: {}; server: {}",
            client.err().map_or_else(String::new, |e| told(&e)),
            server.err().map_or_else(String::new, |e| told(&e)),
        )),
    }
}

fn told(error: &io::Error) -> String {
    Refusal::behind(error).map_or_else(|| error.to_string(), ToString::to_string)
}

async fn dial(from: &Node, to: &Node) -> Result<(Peer, Option<Peer>), String> {
    let (client, server) = (from.peering.client_config(), to.peering.server_config());
    meet(client, to.peer.server_name(), server).await
}

#[tokio::test]
async fn two_nodes_of_a_cluster_know_each_other() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let issuer = owner.issuer();
    let (one, two) = (
        Node::new(&owner, &issuer, 1, 1, &clock),
        Node::new(&owner, &issuer, 1, u64::MAX, &clock),
    );
    assert_eq!(dial(&one, &two).await.unwrap(), (two.peer, Some(one.peer)));
    assert_eq!(dial(&two, &one).await.unwrap(), (one.peer, Some(two.peer)));
}

#[tokio::test]
async fn another_node_than_the_one_dialled_is_refused() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let issuer = owner.issuer();
    let (one, two) = (
        Node::new(&owner, &issuer, 1, 1, &clock),
        Node::new(&owner, &issuer, 1, 2, &clock),
    );
    for name in [
        one.peer.server_name(),
        "localhost".try_into().unwrap(),
        "192.0.2.1".try_into().unwrap(),
    ] {
        let (client, server) = (one.peering.client_config(), two.peering.server_config());
        let error = meet(client, name, server).await.unwrap_err();
        assert!(error.contains("dialled"), "{error}");
    }
}

#[tokio::test]
async fn another_cluster_of_the_same_owner_is_refused_by_both_sides() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let (issuer, other) = (owner.issuer(), owner.issuer());
    let mut one = Node::new(&owner, &issuer, 1, 1, &clock);
    // Its issuer makes certificates with any cluster's names, and is another one.
    let liar = Node::new(&owner, &other, 1, 2, &clock);
    let error = dial(&one, &liar).await.unwrap_err();
    assert!(error.contains("issuer of another cluster"), "{error}");
    let error = dial(&liar, &one).await.unwrap_err();
    assert!(error.contains("issuer of another cluster"), "{error}");
    // Of the same issuer, and another cluster.
    let cousin = Node::new(&owner, &issuer, 2, 2, &clock);
    for error in [
        dial(&one, &cousin).await.unwrap_err(),
        dial(&cousin, &one).await.unwrap_err(),
    ] {
        assert!(error.contains("is of cluster"), "{error}");
    }
    // While an issuer is replaced, both are good.
    let both = Anchor::new(&owner.ca, [issuer.digest(), other.digest()]).unwrap();
    one.peering.anchor = Arc::new(both);
    let (client, server) = (one.peering.client_config(), one.peering.server_config());
    let mut trusting = liar.peering.clone();
    trusting.anchor = Arc::clone(&one.peering.anchor);
    assert!(
        meet(client, liar.peer.server_name(), trusting.server_config())
            .await
            .is_ok()
    );
    assert!(
        meet(trusting.client_config(), one.peer.server_name(), server)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn another_owners_nodes_are_refused_by_both_sides() {
    let (owner, stranger, clock) = (Owner::new(), Owner::new(), Clock::new());
    let one = Node::new(&owner, &owner.issuer(), 1, 1, &clock);
    let two = Node::new(&stranger, &stranger.issuer(), 1, 2, &clock);
    assert!(dial(&one, &two).await.is_err());
    assert!(dial(&two, &one).await.is_err());
}

#[tokio::test]
async fn a_certificate_ends_and_the_next_one_needs_no_new_listener() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let issuer = owner.issuer();
    let (one, two) = (
        Node::new(&owner, &issuer, 1, 1, &clock),
        Node::new(&owner, &issuer, 1, 2, &clock),
    );
    let name = || two.peer.server_name();
    let (client, server) = (one.peering.client_config(), two.peering.server_config());
    clock.pass(LIFETIME);
    assert!(
        meet(client.clone(), name(), server.clone()).await.is_ok(),
        "valid to its last second"
    );
    clock.pass(Duration::from_secs(1));
    let error = meet(client.clone(), name(), server.clone())
        .await
        .unwrap_err();
    assert!(error.contains("expired"), "{error}");
    two.renew(&issuer, &clock);
    let error = meet(client.clone(), name(), server.clone())
        .await
        .unwrap_err();
    assert!(error.contains("expired"), "the client's, too: {error}");
    one.renew(&issuer, &clock);
    assert!(meet(client, name(), server).await.is_ok());
}

#[tokio::test]
async fn a_removed_node_is_refused_by_both_sides() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let issuer = owner.issuer();
    let mut one = Node::new(&owner, &issuer, 1, 1, &clock);
    let (two, three) = (
        Node::new(&owner, &issuer, 1, 2, &clock),
        Node::new(&owner, &issuer, 1, 3, &clock),
    );
    one.peering.revoked = Arc::new(|peer| peer.node == NodeId(2));
    for error in [
        dial(&one, &two).await.unwrap_err(),
        dial(&two, &one).await.unwrap_err(),
    ] {
        assert!(error.contains("Revoked"), "{error}");
    }
    assert!(dial(&one, &three).await.is_ok());
    assert!(dial(&three, &one).await.is_ok());
}

#[tokio::test]
async fn who_wants_to_join_has_no_name_and_knows_the_cluster_by_its_token() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let (issuer, other) = (owner.issuer(), owner.issuer());
    let one = Node::new(&owner, &issuer, 1, 1, &clock);
    let time: Arc<dyn TimeProvider> = Arc::<Clock>::clone(&clock);
    let token = Token::new(issuer.digest(), Secret::random());
    let joining = |digest| {
        let anchor = Arc::new(Anchor::new(&owner.ca, [digest]).unwrap());
        join_client_config(anchor, &time)
    };
    let name = || "192.0.2.1".try_into().unwrap();
    let met = meet(joining(token.issuer()), name(), one.peering.server_config());
    assert_eq!(met.await.unwrap(), (one.peer, None));
    // The secret isn't told to another cluster of the same owner.
    let met = meet(joining(other.digest()), name(), one.peering.server_config());
    let error = met.await.unwrap_err();
    assert!(error.contains("issuer of another cluster"), "{error}");
}

#[tokio::test]
async fn a_node_without_a_certificate_yet_answers_nobody() {
    let (owner, clock) = (Owner::new(), Clock::new());
    let issuer = owner.issuer();
    let one = Node::new(&owner, &issuer, 1, 1, &clock);
    let mut two = Node::new(&owner, &issuer, 1, 2, &clock);
    two.peering.credentials = Arc::default();
    assert!(dial(&one, &two).await.is_err());
    // Dialling, it is somebody who may ask to join.
    assert_eq!(dial(&two, &one).await.unwrap(), (one.peer, None));
}
