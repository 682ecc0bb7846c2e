//! Signals by number and by name, as docker's clients, images and scripts write them. The one place that reads them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Linux signal, 1 to 64 (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

/// What names no signal. The words are docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct InvalidSignal(String);

/// Linux's signals 1 to 31, in order (signal(7), x86).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Second names of some.
const SYNONYMS: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// The first real-time signal: the C libraries keep 32 and 33 for themselves, and docker counts as they do.
const RTMIN: i32 = 34;
/// The last signal.
const RTMAX: i32 = 64;

impl Signal {
    /// The terminal has gone; by custom, "read your settings again".
    pub const HUP: Self = Self(1);
    /// Can't be caught.
    pub const KILL: Self = Self(9);
    /// The usual wish that a process end.
    pub const TERM: Self = Self(15);

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl TryFrom<i32> for Signal {
    type Error = InvalidSignal;
    fn try_from(number: i32) -> Result<Self, InvalidSignal> {
        if (1..=RTMAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(InvalidSignal(number.to_string()))
        }
    }
}

impl FromStr for Signal {
    type Err = InvalidSignal;
    /// A number, or a name in any case, with or without `SIG`; real-time signals as `RTMIN+n` and `RTMAX-n`.
    fn from_str(text: &str) -> Result<Self, InvalidSignal> {
        let number = match text.parse() {
            Ok(number) => Some(number),
            Err(_) => by_name(&text.to_ascii_uppercase()),
        };
        number
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| InvalidSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn by_name(upper: &str) -> Option<i32> {
    let name = upper.strip_prefix("SIG").unwrap_or(upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).ok();
    }
    if let Some((_, number)) = SYNONYMS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let real_time = if let Some(above) = name.strip_prefix("RTMIN") {
        RTMIN + distance(above, '+')?
    } else {
        RTMAX - distance(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&real_time).then_some(real_time)
}

/// `+3` is 3, nothing is 0. Two digits are all that a real-time signal needs.
fn distance(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let short = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    short.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("64", 64),
            ("SIGHUP", 1),
            ("sigquit", 3),
            ("SigTstp", 20),
            ("SYS", 31),
            ("CLD", 17),
            ("SIGRTMIN", 34),
            ("rtmin+3", 37),
            ("SIGRTMIN+30", 64),
            ("RTMAX", 64),
            ("RTMAX-2", 62),
        ] {
            assert_eq!(text.parse(), Ok(Signal(number)), "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "SIGNOTHING",
            "SIGSIGTERM",
            "RTMIN+99",
            "RTMINé",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN+-1",
            "RTMAX+1",
            "TERM ",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert_eq!(error.to_string(), format!("invalid signal: {text}"));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_signal_or_none(text in ".{0,12}", suffix in "[+-]?.{0,3}") {
            for text in [text, format!("RTMIN{suffix}"), format!("sigrtmax{suffix}")] {
                if let Ok(signal) = text.parse::<Signal>() {
                    proptest::prop_assert!((1..=64).contains(&signal.number()));
                }
            }
        }
    }
}
