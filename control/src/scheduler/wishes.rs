//! What a container says about its place, in labels: what Swarm's services have fields for.
//!
//! | label | value |
//! |---|---|
//! | `hearth.constraint.NAME` | a [`Constraint`]; the name only tells several apart: `--label hearth.constraint.disk=node.labels.disk==ssd` |
//! | `hearth.spread` | [`Label`]s of nodes, separated by commas, the widest first: `node.labels.zone,node.labels.rack` |
//! | `hearth.priority` | a band or a number, as [`Priority`] |
//! | `hearth.failover` | `never`: it stays with its node, whatever happens to that |

use std::collections::BTreeMap;
use std::sync::Arc;

use super::constraint::InvalidLabel;
use super::priority::InvalidPriority;
use super::{Constraint, ConstraintError, Label, Priority};

/// What a container wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// All are to be met.
    pub constraints: Vec<Constraint>,
    /// What pods of its group are spread over; [`default_spread`] where it says nothing.
    pub spread: Vec<Label>,
    /// When it is its turn.
    pub priority: Priority,
    /// It runs on the node that it was first given to, or nowhere.
    pub stays: bool,
    /// The service that it is a part of: its pods are kept apart. None: it is of no service.
    pub service: Option<Arc<str>>,
}

/// A label that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// No expression.
    #[error("label {label}: {source}")]
    Constraint {
        /// Its key.
        label: String,
        /// What is wrong with it.
        source: ConstraintError,
    },
    /// An expression that no node can meet.
    #[error(
        "label {label}: no node can ever meet {constraint:?}; constraints are on node.id, node.hostname, node.role, node.ip (an \
         address or subnet), node.platform.os, node.platform.arch, node.labels.NAME or engine.labels.NAME"
    )]
    Never {
        /// Its key.
        label: String,
        /// What it says.
        constraint: String,
    },
    /// Nothing to spread over.
    #[error("label {SPREAD}: {0}")]
    Spread(#[from] InvalidLabel),
    /// No priority.
    #[error("label {PRIORITY}: {0}")]
    Priority(#[from] InvalidPriority),
    /// Not `never`.
    #[error(
        "label {FAILOVER}: {0:?} isn't known; `never` keeps the container on its node, and without the label it is started elsewhere"
    )]
    Failover(String),
    /// More than are compared with every node.
    #[error("there are {0} labels {CONSTRAINT}*, and {CONSTRAINTS_MAX} are the most")]
    TooManyConstraints(usize),
    /// More than are compared with every node.
    #[error("label {SPREAD} names {0} labels, and {SPREAD_MAX} are the most")]
    TooManySpread(usize),
}

const CONSTRAINT: &str = "hearth.constraint.";
const SPREAD: &str = "hearth.spread";
/// Names a pod's [`Priority`].
pub const PRIORITY: &str = "hearth.priority";
const FAILOVER: &str = "hearth.failover";
/// Labels that say which service a container is of, and those that say whose that service is.
const SERVICES: [(&str, Option<&str>); 2] = [
    ("com.docker.swarm.service.id", None),
    (
        "com.docker.compose.service",
        Some("com.docker.compose.project"),
    ),
];

/// Each is compared with every node of the cluster; nobody has been seen with more than a handful.
const CONSTRAINTS_MAX: usize = 16;
/// A region, a zone, a rack and a machine are four.
const SPREAD_MAX: usize = 4;

/// What pods of a group are spread over where nothing is said: the label `zone`. Nodes without one are in a zone of their own together.
pub fn default_spread() -> Vec<Label> {
    vec![Label::Node("zone".to_owned())]
}

/// Whether a label is one of the module's: what an image says there is nobody's wish.
pub fn is_wish(label: &str) -> bool {
    label.starts_with(CONSTRAINT) || [SPREAD, PRIORITY, FAILOVER].contains(&label)
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            constraints: Vec::new(),
            spread: default_spread(),
            priority: Priority::default(),
            stays: false,
            service: None,
        }
    }
}

impl Wishes {
    /// Read from the labels that a user gave. Those of an image are a stranger's: who built it has no say in where it runs.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Result<Self, WishError> {
        let mut wishes = Self::default();
        let constraints = || {
            labels
                .range(CONSTRAINT.to_owned()..)
                .take_while(|(label, _)| label.starts_with(CONSTRAINT))
        };
        if constraints().count() > CONSTRAINTS_MAX {
            return Err(WishError::TooManyConstraints(constraints().count()));
        }
        for (label, text) in constraints() {
            let constraint: Constraint = text.parse().map_err(|source| WishError::Constraint {
                label: label.clone(),
                source,
            })?;
            if !constraint.can_be_met() {
                return Err(WishError::Never {
                    label: label.clone(),
                    constraint: text.clone(),
                });
            }
            wishes.constraints.push(constraint);
        }
        // Two that say the same in another order are the same.
        wishes.constraints.sort();
        wishes.constraints.dedup();
        if let Some(text) = labels.get(SPREAD) {
            let count = text.split(',').count();
            if count > SPREAD_MAX {
                return Err(WishError::TooManySpread(count));
            }
            let labels = text.split(',').map(|label| label.trim().parse());
            wishes.spread = labels.collect::<Result<_, _>>()?;
        }
        if let Some(text) = labels.get(PRIORITY) {
            wishes.priority = text.parse()?;
        }
        wishes.stays = match labels.get(FAILOVER).map(String::as_str) {
            None => false,
            Some("never") => true,
            Some(other) => return Err(WishError::Failover(other.to_owned())),
        };
        wishes.service = SERVICES.into_iter().find_map(|(service, owner)| {
            let service = labels.get(service)?;
            let owner = owner.and_then(|owner| labels.get(owner));
            Some(match owner {
                Some(owner) => format!("{owner}/{service}").into(),
                None => service.as_str().into(),
            })
        });
        Ok(wishes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&str, &str)]) -> Result<Wishes, WishError> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Wishes::from_labels(&labels.iter().map(owned).collect())
    }

    #[test]
    fn labels_say_what_swarms_fields_say() {
        let wishes = read(&[
            ("hearth.constraint.b", "node.labels.disk == ssd"),
            ("hearth.constraint.a", "node.labels.disk==ssd"),
            ("hearth.constraint", "is no constraint"),
            ("hearth.spread", "node.labels.zone, engine.labels.rack"),
            ("hearth.priority", "batch"),
            ("hearth.failover", "never"),
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", "web"),
        ])
        .unwrap();
        assert_eq!(
            wishes.constraints,
            ["node.labels.disk==ssd".parse().unwrap()]
        );
        let spread: Vec<String> = wishes.spread.iter().map(Label::to_string).collect();
        assert_eq!(spread, ["node.labels.zone", "engine.labels.rack"]);
        assert_eq!(wishes.priority.to_string(), "batch");
        assert!(wishes.stays);
        assert_eq!(wishes.service.as_deref(), Some("shop/web"));
        assert_eq!(read(&[("com.example", "x")]), Ok(Wishes::default()));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_label() {
        let error = |key, value| read(&[(key, value)]).unwrap_err().to_string();
        assert_eq!(
            error("hearth.constraint.0", "node.role=manager"),
            "label hearth.constraint.0: constraint expected one operator from ==, !="
        );
        assert!(error("hearth.constraint.0", "role==manager").contains("no node can ever meet"));
        assert!(error("hearth.spread", "zone").starts_with("label hearth.spread: \"zone\" is no"));
        assert!(error("hearth.spread", "").starts_with("label hearth.spread: \"\" is no"));
        assert!(error("hearth.spread", "a,b,c,d,e").contains("4 are the most"));
        assert!(error("hearth.priority", "high").contains("best-effort, batch, production"));
        assert!(error("hearth.failover", "no").contains("`never`"));
    }
}
