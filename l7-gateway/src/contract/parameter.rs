//! Parameters: where they stand in a request, and how their text is a value (OpenAPI 3.1 §4.8.12). Called by
//! `contract`.
//!
//! Invariant: a style that is not understood is looked for and not into.

use http::{HeaderMap, HeaderName, header};
use serde_json::Value;

use super::schema::Schema;
use super::{Breach, Part};

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
    Truth,
    Any,
}

/// What a request says.
#[derive(Debug)]
pub struct Asked<'r> {
    captured: &'r [(&'r str, String)],
    query: Vec<(String, String)>,
    headers: &'r HeaderMap,
}

impl<'r> Asked<'r> {
    /// Of its head.
    pub fn new(
        captured: &'r [(&'r str, String)],
        query: Option<&str>,
        headers: &'r HeaderMap,
    ) -> Self {
        let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self { captured, query: query.into_owned().collect(), headers }
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
                own.map(|(_, value)| value.clone()).collect()
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
                let all = self.headers.get_all(header::COOKIE).iter();
                let pairs = all.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
                let own = pairs.filter_map(|pair| {
                    pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
                });
                own.map(text).collect::<Option<_>>()?
            }
        })
    }
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
        Kind::Any => schema
            .judge(&value(Kind::Text))
            .or_else(|fault| schema.judge(&value(Kind::Any)).map_err(|_| fault)),
        kind => schema.judge(&value(kind)),
    }
}

/// What a schema says at first sight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    One(Kind),
    List,
}

/// `None`: an object. What may be of several types is of any.
fn kind_of(schema: Option<&Part>) -> Option<Type> {
    let kind = |text: &str| match text {
        "integer" | "number" => Some(Type::One(Kind::Number)),
        "boolean" => Some(Type::One(Kind::Truth)),
        "string" => Some(Type::One(Kind::Text)),
        "array" => Some(Type::List),
        "object" => None,
        _ => Some(Type::One(Kind::Any)),
    };
    let mut kinds = types(schema).into_iter().filter(|kind| *kind != "null").map(kind);
    let first = kinds.next().unwrap_or(Some(Type::One(Kind::Any)));
    if kinds.all(|other| other == first) { first } else { Some(Type::One(Kind::Any)) }
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
        (Kind::Truth | Kind::Any, "true") => true.into(),
        (Kind::Truth | Kind::Any, "false") => false.into(),
        (Kind::Any, text) => number(text).unwrap_or_else(|| text.into()),
        (Kind::Truth | Kind::Text, text) => text.into(),
    }
}

fn number(text: &str) -> Option<Value> {
    let lawful = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let value: Value = text.bytes().all(lawful).then(|| serde_json::from_str(text).ok())??;
    value.is_number().then_some(value)
}
