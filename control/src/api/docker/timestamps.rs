//! Moments and spans of time, as docker writes and reads them. Here they are nanoseconds since the Unix epoch.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::errors::ApiError;
use crate::clock::now_ns;

/// Go's zero time: never.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// As JSON shows it: RFC 3339, fractions without trailing zeros, Go's zero time for 0.
pub fn rfc3339(at_ns: u64) -> String {
    if at_ns == 0 {
        return NEVER.to_owned();
    }
    moment(at_ns)
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| NEVER.to_owned())
}

/// As `logs --timestamps` shows it: always nine digits of a fraction, so that lines stay aligned.
pub fn aligned(at_ns: u64) -> String {
    let whole = rfc3339(at_ns - at_ns % SECOND);
    format!("{}.{:09}Z", whole.trim_end_matches('Z'), at_ns % SECOND)
}

/// Seconds since the epoch of an RFC 3339 text; 0 where it is none.
pub fn unix_seconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

/// `since` and `until`: seconds with an optional fraction, RFC 3339, or a span back from now (`10m`, `1h30m`). None for `0` and for
/// nothing, which mean no bound.
pub fn bound(name: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.filter(|text| *text != "0") else {
        return Ok(None);
    };
    seconds(text)
        .or_else(|| {
            let at = OffsetDateTime::parse(text, &Rfc3339)
                .ok()?
                .unix_timestamp_nanos();
            Some(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
        })
        .or_else(|| Some(now_ns().saturating_sub(u64::try_from(span(text)?.as_nanos()).ok()?)))
        .map(Some)
        .ok_or_else(|| {
            ApiError::bad_request(format!(
                "invalid value for \"{name}\": {text:?} is no timestamp or duration"
            ))
        })
}

/// `1700000000.000000001`. Before the epoch counts as the epoch.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(
        u64::try_from(whole)
            .unwrap_or(0)
            .saturating_mul(SECOND)
            .saturating_add(nanos),
    )
}

/// Go's way to write a span: `1h2m3.5s`.
fn span(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let number: f64 = text[..end].parse().ok()?;
        text = &text[end..];
        let unit_end = text
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(text.len());
        let seconds = match &text[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        text = &text[unit_end..];
    }
    Some(total)
}

/// How long ago, in the words of `docker ps`.
pub fn ago(at_ns: u64) -> String {
    words(Duration::from_nanos(now_ns().saturating_sub(at_ns)))
}

fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    let hours = (span.as_secs_f64() / 3600.0).round() as u64;
    match (seconds, seconds / 60, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (s @ ..60, ..) => format!("{s} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, m @ ..60, _) => format!("{m} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, h @ ..48) => format!("{h} hours"),
        (_, _, h) if h < 24 * 7 * 2 => format!("{} days", h / 24),
        (_, _, h) if h < 24 * 30 * 2 => format!("{} weeks", h / 24 / 7),
        (_, _, h) if h < 24 * 365 * 2 => format!("{} months", h / 24 / 30),
        (_, _, h) => format!("{} years", h / 24 / 365),
    }
}

fn moment(at_ns: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ns)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_go_writes_them() {
        assert_eq!(rfc3339(0), NEVER);
        assert_eq!(rfc3339(1_700_000_000 * SECOND), "2023-11-14T22:13:20Z");
        assert_eq!(
            rfc3339(1_700_000_000 * SECOND + 120_000_000),
            "2023-11-14T22:13:20.12Z"
        );
        assert_eq!(
            aligned(1_700_000_000 * SECOND + 120_000_000),
            "2023-11-14T22:13:20.120000000Z"
        );
    }

    #[test]
    fn bounds_are_read_in_every_form() {
        let read = |text| bound("since", Some(text)).unwrap().unwrap();
        assert_eq!(read("1700000000.5"), 1_700_000_000 * SECOND + SECOND / 2);
        assert_eq!(read("1700000000.000000001"), 1_700_000_000 * SECOND + 1);
        assert_eq!(read("2023-11-14T22:13:20Z"), 1_700_000_000 * SECOND);
        assert_eq!(read("-5"), 0);
        assert!(read("10m") < now_ns());
        assert_eq!(bound("since", Some("0")).unwrap(), None);
        assert!(bound("since", Some("yesterday")).is_err());
    }

    #[test]
    fn spans_are_told_as_docker_tells_them() {
        for (seconds, told) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (50 * 3600, "2 days"),
            (24 * 15 * 3600, "2 weeks"),
            (24 * 70 * 3600, "2 months"),
            (24 * 800 * 3600, "2 years"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), told);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_bound_or_refused(text in ".{0,40}", digits in "[0-9a-z.:TZ+-]{0,30}") {
            let _ = (bound("since", Some(&text)), bound("since", Some(&digits)), unix_seconds(&text));
        }
    }
}
