//! The agents of all nodes, as one node reaches them.

use std::sync::Arc;

use super::{Agent, AgentError};
use crate::state::{NodeId, Placed};

/// The way to another node's agent.
pub trait Reach: Send + Sync {
    /// The agent of a node, whether that answers or not.
    fn agent(&self, node: NodeId) -> Arc<dyn Agent>;
}

/// The agents of all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    node: NodeId,
    own: Arc<dyn Agent>,
    others: Option<Arc<dyn Reach>>,
}

impl Agents {
    /// Of a node that is alone, so far.
    pub fn alone(node: NodeId, own: Arc<dyn Agent>) -> Self {
        Self {
            node,
            own,
            others: None,
        }
    }

    /// Of a node that reaches others.
    pub fn among(node: NodeId, own: Arc<dyn Agent>, others: Arc<dyn Reach>) -> Self {
        Self {
            node,
            own,
            others: Some(others),
        }
    }

    /// This node's own.
    pub fn own(&self) -> &Arc<dyn Agent> {
        &self.own
    }

    /// A node's.
    pub fn of(&self, node: NodeId) -> Result<Arc<dyn Agent>, AgentError> {
        match &self.others {
            _ if node == self.node => Ok(Arc::clone(&self.own)),
            Some(others) => Ok(others.agent(node)),
            None => Err(AgentError::OutOfReach {
                node: node.to_string(),
                why: "this node is alone".to_owned(),
            }),
        }
    }

    /// That of the node that a container is on.
    pub fn with(&self, placed: &Placed) -> Result<Arc<dyn Agent>, AgentError> {
        match placed.pod.held() {
            Some(node) => self.of(node),
            None => Err(AgentError::Nowhere {
                id: placed.id,
                why: match (placed.pod.previous, placed.pod.pending.as_str()) {
                    (Some(_), _) => "the node that had it last has yet to let go of it".to_owned(),
                    (None, "") => "it has not been given to one yet".to_owned(),
                    (None, pending) => pending.to_owned(),
                },
            }),
        }
    }
}
