//! API keys and the denylist as typed.
//!
//! Invariant: none beyond `raw`'s.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::expression::Expression;
use crate::identity::{PostgresTls, UnansweredIs};
use crate::raw::schema::section;
use crate::raw::{Findings, FromTree, Spot, Text, Typed};
use crate::tree::{Kind, Tree};
use crate::units::{Scope, SecretRef, Time};

section! {
    /// API keys, and whose they are. Stored are SHA-256 digests, never keys; `aqueduct key new` makes one.
    ApiKeys {
        /// Where they are written down: `file:PATH` (one JSON object per line, read again on reload),
        /// `redis://HOST:PORT[/DB]`, `rediss://` the same over TLS, or `postgres://USER@HOST:PORT/DATABASE` (a
        /// pooler of the stack will do).
        must "from" from: Typed<Text>,
        /// Our name to Redis (an ACL user). Default: its default user.
        may "user" user: Typed<Text>,
        /// What proves who we are to Redis or PostgreSQL: `file:PATH` or `env:NAME`. Default: nothing is
        /// asked.
        may "password" password: Typed<SecretRef>,
        /// Whether PostgreSQL is spoken to over TLS: `disable`, or `verify-full`: never without, and never with
        /// whoever cannot show a certificate of its name. Default: `verify-full` where `ca` is set, else
        /// `disable`.
        may "tls" tls: Typed<PostgresTls>,
        /// Authorities that a certificate of Redis or PostgreSQL must come from, `file:PATH`. Default: the
        /// system's.
        may "ca" ca: Typed<SecretRef>,
        /// The header that holds a key. Default: `X-API-Key`, unless `query` is set.
        may "header" header: Typed<Text>,
        /// The query parameter that holds a key; it is taken off before the request goes on. Default:
        /// none.
        may "query" query: Typed<Text>,
        /// How long a gateway believes what Redis or PostgreSQL said of a key: also the longest time until
        /// a revoked key ends. Default: 30s.
        may "keep" keep: Typed<Time>,
    }
}

section! {
    /// Tokens and keys that ended before their time: `aqueduct revoke` tells all instances through Redis.
    /// Before an instance has had the list, and when the last one is too old, requests that show a token
    /// or a key are 503.
    Denylist {
        /// `redis://HOST:PORT[/DB]`, or `rediss://` over TLS.
        must "redis" redis: Typed<Text>,
        /// Our name to it (an ACL user). Default: its default user.
        may "user" user: Typed<Text>,
        /// What proves that: `file:PATH` or `env:NAME`. Default: nothing is asked.
        may "password" password: Typed<SecretRef>,
        /// Authorities that the certificate of a `rediss://` server must come from, `file:PATH`. Default: the
        /// system's.
        may "ca" ca: Typed<SecretRef>,
        /// How long the last list is believed while Redis is away. Default: 1h.
        may "longest-stale" longest_stale: Typed<Time>,
    }
}

section! {
    /// Who may do what on a route: a caller that fits all that is said here. What one rule allows is
    /// allowed; what none allows is 403.
    Allow at spot {
        /// For these methods, in capitals. Default: all.
        may "methods" methods: Vec<Typed<Text>>,
        /// Who has all of these scopes. Default: whoever.
        may "scopes" scopes: Vec<Typed<Scope>>,
        /// Who has one of these roles. Default: whoever.
        may "roles" roles: Vec<Typed<Text>>,
        /// Of whom this is true: claims by name (`tenant`, `realm.roles`, `claim['https://a/b']`) or `@user`,
        /// `@consumer`, `@plan`, `@principal`, `@method`, compared by `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`
        /// and `has` with 'texts', whole numbers, `true`, `false` or [lists], joined by `and`, `or`, `not`
        /// and parentheses; `exists tenant`. A comparison with what is absent is false. Default: whoever.
        may "when" when: Typed<Expression>,
    }
}

section! {
    /// A cookie that names a client's device: a random number and a signature, `Secure`, `HttpOnly`,
    /// `SameSite=Lax`, handed out by routes with a limit `by: device`. Whoever shows none, or one that was not
    /// signed for this group, has no device, and such a limit does not charge it: give the route one by
    /// address too.
    DeviceCookie {
        /// Secrets that all instances share, one per line of at least 32 characters; the first signs, all of
        /// them verify. `file:PATH` or `env:NAME`.
        must "key" key: Typed<SecretRef>,
        /// Its name. Default: `__Host-device`.
        may "name" name: Typed<Text>,
        /// How long a client keeps it. Default: 365d.
        may "lifetime" lifetime: Typed<Time>,
    }
}

section! {
    /// A proof that this group's gateways spoke, in the header `X-Aqueduct-Identity` of every request to a
    /// service: a JWT signed with HS256 whose claims are `iss` (`aqueduct/GROUP`), `aud` (the service), `iat`,
    /// `exp`, `rid` (the request's id), and of an identified caller `sub`, `kind` (`user`, `consumer`,
    /// `principal`) and `scope`.
    SignedIdentity {
        /// Secrets that the services know, one per line of at least 32 characters; the first signs, and `kid`
        /// names it: the first 16 digits of its SHA-256. `file:PATH` or `env:NAME`.
        must "key" key: Typed<SecretRef>,
        /// How long a proof is good, at most 5m. Default: 30s.
        may "lifetime" lifetime: Typed<Time>,
    }
}

section! {
    /// Who is asked over HTTP whether a request may go on, after scopes and rules: a GET with
    /// `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`, `-For`, `X-Request-Id`, `traceparent`, and of an identified
    /// caller `X-User-Id`, `X-Consumer` or `X-Client-Principal`, and `X-Scopes`. 2xx lets it go on, 4xx is 403.
    Authorize {
        /// `http(s)://HOST[:PORT]/PATH`.
        must "url" url: Typed<Text>,
        /// How long an answer may take. Default: 200ms.
        may "timeout" timeout: Typed<Time>,
        /// What happens where there is no answer, or another one: `refuse` (503) or `allow`. Default: `refuse`.
        may "when-away" when_away: Typed<UnansweredIs>,
        /// Headers of the request that are passed on to it; never `Authorization` or an API key's, which are
        /// used up. Default: none.
        may "headers" headers: Vec<Typed<Text>>,
        /// Headers of its answer that the service is told; what a client says there never passes. Default:
        /// none.
        may "answer-headers" answer_headers: Vec<Typed<Text>>,
    }
}

/// Who is asked, or that nobody is.
#[derive(Debug)]
pub(crate) enum AuthorizeChoice {
    None,
    Asked(Box<Authorize>),
}

impl FromTree for AuthorizeChoice {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match &tree.kind {
            Kind::Text(text) if text == "none" => Some(Self::None),
            _ => Authorize::from_tree(tree, at, out).map(|asked| Self::Asked(Box::new(asked))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["none"] }, Authorize::schema(generator)] })
    }
}

section! {
    /// How an issuer of opaque tokens is asked about them (RFC 7662).
    Introspection {
        /// `http(s)://HOST[:PORT]/PATH`.
        must "url" url: Typed<Text>,
        /// Who the gateway is to it (HTTP Basic).
        must "client" client: Typed<Text>,
        /// What proves that: `file:PATH` or `env:NAME`.
        must "secret" secret: Typed<SecretRef>,
        /// How long an answer is believed, within the token's `exp`: also the longest time until a token
        /// that was revoked there ends. Default: 30s.
        may "keep" keep: Typed<Time>,
        /// How long an answer may take; without one it is 503. Default: 1s.
        may "timeout" timeout: Typed<Time>,
    }
}
