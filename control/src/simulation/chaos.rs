//! A history: the cluster comes to be, has bad luck while clients ask for things, comes to rest, and then loses its leader once more with nothing
//! else wrong, for its times to be taken.

use std::time::Duration;

use tokio::time::Instant;

use super::disk::Faults;
use super::hooks::{one_in, pick, set_clocks_alike, set_clocks_wrong_by, trusts_the_disk};
use super::host::Host;
use super::network::Weather;
use super::world::World;

/// Writes go on within this after a leader's death, where nothing else is wrong.
pub const WRITES_AGAIN: Duration = Duration::from_secs(2);
/// A dead node's pods run elsewhere within this, where nothing else is wrong.
pub const ELSEWHERE: Duration = Duration::from_secs(15);
/// Strokes of bad luck in each stretch.
const STROKES: std::ops::Range<u64> = 10..30;
/// Between two of them, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..4_000;
/// Between two clients' questions, milliseconds.
const ASKS_MS: std::ops::Range<u64> = 5..250;
/// Everything has come to rest so many seconds after the last stroke: leases, elections, and a policy's longest pause, twice each.
const REST_S: u64 = 240;
/// Machines and controls are away for so long, milliseconds: mostly less than a lease.
const AWAY_MS: std::ops::Range<u64> = 100..9_000;
/// The same, sometimes: until they are called out, and longer.
const LONG_AWAY_MS: std::ops::Range<u64> = 9_000..40_000;
/// The same, once in a while: to the end of this stretch, mostly.
const FOR_GOOD_MS: std::ops::Range<u64> = 60_000..120_000;
/// The same, where all begin again in turn.
const ROLL_AWAY_MS: std::ops::Range<u64> = 300..3_000;
/// A bad cable's link is up and down for so long, milliseconds: less than a heartbeat's interval to more than a lease.
const FLAPS_MS: std::ops::Range<u64> = 50..2_000;
/// Nobody asks for anything for so long, milliseconds, before the leader dies in the end, or about.
const RESTS_MS: std::ops::Range<u64> = 5_000..25_000;
/// Wall clocks are set wrong by so many seconds, at most, either way: a week.
const WRONG_S: u64 = 7 * 24 * 3600;

/// How long things took, where nothing else was wrong.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// See [`WRITES_AGAIN`].
    pub writes_again: Vec<Duration>,
    /// See [`ELSEWHERE`].
    pub elsewhere: Vec<Duration>,
}

/// One history. An error: what must not be, or does not come to be.
pub async fn run(world: &mut World, measured: &mut Measured) -> Result<(), String> {
    world.found().await?;
    busy(world, Duration::from_secs(3)).await?;
    // Where that is the mistake to be found, there is more to be mistaken about.
    let rots = (trusts_the_disk() || one_in(2)).then(|| pick(0..world.hosts.len() as u64) as usize);
    if let Some(rots) = rots {
        world.hosts[rots].is_unsound = true;
    }
    let strokes = pick(STROKES);
    // Where one rots, it does so at least once.
    let rots_at = pick(0..strokes);
    for at in 0..strokes {
        if let Some(rots) = rots.filter(|_| at == rots_at || trusts_the_disk()) {
            rot(world, rots);
        }
        stroke(world, rots).await?;
        let pause = Duration::from_millis(pick(PAUSE_MS));
        busy(world, pause).await?;
    }
    world.truth.note("no more bad luck", &());
    world.network.heal();
    for host in &mut world.hosts {
        host.set_faults(Faults::default());
        host.is_unsound = false;
        host.come_back();
    }
    set_clocks_alike();
    world.replace_rotten().await?;
    rest(world).await?;
    lose_leader(world, measured).await?;
    rest(world).await
}

/// Time passes, in which clients ask for things.
async fn busy(world: &mut World, time: Duration) -> Result<(), String> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        world.ask();
        world.pass(Duration::from_millis(pick(ASKS_MS))).await?;
    }
    Ok(())
}

/// Everything is as it is to be, and stays so.
async fn rest(world: &mut World) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(REST_S);
    let mut rested = 0;
    while rested < 5 {
        world.pass(Duration::from_millis(200)).await?;
        let unwell = world.unwell();
        rested = if unwell.is_none() { rested + 1 } else { 0 };
        if let Some(unwell) = unwell.filter(|_| Instant::now() >= until) {
            return Err(format!("after {REST_S} s {unwell}"));
        }
    }
    world.check();
    world.truth.violation().map_or(Ok(()), Err)
}

async fn lose_leader(world: &mut World, measured: &mut Measured) -> Result<(), String> {
    let busy_before = one_in(2);
    // Where nobody does, the nodes themselves are to find that it is dead.
    let asks = busy_before || one_in(2);
    if busy_before {
        // Until each has a lease that is as old as it may be.
        busy(world, Duration::from_millis(pick(3_000..6_000))).await?;
    } else {
        // Until the leader rests, mostly.
        world.pass(Duration::from_millis(pick(RESTS_MS))).await?;
        let rests = world
            .hosts
            .iter()
            .filter_map(Host::replica)
            .any(|it| it.rests());
        world.truth.note("nobody has asked for anything", &rests);
    }
    let Some(leader) = world.leader() else {
        return Err("nobody leads, and nothing is wrong".to_owned());
    };
    let moving = world.pods_that_move(leader);
    world.hosts[leader].lose_power(Duration::from_secs(40));
    let began = Instant::now();
    let mut took = None;
    if asks {
        let Some((_, controller)) = world.some_controller(Some(leader)) else {
            return Err("nobody serves, and nothing is wrong".to_owned());
        };
        world.clients.write(&controller).await;
        took = Some(began.elapsed());
        world.truth.note("writes again after", &took);
        measured.writes_again.extend(took);
    }
    let own = world.hosts[leader].node();
    for id in moving {
        let elsewhere = |world: &World| world.truth.runs(&id).is_some_and(|(at, _)| at != own);
        world.until("its pod runs elsewhere", 40, elsewhere).await?;
        measured.elsewhere.push(began.elapsed());
    }
    let slowest = measured.elsewhere.iter().max().copied();
    if let Some(took) = took.filter(|it| *it > WRITES_AGAIN) {
        return Err(format!("writes went on after {took:?} only"));
    }
    if let Some(slowest) = slowest.filter(|it| *it > ELSEWHERE) {
        return Err(format!("a pod ran elsewhere after {slowest:?} only"));
    }
    Ok(())
}

fn away() -> Duration {
    Duration::from_millis(pick(if one_in(4) { LONG_AWAY_MS } else { AWAY_MS }))
}

/// One node after the other begins again, each once the one before is there.
async fn roll(world: &mut World) -> Result<(), String> {
    world.truth.note("begin again, one after the other", &());
    let power = one_in(2);
    for at in 0..world.hosts.len() {
        let away = Duration::from_millis(pick(ROLL_AWAY_MS));
        match power {
            true => world.hosts[at].lose_power(away),
            false => world.hosts[at].kill_control(away),
        }
        busy(world, away + Duration::from_millis(pick(PAUSE_MS))).await?;
    }
    Ok(())
}

fn rot(world: &mut World, at: usize) {
    // What was written last before the power failed and has changed by the next start can't be told from what never was written
    // (`crate::raft`'s mark).
    if !world.hosts[at].is_on() {
        return;
    }
    world.hosts[at].rot();
    // What a process has in memory hides it.
    let kind = if trusts_the_disk() { 0 } else { pick(0..3) };
    match kind {
        0 => world.hosts[at].kill_control(away()),
        1 => world.hosts[at].lose_power(away()),
        _ => {}
    }
}

fn some_clock_error() -> i64 {
    (pick(0..2 * WRONG_S) as i64 - WRONG_S as i64) * 1_000_000_000
}

/// One stroke of bad luck. `rots`: whose disk, of all, isn't to be trusted.
async fn stroke(world: &mut World, rots: Option<usize>) -> Result<(), String> {
    let at = pick(0..world.hosts.len() as u64) as usize;
    let node = world.hosts[at].node();
    match pick(0..20) {
        0 | 1 => world.hosts[at].kill_control(away()),
        2 => world.hosts[at].lose_power(away()),
        3 | 4 => {
            if let Some(leader) = world.leader() {
                match one_in(3) {
                    true => world.hosts[leader].kill_control(away()),
                    false => world.hosts[leader].lose_power(away()),
                }
            }
        }
        5 => {
            // Most of them.
            for other in 0..world.hosts.len() {
                if other != at {
                    world.hosts[other].lose_power(away());
                }
            }
        }
        6 | 7 => {
            let (out, inwards) = match pick(0..4) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            world.truth.note("cut off", &(node, out, inwards));
            for other in 0..world.hosts.len() {
                let other = world.hosts[other].node();
                if other != node {
                    world.network.cut(node, other, out);
                    world.network.cut(other, node, inwards);
                }
            }
        }
        8 => {
            let other = world.hosts[pick(0..world.hosts.len() as u64) as usize].node();
            let off = !one_in(3);
            world.truth.note("link", &(node, other, off));
            world.network.cut(node, other, off);
        }
        9 => {
            let weather = Weather {
                lost: [0, 0, 30, 5][pick(0..4) as usize],
                repeated: [0, 0, 20, 3][pick(0..4) as usize],
                slow: one_in(3),
            };
            world.truth.note("weather", &weather);
            world.network.set_weather(weather);
        }
        10 => {
            let faults = Faults {
                slow: one_in(2),
                full: one_in(4),
                fails: one_in(5),
            };
            world.truth.note("disk", &(node, faults));
            world.hosts[at].set_faults(faults);
        }
        11 => {
            let several = if one_in(2) { world.hosts.len() } else { 1 };
            set_clocks_wrong_by((0..several).map(|_| some_clock_error()).collect());
        }
        14 | 15 => {
            if let Some(rots) = rots {
                rot(world, rots);
            }
        }
        16 => {
            let other = world.hosts[pick(0..world.hosts.len() as u64) as usize].node();
            let period = Duration::from_millis(pick(FLAPS_MS));
            world.truth.note("flaps", &(node, other, period));
            world.network.flap(node, other, period);
            if one_in(2) {
                world.network.flap(other, node, period);
            }
        }
        17 => {
            // It comes back a week later, to a cluster that has gone on without it.
            world.hosts[at].lose_power(Duration::from_millis(pick(FOR_GOOD_MS)));
            set_clocks_wrong_by(vec![some_clock_error()]);
        }
        18 => roll(world).await?,
        12 => world.hosts[at].machine().some_exit(),
        _ => {
            world.truth.note("heals", &());
            world.network.heal();
            for host in &world.hosts {
                host.set_faults(Faults::default());
            }
        }
    }
    Ok(())
}
