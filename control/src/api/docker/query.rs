//! What stands behind the `?`, and the filters in it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::errors::ApiError;

/// The parameters of a request. Unknown ones are ignored, as docker does; of one given twice the first counts.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Of the text behind the `?`.
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
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "invalid value for {name}: {value:?} is not a number"
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
        let filters: BTreeMap<String, Values> = serde_json::from_str(text).map_err(|_| {
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

    /// A filter that is true or false.
    pub fn truth(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self
            .values(name)
            .first()
            .map(|value| value.to_ascii_lowercase())
            .as_deref()
        {
            None => Ok(None),
            Some("1" | "true" | "t") => Ok(Some(true)),
            Some("0" | "false" | "f") => Ok(Some(false)),
            Some(value) => Err(ApiError::bad_request(format!(
                "invalid filter '{name}=[{value}]'"
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
            let query = Query::parse(&text);
            let _ = (query.filters(&["a"]), query.flag("a"), query.number::<u32>("a"));
            let _ = Filters::parse(&text);
        }
    }
}
