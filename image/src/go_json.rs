//! JSON as Go's decoder takes it, for docker's clients, and those who write images, tried nothing else: names of fields in any case,
//! `null` for anything that is left out, and never a list in the place of an object (Go's package encoding/json, `Unmarshal`).

use std::fmt;

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Error, Map, Value};

/// The value that JSON stands for.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(AsGo(value))
}

/// What a document says.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    from_value(serde_json::from_slice(json)?)
}

/// The field of an object, by its name in any case; written as docker writes it, it wins.
pub fn field_mut<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = object.as_object_mut()?;
    let found = match fields.contains_key(name) {
        true => name.to_owned(),
        false => fields
            .keys()
            .find(|key| key.eq_ignore_ascii_case(name))?
            .clone(),
    };
    fields.get_mut(&found)
}

struct AsGo(Value);

/// The object's fields under the names that are known.
fn with_known_names(object: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let (mut fields, others): (Map<_, _>, Map<_, _>) = object
        .into_iter()
        .partition(|(key, _)| names.contains(&key.as_str()));
    for (key, value) in others {
        if let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(&key)) {
            fields.entry(*name).or_insert(value);
        }
    }
    fields
}

fn entries<'de>(
    object: Map<String, Value>,
) -> MapDeserializer<'de, impl Iterator<Item = (String, AsGo)>, Error> {
    MapDeserializer::new(object.into_iter().map(|(key, value)| (key, AsGo(value))))
}

/// What each kind of value is where there is `null`.
macro_rules! nothing_is {
    ($($method:ident => $visit:ident($nothing:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::Null => visitor.$visit($nothing),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for AsGo {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(AsGo)))
            }
            Value::Object(object) => visitor.visit_map(entries(object)),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(entries(with_known_names(object, fields))),
            Value::Null => visitor.visit_map(entries(Map::new())),
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &AnObject)),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    nothing_is! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i8(0);
        deserialize_i16 => visit_i16(0);
        deserialize_i32 => visit_i32(0);
        deserialize_i64 => visit_i64(0);
        deserialize_u8 => visit_u8(0);
        deserialize_u16 => visit_u16(0);
        deserialize_u32 => visit_u32(0);
        deserialize_u64 => visit_u64(0);
        deserialize_f32 => visit_f32(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_str => visit_str("");
        deserialize_string => visit_str("");
        deserialize_seq => visit_seq(SeqDeserializer::new(std::iter::empty::<AsGo>()));
        deserialize_map => visit_map(entries(Map::new()));
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for AsGo {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct AnObject;

impl serde::de::Expected for AnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Body {
        image: Option<String>,
        cmd: Option<Vec<String>>,
        env: Vec<String>,
        labels: BTreeMap<String, String>,
        tty: bool,
        host_config: Host,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Host {
        memory: i64,
    }

    fn read(value: Value) -> Result<Body, String> {
        from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_go_by_their_names_in_any_case() {
        let body = read(json!({
            "image": "tiny", "CMD": ["a"], "labels": { "Key": "Value" }, "hostconfig": { "memory": 5 }, "Other": 3,
        }))
        .unwrap();
        assert_eq!(body.image.as_deref(), Some("tiny"));
        assert_eq!(body.cmd, Some(vec!["a".to_owned()]));
        assert_eq!(body.labels["Key"], "Value");
        assert_eq!(body.host_config.memory, 5);
        let both = read(json!({ "image": "other", "Image": "tiny" })).unwrap();
        assert_eq!(both.image.as_deref(), Some("tiny"));
        let mut object = json!({ "CMD": 1 });
        assert_eq!(field_mut(&mut object, "Cmd"), Some(&mut json!(1)));
        assert_eq!(field_mut(&mut object, "Image"), None);
    }

    #[test]
    fn null_is_nothing_wherever_it_stands() {
        let body = read(json!({
            "Image": null, "Env": [null, "a=b"], "Labels": { "a": null }, "HostConfig": null, "Tty": null, "Cmd": null,
        }))
        .unwrap();
        assert_eq!((body.image, body.cmd, body.tty), (None, None, false));
        assert_eq!(body.env, ["", "a=b"]);
        assert_eq!(body.labels["a"], "");
        assert_eq!(from_value::<Vec<i64>>(Value::Null).unwrap(), [0; 0]);
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        for wrong in [
            json!([]),
            json!("x"),
            json!({ "HostConfig": [] }),
            json!({ "HostConfig": "x" }),
            json!({ "HostConfig": { "Memory": "5" } }),
            json!({ "HostConfig": { "Memory": 5.5 } }),
            json!({ "HostConfig": { "Memory": 1e30 } }),
            json!({ "Tty": 1 }),
            json!({ "Labels": ["a"] }),
            json!({ "Env": { "a": "b" } }),
            json!({ "Env": [1] }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
