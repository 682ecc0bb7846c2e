//! How many execs of a container are remembered, and for how long.

use std::time::{Duration, Instant};

use crate::agent::ExecId;

/// Execs of one container. Each that runs has two connections to the guest, of 512 that its monitor carries; a script that runs one
/// every second and looks at them afterwards finds the last two minutes'.
pub const EXECS_MAX: usize = 128;
/// Their words and variables, bytes: two requests as large as they may be. A kernel takes 2 MiB of them for one program.
pub const BYTES_MAX: usize = 8 << 20;
/// For how long one that has ended is remembered at least: docker forgets them between five and ten minutes after.
pub const KEPT: Duration = Duration::from_secs(5 * 60);

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// Made, and not started.
    Made(Instant),
    /// Started.
    Running,
    /// Nothing but the memory of it is left.
    Ended(Instant),
}

/// What is looked at to find room.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub stage: Stage,
    /// Of its words and variables.
    pub bytes: usize,
}

/// There is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many run, or are about to, as may.
    Number,
    /// Those have that many bytes.
    Bytes,
}

/// True once nobody will ask for it any more.
pub fn is_over(stage: Stage, now: Instant) -> bool {
    matches!(stage, Stage::Ended(at) if now.saturating_duration_since(at) >= KEPT)
}

/// Which of a container's execs are forgotten for a new one of so many bytes: those that have ended, the oldest first, then those that
/// somebody has made long ago and not started.
pub fn make_room(
    execs: impl IntoIterator<Item = (ExecId, Standing)>,
    bytes: usize,
    now: Instant,
) -> Result<Vec<ExecId>, Full> {
    let (mut count, mut held) = (1, bytes);
    let mut candidates = Vec::new();
    for (id, standing) in execs {
        count += 1;
        held += standing.bytes;
        match standing.stage {
            Stage::Ended(at) => candidates.push((false, at, id, standing.bytes)),
            Stage::Made(at) if now.saturating_duration_since(at) >= KEPT => {
                candidates.push((true, at, id, standing.bytes));
            }
            Stage::Made(_) | Stage::Running => {}
        }
    }
    candidates.sort();
    let mut forgotten = Vec::new();
    let mut candidates = candidates.into_iter();
    while count > EXECS_MAX || held > BYTES_MAX {
        let full = if count > EXECS_MAX {
            Full::Number
        } else {
            Full::Bytes
        };
        let (_, _, id, bytes) = candidates.next().ok_or(full)?;
        count -= 1;
        held -= bytes;
        forgotten.push(id);
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execs(stages: impl IntoIterator<Item = Stage>, bytes: usize) -> Vec<(ExecId, Standing)> {
        let standings = stages.into_iter().map(|stage| Standing { stage, bytes });
        let numbered = standings.enumerate();
        numbered.map(|(n, it)| (n.to_string(), it)).collect()
    }

    #[test]
    fn those_that_ended_make_room_the_oldest_first_and_those_that_run_never() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let running = execs(vec![Stage::Running; EXECS_MAX], 1);
        assert_eq!(make_room(running, 1, at(9999)), Err(Full::Number));
        let mut stages = vec![Stage::Running; EXECS_MAX - 2];
        stages.extend([Stage::Ended(at(2)), Stage::Ended(at(1))]);
        let oldest = (EXECS_MAX - 1).to_string();
        let room = make_room(execs(stages.clone(), 1), 1, at(3));
        assert_eq!(room, Ok(vec![oldest]));
        stages.pop();
        assert_eq!(make_room(execs(stages, 1), 1, at(3)), Ok(vec![]));
    }

    #[test]
    fn what_was_made_and_never_started_makes_room_after_a_while() {
        let begin = Instant::now();
        let made = execs(vec![Stage::Made(begin); EXECS_MAX], 1);
        let room = |now| make_room(made.clone(), 1, now).map(|forgotten| forgotten.len());
        assert_eq!(room(begin + KEPT / 2), Err(Full::Number));
        assert_eq!(room(begin + KEPT), Ok(1));
    }

    #[test]
    fn words_and_variables_are_bounded_as_well() {
        let begin = Instant::now();
        let running = execs([Stage::Running, Stage::Running], BYTES_MAX / 2);
        assert_eq!(make_room(running, 1, begin), Err(Full::Bytes));
        let ended = execs([Stage::Running, Stage::Ended(begin)], BYTES_MAX / 2);
        assert_eq!(make_room(ended, 1, begin), Ok(vec!["1".to_owned()]));
    }

    #[test]
    fn one_that_ended_is_over_after_a_while() {
        let begin = Instant::now();
        assert!(!is_over(Stage::Ended(begin), begin + KEPT / 2));
        assert!(is_over(Stage::Ended(begin), begin + KEPT));
        assert!(!is_over(Stage::Running, begin + 2 * KEPT));
        assert!(!is_over(Stage::Made(begin), begin + 2 * KEPT));
    }
}
