//! Changes of fields with names: headers, and parameters of a query. Not for which of them may be changed:
//! the topology refuses those that may not. Called by `transform`.
//!
//! Invariant: what cannot stand in a field is left out, never cut.

use common::escape::escaped;
use http::{HeaderMap, HeaderName, HeaderValue};
use topology::template::Template;
use topology::transform::FieldChange;

use super::facts::Facts;

/// A change of headers, compiled.
#[derive(Debug)]
pub struct Fields {
    remove: Vec<HeaderName>,
    rename: Vec<(HeaderName, HeaderName)>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

#[derive(Debug)]
enum Value {
    Fixed(HeaderValue),
    Filled(Template),
}

impl Fields {
    pub(super) fn new(model: &FieldChange) -> Self {
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        let pair = |(from, to): &(String, String)| Some((name(from)?, name(to)?));
        let value = |(field, template): &(String, Template)| {
            let value = match template.plain() {
                Some(text) => Value::Fixed(HeaderValue::from_bytes(text.as_bytes()).ok()?),
                None => Value::Filled(template.clone()),
            };
            Some((name(field)?, value))
        };
        Self {
            remove: model.remove.iter().filter_map(name).collect(),
            rename: model.rename.iter().filter_map(pair).collect(),
            set: model.set.iter().filter_map(value).collect(),
            add: model.add.iter().filter_map(value).collect(),
        }
    }

    /// Puts the values of the templates in it behind others, in their order.
    pub(super) fn values(&self, facts: &Facts<'_>, values: &mut Vec<Option<HeaderValue>>) {
        // One buffer for all of them.
        let mut text = String::new();
        for (_, value) in self.set.iter().chain(&self.add) {
            if let Value::Filled(template) = value {
                text.clear();
                let whole = facts.write(template, &mut text);
                values.push(whole.and_then(|()| HeaderValue::from_bytes(text.as_bytes()).ok()));
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
            let mut all = headers.get_all(from).iter().cloned();
            let Some(first) = all.next() else { continue };
            let others: Vec<HeaderValue> = all.collect();
            headers.remove(from);
            headers.insert(to, first);
            others.into_iter().for_each(|value| _ = headers.append(to, value));
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
