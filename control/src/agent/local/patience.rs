//! How long a microVM may take to boot. By its processor's time, not by the clock: on a node that starts many at once each of them
//! gets little, and comes to its end all the same.

use std::io;
use std::time::{Duration, Instant};

/// Of processors, from the monitor's start to the main process's: a fraction of a second, on an emulated processor some; what takes more
/// than this doesn't come.
const CPU_MOST: Duration = Duration::from_secs(60);
/// It stands still if it has had less than [`CPU_LEAST`] of a processor for so long: longer than a disk of a home takes to wake, and to be
/// through with what others have asked of it.
const STILL_MOST: Duration = Duration::from_secs(60);
/// What one of some hundred gets of one processor.
const CPU_LEAST: Duration = Duration::from_millis(100);
/// From one look to the next.
pub const LOOK: Duration = Duration::from_secs(5);

/// What a booting microVM has had.
pub struct Patience {
    moved: Instant,
    had: Duration,
}

impl Patience {
    /// It begins.
    pub fn new(now: Instant) -> Self {
        Self {
            moved: now,
            had: Duration::ZERO,
        }
    }

    /// `cpu`: what it has had of processors so far. Returns why it is not waited for any longer.
    pub fn look(&mut self, now: Instant, cpu: Duration) -> Option<String> {
        if cpu >= CPU_MOST {
            return Some(format!(
                "it does not answer, and has had {} s of processor time",
                cpu.as_secs()
            ));
        }
        if cpu >= self.had + CPU_LEAST {
            (self.had, self.moved) = (cpu, now);
        }
        let still = now.duration_since(self.moved);
        (still >= STILL_MOST).then(|| {
            format!(
                "it does not answer, and has stood still for {} s",
                still.as_secs()
            )
        })
    }
}

/// What a process has had of processors, its threads and the guest in it included (`proc_pid_stat(5)`).
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let odd = || io::Error::other("/proc says something else of a process's time");
    // The name, in brackets, may have any characters in it.
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(odd)?;
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: Vec<u64> = ticks.map_while(|field| field.parse().ok()).collect();
    let [user, system] = ticks[..] else {
        return Err(odd());
    };
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(
        (user + system) * 1000 / per_second.max(1),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_gets_little_is_waited_for_and_one_that_stands_still_or_never_comes_is_not() {
        let begun = Instant::now();
        let mut patience = Patience::new(begun);
        // A hundredth of a processor, for an hour and a half.
        for second in (5..5400).step_by(5) {
            let had = SECOND * second / 100;
            assert_eq!(patience.look(begun + SECOND * second, had), None);
        }
        let had = SECOND * 55;
        for second in [5400, 5459] {
            assert_eq!(patience.look(begun + SECOND * second, had), None);
        }
        let still = patience.look(begun + SECOND * 5460, had).unwrap();
        assert!(still.contains("stood still"), "{still}");
        let mut patience = Patience::new(begun);
        let much = patience.look(begun + SECOND * 61, SECOND * 60).unwrap();
        assert!(much.contains("60 s of processor time"), "{much}");
    }

    #[test]
    fn a_processs_time_is_what_it_has_worked() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let begun = Instant::now();
        while cpu_time(own).unwrap() < before + Duration::from_millis(50) {
            assert!(begun.elapsed() < SECOND * 600, "it works, and has no time");
        }
    }
}
