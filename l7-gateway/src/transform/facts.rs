//! What is known of a request where templates are filled. Not for what a template may ask: the topology
//! refuses what cannot be known. Called by `transform`.
//!
//! Invariant: what a client sends stands in one segment of a path, and in a host only if it is one.

use std::borrow::Cow;

use bytes::Bytes;
use common::escape::escaped;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;
use regex::Regex;
use serde_json::Value;
use topology::gateway::{Group, Route, RouteTo};
use topology::template::{Part, Template, Variable};
use topology::units::PathPattern;

use super::TransformError;
use crate::exchange::{Exchange, Identity, Request};
use crate::predicate::cookie;
use crate::stages::normalise::path;

/// What does not change on the request's way.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its exchange.
    pub x: &'a Exchange,
    /// Who asks, if that is known.
    pub caller: Option<&'a Identity>,
    /// The name of its route; empty: it has none.
    pub route: &'a str,
    /// The name of the service that it is for.
    pub service: Option<&'a str>,
    /// What names in the path of its route stand for.
    pub captured: Option<(&'a Captures, &'a str)>,
    /// Answers of calls, by name.
    pub answers: &'a [(&'a str, Bytes)],
}

/// A request, as it stands by now.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Without a port.
    pub host: &'a str,
    /// Canonical.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl<'a> From<&'a Request> for Seen<'a> {
    fn from(request: &'a Request) -> Self {
        let target = &request.target;
        let (host, path, query) = (&*target.host, &*target.path, target.query.as_deref());
        Self { method: &request.method, host, path, query, headers: &request.headers }
    }
}

impl<'a> From<&'a Parts> for Seen<'a> {
    fn from(head: &'a Parts) -> Self {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.and_then(|host| host.parse::<Authority>().ok().map(|known| (host, known)));
        // The authority's own host is a part of the header's text.
        let host = host.map_or("", |(text, known)| text.get(..known.host().len()).unwrap_or(""));
        let (path, query) = (head.uri.path(), head.uri.query());
        Self { method: &head.method, host, path, query, headers: &head.headers }
    }
}

/// What is known of a request, as it stands by now.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What does not change.
    pub known: Known<'a>,
    /// What does.
    pub seen: Seen<'a>,
}

impl<'a> Facts<'a> {
    /// A template filled as it is; `None`: something is missing that it asks for.
    pub fn text(&self, template: &Template) -> Option<String> {
        let mut text = String::new();
        self.write(template, &mut text)?;
        Some(text)
    }

    /// The same, behind what is there already.
    pub(super) fn write(&self, template: &Template, text: &mut String) -> Option<()> {
        for part in template.parts() {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Hole(variable, other) => {
                    let value = self.value(variable).or(other.as_deref().map(Cow::Borrowed))?;
                    text.push_str(&value);
                }
            }
        }
        Some(())
    }

    /// A link with this query: what is filled in is a segment or a path; a host is the one asked for.
    ///
    /// # Errors
    /// Something is missing.
    pub fn link(
        &self,
        template: &Template,
        query: Option<&str>,
    ) -> Result<HeaderValue, TransformError> {
        let wrong = || TransformError::Link(template.to_string());
        let mut link = String::new();
        for part in template.parts() {
            match part {
                Part::Hole(Variable::Host, _) => {
                    let host = Some(self.seen.host).filter(|host| is_host(host));
                    link.push_str(host.ok_or_else(wrong)?);
                }
                other => self.push(other, &mut link).ok_or_else(wrong)?,
            }
        }
        // Two slashes at the front would begin another host (RFC 3986 §4.2), whatever was filled in.
        if link.starts_with('/') {
            let path = link.trim_start_matches(['/', '\\']).len();
            link.replace_range(1..link.len() - path, "");
        }
        if let Some(query) = query {
            link.push(if link.contains('?') { '&' } else { '?' });
            link.push_str(query);
        }
        HeaderValue::try_from(link).map_err(|_| wrong())
    }

    /// A path in canonical form. What is filled in is a segment, or a part of one; only what was a path
    /// before has several.
    ///
    /// # Errors
    /// Something is missing, or it would be no path.
    pub fn path(&self, template: &Template) -> Result<Box<str>, TransformError> {
        let wrong = || TransformError::Path(template.to_string());
        let mut made = String::new();
        for part in template.parts() {
            self.push(part, &mut made).ok_or_else(wrong)?;
        }
        path::canonical(&made).map(|path| path.into_owned().into()).map_err(|_| wrong())
    }

    /// A part of a path.
    fn push(&self, part: &Part, path: &mut String) -> Option<()> {
        match part {
            Part::Text(text) => path.push_str(text),
            Part::Hole(Variable::Path, _) => path.push_str(self.seen.path),
            Part::Hole(Variable::Capture(name), _) if name == "rest" => {
                path.push_str(self.capture(name).unwrap_or_default());
            }
            Part::Hole(variable, other) => {
                let value = self.value(variable).filter(|value| !value.is_empty());
                let value = value.or(other.as_deref().map(Cow::Borrowed))?;
                path.extend(escaped(&value));
            }
        }
        Some(())
    }

    /// A host, perhaps with a port.
    pub(super) fn host(&self, template: &Template) -> Result<HeaderValue, TransformError> {
        let text = self.text(template).filter(|text| is_host(text));
        let value = text.and_then(|text| HeaderValue::try_from(text).ok());
        value.ok_or_else(|| TransformError::Host(template.to_string()))
    }

    /// What a variable stands for.
    pub(super) fn value(&self, variable: &Variable) -> Option<Cow<'a, str>> {
        let Known { x, caller, route, service, .. } = self.known;
        let Seen { method, host, path, query, headers } = self.seen;
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        Some(match variable {
            Variable::User => Cow::Borrowed(caller?.user()?.to_str().ok()?),
            Variable::Claim(names) => claim(caller?, names)?,
            Variable::Consumer => Cow::Borrowed(caller?.consumer()?),
            Variable::Plan => Cow::Borrowed(caller?.plan()?),
            Variable::Principal => Cow::Borrowed(x.peer.principal()?.as_str()),
            Variable::Address => Cow::Owned(x.peer.address().to_string()),
            Variable::RequestId => Cow::Owned(x.request_id.to_string()),
            // What could not be read as a request has no path, and so none of these.
            Variable::Method => Cow::Borrowed(some(path).and(Some(method.as_str()))?),
            Variable::Scheme => Cow::Borrowed(x.peer.scheme()),
            Variable::Host => Cow::Borrowed(some(host)?),
            Variable::Path => Cow::Borrowed(some(path)?),
            Variable::WholeQuery => Cow::Borrowed(query?),
            Variable::Query(name) => {
                let mut pairs = form_urlencoded::parse(query?.as_bytes());
                pairs.find(|(key, _)| key == name)?.1
            }
            Variable::Header(name) => Cow::Borrowed(headers.get(name)?.to_str().ok()?),
            Variable::Cookie(name) => Cow::Borrowed(cookie(headers, name)?),
            Variable::Capture(name) => {
                percent_decode_str(self.capture(name)?).decode_utf8().ok()?
            }
            Variable::Call(path) => Cow::Owned(self.called(path)?),
            Variable::Route => Cow::Borrowed(some(route)?),
            Variable::Service => Cow::Borrowed(service?),
        })
    }

    /// A member of a call's answer, if it is no list and no object.
    fn called(&self, path: &[String]) -> Option<String> {
        let (name, members) = path.split_first()?;
        let (_, answer) = self.known.answers.iter().find(|(known, _)| known == name)?;
        let whole: Value = serde_json::from_slice(answer).ok()?;
        let inner = members.iter().try_fold(&whole, |value, name| match value {
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            value => value.get(name),
        })?;
        plain(inner).map(Cow::into_owned)
    }

    fn capture(&self, name: &str) -> Option<&'a str> {
        let (captures, path) = self.known.captured?;
        captures.find(path, name)
    }
}

fn claim<'a>(caller: &'a Identity, names: &[String]) -> Option<Cow<'a, str>> {
    let (first, members) = names.split_first()?;
    let value = members.iter().try_fold(caller.claim(first)?, |value, name| value.get(name))?;
    plain(value)
}

/// The text of a value that is one.
fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether it can be a host, perhaps with a port.
fn is_host(text: &str) -> bool {
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !text.is_empty() && text.bytes().all(lawful)
}

/// What names in a route's path stand for.
#[derive(Debug)]
pub enum Captures {
    /// Segments, from the first.
    Segments(Vec<(String, usize)>),
    /// What follows so many segments: their spelling may be another one than the pattern's.
    Rest(usize),
    /// Groups.
    Groups(Box<Regex>),
}

impl Captures {
    /// Of each route of a group; `None`: nobody asks.
    pub fn all(group: &Group) -> Vec<Option<Self>> {
        let asks = |template: &Template| {
            template.variables().any(|variable| matches!(variable, Variable::Capture(_)))
        };
        let given = |route: &Route| match route.to {
            RouteTo::Given(id) => {
                group.given.get(id.0).is_some_and(|given| given.templates().any(asks))
            }
            RouteTo::Aggregate(id) => {
                group.aggregates.get(id.0).is_some_and(|all| all.templates().any(asks))
            }
            RouteTo::Service(_) | RouteTo::Files(_) => false,
        };
        let changed = |route: &Route| {
            route.transform.as_ref().is_some_and(|model| model.templates().any(asks))
        };
        let each = |route: &Route| {
            (given(route) || changed(route)).then(|| Self::of(&route.path)).flatten()
        };
        group.routes.iter().map(each).collect()
    }

    fn of(pattern: &PathPattern) -> Option<Self> {
        match pattern {
            PathPattern::Exact(_) => None,
            PathPattern::Prefix(text) => {
                Some(Self::Rest(path::canonical_pattern(text).matches('/').count()))
            }
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
            Self::Rest(segments) => {
                Some(path.splitn(*segments + 2, '/').nth(*segments + 1).unwrap_or_default())
            }
            Self::Groups(regex) => Some(regex.captures(path)?.name(name)?.as_str()),
        }
    }
}
