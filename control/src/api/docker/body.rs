//! What a request's body says: JSON, read as docker reads it.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;

use super::answer::JSON;
use super::errors::ApiError;
use hearth_image::go_json;

/// The value in a body, refused in docker's words where there is none. No body is `null`, and so an object without fields: what is missing
/// in it is the handler's to say.
pub fn decode<T: DeserializeOwned>(content_type: Option<&str>, body: &[u8]) -> Result<T, ApiError> {
    if !(body.is_empty() && content_type.is_none()) {
        check_content_type(content_type.unwrap_or_default())?;
    }
    // First into a value: of a field given twice the last counts, as it does for docker.
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = match values.next() {
        None if body.is_empty() => Value::Null,
        None => return Err(invalid("got EOF while reading request body")),
        Some(Err(error)) if error.classify() == Category::Eof => {
            return Err(invalid("unexpected EOF"));
        }
        Some(value) => value.map_err(invalid)?,
    };
    if values.next().is_some() {
        return Err(ApiError::bad_request("unexpected content after JSON"));
    }
    go_json::from_value(value).map_err(invalid)
}

fn invalid(reason: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("invalid JSON: {reason}"))
}

fn check_content_type(given: &str) -> Result<(), ApiError> {
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.is_empty() {
        Err(ApiError::bad_request(format!(
            "malformed Content-Type header ({given}): mime: no media type"
        )))
    } else if media_type.eq_ignore_ascii_case(JSON) {
        Ok(())
    } else {
        Err(ApiError::bad_request(format!(
            "unsupported Content-Type header ({given}): must be '{JSON}'"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    struct Body {
        n: Option<i64>,
    }

    fn read(body: &str) -> Result<Body, String> {
        decode(Some("application/json; charset=utf-8"), body.as_bytes())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_body_is_one_value_and_nothing_else() {
        assert_eq!(read(r#"{"n":1}"#), Ok(Body { n: Some(1) }));
        assert_eq!(read("{\"n\":1} \r\n"), Ok(Body { n: Some(1) }));
        assert_eq!(read(r#"{"n":1,"n":2,"m":3}"#), Ok(Body { n: Some(2) }));
        for nothing in ["", "null", "{}"] {
            assert_eq!(read(nothing), Ok(Body::default()));
        }
        for (body, refusal) in [
            (" ", "invalid JSON: got EOF while reading request body"),
            ("{", "invalid JSON: unexpected EOF"),
            ("{\"n\":", "invalid JSON: unexpected EOF"),
            ("{} x", "unexpected content after JSON"),
            ("{}{}", "unexpected content after JSON"),
            ("{}]", "unexpected content after JSON"),
        ] {
            assert_eq!(read(body), Err(refusal.to_owned()), "{body}");
        }
        let deep = "[".repeat(1000);
        for body in [
            "[]",
            "\"x\"",
            "3",
            "x",
            "{n:1}",
            "{\"n\":\"x\"}",
            "{\"n\":1.5}",
            &deep,
        ] {
            let refusal = read(body).unwrap_err();
            assert!(refusal.starts_with("invalid JSON: "), "{body}: {refusal}");
        }
        let refusal = decode::<Body>(Some(JSON), b"{\"\xff\":1}").unwrap_err();
        assert!(refusal.message().starts_with("invalid JSON: "));
    }

    #[test]
    fn only_json_is_taken_and_only_nothing_goes_without_a_name() {
        let read = |content_type: Option<&str>, body: &str| {
            decode::<Body>(content_type, body.as_bytes())
                .map(drop)
                .map_err(|error| error.message().to_owned())
        };
        assert_eq!(read(None, ""), Ok(()));
        assert_eq!(read(Some("Application/JSON"), "{}"), Ok(()));
        assert_eq!(
            read(Some("text/plain"), "{}").unwrap_err(),
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        for missing in [None, Some(""), Some("; charset=utf-8")] {
            let refusal = read(missing, "{}").unwrap_err();
            assert!(refusal.starts_with("malformed Content-Type header ("));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_or_refused(content_type in ".{0,30}", body in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let _ = decode::<Body>(Some(&content_type), &body);
            let _ = decode::<bollard_stubs::models::ContainerCreateBody>(Some(JSON), &body);
        }
    }
}
