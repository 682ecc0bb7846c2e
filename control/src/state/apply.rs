//! Commands into outcomes: the state machine itself. One function per command; each checks everything before it changes anything,
//! so that a refusal leaves the state as it was.

mod containers;
mod images;
mod nodes;
mod pods;
mod reports;

use std::sync::Arc;

use super::{Change, Command, Container, Object, Outcome, Refusal, State, What};

/// What a command came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// What the proposer is told.
    pub result: Result<Outcome, Refusal>,
    /// What everybody else is told, in order.
    pub changes: Vec<Change>,
}

/// What every command gives.
type Result<T = Outcome, E = Refusal> = std::result::Result<T, E>;

/// What a command changes, as it goes.
struct Changes {
    revision: u64,
    at_ns: u64,
    all: Vec<Change>,
}

impl Changes {
    fn tell(&mut self, object: Object, what: What) {
        self.all.push(Change {
            revision: self.revision,
            at_ns: self.at_ns,
            object,
            what,
        });
    }

    fn of(&mut self, container: &Arc<Container>, what: What) {
        self.tell(Object::Container(Arc::clone(container)), what);
    }
}

impl State {
    /// Carry out a command. Deterministic: the same commands in the same order give the same state and changes everywhere.
    pub fn apply(&mut self, command: &Command) -> Applied {
        self.revision += 1;
        let mut changes = Changes {
            revision: self.revision,
            at_ns: command.at_ns(),
            all: Vec::new(),
        };
        let result = self.carry_out(command, &mut changes);
        Applied {
            result,
            changes: changes.all,
        }
    }

    fn carry_out(&mut self, command: &Command, changes: &mut Changes) -> Result {
        match command {
            Command::Create {
                container,
                node,
                pending,
                ..
            } => self.create(container, *node, pending, changes),
            Command::Start { id, .. } => self.start(id, changes),
            Command::Stop {
                id,
                signal,
                timeout_s,
                tell,
                ..
            } => self.stop(id, *signal, *timeout_s, *tell, changes),
            Command::Restart {
                id,
                signal,
                timeout_s,
                ..
            } => self.restart(id, *signal, *timeout_s, changes),
            Command::Signalled {
                id, signal, end, ..
            } => self.signalled(id, *signal, *end, changes),
            Command::Pause { id, paused, .. } => self.pause(id, *paused, changes),
            Command::Rename { id, name, .. } => self.rename(id, name, changes),
            Command::Remove { id, force, .. } => self.remove(id, *force, changes),
            Command::Assign {
                pod,
                epoch,
                node,
                pending,
                kept,
                ..
            } => self.assign(pod, *epoch, *node, pending, kept, changes),
            Command::Report { node, report, .. } => self.report(*node, report, changes),
            Command::AddImage {
                tenant,
                image,
                names,
                repo_digest,
                telling,
                stored,
                ..
            } => self.add_image(
                tenant,
                image,
                images::Arrival {
                    names,
                    repo_digest: repo_digest.as_deref(),
                    telling: *telling,
                    stored,
                },
                changes,
            ),
            Command::Untag { tenant, name, .. } => self.untag(tenant, name, changes),
            Command::RemoveImage {
                tenant,
                image,
                force,
                ..
            } => self.remove_image(tenant, image, *force, changes),
            Command::Join {
                node, is, wanted, ..
            } => self.join(*node, is, wanted, changes),
            Command::UpdateNode {
                node,
                version,
                wanted,
                ..
            } => self.update_node(*node, *version, wanted, changes),
            Command::NodeHealth {
                node,
                health,
                tenure,
                term,
                ..
            } => self.node_health(*node, health, *tenure, *term, changes),
            Command::Lead { term } => self.lead(*term),
            Command::RemoveNode {
                node, force, empty, ..
            } => self.remove_node(*node, *force, *empty, changes),
            Command::SetCluster { from, to } => self.set_cluster(from, to, changes),
        }
    }
}

impl Command {
    /// When it was given, nanoseconds since the Unix epoch; 0 where that is nobody's business.
    fn at_ns(&self) -> u64 {
        match self {
            Self::Create { at_ns, .. }
            | Self::Start { at_ns, .. }
            | Self::Stop { at_ns, .. }
            | Self::Restart { at_ns, .. }
            | Self::Signalled { at_ns, .. }
            | Self::Pause { at_ns, .. }
            | Self::Rename { at_ns, .. }
            | Self::Remove { at_ns, .. }
            | Self::Assign { at_ns, .. }
            | Self::Report { at_ns, .. }
            | Self::AddImage { at_ns, .. }
            | Self::Untag { at_ns, .. }
            | Self::RemoveImage { at_ns, .. }
            | Self::Join { at_ns, .. }
            | Self::UpdateNode { at_ns, .. }
            | Self::NodeHealth { at_ns, .. }
            | Self::RemoveNode { at_ns, .. } => *at_ns,
            Self::Lead { .. } | Self::SetCluster { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests;
