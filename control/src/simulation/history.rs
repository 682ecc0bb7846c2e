//! Whether a history of a register is linearizable: whether each operation can have happened at one moment between its invocation and its
//! return. No value is written twice, so it is known which write each read has found, and it is enough to compare the times of values
//! with each other (Gibbons and Korach, "Testing shared memories", 1997, section 3).
//!
//! A test compares it with stateright's tester, an exhaustive search, which doesn't end where some operations have had no answer.

use std::collections::BTreeMap;

/// A register's history. No value is written twice, and 0 is what it begins with.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By who invokes it, once each.
    operations: BTreeMap<u64, Operation>,
    moment: u64,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    /// Of a write, or None.
    writes: Option<u64>,
    /// What a read has found.
    found: Option<u64>,
    invoked: u64,
    /// None: it has had no answer, and may be done at any time.
    returned: Option<u64>,
}

impl History {
    /// `by` has begun to write a value; None: to read.
    pub fn invoke(&mut self, by: u64, writes: Option<u64>) {
        self.moment += 1;
        let operation = Operation {
            writes,
            found: None,
            invoked: self.moment,
            returned: None,
        };
        self.operations.insert(by, operation);
    }

    /// It is done; a read has found this.
    pub fn returns(&mut self, by: u64, found: Option<u64>) {
        self.moment += 1;
        if let Some(operation) = self.operations.get_mut(&by) {
            operation.returned = Some(self.moment);
            operation.found = found;
        }
    }

    /// How many operations were begun.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Nothing was begun.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// There is an order that explains it.
    pub fn is_linearizable(&self) -> bool {
        let operations = self.operations.values();
        let writes: BTreeMap<u64, &Operation> = operations
            .clone()
            .filter_map(|it| Some((it.writes?, it)))
            .collect();
        let mut values: BTreeMap<u64, Times> = writes
            .iter()
            .filter_map(|(value, it)| Some((*value, Times::of(it.invoked, it.returned?))))
            .collect();
        for read in operations.filter(|it| it.writes.is_none()) {
            // What has had no answer has found nothing, and what nobody has found needs not have been written.
            let (Some(found), Some(returned)) = (read.found, read.returned) else {
                continue;
            };
            let begins = match (found, writes.get(&found)) {
                (0, _) => Times::of(0, 0),
                (_, Some(write)) => Times::of(write.invoked, write.returned.unwrap_or(u64::MAX)),
                (_, None) => return false,
            };
            if returned < begins.last_begin {
                return false;
            }
            let times = values.entry(found).or_insert(begins);
            times.first_end = times.first_end.min(returned);
            times.last_begin = times.last_begin.max(read.invoked);
        }
        values.entry(0).or_insert(Times::of(0, 0));
        let all: Vec<Times> = values.into_values().collect();
        all.iter().enumerate().all(|(at, one)| {
            let mut others = all.iter().enumerate().filter(|(other, _)| *other != at);
            others.all(|(_, other)| one.agrees(other))
        })
    }
}

/// Of all operations on one value: the write, and the reads that have found it.
#[derive(Debug, Clone, Copy)]
struct Times {
    first_end: u64,
    last_begin: u64,
}

impl Times {
    fn of(begin: u64, end: u64) -> Self {
        Self {
            first_end: end,
            last_begin: begin,
        }
    }

    /// Where one has ended before another began, it was the register's value all the time between.
    fn lasts(&self) -> bool {
        self.first_end < self.last_begin
    }

    fn agrees(&self, other: &Self) -> bool {
        if !self.lasts() {
            return true;
        }
        match other.lasts() {
            true => self.last_begin <= other.first_end || other.last_begin <= self.first_end,
            false => !(self.first_end < other.last_begin && other.first_end < self.last_begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
    use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

    use super::*;

    /// Who begins to write or read, or is answered, and with what.
    fn step() -> impl Strategy<Value = (u64, bool, u64)> {
        (0_u64..5, any::<bool>(), 0_u64..5)
    }

    proptest! {
        #[test]
        fn stateright_thinks_the_same_of_any_history(steps in proptest::collection::vec(step(), 1..16)) {
            let mut history = History::default();
            let mut tester = LinearizabilityTester::new(Register(0_u64));
            let mut began = BTreeMap::new();
            let mut answered = HashSet::new();
            for (by, writes, found) in steps {
                match began.get(&by) {
                    None => {
                        // Each writes its own value.
                        began.insert(by, writes);
                        history.invoke(by, writes.then_some(by + 1));
                        let operation = if writes { RegisterOp::Write(by + 1) } else { RegisterOp::Read };
                        tester.on_invoke(by, operation).unwrap();
                    }
                    Some(writes) if answered.insert(by) => {
                        history.returns(by, (!writes).then_some(found));
                        let answer = if *writes { RegisterRet::WriteOk } else { RegisterRet::ReadOk(found) };
                        tester.on_return(by, answer).unwrap();
                    }
                    Some(_) => {}
                }
            }
            prop_assert_eq!(history.is_linearizable(), tester.is_consistent());
        }
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_found() {
        let mut history = History::default();
        history.invoke(1, Some(1));
        history.returns(1, None);
        history.invoke(2, Some(2));
        history.invoke(3, None);
        history.returns(3, Some(1));
        assert!(history.is_linearizable());
        history.invoke(4, None);
        history.returns(4, Some(2));
        assert!(history.is_linearizable(), "though it has had no answer");
        history.invoke(5, None);
        history.returns(5, Some(1));
        assert!(!history.is_linearizable());
    }
}
