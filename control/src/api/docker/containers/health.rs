//! Health checks, which are kept and shown, and not run yet.

use bollard_stubs::models::HealthConfig;
use serde_json::Value;

use crate::api::docker::errors::ApiError;

/// The shortest time that docker takes, nanoseconds.
const DURATION_MIN_NS: i64 = 1_000_000;

/// The check of a container: the client's, with what it leaves out from the image's, as docker merges them.
pub fn merge(
    asked: Option<&HealthConfig>,
    image: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<Option<HealthConfig>, ApiError> {
    // An image's own check is nobody's to correct here: one that isn't understood is none.
    let of_image: Option<HealthConfig> =
        image.and_then(|value| serde_json::from_value(value.clone()).ok());
    let Some(asked) = asked else {
        return Ok(of_image);
    };
    check(asked)?;
    let kind = asked.test.as_ref().and_then(|test| test.first());
    if kind.is_some_and(|kind| kind != "NONE") {
        warnings.push("--health-cmd has no effect on Hearth yet.".to_owned());
    }
    let image = of_image.unwrap_or_default();
    let or = |asked: Option<i64>, image: Option<i64>| asked.filter(|&n| n != 0).or(image);
    Ok(Some(HealthConfig {
        test: asked
            .test
            .clone()
            .filter(|test| !test.is_empty())
            .or(image.test),
        interval: or(asked.interval, image.interval),
        timeout: or(asked.timeout, image.timeout),
        retries: or(asked.retries, image.retries),
        start_period: or(asked.start_period, image.start_period),
        start_interval: or(asked.start_interval, image.start_interval),
    }))
}

/// Refuses what the Engine's specification of `HealthConfig` rules out.
fn check(asked: &HealthConfig) -> Result<(), ApiError> {
    for (name, duration) in [
        ("Interval", asked.interval),
        ("Timeout", asked.timeout),
        ("StartPeriod", asked.start_period),
        ("StartInterval", asked.start_interval),
    ] {
        if duration.is_some_and(|ns| ns != 0 && ns < DURATION_MIN_NS) {
            return Err(ApiError::bad_request(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if asked.retries.is_some_and(|retries| retries < 0) {
        return Err(ApiError::bad_request(
            "Retries in Healthcheck cannot be negative",
        ));
    }
    match asked.test.as_ref().and_then(|test| test.first()) {
        Some(kind) if !matches!(kind.as_str(), "NONE" | "CMD" | "CMD-SHELL") => {
            Err(ApiError::bad_request(format!(
                "Unknown healthcheck type '{kind}' (expected 'CMD')"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(asked: Value, image: Option<Value>) -> Result<(Value, usize), String> {
        let mut warnings = Vec::new();
        let asked = serde_json::from_value(asked).unwrap();
        let merged = merge(Some(&asked), image.as_ref(), &mut warnings);
        let merged = merged.map_err(|error| error.message().to_owned())?;
        Ok((json!(merged), warnings.len()))
    }

    #[test]
    fn a_clients_check_counts_and_its_gaps_are_the_images() {
        let image = json!({ "Test": ["CMD", "image"], "Interval": 5_000_000, "Retries": 2 });
        assert_eq!(
            merged(json!({ "Interval": 7_000_000, "Retries": 0 }), Some(image)),
            Ok((
                json!({ "Test": ["CMD", "image"], "Interval": 7_000_000, "Retries": 2 }),
                0
            ))
        );
        assert_eq!(merged(json!({ "Test": ["CMD", "x"] }), None).unwrap().1, 1);
        assert_eq!(merged(json!({ "Test": ["NONE"] }), None).unwrap().1, 0);
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        for (asked, words) in [
            (
                json!({ "Interval": 5 }),
                "Interval in Healthcheck cannot be less than 1ms",
            ),
            (
                json!({ "Timeout": -5 }),
                "Timeout in Healthcheck cannot be less than 1ms",
            ),
            (
                json!({ "StartPeriod": 5 }),
                "StartPeriod in Healthcheck cannot be less than 1ms",
            ),
            (
                json!({ "StartInterval": 5 }),
                "StartInterval in Healthcheck cannot be less than 1ms",
            ),
            (
                json!({ "Retries": -1 }),
                "Retries in Healthcheck cannot be negative",
            ),
            (
                json!({ "Test": ["FOO", "x"] }),
                "Unknown healthcheck type 'FOO' (expected 'CMD')",
            ),
        ] {
            assert_eq!(merged(asked.clone(), None).unwrap_err(), words, "{asked}");
        }
    }
}
