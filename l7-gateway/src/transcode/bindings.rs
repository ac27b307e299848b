//! Which HTTP requests mean which methods: by `google.api.http`, or `POST /package.Service/Method` where a method
//! says nothing. Called by `transcode`.
//!
//! Invariant: every field that a binding names is one of its message's.

use std::collections::HashMap;

use http::Method;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};

use super::answer::is_body;
use super::json::is_worded;
use super::template::Template;
use super::{Meant, Rule, Signature};

/// Where the body of a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyIs {
    /// There is none.
    Nothing,
    /// All of the message that the path does not give.
    Everything,
    /// This field.
    Field(FieldDescriptor),
}

/// One way to call a method.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The method.
    pub call: Signature,
    /// Where the request's body goes.
    pub body: BodyIs,
    /// The field of the answer that is told; `None`: all of it.
    pub answer: Option<FieldDescriptor>,
    template: Template,
    /// Fields that the path gives, as numbers.
    given: Vec<Vec<u32>>,
}

impl Binding {
    /// Its path with a name in braces for each segment that is not fixed.
    pub fn path(&self) -> String {
        self.template.named().0
    }

    /// Those names, each with the field that its segment is of.
    pub fn parameters(&self) -> Vec<(String, String)> {
        self.template.named().1
    }
}

/// All of them, the most specific first.
#[derive(Debug, Default)]
pub struct Bindings {
    /// By HTTP method.
    by_method: HashMap<Method, Vec<Binding>>,
    /// Of every method (`custom: { kind: "*" }`), where none is of its own.
    any: Vec<Binding>,
}

/// Why a request means no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCall {
    /// There is nothing at its path.
    Path,
    /// There is for these methods.
    Method(Vec<Method>),
}

impl Bindings {
    /// Each with its HTTP method; `None`: any.
    pub fn all(&self) -> impl Iterator<Item = (Option<&Method>, &Binding)> {
        let own = self.by_method.iter();
        let own = own.flat_map(|(method, all)| all.iter().map(move |one| (Some(method), one)));
        own.chain(self.any.iter().map(|one| (None, one)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_method.is_empty() && self.any.is_empty()
    }

    /// The ways to call one method.
    ///
    /// # Errors
    /// A rule that cannot work.
    pub fn add(&mut self, method: &MethodDescriptor, rule: Rule<'_>) -> Result<(), String> {
        let Some(call) = Signature::of(method) else { return Ok(()) };
        let options = method.options();
        let own = rule.filter(|rule| options.has_extension(rule));
        let own = own.map(|rule| options.get_extension(rule).into_owned());
        let Some(Value::Message(rule)) = own else {
            let template = Template::read(&call.path)?;
            let (body, given) = (BodyIs::Everything, Vec::new());
            let binding = Binding { call, body, answer: None, template, given };
            return self.insert(Some(Method::POST), binding);
        };
        self.rule(&call, &rule)?;
        let more = rule.get_field_by_name("additional_bindings").map(std::borrow::Cow::into_owned);
        for rule in more.as_ref().and_then(Value::as_list).into_iter().flatten() {
            if let Value::Message(rule) = rule {
                self.rule(&call, rule)?;
            }
        }
        Ok(())
    }

    fn rule(&mut self, call: &Signature, rule: &DynamicMessage) -> Result<(), String> {
        let at = &call.path;
        let (method, path) = pattern(rule).ok_or_else(|| format!("{at}: its rule has no path"))?;
        let template = Template::read(&path).map_err(|what| format!("{at}: {what}"))?;
        let mut given = Vec::new();
        for field in template.fields() {
            let steps = leads(&call.input, field).ok_or_else(|| {
                format!(
                    "{at}: `{}` of `{path}` is no field of {}",
                    field.join("."),
                    call.input.full_name()
                )
            })?;
            if !steps.last().is_some_and(is_text) {
                let (name, of) = (field.join("."), call.input.full_name());
                return Err(format!("{at}: `{name}` of `{path}` is no single value of {of}"));
            }
            given.push(numbers(&steps));
        }
        let body = match text(rule, "body").as_str() {
            "" => BodyIs::Nothing,
            "*" => BodyIs::Everything,
            name => match call.input.get_field_by_name(name) {
                Some(field) => BodyIs::Field(field),
                None => return Err(format!("{at}: the body `{name}` is no field")),
            },
        };
        let answer = match text(rule, "response_body").as_str() {
            "" => None,
            name => Some(
                call.output
                    .get_field_by_name(name)
                    .ok_or_else(|| format!("{at}: the answer `{name}` is no field"))?,
            ),
        };
        self.insert(method, Binding { call: call.clone(), body, answer, template, given })
    }

    /// `None`: of every method.
    fn insert(&mut self, method: Option<Method>, binding: Binding) -> Result<(), String> {
        let all = match method {
            Some(method) => self.by_method.entry(method).or_default(),
            None => &mut self.any,
        };
        if let Some(other) = all.iter().find(|other| other.template.is_like(&binding.template)) {
            let (one, two) = (&other.call.path, &binding.call.path);
            return Err(format!("{two}: its path is that of {one}, which would always be called"));
        }
        let at = all.partition_point(|other| other.template.rank() >= binding.template.rank());
        all.insert(at, binding);
        Ok(())
    }

    /// The call that a request means. `HEAD` means what `GET` does (RFC 9110 §9.3.2).
    ///
    /// # Errors
    /// The methods that there are at its path.
    pub fn find(&self, method: &Method, path: &str) -> Result<Meant<'_>, NoCall> {
        let of = |method: &Method| self.by_method.get(method);
        let get = of(&Method::GET).filter(|_| *method == Method::HEAD);
        for all in [of(method), get, Some(&self.any)].into_iter().flatten() {
            let found = all.iter().find_map(|binding| {
                Some(Meant { binding, captured: binding.template.find(path)? })
            });
            if let Some(meant) = found {
                return Ok(meant);
            }
        }
        let fits = |(_, all): &(&Method, &Vec<Binding>)| {
            all.iter().any(|binding| binding.template.find(path).is_some())
        };
        let mut others: Vec<Method> =
            self.by_method.iter().filter(fits).map(|(method, _)| method.clone()).collect();
        if others.is_empty() {
            return Err(NoCall::Path);
        }
        if others.contains(&Method::GET) {
            others.push(Method::HEAD);
        }
        others.sort_by(|one, two| one.as_str().cmp(two.as_str()));
        others.dedup();
        Err(NoCall::Method(others))
    }
}

/// Method and path of a rule; without a method: of every one.
fn pattern(rule: &DynamicMessage) -> Option<(Option<Method>, String)> {
    for (name, method) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        if rule.has_field_by_name(name) {
            return Some((Some(method), text(rule, name)));
        }
    }
    let custom = rule.get_field_by_name("custom").filter(|_| rule.has_field_by_name("custom"))?;
    let custom = custom.as_message()?;
    let method = match text(custom, "kind").as_str() {
        "*" => None,
        kind => Some(Method::from_bytes(kind.as_bytes()).ok()?),
    };
    Some((method, text(custom, "path")))
}

fn text(message: &DynamicMessage, name: &str) -> String {
    let value = message.get_field_by_name(name);
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A field by its own name, or by the one that it has in JSON.
pub fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The fields that a path of names leads through, the last one too.
pub fn leads(message: &MessageDescriptor, names: &[String]) -> Option<Vec<FieldDescriptor>> {
    let (last, outer) = names.split_last()?;
    let (mut message, mut steps) = (message.clone(), Vec::with_capacity(names.len()));
    for name in outer {
        let step = field(&message, name)?;
        let Kind::Message(inner) = step.kind() else { return None };
        if step.is_list() || step.is_map() {
            return None;
        }
        steps.push(step);
        message = inner;
    }
    steps.push(field(&message, last)?);
    Some(steps)
}

/// Whether a piece of a path can be a field's value ("must not refer to any repeated or mapped field", google.api.http).
fn is_text(field: &FieldDescriptor) -> bool {
    !field.is_list() && field.kind().as_message().is_none_or(is_worded)
}

/// A field's place, whichever of its names was said.
pub fn numbers(steps: &[FieldDescriptor]) -> Vec<u32> {
    steps.iter().map(FieldDescriptor::number).collect()
}

impl Binding {
    /// Whether its request's body is passed as it is (`google.api.HttpBody`).
    pub fn takes_any(&self) -> bool {
        match &self.body {
            BodyIs::Nothing => false,
            BodyIs::Everything => is_body(&self.call.input, None),
            BodyIs::Field(field) => is_body(&self.call.input, Some(field)),
        }
    }

    /// What is left of the places that the path gives below this one.
    pub fn given(&self, below: &[u32]) -> Vec<&[u32]> {
        self.given.iter().filter_map(|place| place.strip_prefix(below)).collect()
    }

    /// Whether path or body give this field, or a part of it.
    pub fn gives(&self, place: &[u32]) -> bool {
        let of_body = match &self.body {
            BodyIs::Nothing => false,
            BodyIs::Everything => true,
            BodyIs::Field(field) => place.first() == Some(&field.number()),
        };
        of_body || self.given.iter().any(|given| within(given, place))
    }
}

/// Whether one of two places is the other one, or a part of it.
pub fn within(one: &[u32], other: &[u32]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
