//! What TOML and JSON have in common: tables of keys and values, each with its place in the text if there is one.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something stands in the text, in bytes.
pub(super) type Span = Option<Range<usize>>;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) span: Span,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Item>),
    Table(Table),
    /// What no key takes: dates, and integers beyond 64 bits.
    Other,
}

/// Keys in the order of the text.
pub(super) type Table = Vec<(Key, Item)>;

/// A key with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Span,
}

impl Value {
    /// What to call it in an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Integer(_) => "an integer",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other => "a date, or a number beyond 64 bits",
        }
    }
}

impl From<&Spanned<DeValue<'_>>> for Item {
    fn from(spanned: &Spanned<DeValue<'_>>) -> Item {
        let value = match spanned.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Value::Other, Value::Integer)
            }
            DeValue::Float(number) => number.as_str().parse().map_or(Value::Other, Value::Number),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(_) => Value::Other,
            DeValue::Array(items) => Value::List(items.iter().map(Item::from).collect()),
            DeValue::Table(table) => Value::Table(from_toml(table)),
        };
        Item { value, span: Some(spanned.span()) }
    }
}

/// The keys of a TOML document.
pub(super) fn from_toml(table: &DeTable<'_>) -> Table {
    let mut keys: Table = table
        .iter()
        .map(|(key, value)| {
            (Key { name: key.get_ref().to_string(), span: Some(key.span()) }, Item::from(value))
        })
        .collect();
    // Errors come in the order of the text.
    keys.sort_by_key(|(key, _)| key.span.as_ref().map(|span| span.start));
    keys
}

impl From<&serde_json::Value> for Item {
    fn from(json: &serde_json::Value) -> Item {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(number)) if !number_is_whole(number) => Value::Number(number),
                _ => Value::Other,
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Item::from).collect()),
            serde_json::Value::Object(object) => Value::Table(from_json(object)),
        };
        Item { value, span: None }
    }
}

/// JSON does not tell 50.0 from 50 everywhere, but integers beyond 64 bits are no numbers for any key.
fn number_is_whole(number: f64) -> bool {
    number.abs() >= i64::MAX as f64
}

/// The keys of a JSON object.
pub(super) fn from_json(object: &serde_json::Map<String, serde_json::Value>) -> Table {
    object.iter().map(|(name, value)| (Key { name: name.clone(), span: None }, Item::from(value))).collect()
}
