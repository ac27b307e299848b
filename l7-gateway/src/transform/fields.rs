//! Changes of fields with names: headers, and parameters of a query. Not for which of them may be changed:
//! the topology refuses those that may not. Called by `transform`.
//!
//! Invariant: what cannot stand in a field is left out, never cut.

use common::escape::escaped;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use topology::template::{Part, Template, Variable};
use topology::transform::FieldChange;

use super::facts::Facts;

/// A change of headers, compiled: whatever does not depend on a request was made when the file was read.
#[derive(Debug)]
pub struct Fields {
    remove: Vec<HeaderName>,
    rename: Vec<(HeaderName, HeaderName)>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    /// How many values are filled.
    pub(super) filled: usize,
}

#[derive(Debug)]
enum Value {
    Fixed(HeaderValue),
    Filled(Filling),
}

/// A template that is not always the same.
#[derive(Debug)]
enum Filling {
    /// One header of the request as it is, and what stands in for it: nothing is copied.
    Header(HeaderName, Option<HeaderValue>),
    /// One variable, which is copied once.
    One(Variable, Option<HeaderValue>),
    /// Several parts.
    Several(Template),
}

impl Filling {
    fn new(template: &Template) -> Self {
        let [Part::Hole(variable, other)] = template.parts() else {
            return Self::Several(template.clone());
        };
        let other = other.as_ref().and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok());
        match variable {
            Variable::Header(name) => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => Self::Header(name, other),
                Err(_) => Self::Several(template.clone()),
            },
            variable => Self::One(variable.clone(), other),
        }
    }

    /// Its value for a request; `text` is room to write in.
    fn value(&self, facts: &Facts<'_>, text: &mut String) -> Option<HeaderValue> {
        match self {
            Self::Header(name, other) => {
                let own = facts.seen.headers.get(name);
                own.filter(|value| value.to_str().is_ok()).or(other.as_ref()).cloned()
            }
            Self::One(variable, other) => match facts.value(variable) {
                Some(value) => HeaderValue::from_bytes(value.as_bytes()).ok(),
                None => other.clone(),
            },
            Self::Several(template) => {
                text.clear();
                facts.write(template, text)?;
                HeaderValue::from_bytes(text.as_bytes()).ok()
            }
        }
    }
}

impl Fields {
    pub(super) fn new(model: &FieldChange) -> Self {
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        let pair = |(from, to): &(String, String)| Some((name(from)?, name(to)?));
        let value = |(field, template): &(String, Template)| {
            let value = match template.plain() {
                Some(text) => Value::Fixed(HeaderValue::from_bytes(text.as_bytes()).ok()?),
                None => Value::Filled(Filling::new(template)),
            };
            Some((name(field)?, value))
        };
        let set: Vec<_> = model.set.iter().filter_map(value).collect();
        let add: Vec<_> = model.add.iter().filter_map(value).collect();
        let filled = set.iter().chain(&add).filter(|(_, value)| matches!(value, Value::Filled(_)));
        Self {
            remove: model.remove.iter().filter_map(name).collect(),
            rename: model.rename.iter().filter_map(pair).collect(),
            filled: filled.count(),
            set,
            add,
        }
    }

    /// Puts the values of the templates in it behind others, in their order.
    pub(super) fn values(
        &self,
        facts: &Facts<'_>,
        text: &mut String,
        values: &mut Vec<Option<HeaderValue>>,
    ) {
        if self.filled == 0 {
            return;
        }
        for (_, value) in self.set.iter().chain(&self.add) {
            if let Value::Filled(filling) = value {
                values.push(filling.value(facts, text));
            }
        }
    }

    /// Carries it out; `values` are those of its templates.
    pub(super) fn apply(
        &self,
        headers: &mut HeaderMap,
        values: &mut impl Iterator<Item = Option<HeaderValue>>,
    ) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (from, to) in &self.rename {
            rename(headers, from, to);
        }
        for (name, value) in &self.set {
            match value.known(values) {
                Some(value) => _ = headers.insert(name, value),
                // A client's own would stand there in its place.
                None => _ = headers.remove(name),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.known(values) {
                headers.append(name, value);
            }
        }
    }
}

/// Gives all values of a header to another one, whose own go.
fn rename(headers: &mut HeaderMap, from: &HeaderName, to: &HeaderName) {
    // Looked up once: as a rule it is there, and there is one value.
    let Ok(Entry::Occupied(found)) = headers.try_entry(from) else { return };
    let (_, mut all) = found.remove_entry_mult();
    let Some(first) = all.next() else { return };
    let others: Vec<HeaderValue> = all.collect();
    headers.insert(to, first);
    others.into_iter().for_each(|value| _ = headers.append(to, value));
}

impl Value {
    fn known(&self, values: &mut impl Iterator<Item = Option<HeaderValue>>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Filled(_) => values.next().flatten(),
        }
    }
}

/// A query after a change; `None`: nothing is left of it. Parameters that are not named stay as they came,
/// byte by byte.
pub(super) fn query(
    asked: Option<&str>,
    change: &FieldChange,
    fill: impl Fn(&Template) -> Option<String>,
) -> Option<Box<str>> {
    let pairs = asked.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut all: Vec<(String, String)> = pairs
        .filter_map(|pair| {
            Some((form_urlencoded::parse(pair.as_bytes()).next()?.0.into_owned(), pair.to_owned()))
        })
        .collect();
    all.retain(|(name, _)| !change.remove.contains(name));
    for (from, to) in &change.rename {
        if all.iter().any(|(name, _)| name == from) {
            all.retain(|(name, _)| name != to);
        }
        for (name, pair) in all.iter_mut().filter(|(name, _)| name == from) {
            let value = pair.split_once('=').map(|(_, value)| format!("={value}"));
            *pair = format!("{}{}", escaped(to), value.as_deref().unwrap_or_default());
            name.clone_from(to);
        }
    }
    let set = change.set.iter().map(|field| (field, true));
    for ((name, template), alone) in set.chain(change.add.iter().map(|field| (field, false))) {
        if alone {
            all.retain(|(known, _)| known != name);
        }
        if let Some(value) = fill(template) {
            all.push((name.clone(), format!("{}={}", escaped(name), escaped(&value))));
        }
    }
    let pairs: Vec<String> = all.into_iter().map(|(_, pair)| pair).collect();
    (!pairs.is_empty()).then(|| pairs.join("&").into())
}
