//! Whatever commands come, in whatever order, what the state promises holds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::promises;
use super::steps::{Maker, Step, steps};
use crate::state::*;

/// The commands that steps are, one after the other.
fn commands(steps: &[Step]) -> Vec<Command> {
    let (mut state, mut maker) = (State::default(), Maker::default());
    let each = steps.iter().map(|step| {
        let command = maker.command(&state, step);
        state.apply(&command);
        command
    });
    each.collect()
}

proptest! {
    #[test]
    fn promises_hold_after_any_commands(steps in steps()) {
        let mut state = State::default();
        let mut holders = BTreeMap::new();
        for command in &commands(&steps) {
            let before = state.clone();
            let applied = state.apply(command);
            promises::hold(&state);
            promises::hold_between(&before, command, &applied, &state);
            for pod in state.pods.iter() {
                if let Some(node) = pod.held() {
                    let holder = *holders.entry((pod.id, pod.epoch)).or_insert(node);
                    prop_assert_eq!(holder, node, "two nodes hold a pod in one epoch");
                }
            }
        }
    }

    #[test]
    fn the_same_commands_give_the_same_state_and_changes(steps in steps()) {
        let (mut a, mut b) = (State::default(), State::default());
        for command in &commands(&steps) {
            prop_assert_eq!(a.apply(command), b.apply(command));
        }
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(steps in steps(), at in any::<prop::sample::Index>()) {
        let commands = commands(&steps);
        let (before, after) = commands.split_at(at.index(commands.len()));
        let mut straight = State::default();
        before.iter().for_each(|command| drop(straight.apply(command)));
        let bytes = encoding::encode(&straight).unwrap();
        let mut restored: State = encoding::decode(&bytes).unwrap();
        prop_assert_eq!(&straight, &restored);
        for command in after {
            let command: Command = encoding::decode(&encoding::encode(command).unwrap()).unwrap();
            prop_assert_eq!(straight.apply(&command), restored.apply(&command));
        }
        prop_assert_eq!(straight, restored);
    }

    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = encoding::decode::<Command>(&bytes);
        let _ = encoding::decode::<State>(&bytes);
    }
}
