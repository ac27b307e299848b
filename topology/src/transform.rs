//! What a gateway changes of requests and answers on their way, resolved (spec G13). Not for what it
//! always does: its own headers, and what names a server inside. Read by stages 7 and 9.
//!
//! Invariant: a template asks for nothing that cannot be known where it stands.

use crate::template::Template;

/// What is changed, in one place of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transform {
    /// Of requests.
    pub request: RequestChange,
    /// Of answers.
    pub answer: AnswerChange,
}

/// Of requests, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestChange {
    /// The path that the service is asked for; `None`: the client's.
    pub path: Option<Template>,
    /// `Host`; `None`: the client's.
    pub host: Option<Template>,
    /// Query parameters.
    pub query: FieldChange,
    /// Headers; names in lower case.
    pub headers: FieldChange,
    /// The body; `None`: it is streamed.
    pub body: Option<BodyChange>,
}

/// Of answers, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerChange {
    /// Statuses of services and aggregates that clients see as others.
    pub status: Vec<(u16, u16)>,
    /// Headers; names in lower case.
    pub headers: FieldChange,
    /// The body of a service's or aggregate's answer; `None`: it is streamed.
    pub body: Option<BodyChange>,
}

/// Of fields with names, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldChange {
    /// These go.
    pub remove: Vec<String>,
    /// These get another name: from, to.
    pub rename: Vec<(String, String)>,
    /// These have this value and no other.
    pub set: Vec<(String, Template)>,
    /// These have this value too.
    pub add: Vec<(String, Template)>,
}

/// Of a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyChange {
    /// One after the other.
    pub steps: Vec<JsonStep>,
    /// Most bytes of a body that is to be changed, and most by which it grows (default 1 MiB).
    pub most: u64,
}

/// One change of a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonStep {
    /// A member gets this value; objects on the way are made.
    Set(JsonPath, JsonValue),
    /// A member goes, if it is there.
    Remove(JsonPath),
    /// A member gets another name.
    Rename(JsonPath, String),
    /// A member goes elsewhere.
    Move(JsonPath, JsonPath),
}

/// What a member is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonValue {
    /// A text.
    Text(Template),
    /// A value, as JSON.
    Json(String),
}

/// Where a member is: names from the outermost; never empty.
pub type JsonPath = Vec<JsonName>;

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonName {
    /// The member of this name.
    Member(String),
    /// Every element of a list.
    Each,
}

impl Transform {
    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let request = self.request.path.iter().chain(&self.request.host);
        let request = request.chain(self.request.query.templates());
        let request = request.chain(self.request.headers.templates());
        let bodies = self.request.body.iter().chain(&self.answer.body);
        let bodies = bodies.flat_map(|body| &body.steps).filter_map(|step| match step {
            JsonStep::Set(_, JsonValue::Text(template)) => Some(template),
            _ => None,
        });
        request.chain(self.answer.headers.templates()).chain(bodies)
    }
}

impl AnswerChange {
    /// Every template in its body.
    pub fn body_templates(&self) -> impl Iterator<Item = &Template> {
        self.body.iter().flat_map(|body| &body.steps).filter_map(|step| match step {
            JsonStep::Set(_, JsonValue::Text(template)) => Some(template),
            _ => None,
        })
    }
}

impl FieldChange {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        let Self { remove, rename, set, add } = self;
        remove.is_empty() && rename.is_empty() && set.is_empty() && add.is_empty()
    }

    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.set.iter().chain(&self.add).map(|(_, template)| template)
    }
}
