//! Parameters: where they stand in a request, and how their text is a value (OpenAPI 3.1 §4.8.12). Called by
//! `contract`.
//!
//! Invariant: a style that is not understood is looked for and not into.

use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::schema::Schema;
use super::{Breach, Part};
use crate::predicate;

/// A parameter of an operation.
#[derive(Debug)]
pub struct Parameter {
    name: Box<str>,
    place: In,
    required: bool,
    shape: Shape,
    schema: Option<Schema>,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Path,
    Query,
    Header,
    Cookie,
}

/// How its text is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One(Kind),
    /// Elements between such marks.
    List(char, Kind),
    /// An element each time that its name stands there.
    Repeated(Kind),
    /// An object whose members have names of their own, `name[member]`.
    Deep,
    /// An object whose members stand there by themselves.
    Scattered,
    /// Another way of writing.
    Unknown,
}

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Integer,
    Truth,
    /// Several of them; not of numbers alone, whole ones only where others are not named.
    Any(Numbers),
}

/// Which numbers are taken for such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    All,
    /// An integer has one spelling: many programs read `500e-1` as 500.
    Spelt,
}

/// What a request says.
#[derive(Debug)]
pub struct Asked<'r> {
    captured: &'r [(&'r str, String)],
    /// A value that is no text is `None`: nobody knows what a service reads there.
    query: Vec<(String, Option<String>)>,
    headers: &'r HeaderMap,
}

impl<'r> Asked<'r> {
    /// Of its head.
    pub fn new(
        captured: &'r [(&'r str, String)],
        query: Option<&str>,
        headers: &'r HeaderMap,
    ) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&written(name)).into_owned();
            (name, String::from_utf8(written(value)).ok())
        });
        Self { captured, query: query.collect(), headers }
    }

    /// What stands there; `None`: something that is no text.
    fn values(&self, parameter: &Parameter) -> Option<Vec<String>> {
        let name = &*parameter.name;
        Some(match parameter.place {
            In::Path => {
                let own = self.captured.iter().filter(|(known, _)| *known == name);
                own.map(|(_, value)| value.clone()).collect()
            }
            In::Query => {
                let own = self.query.iter().filter(|(known, _)| parameter.is_named(known));
                own.map(|(_, value)| value.clone()).collect::<Option<_>>()?
            }
            In::Header => {
                let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                    return Some(Vec::new());
                };
                let own = self.headers.get_all(name).iter().map(|value| text(value.as_bytes()));
                let all: Vec<String> = own.collect::<Option<_>>()?;
                // Lines of a list are one list (RFC 9110 §5.3).
                let list = matches!(parameter.shape, Shape::List(..)) && !all.is_empty();
                if list { vec![all.join(",")] } else { all }
            }
            In::Cookie => {
                let own = predicate::cookies(self.headers, name);
                own.map(text).collect::<Option<_>>()?
            }
        })
    }
}

/// What a text in a query stands for (application/x-www-form-urlencoded).
fn written(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).collect()
}

fn text(bytes: &[u8]) -> Option<String> {
    bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Headers that descriptions say nothing of (OpenAPI 3.1 §4.8.12.1), and that the gateway takes away.
const OTHERS: [&str; 3] = ["accept", "content-type", "authorization"];

impl Parameter {
    /// `None`: its place is unknown, or nothing may be said of it.
    pub(super) fn new(part: &Part, bare: Option<&Part>, schema: Option<Schema>) -> Option<Self> {
        let text = |name: &str| part.get(name).and_then(Value::as_str);
        let name = text("name")?;
        let place = match text("in")? {
            "path" => In::Path,
            "query" => In::Query,
            "header" if OTHERS.contains(&name.to_ascii_lowercase().as_str()) => return None,
            "header" => In::Header,
            "cookie" => In::Cookie,
            _ => return None,
        };
        let truth = |name: &str| part.get(name).and_then(Value::as_bool);
        let required = place == In::Path || truth("required").unwrap_or_default();
        let form = matches!(place, In::Query | In::Cookie);
        let style = text("style").unwrap_or(if form { "form" } else { "simple" });
        let explode = truth("explode").unwrap_or(style == "form");
        let shape = match (bare, kind_of(bare), style) {
            (None, ..) => Shape::Unknown,
            (_, None, "deepObject") => Shape::Deep,
            (_, None, "form") if explode => Shape::Scattered,
            (_, None, _) => Shape::Unknown,
            (Some(bare), Some(Type::List), style) => match (style, kind_of(bare.get("items"))) {
                ("form", Some(Type::One(kind))) if explode => Shape::Repeated(kind),
                ("form" | "simple", Some(Type::One(kind))) => Shape::List(',', kind),
                ("pipeDelimited", Some(Type::One(kind))) if !explode => Shape::List('|', kind),
                ("spaceDelimited", Some(Type::One(kind))) if !explode => Shape::List(' ', kind),
                _ => Shape::Unknown,
            },
            (_, Some(Type::One(kind)), "form" | "simple") => Shape::One(kind),
            _ => Shape::Unknown,
        };
        Some(Self { name: name.into(), place, required, shape, schema })
    }

    /// Whether this stands in a query for it, or a part of it.
    fn is_named(&self, known: &str) -> bool {
        let rest = known.strip_prefix(&*self.name);
        rest.is_some_and(|rest| {
            rest.is_empty() || (self.shape == Shape::Deep && rest.starts_with('['))
        })
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.place == other.place && self.name == other.name
    }

    /// Holds a request against it.
    pub(super) fn judge(&self, asked: &Asked<'_>) -> Result<(), Breach> {
        if self.shape == Shape::Scattered {
            return Ok(());
        }
        let odd = |why: &str| Breach::Schema { place: self.told(), why: why.to_owned() };
        let values = asked.values(self).ok_or_else(|| odd("is no text"))?;
        let Some(first) = values.first() else {
            return if self.required { Err(Breach::Missing(self.told())) } else { Ok(()) };
        };
        let Some(schema) = &self.schema else { return Ok(()) };
        let judged = match self.shape {
            Shape::Unknown | Shape::Deep | Shape::Scattered => return Ok(()),
            // Several programs take different ones.
            Shape::One(_) | Shape::List(..) if values.len() > 1 => {
                return Err(odd("stands twice"));
            }
            Shape::One(kind) => judged(schema, kind, |kind| value(kind, first)),
            Shape::List(mark, kind) => judged(schema, kind, |kind| {
                first.split(mark).map(|text| value(kind, text)).collect()
            }),
            Shape::Repeated(kind) => {
                judged(schema, kind, |kind| values.iter().map(|text| value(kind, text)).collect())
            }
        };
        judged.map_err(|(at, why)| {
            let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
            Breach::Schema { place: format!("{}{at}", self.told()), why }
        })
    }

    fn told(&self) -> String {
        let place = match self.place {
            In::Path => "path",
            In::Query => "query",
            In::Header => "header",
            In::Cookie => "cookie",
        };
        format!("the {place} parameter `{}`", self.name)
    }
}

/// Holds a text against a schema: where that takes several kinds of values, as text first.
fn judged(
    schema: &Schema,
    kind: Kind,
    value: impl Fn(Kind) -> Value,
) -> Result<(), (String, String)> {
    match kind {
        kind @ Kind::Any(_) => schema
            .judge(&value(Kind::Text))
            .or_else(|fault| schema.judge(&value(kind)).map_err(|_| fault)),
        kind => schema.judge(&value(kind)),
    }
}

/// What a schema says at first sight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    One(Kind),
    List,
}

/// The types that are told apart.
const KINDS: [&str; 6] = ["integer", "number", "boolean", "string", "array", "object"];

/// `None`: an object. What may be of several types is of any.
fn kind_of(schema: Option<&Part>) -> Option<Type> {
    let kind = |text: &str| match text {
        "integer" => Some(Type::One(Kind::Integer)),
        "number" => Some(Type::One(Kind::Number)),
        "boolean" => Some(Type::One(Kind::Truth)),
        "string" => Some(Type::One(Kind::Text)),
        "array" => Some(Type::List),
        _ => None,
    };
    let types: Vec<&str> = types(schema).into_iter().filter(|kind| *kind != "null").collect();
    let numbers = if types.contains(&"number") { Numbers::All } else { Numbers::Spelt };
    let any = Some(Type::One(Kind::Any(numbers)));
    let known = |text: &str| if KINDS.contains(&text) { kind(text) } else { any };
    let mut kinds = types.into_iter().map(known);
    let first = kinds.next().unwrap_or(any);
    if kinds.all(|other| other == first) { first } else { any }
}

/// The types that a schema names, or its branches do.
fn types(schema: Option<&Part>) -> Vec<&str> {
    match schema.and_then(|schema| schema.get("type")) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(kind) => kind.as_str().into_iter().collect(),
        None => {
            let own = |name| schema.and_then(|schema| schema.get(name)?.as_array());
            let branches = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(own).flatten();
            // Of a branch that is elsewhere, or says nothing, nothing is known.
            let kind = branches.map(|branch| branch.get("type").and_then(Value::as_str));
            kind.map(|kind| kind.unwrap_or("any")).collect()
        }
    }
}

/// A text as what it stands for; where it is no such thing the schema says so.
fn value(kind: Kind, text: &str) -> Value {
    match (kind, text) {
        (Kind::Number, text) => number(text).unwrap_or_else(|| text.into()),
        (Kind::Integer, text) => integer(text).unwrap_or_else(|| text.into()),
        (Kind::Truth | Kind::Any(_), "true") => true.into(),
        (Kind::Truth | Kind::Any(_), "false") => false.into(),
        (Kind::Any(Numbers::All), text) => number(text).unwrap_or_else(|| text.into()),
        (Kind::Any(Numbers::Spelt), text) => {
            let fraction = || number(text).filter(|value| !is_whole(value));
            integer(text).or_else(fraction).unwrap_or_else(|| text.into())
        }
        (Kind::Truth | Kind::Text, text) => text.into(),
    }
}

/// `-?` and digits.
fn integer(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| number(text))?
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_none_or(|value| value.fract() == 0.0)
}

fn number(text: &str) -> Option<Value> {
    let lawful = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let value: Value = text.bytes().all(lawful).then(|| serde_json::from_str(text).ok())??;
    value.is_number().then_some(value)
}
