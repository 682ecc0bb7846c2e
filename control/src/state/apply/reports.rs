//! What agents tell of their nodes.

use super::{Changes, Result};
use crate::state::{
    ContainerId, Exit, Failure, GOOD_RUN_NS, NodeId, Outcome, Phase, PodId, Refusal, Report, Run,
    State, Stop, What,
};

impl State {
    pub(super) fn report(
        &mut self,
        node: NodeId,
        report: &Report,
        changes: &mut Changes,
    ) -> Result {
        match report {
            Report::Started { id, run, pid } => self.started(node, id, *run, *pid, changes),
            Report::StartFailed {
                id,
                run,
                failure,
                code,
            } => {
                let exit = Exit {
                    code: *code,
                    oom_killed: false,
                };
                self.ended(node, id, *run, exit, Some(failure), changes)
            }
            Report::NotStarted { id, start } => self.not_started(node, id, *start, changes),
            Report::Exited { id, run, exit } => self.ended(node, id, *run, *exit, None, changes),
            Report::OutOfMemory { id, run, kills } => {
                self.out_of_memory(node, id, *run, *kills, changes)
            }
            Report::Paused { id, run, paused } => self.paused(node, id, *run, *paused, changes),
            Report::Released { pod, epoch } => self.released(node, pod, *epoch, changes),
            Report::Image {
                image,
                contents,
                bytes,
                present,
            } => Ok(self.image_on(node, image, contents, *bytes, *present)),
        }
    }

    /// Whether a node may speak of this run: its pod is that node's in that epoch, a user has asked for its start, and nothing later has
    /// been told.
    fn is_current(&self, node: NodeId, id: &ContainerId, run: Run) -> Result<bool> {
        let container = self.container(id)?;
        let pod = self.pods.get(&container.pod);
        let its_own = pod.is_some_and(|pod| pod.held() == Some(node) && pod.epoch == run.epoch);
        Ok(its_own && run >= container.status.run && run.start <= container.wanted.start)
    }

    /// Whether it is the run that is known, of a pod that the node has yet to let go of: its end is that node's to tell.
    fn is_leaving(&self, node: NodeId, id: &ContainerId, run: Run) -> Result<bool> {
        let container = self.container(id)?;
        let pod = self.pods.get(&container.pod);
        Ok(pod.is_some_and(|pod| pod.previous == Some(node)) && run == container.status.run)
    }

    fn started(
        &mut self,
        node: NodeId,
        id: &ContainerId,
        run: Run,
        pid: u32,
        changes: &mut Changes,
    ) -> Result {
        let before = self.container(id)?.status.run;
        if !self.is_current(node, id, run)? || run == before {
            return Ok(Outcome::Unchanged);
        }
        let (at_ns, revision) = (changes.at_ns, self.revision);
        let container = self.change(id, |container| {
            let status = &mut container.status;
            begun(status, run);
            status.phase = Phase::Running;
            status.pid = pid;
            status.started_ns = at_ns;
            let is_wanted = container.wanted.up && container.wanted.start == run.start;
            let of_its_own = Stop {
                signal: container.stop_signal(),
                timeout_s: container.stop_timeout_s(),
                revision,
                tell: false,
            };
            let stop = &mut container.wanted.stop;
            match is_wanted {
                // It was for what ran before.
                true => *stop = None,
                // Its node had begun it before it heard that nobody wants it any more.
                false => drop(stop.get_or_insert(of_its_own)),
            }
        })?;
        changes.of(&container, What::Started);
        let first = run.start > before.start;
        if first && container.wanted.restart && container.wanted.start == run.start {
            changes.of(&container, What::Restarted);
        }
        Ok(Outcome::Done)
    }

    fn ended(
        &mut self,
        node: NodeId,
        id: &ContainerId,
        run: Run,
        exit: Exit,
        failure: Option<&Failure>,
        changes: &mut Changes,
    ) -> Result {
        let status = &self.container(id)?.status;
        let known = run == status.run && status.phase != Phase::Running;
        let may_tell = self.is_current(node, id, run)? || self.is_leaving(node, id, run)?;
        if !may_tell || known {
            return Ok(Outcome::Unchanged);
        }
        self.end(id, run, exit, failure, changes)?;
        Ok(Outcome::Done)
    }

    /// A run is over, wherever that is known from.
    pub(super) fn end(
        &mut self,
        id: &ContainerId,
        run: Run,
        exit: Exit,
        failure: Option<&Failure>,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let at_ns = changes.at_ns;
        let mut ran_ns = 0;
        let mut tell_of_memory = false;
        let mut tell_of_stop = false;
        let container = self.change(id, |container| {
            let status = &mut container.status;
            if run > status.run {
                begun(status, run);
            } else {
                ran_ns = at_ns.saturating_sub(status.started_ns);
            }
            // Where each was told as it happened, this is nothing new; and a microVM that was lost may have told before.
            tell_of_memory = exit.oom_killed && status.oom_kills == 0;
            status.exit = Exit {
                oom_killed: exit.oom_killed || status.oom_kills > 0,
                ..exit
            };
            status.short_runs = match ran_ns < GOOD_RUN_NS {
                true => status.short_runs.saturating_add(1),
                false => 0,
            };
            status.failure = failure.cloned();
            status.phase = Phase::Exited;
            status.pid = 0;
            status.paused = false;
            status.finished_ns = at_ns;
            let more = container.policy_wants_more();
            let wanted = &mut container.wanted;
            let was_for_it = !wanted.up || wanted.start > run.start;
            if let Some(stop) = wanted.stop.take() {
                tell_of_stop = stop.tell && was_for_it;
            }
            // A start that was asked for meanwhile stands; one that is over is wanted no more, unless by its policy.
            wanted.up &= more || wanted.start > run.start;
            wanted.paused = false;
        })?;
        if tell_of_memory {
            changes.of(&container, What::OutOfMemory);
        }
        changes.of(&container, What::Died { exit, ran_ns });
        if tell_of_stop {
            changes.of(&container, What::Stopped);
        }
        self.settle(&container);
        self.go_if_over(&container, changes);
        Ok(())
    }

    fn not_started(
        &mut self,
        node: NodeId,
        id: &ContainerId,
        start: u64,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        let pod = self.pods.get(&container.pod);
        let its_own = pod.is_some_and(|pod| pod.held() == Some(node));
        let open = container.phase() == Phase::Starting && !container.wanted.up;
        if !its_own || !open || container.wanted.start != start {
            return Ok(Outcome::Unchanged);
        }
        self.call_off(id, changes)?;
        Ok(Outcome::Done)
    }

    fn out_of_memory(
        &mut self,
        node: NodeId,
        id: &ContainerId,
        run: Run,
        kills: u64,
        changes: &mut Changes,
    ) -> Result {
        let status = &self.container(id)?.status;
        let news = status.phase == Phase::Running && kills > status.oom_kills;
        if !self.is_current(node, id, run)? || run != status.run || !news {
            return Ok(Outcome::Unchanged);
        }
        let container = self.change(id, |container| {
            container.status.oom_kills = kills;
            container.status.exit.oom_killed = true;
        })?;
        changes.of(&container, What::OutOfMemory);
        Ok(Outcome::Done)
    }

    fn paused(
        &mut self,
        node: NodeId,
        id: &ContainerId,
        run: Run,
        paused: bool,
        changes: &mut Changes,
    ) -> Result {
        let status = &self.container(id)?.status;
        let news = status.phase == Phase::Running && status.paused != paused;
        if !self.is_current(node, id, run)? || run != status.run || !news {
            return Ok(Outcome::Unchanged);
        }
        let container = self.change(id, |container| container.status.paused = paused)?;
        let what = match paused {
            true => What::Paused,
            false => What::Unpaused,
        };
        changes.of(&container, what);
        Ok(Outcome::Done)
    }

    fn released(&mut self, node: NodeId, pod: &PodId, epoch: u64, changes: &mut Changes) -> Result {
        let revision = self.revision;
        let Some(mut pod) = self.pods.change(pod, revision) else {
            return Ok(Outcome::Unchanged);
        };
        // What it let go of may be its own again by now.
        if pod.previous != Some(node) || pod.epoch != epoch {
            return Ok(Outcome::Unchanged);
        }
        pod.previous = None;
        let containers = pod.containers.clone();
        drop(pod);
        // What has not been told to have ended has ended with that.
        self.lose_all(&containers, What::Wanted, changes)?;
        Ok(Outcome::Done)
    }
}

/// A run begins.
fn begun(status: &mut crate::state::Status, run: Run) {
    if run.start > status.run.start {
        status.restarts = 0;
        status.short_runs = 0;
    } else {
        status.restarts = status.restarts.saturating_add(1);
    }
    status.run = run;
    status.failure = None;
    status.exit.oom_killed = false;
    status.oom_kills = 0;
    status.paused = false;
}
