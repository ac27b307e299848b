//! The `transform:` key of routes, services, consumers and defaults as typed.
//!
//! Invariant: none beyond `raw`'s.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::raw::schema::section;
use crate::raw::{
    Choice, Compress, External, Findings, FromTree, Named, OneOrMany, Refused, Spot, Text, Typed,
    ValidateChoice,
};
use crate::template::Template;
use crate::tree::{Kind, Tree};
use crate::units::Size;

section! {
    /// What is changed of requests and answers. Of a request the listener's (`defaults`) come first, then the
    /// consumer's, the route's and the service's; of an answer the other way round.
    Transform {
        /// Of requests. Default: nothing.
        may "request" request: RequestChange,
        /// Of answers. Default: nothing.
        may "response" answer: AnswerChange,
    }
}

section! {
    /// What is changed of requests, after the route is chosen.
    RequestChange at spot {
        /// The path that the service is asked for, a template: `/users/${path.id}`, `/v2/${path.rest}`. What is
        /// filled in is one segment, except for `path.rest` and `request.path`. Default: the client's.
        may "path" path: Typed<Template>,
        /// `Host` that the service is told, a template. Default: the client's.
        may "host" host: Typed<Template>,
        /// Query parameters. Default: the client's.
        may "query" query: FieldChange,
        /// Headers; those that the gateway itself sets cannot be. Default: the client's.
        may "headers" headers: FieldChange,
        /// A JSON body. Default: it is streamed as it is.
        may "body" body: BodyChange,
    }
}

section! {
    /// What is changed of answers.
    AnswerChange {
        /// Statuses of services and aggregates that clients see as others, `404: 410`. Default: none.
        may "status" status: Named<Typed<Text>>,
        /// Headers, of our own answers too: an answer that comes before the request was changed (a refusal, a
        /// redirect) has the listener's and the route's, filled with what is known by then; who calls is known
        /// once they were let in, the service never. Default: none.
        may "headers" headers: FieldChange,
        /// A JSON body of a service or an aggregate. Default: it is streamed as it is.
        may "body" body: BodyChange,
    }
}

section! {
    /// What is changed of fields: first `remove`, then `rename`, `set` and `add`.
    FieldChange {
        /// These go. Default: none.
        may "remove" remove: OneOrMany<Typed<Text>>,
        /// These get other names, `OLD: NEW`. Default: none.
        may "rename" rename: Named<Typed<Text>>,
        /// These have this value and no other, a template; where something is missing that it asks for, the
        /// field is left out. Default: none.
        may "set" set: Named<Typed<Template>>,
        /// These have this value too. Default: none.
        may "add" add: Named<Typed<Template>>,
    }
}

section! {
    /// What is changed of a JSON body. The body is held until it is whole; one that is no JSON is 422 of a
    /// request, and passes as it is of an answer; an empty one passes.
    BodyChange at spot {
        /// One after the other.
        must "json" json: Vec<JsonStep>,
        /// Most bytes of such a body, and most by which it may grow: a larger one is 413 of a request and 502 of
        /// an answer, one that would grow by more 422 and 502. Default: 1MiB.
        may "max" max: Typed<Size>,
    }
}

section! {
    /// One change of a JSON document. Exactly one of `set`, `remove`, `rename` and `move`, each with the path of
    /// a member: `user.name`; `items[].price` means that of every element.
    JsonStep at spot {
        /// This member gets a value, of `to` or `json`. Default: none.
        may "set" set: Typed<Text>,
        /// This member goes. Default: none.
        may "remove" remove: Typed<Text>,
        /// This member gets another name, that of `to`. Default: none.
        may "rename" rename: Typed<Text>,
        /// This member goes elsewhere, to the path of `to`. Default: none.
        may "move" from: Typed<Text>,
        /// The text to set, a template; the new name or path. Default: none.
        may "to" to: Typed<Template>,
        /// The value to set as JSON: `true`, `5`, `[]`. Default: none.
        may "json" json: Typed<Text>,
    }
}

section! {
    /// What holds for a consumer, wherever it calls.
    Consumer {
        /// What tokens call it, in the claim that their issuer's `consumer` names; where several issuers have one, by
        /// issuer, `{ own: [app-1, app-2] }`: those that do not stand there never name it, with `{}` none does. Default:
        /// its name, where one issuer has `consumer`.
        may "claimed-as" claimed: Claimed,
        /// What is changed of its requests and answers. Default: nothing.
        may "transform" transform: Transform,
        /// Who sees its requests after whom `defaults` name and before those of routes and upstreams. Default: nobody.
        may "external" external: External,
        /// Its answers are compressed where it takes that: `true`, `false`, or a section. Default: as routes, upstreams
        /// and `defaults` say.
        may "compress" compress: Choice<Compress>,
        /// Its requests must be as an OpenAPI 3 description says, besides what routes and upstreams ask: its path, or
        /// a section. They are held against it as they come. Default: nothing more is asked.
        may "validate" validate: ValidateChoice,
        /// Not here: a browser asks before it shows who calls. Cross-origin rules stand in `defaults`, routes and
        /// upstreams. Default: never.
        may "cors" cors: Refused,
    }
}

/// Texts of the only issuer that names consumers, or those of each.
#[derive(Debug)]
pub(crate) enum Claimed {
    Alike(OneOrMany<Typed<Text>>),
    ByIssuer(Named<OneOrMany<Typed<Text>>>),
}

impl FromTree for Claimed {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match tree.kind {
            Kind::Map(_) => Named::from_tree(tree, at, out).map(Self::ByIssuer),
            _ => OneOrMany::from_tree(tree, at, out).map(Self::Alike),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let texts = OneOrMany::<Typed<Text>>::schema(generator);
        json_schema!({ "anyOf": [texts, { "type": "object", "additionalProperties": texts }] })
    }
}
