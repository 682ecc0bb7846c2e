//! What stands behind the `?`, and the filters in it.

use std::collections::BTreeMap;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use serde::Deserialize;

use super::errors::ApiError;

/// The parameters of a request. Unknown ones are ignored, as docker does; of one given twice the first counts.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of the text behind the `?`; what isn't well-formed is refused, as docker refuses it.
    pub fn checked(text: &str) -> Result<Self, ApiError> {
        if text.contains(';') {
            return Err(ApiError::bad_request(
                "invalid semicolon separator in query",
            ));
        }
        if let Some(escape) = invalid_escape(text) {
            return Err(ApiError::bad_request(format!(
                "invalid URL escape \"{escape}\""
            )));
        }
        Ok(Self::parse(text))
    }

    /// Of well-formed text.
    pub fn parse(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// A parameter; None where it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's idea of truth: everything but nothing, `0`, `no`, `false` and `none`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| {
            !matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            )
        })
    }

    /// A number, where there is one.
    pub fn number<T: FromStr<Err = ParseIntError>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|error: ParseIntError| {
                    let reason = match error.kind() {
                        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                            "value out of range"
                        }
                        _ => "invalid syntax",
                    };
                    ApiError::bad_request(format!(
                        "invalid value for {name}: parsing {value:?}: {reason}"
                    ))
                })
            })
            .transpose()
    }

    /// The `filters` parameter.
    pub fn filters(&self, accepted: &[&str]) -> Result<Filters, ApiError> {
        let filters = self
            .get("filters")
            .map(Filters::parse)
            .transpose()?
            .unwrap_or_default();
        match filters
            .0
            .keys()
            .find(|name| !accepted.contains(&name.as_str()))
        {
            Some(name) => Err(ApiError::bad_request(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }
}

/// The first `%` without two hexadecimal digits behind it, with what stands there instead.
fn invalid_escape(text: &str) -> Option<String> {
    text.match_indices('%').find_map(|(at, _)| {
        let escape: String = text[at..].chars().take(3).collect();
        let valid = escape.len() == 3 && escape[1..].bytes().all(|b| b.is_ascii_hexdigit());
        (!valid).then_some(escape)
    })
}

/// `filters={"label":["a=b"]}`, or as older clients write it `{"label":{"a=b":true}}`. Values of one filter are alternatives,
/// filters are all to be met (labels: each value is to be met).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

impl Filters {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let filters: Option<BTreeMap<String, Values>> =
            serde_json::from_str(text).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid filter: {text:?} is not a JSON object of lists"
                ))
            })?;
        let values = |values| match values {
            Values::List(list) => list,
            Values::Map(map) => map.into_keys().collect(),
        };
        Ok(Self(
            filters
                .unwrap_or_default()
                .into_iter()
                .map(|(name, given)| (name, values(given)))
                .collect(),
        ))
    }

    /// The values of a filter; empty where it isn't used.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// It is used.
    pub fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The filter isn't used, or one of its values passes.
    pub fn any(&self, name: &str, passes: impl FnMut(&String) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(passes)
    }

    /// Every `label` (`key` or `key=value`) is among the labels, and no `label!` is.
    pub fn labels<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => get(key) == Some(value),
            None => get(wanted).is_some(),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }

    /// A filter that is true or false; given as both it is neither.
    pub fn truth(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let values = self.values(name);
        let among = |words: [&str; 3]| {
            values
                .iter()
                .any(|value| words.contains(&value.to_ascii_lowercase().as_str()))
        };
        match (among(["1", "true", "t"]), among(["0", "false", "f"])) {
            _ if values.is_empty() => Ok(None),
            (true, false) => Ok(Some(true)),
            (false, true) => Ok(Some(false)),
            _ => Err(ApiError::bad_request(format!(
                "invalid filter '{name}=[{}]'",
                values.join(" ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_as_docker_sees_it() {
        let query = Query::parse("a=1&b=0&c=&d=false&e=yes&f=none&g=True");
        let true_ones: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"]
            .into_iter()
            .filter(|n| query.flag(n))
            .collect();
        assert_eq!(true_ones, ["a", "e", "g"]);
    }

    #[test]
    fn both_forms_of_filters_mean_the_same() {
        let list = Query::parse("filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D")
            .filters(&["label"])
            .unwrap();
        let map = Query::parse("filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D")
            .filters(&["label"])
            .unwrap();
        assert_eq!(list, map);
        assert!(list.labels(|key| (key == "a").then_some("b")));
        assert!(!list.labels(|key| (key == "a").then_some("c")));
    }

    #[test]
    fn what_is_no_query_and_no_number_is_refused_in_dockers_words() {
        let refusal = |text: &str| Query::checked(text).unwrap_err().message().to_owned();
        assert_eq!(refusal("all=%zz"), "invalid URL escape \"%zz\"");
        assert_eq!(refusal("all=%4"), "invalid URL escape \"%4\"");
        assert_eq!(refusal("all=1%"), "invalid URL escape \"%\"");
        assert_eq!(refusal("all=%é"), "invalid URL escape \"%é\"");
        assert_eq!(refusal("a;b"), "invalid semicolon separator in query");
        let query = Query::parse("a=x&b=-1&c=99999999999&d=%31");
        let number = |name| {
            query
                .number::<u16>(name)
                .map_err(|e| e.message().to_owned())
        };
        for (name, reason) in [
            ("a", "parsing \"x\": invalid syntax"),
            ("b", "parsing \"-1\": invalid syntax"),
            ("c", "parsing \"99999999999\": value out of range"),
        ] {
            let refusal = number(name).unwrap_err();
            assert_eq!(refusal, format!("invalid value for {name}: {reason}"));
        }
        assert_eq!((number("d"), number("e")), (Ok(Some(1)), Ok(None)));
    }

    #[test]
    fn a_filter_that_is_true_and_false_is_neither() {
        let truth = |text: &str| Filters::parse(text).unwrap().truth("dangling");
        assert_eq!(truth("null"), Ok(None));
        assert_eq!(truth(r#"{"dangling":["true","1"]}"#), Ok(Some(true)));
        assert_eq!(truth(r#"{"dangling":{"0":true}}"#), Ok(Some(false)));
        for neither in ["maybe\",\"so", "true\",\"false"] {
            let refusal = truth(&format!("{{\"dangling\":[\"{neither}\"]}}")).unwrap_err();
            assert!(refusal.message().starts_with("invalid filter 'dangling=["));
        }
    }

    #[test]
    fn unknown_and_malformed_filters_are_refused() {
        let refused = |text: &str| {
            Query(vec![("filters".into(), text.into())])
                .filters(&["name"])
                .unwrap_err()
        };
        assert_eq!(
            refused(r#"{"shape":["round"]}"#).message(),
            "invalid filter 'shape'"
        );
        assert!(refused("{").message().contains("invalid filter"));
        assert!(refused("[]").message().contains("invalid filter"));
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_parsed_or_refused(text in ".{0,200}") {
            if let Ok(query) = Query::checked(&text) {
                let _ = (query.filters(&["a"]), query.flag("a"), query.number::<u32>("a"));
            }
            let _ = Filters::parse(&text);
        }
    }
}
