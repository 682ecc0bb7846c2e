//! How the two ends of a connection come to know each other.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::wire::Wire;
use crate::state::NodeId;

/// The words of whatever kept two ends from knowing each other.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct HandshakeError(pub String);

/// A connection and who is at its other end; None: somebody who has shown no certificate.
pub type Known = (Wire, Option<NodeId>);

/// The side that has dialled. May be dropped at any time; needs no deadline of its own.
#[async_trait]
pub trait Greet: Send + Sync + 'static {
    /// `node` is who ought to be there; None: whoever is. The caller checks that it is who it ought to be.
    async fn greet(&self, wire: Wire, node: Option<NodeId>) -> Result<Known, HandshakeError>;
}

/// The side that was dialled. May be dropped at any time; needs no deadline of its own.
#[async_trait]
pub trait Receive: Send + Sync + 'static {
    /// Of whoever it may be.
    async fn receive(&self, wire: Wire) -> Result<Known, HandshakeError>;
}

/// What certificates this node shows, and what it makes of others'. Asked at each handshake, so that certificates can be renewed.
pub trait Trust: Send + Sync + 'static {
    /// Towards whoever dials this node, with a certificate of a node or without one.
    fn server_config(&self) -> Arc<ServerConfig>;
    /// Towards a node that this one dials, and the name by which its certificate is asked for (RFC 6066, section 3).
    fn client_config(&self, node: NodeId) -> (Arc<ClientConfig>, ServerName<'static>);
    /// Whose certificate a handshake has verified; None: nobody's.
    fn node_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String>;
}

/// Mutual TLS.
pub struct MutualTls<T>(pub T);

/// TLS of one who has no certificate yet, and wants to join.
pub struct AsStranger<N> {
    /// What to make of the certificate at the other end.
    pub config: Arc<ClientConfig>,
    /// Whose it is.
    pub node_of: N,
}

/// The name by which a stranger asks for whoever's certificate; no DNS knows it.
pub fn any_name() -> ServerName<'static> {
    const NAME: &str = "hearth.internal";
    ServerName::try_from(NAME).expect("letters and dots make a name")
}

async fn greet(
    (config, name): (Arc<ClientConfig>, ServerName<'static>),
    wire: Wire,
    node_of: impl Fn(Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String>,
) -> Result<Known, HandshakeError> {
    let stream = TlsConnector::from(config)
        .connect(name, wire)
        .await
        .map_err(|e| HandshakeError(e.to_string()))?;
    let found = node_of(stream.get_ref().1.peer_certificates()).map_err(HandshakeError)?;
    Ok((Box::new(stream), found))
}

#[async_trait]
impl<T: Trust> Greet for MutualTls<T> {
    async fn greet(&self, wire: Wire, node: Option<NodeId>) -> Result<Known, HandshakeError> {
        let node = node.ok_or_else(|| HandshakeError("it isn't known who is there".to_owned()))?;
        let config = self.0.client_config(node);
        greet(config, wire, |chain| self.0.node_of(chain)).await
    }
}

#[async_trait]
impl<T: Trust> Receive for MutualTls<T> {
    async fn receive(&self, wire: Wire) -> Result<Known, HandshakeError> {
        let stream = TlsAcceptor::from(self.0.server_config())
            .accept(wire)
            .await
            .map_err(|e| HandshakeError(e.to_string()))?;
        let chain = stream.get_ref().1.peer_certificates();
        let found = self.0.node_of(chain).map_err(HandshakeError)?;
        Ok((Box::new(stream), found))
    }
}

#[async_trait]
impl<N> Greet for AsStranger<N>
where
    N: Fn(Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String> + Send + Sync + 'static,
{
    async fn greet(&self, wire: Wire, _: Option<NodeId>) -> Result<Known, HandshakeError> {
        greet((Arc::clone(&self.config), any_name()), wire, &self.node_of).await
    }
}
