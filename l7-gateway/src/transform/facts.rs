//! What is known of a request where templates are filled. Not for what a template may ask: the topology
//! refuses what cannot be known. Called by `transform`.
//!
//! Invariant: what a client sends stands in one segment of a path, and in a host only if it is one.

use std::borrow::Cow;

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::Regex;
use serde_json::Value;
use topology::template::{Part, Template, Variable};
use topology::transform::Transform;
use topology::units::PathPattern;

use super::TransformError;
use crate::exchange::{Exchange, Identity, Request};
use crate::predicate::cookie;
use crate::stages::normalise::path;

/// What does not change with the request.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its exchange.
    pub x: &'a Exchange,
    /// Who asks, if that is known.
    pub caller: Option<&'a Identity>,
    /// The name of its route.
    pub route: &'a str,
    /// What names in the path of its route stand for.
    pub captured: Option<(&'a Captures, &'a str)>,
}

/// What is known of a request, as it stands by now.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What does not change.
    pub known: Known<'a>,
    /// What does.
    pub request: &'a Request,
}

impl<'a> Facts<'a> {
    /// A template filled as it is; `None`: something is missing that it asks for.
    pub fn text(&self, template: &Template) -> Option<String> {
        let mut text = String::new();
        for part in template.parts() {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Hole(variable, other) => {
                    let value = self.value(variable).or(other.as_deref().map(Cow::Borrowed))?;
                    text.push_str(&value);
                }
            }
        }
        Some(text)
    }

    /// A path in canonical form. What is filled in is a segment, or a part of one; only what was a path
    /// before has several.
    pub(super) fn path(&self, template: &Template) -> Result<Box<str>, TransformError> {
        let wrong = || TransformError::Path(template.to_string());
        let mut made = String::new();
        for part in template.parts() {
            match part {
                Part::Text(text) => made.push_str(text),
                Part::Hole(Variable::Path, _) => made.push_str(&self.request.target.path),
                Part::Hole(Variable::Capture(name), _) if name == "rest" => {
                    made.push_str(self.capture(name).unwrap_or_default());
                }
                Part::Hole(variable, other) => {
                    let value = self.value(variable).filter(|value| !value.is_empty());
                    let value = value.or(other.as_deref().map(Cow::Borrowed)).ok_or_else(wrong)?;
                    made.extend(utf8_percent_encode(&value, SEGMENT));
                }
            }
        }
        path::canonical(&made).map(|path| path.into_owned().into()).map_err(|_| wrong())
    }

    /// A host, perhaps with a port.
    pub(super) fn host(&self, template: &Template) -> Result<HeaderValue, TransformError> {
        let text = self.text(template).filter(|text| !text.is_empty());
        let lawful = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let text = text.filter(|text| text.bytes().all(lawful));
        let value = text.and_then(|text| HeaderValue::try_from(text).ok());
        value.ok_or_else(|| TransformError::Host(template.to_string()))
    }

    fn value(&self, variable: &Variable) -> Option<Cow<'a, str>> {
        let Known { x, caller, route, .. } = self.known;
        let target = &self.request.target;
        Some(match variable {
            Variable::User => Cow::Borrowed(caller?.user()?.to_str().ok()?),
            Variable::Claim(names) => claim(caller?, names)?,
            Variable::Consumer => Cow::Borrowed(caller?.consumer()?),
            Variable::Plan => Cow::Borrowed(caller?.plan()?),
            Variable::Principal => Cow::Borrowed(x.peer.principal()?.as_str()),
            Variable::Address => Cow::Owned(x.peer.address().to_string()),
            Variable::RequestId => Cow::Owned(x.request_id.to_string()),
            Variable::Method => Cow::Borrowed(self.request.method.as_str()),
            Variable::Scheme => Cow::Borrowed(x.peer.scheme()),
            Variable::Host => Cow::Borrowed(&*target.host),
            Variable::Path => Cow::Borrowed(&*target.path),
            Variable::WholeQuery => Cow::Borrowed(target.query.as_deref()?),
            Variable::Query(name) => {
                let mut pairs = form_urlencoded::parse(target.query.as_deref()?.as_bytes());
                pairs.find(|(key, _)| key == name)?.1
            }
            Variable::Header(name) => Cow::Borrowed(self.request.headers.get(name)?.to_str().ok()?),
            Variable::Cookie(name) => Cow::Borrowed(cookie(&self.request.headers, name)?),
            Variable::Capture(name) => {
                percent_decode_str(self.capture(name)?).decode_utf8().ok()?
            }
            Variable::Route => Cow::Borrowed(route),
            Variable::Service => Cow::Borrowed(x.record.service.as_ref()?.as_str()),
        })
    }

    fn capture(&self, name: &str) -> Option<&'a str> {
        let (captures, path) = self.known.captured?;
        captures.find(path, name)
    }
}

fn claim<'a>(caller: &'a Identity, names: &[String]) -> Option<Cow<'a, str>> {
    let (first, members) = names.split_first()?;
    let value = members.iter().try_fold(caller.claim(first)?, |value, name| value.get(name))?;
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Everything that has a meaning in a path, or none.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What names in a route's path stand for.
#[derive(Debug)]
pub enum Captures {
    /// Segments, from the first.
    Segments(Vec<(String, usize)>),
    /// What follows so many bytes.
    Rest(usize),
    /// Groups.
    Groups(Box<Regex>),
}

impl Captures {
    /// `None`: nobody asks.
    pub(super) fn new(pattern: &PathPattern, model: &Transform) -> Option<Self> {
        let asks = |variable: &Variable| matches!(variable, Variable::Capture(_));
        if !model.templates().any(|template| template.variables().any(asks)) {
            return None;
        }
        match pattern {
            PathPattern::Exact(_) => None,
            PathPattern::Prefix(text) => Some(Self::Rest(path::canonical_pattern(text).len() + 1)),
            PathPattern::Template(text) => {
                let named = |(index, segment): (usize, &str)| {
                    Some((segment.strip_prefix('{')?.strip_suffix('}')?.to_owned(), index))
                };
                Some(Self::Segments(text.split('/').enumerate().filter_map(named).collect()))
            }
            PathPattern::Regex(pattern) => {
                let regex = Regex::new(&PathPattern::whole(pattern));
                Some(Self::Groups(Box::new(regex.ok()?)))
            }
        }
    }

    fn find<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        match self {
            Self::Segments(names) => {
                let (_, index) = names.iter().find(|(known, _)| known == name)?;
                path.split('/').nth(*index)
            }
            // The prefix itself is a match too, without anything below.
            Self::Rest(from) => Some(path.get(*from..).unwrap_or_default()),
            Self::Groups(regex) => Some(regex.captures(path)?.name(name)?.as_str()),
        }
    }
}
