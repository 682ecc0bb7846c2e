//! Logging drivers, as `HostConfig.LogConfig` names them.

use bollard_stubs::models::HostConfigLogConfig;

use crate::api::docker::errors::ApiError;
use crate::state::{Container, LogDriver};

/// docker's own drivers that send output somewhere else.
const ELSEWHERE: [&str; 8] = [
    "awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog",
];
/// Options of every driver.
const OF_ALL: [&str; 5] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
];
/// Options of `json-file` and `local`.
const OF_FILES: [&str; 3] = ["max-file", "max-size", "compress"];
/// Further ones of `json-file`.
const OF_JSON_FILE: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];

/// The driver. Options are checked, and told to have no effect.
pub fn driver(
    asked: Option<&HostConfigLogConfig>,
    warnings: &mut Vec<String>,
) -> Result<LogDriver, ApiError> {
    let kind = asked.and_then(|asked| asked.typ.as_deref()).unwrap_or("");
    let driver = match kind {
        "" | "json-file" | "local" => LogDriver::Kept,
        // docker takes any option here, as none could do anything.
        "none" => return Ok(LogDriver::None),
        kind if ELSEWHERE.contains(&kind) => {
            return Err(ApiError::unsupported(format!(
                "the logging driver {kind:?} is"
            )));
        }
        kind => {
            return Err(ApiError::bad_request(format!(
                "error looking up logging plugin {kind}: plugin {kind:?} not found"
            )));
        }
    };
    let mut options: Vec<_> = asked
        .and_then(|asked| asked.config.as_ref())
        .into_iter()
        .flatten()
        .collect();
    options.sort();
    for (option, value) in options {
        let option = option.as_str();
        let known = OF_ALL.contains(&option)
            || OF_FILES.contains(&option)
            || (kind != "local" && OF_JSON_FILE.contains(&option));
        if !known {
            return Err(ApiError::bad_request(match kind {
                "local" => format!("unknown log opt '{option}' for log driver local"),
                _ => format!("unknown log opt '{option}' for json-file log driver"),
            }));
        }
        if option == "mode" && !matches!(value.as_str(), "" | "blocking" | "non-blocking") {
            return Err(ApiError::bad_request(format!(
                "logger: logging mode not supported: {value}"
            )));
        }
        warnings.push(format!("--log-opt {option} has no effect on Hearth yet."));
    }
    Ok(driver)
}

/// Whether what the container has written can be asked for.
pub fn check_readable(container: &Container) -> Result<(), ApiError> {
    match container.spec.log_driver {
        LogDriver::Kept => Ok(()),
        LogDriver::None => Err(ApiError::not_implemented(
            "configured logging driver does not support reading",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(asked: serde_json::Value) -> (Result<LogDriver, String>, Vec<String>) {
        let mut warnings = Vec::new();
        let asked = serde_json::from_value(asked).unwrap();
        let driver =
            driver(Some(&asked), &mut warnings).map_err(|error| error.message().to_owned());
        (driver, warnings)
    }

    #[test]
    fn drivers_are_known_and_options_are_told_or_refused() {
        let kept = |asked| assert_eq!(read(asked), (Ok(LogDriver::Kept), vec![]));
        kept(json!({}));
        kept(json!({ "Type": "json-file", "Config": {} }));
        kept(json!({ "Type": "local" }));
        assert_eq!(
            read(json!({ "Type": "none", "Config": { "any": "x" } })),
            (Ok(LogDriver::None), vec![])
        );
        let (driver, warnings) = read(json!({ "Config": { "max-size": "10m", "max-file": "3" } }));
        assert_eq!(driver, Ok(LogDriver::Kept));
        assert_eq!(warnings.len(), 2);
        for (asked, words) in [
            (
                json!({ "Type": "nosuch" }),
                "error looking up logging plugin nosuch: plugin \"nosuch\" not found",
            ),
            (
                json!({ "Config": { "foo": "bar" } }),
                "unknown log opt 'foo' for json-file log driver",
            ),
            (
                json!({ "Type": "local", "Config": { "tag": "x" } }),
                "unknown log opt 'tag' for log driver local",
            ),
            (
                json!({ "Config": { "mode": "weird" } }),
                "logger: logging mode not supported: weird",
            ),
            (
                json!({ "Type": "syslog" }),
                "the logging driver \"syslog\" is not supported by Hearth yet",
            ),
        ] {
            assert_eq!(read(asked.clone()).0.unwrap_err(), words, "{asked}");
        }
    }
}
