//! Which HTTP requests mean which methods: by `google.api.http`, or `POST /package.Service/Method` where a method
//! says nothing. Called by `transcode`.
//!
//! Invariant: every field that a binding names is one of its message's.

use std::collections::HashMap;

use http::Method;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};

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
    Field(String),
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
}

/// All of them, by HTTP method, the most specific first.
#[derive(Debug, Default)]
pub struct Bindings {
    by_method: HashMap<Method, Vec<Binding>>,
}

impl Bindings {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_method.is_empty()
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
            let binding = Binding { call, body: BodyIs::Everything, answer: None, template };
            self.insert(Method::POST, binding);
            return Ok(());
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
        for field in template.fields() {
            leads(&call.input, field).ok_or_else(|| {
                format!(
                    "{at}: `{}` of `{path}` is no field of {}",
                    field.join("."),
                    call.input.full_name()
                )
            })?;
        }
        let body = match text(rule, "body").as_str() {
            "" => BodyIs::Nothing,
            "*" => BodyIs::Everything,
            name if call.input.get_field_by_name(name).is_some() => BodyIs::Field(name.to_owned()),
            name => return Err(format!("{at}: the body `{name}` is no field")),
        };
        let answer = match text(rule, "response_body").as_str() {
            "" => None,
            name => Some(
                call.output
                    .get_field_by_name(name)
                    .ok_or_else(|| format!("{at}: the answer `{name}` is no field"))?,
            ),
        };
        self.insert(method, Binding { call: call.clone(), body, answer, template });
        Ok(())
    }

    fn insert(&mut self, method: Method, binding: Binding) {
        let all = self.by_method.entry(method).or_default();
        let at = all.partition_point(|other| other.template.rank() >= binding.template.rank());
        all.insert(at, binding);
    }

    /// The call that a request means.
    pub fn find(&self, method: &Method, path: &str) -> Option<Meant<'_>> {
        let mut own = self.by_method.get(method)?.iter();
        own.find_map(|binding| Some(Meant { binding, captured: binding.template.find(path)? }))
    }
}

/// Method and path of a rule.
fn pattern(rule: &DynamicMessage) -> Option<(Method, String)> {
    for (name, method) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        if rule.has_field_by_name(name) {
            return Some((method, text(rule, name)));
        }
    }
    let custom = rule.get_field_by_name("custom").filter(|_| rule.has_field_by_name("custom"))?;
    let custom = custom.as_message()?;
    Some((Method::from_bytes(text(custom, "kind").as_bytes()).ok()?, text(custom, "path")))
}

fn text(message: &DynamicMessage, name: &str) -> String {
    let value = message.get_field_by_name(name);
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A field by its own name, or by the one that it has in JSON.
pub fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The field that a path of names leads to.
pub fn leads(message: &MessageDescriptor, names: &[String]) -> Option<FieldDescriptor> {
    let (first, rest) = names.split_first()?;
    let field = field(message, first)?;
    match (rest, field.kind()) {
        ([], _) => Some(field),
        (rest, Kind::Message(inner)) if !field.is_list() && !field.is_map() => leads(&inner, rest),
        _ => None,
    }
}

impl Binding {
    /// Whether the path gives this field, or a part of it.
    pub fn gives(&self, field: &[String]) -> bool {
        self.template.fields().any(|given| given.starts_with(field) || field.starts_with(given))
    }
}
