//! API keys and the denylist as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::expression::Expression;
use crate::raw::schema::section;
use crate::raw::{Text, Typed};
use crate::units::{Scope, SecretRef, Time};

section! {
    /// API keys, and whose they are. Stored are SHA-256 digests, never keys; `aqueduct key new` makes one.
    ApiKeys {
        /// Where they are written down: `file:PATH` (one JSON object per line, read again on reload),
        /// `redis://HOST:PORT[/DB]` or `postgres://USER@HOST:PORT/DATABASE` (a pooler of the stack will
        /// do).
        must "from" from: Typed<Text>,
        /// PostgreSQL's password: `file:PATH` or `env:NAME`. Default: none.
        may "password" password: Typed<SecretRef>,
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
        /// `redis://HOST:PORT[/DB]`.
        must "redis" redis: Typed<Text>,
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
