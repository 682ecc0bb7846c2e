//! What a node's control does with what has come to it.

use std::collections::BTreeSet;

use rand::Rng;

use super::{ANY_LIFE, Event, Leading, MS, NODES, S, World, id};
use crate::lease::{Answer, BootTime, Granter, Member, Verdict};

impl World {
    pub(super) fn happen(&mut self, node: usize, life: u64, event: Event) {
        match event {
            Event::Election => return self.election(),
            Event::Fault => return self.fault(),
            Event::Majority(term, asked) => return self.majority(node, life, term, asked),
            Event::CallOut(term, of, tenure) => {
                return self.call_out(node, life, term, (of, tenure));
            }
            Event::CallIn => return self.call_in(node, life),
            Event::Wake => return self.wake(node),
            Event::Boot => return self.boot(node),
            Event::Control => return self.control(node),
            _ => {}
        }
        let it = &self.nodes[node];
        if it.asleep {
            // It happens once it is awake.
            let later = MS + self.upto(100 * MS);
            self.after(later, node, life, event);
            return;
        }
        if matches!(event, Event::Tick) {
            let next = 50 * MS + self.upto(300 * MS);
            self.after(next, node, ANY_LIFE, event);
        }
        let it = &self.nodes[node];
        if !it.up || !it.control || life != ANY_LIFE && life != it.life {
            return;
        }
        let now = self.clock(node);
        match event {
            Event::Tick => {
                self.lead(node, now);
                self.hold(node, now);
            }
            Event::Request(from, request) => {
                if let Some(leads) = &mut self.nodes[node].leads {
                    leads.waiting.push((from, request, now));
                    self.lead(node, now);
                } else {
                    self.send(node, from, Event::Answered(request, Answer::NotLeading));
                }
            }
            Event::Answered(request, answer) => {
                let (hold, from_answer) = (self.rules.timing.hold, self.rules.from_answer);
                let it = &mut self.nodes[node];
                let deadline = it.holder.answered(request, answer, now);
                let deadline = match answer {
                    Answer::Granted if from_answer => Some(now.plus_ns(hold)),
                    _ => deadline,
                };
                if let Some(deadline) = deadline.filter(|deadline| *deadline > it.page) {
                    (it.page, it.ended) = (deadline, false);
                }
            }
            Event::TimedOut(request) => self.nodes[node].holder.failed(request, now),
            Event::Confirmed(term, asked, yes) => {
                if let Some(leads) = self.leads(node, term) {
                    leads.asking = false;
                    if yes {
                        leads.granter.confirmed(asked, now);
                    }
                    self.lead(node, now);
                }
            }
            Event::Elected(term) => {
                let out = (0..NODES).filter(|node| self.out[*node]).collect();
                let newer = |leads: &Leading| leads.term > term;
                if self.nodes[node].leads.as_ref().is_some_and(newer) {
                    return;
                }
                self.nodes[node].leads = Some(Leading {
                    term,
                    granter: Granter::elected(self.rules.timing, now),
                    waiting: Vec::new(),
                    asking: false,
                    out,
                    tenures: self.tenures,
                    called: BTreeSet::new(),
                });
            }
            Event::CalledOut(term, of) => {
                if let Some(leads) = self.leads(node, term) {
                    leads.out.insert(of);
                }
            }
            Event::CalledIn(of, tenure) => {
                if let Some(leads) = &mut self.nodes[node].leads
                    && leads.tenures[of] < tenure
                {
                    leads.out.remove(&of);
                    leads.tenures[of] = tenure;
                }
            }
            Event::Deposed(term) => {
                self.nodes[node].leads.take_if(|leads| leads.term < term);
            }
            _ => {}
        }
    }

    pub(super) fn leads(&mut self, node: usize, term: u64) -> Option<&mut Leading> {
        let leads = self.nodes[node].leads.as_mut();
        leads.filter(|leads| leads.term == term)
    }

    /// What a leader does: grants, asks whether it leads, calls out.
    pub(super) fn lead(&mut self, node: usize, now: BootTime) {
        let rules = self.rules;
        let life = self.nodes[node].life;
        let Some(leads) = &mut self.nodes[node].leads else {
            return;
        };
        let term = leads.term;
        if rules.unconfirmed {
            leads.granter.confirmed(now, now);
        }
        leads.granter.tick(now);
        let tenures = leads.tenures;
        let member = |node: usize| Member {
            node: id(node),
            tenure: tenures[node],
        };
        let mut answers = Vec::new();
        leads.waiting.retain(|(from, request, arrived)| {
            let answer = if leads.out.contains(from) {
                Answer::Out
            } else {
                match leads.granter.request(member(*from), *arrived, now) {
                    Verdict::Unconfirmed => return true,
                    Verdict::Answer(Answer::Out) if rules.grants_out => Answer::Granted,
                    Verdict::Answer(answer) => answer,
                }
            };
            answers.push((*from, *request, answer));
            false
        });
        let members = (0..NODES).filter(|node| !leads.out.contains(node));
        let members: Vec<_> = members.map(member).collect();
        let overdue = leads.granter.overdue(members.iter().copied(), now);
        let overdue: Vec<_> = overdue
            .into_iter()
            .map(|member| (member.node.0 as usize - 1, member.tenure))
            .filter(|member| leads.called.insert(*member))
            .collect();
        let due = leads.granter.first_due(members, now);
        let ask = !leads.asking && (!leads.waiting.is_empty() || due.is_some_and(|due| due < now));
        leads.asking |= ask;
        for (to, request, answer) in answers {
            self.seen.granted += u64::from(answer == Answer::Granted);
            self.send(node, to, Event::Answered(request, answer));
        }
        if ask {
            let delay = self.delay();
            self.after(delay, node, life, Event::Majority(term, now));
        }
        for (of, tenure) in overdue {
            let delay = self.delay();
            self.after(delay, node, life, Event::CallOut(term, of, tenure));
        }
    }

    /// What a holder does.
    pub(super) fn hold(&mut self, node: usize, now: BootTime) {
        let it = &mut self.nodes[node];
        if it.holder.is_out() {
            if it.ended && !it.asked_in {
                (it.page, it.asked_in) = (BootTime(0), true);
                let (life, delay) = (it.life, self.delay());
                self.after(delay, node, life, Event::CallIn);
            }
            return;
        }
        if let Some(request) = it.holder.ask(now) {
            let life = it.life;
            let to = if self.one_in(5) {
                self.random.random_range(0..NODES)
            } else {
                self.leader
            };
            self.send(node, to, Event::Request(node, request));
            let patience = S + self.upto(2 * S);
            self.after(patience, node, life, Event::TimedOut(request));
        }
    }
}
