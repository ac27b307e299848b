//! The `gateways:` section as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};

use ipnet::IpNet;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::gateway::{Access, Algorithm, Client, ForwardedIn, LimitAlgorithm, LimitBy, WhenAway};
use crate::identity::Told;
use crate::raw::schema::section;
use crate::raw::{
    Aggregate, Allow, Answer, ApiKeys, AuthorizeChoice, CachePolicy, CacheStore, Choice, Compress,
    Consumer, Denylist, DeviceCookie, Experiment, External, FilesChoice, Findings, Flag, FromTree,
    Introspection, Maintenance, Mirror, Named, OneOrMany, Queue, Recording, Redirect, Register,
    SignedIdentity, SplitPart, Spot, Telemetry, Text, Transcode, Transform, Typed, Upstream,
    ValidateChoice,
};
use crate::tls::{ClientCertificates, Sni};
use crate::tree::{Kind, Tree};
use crate::units::{Day, HostPattern, PathPattern, Quota, Rate, Scope, SecretRef, Size, Time};

section! {
    /// Gateways that serve the same routes under the same policy.
    GatewayGroup {
        /// The `l7-gateway` processes, by name.
        must "instances" instances: Named<GatewayInstance>,
        /// Networks of the balancers in front: from them a PROXY header is required, from all
        /// others refused. Default: none.
        may "trust-proxy-protocol-from" trust_proxy_protocol_from: Vec<Typed<IpNet>>,
        /// Proxies in front whose `X-Forwarded-For` or `Forwarded` says who the client is. Default: nobody's is
        /// believed, and every one is removed.
        may "trust-forwarded-for" trust_forwarded_for: TrustForwarded,
        /// Services are told who the client is in `Forwarded` (RFC 7239), too, beside `X-Forwarded-For`, `-Host` and
        /// `-Proto`. Default: false.
        may "forwarded" forwarded: Typed<Flag>,
        /// TLS towards clients. Default: plain HTTP.
        may "tls" tls: Tls,
        /// What a client may send. Default: see each.
        may "front" front: Front,
        /// Who may issue tokens, by name. Default: nobody.
        may "issuers" issuers: Named<Issuer>,
        /// API keys that routes accept, by name of their source. Default: none.
        may "api-keys" api_keys: Named<ApiKeys>,
        /// Tokens and keys that ended before their time. Default: none.
        may "denylist" denylist: Denylist,
        /// What services are told of an identified caller beside `X-User-Id`: `scopes` (`X-Scopes`), `roles`
        /// (`X-User-Roles`), `issuer` (`X-User-Issuer`), `consumer` (`X-Consumer`), `plan` (`X-Consumer-Plan`),
        /// `principal` (`X-Client-Principal`), `claim:NAME` (`X-User-Claim-NAME`). Default: nothing more.
        may "identity-headers" identity_headers: Vec<Typed<Told>>,
        /// A proof towards services that a gateway of this group spoke. Default: none.
        may "signed-identity" signed_identity: SignedIdentity,
        /// Budgets that routes are charged to, by name. Default: none.
        may "limits" limits: Named<Limit>,
        /// The claim of a token that names the caller's device, for limits `by: device`. Default: none.
        may "device-claim" device_claim: Typed<Text>,
        /// A cookie that names a client's device, for limits `by: device` where no claim does. Default: none.
        may "device-cookie" device_cookie: DeviceCookie,
        /// Where counters live that all instances share. Default: in each process.
        may "limit-store" limit_store: LimitStore,
        /// What a route has unless it says otherwise. Default: nothing is asked.
        may "defaults" defaults: Defaults,
        /// What is asked of a request that no route matches, before it is told so. Default: it
        /// is 404 at once.
        may "unmatched" unmatched: Defaults,
        /// Which requests go where.
        must "routes" routes: Vec<Route>,
        /// What holds for consumers, by their names: those of API keys, and those that tokens name (`consumer` of an
        /// issuer). A request that shows both a token and a key counts by its token. Default: nothing special.
        may "consumers" consumers: Named<Consumer>,
        /// Users divided among variants, by name. Default: none.
        may "experiments" experiments: Named<Experiment>,
        /// How a service that routes lead to is called, by what `to:` says. Default: see each.
        may "upstreams" upstreams: Named<Upstream>,
        /// How much memory the answers may take that routes with `cache` keep. Default: see each.
        may "cache" cache: CacheStore,
        /// Where access records go: `stdout`, `off` or `file:PATH`, which SIGUSR1 opens anew. What cannot
        /// be written at once is dropped and counted; no request waits. Default: `stdout`.
        may "access-log" access_log: Typed<Text>,
        /// Requests that are recorded for `aqueduct replay https`: what was asked, without credentials,
        /// cookies, secrets in queries and bodies, and how it was answered. Default: none.
        may "record" record: Recording,
        /// Traces. Default: see each.
        may "telemetry" telemetry: Telemetry,
        /// Headers of services that clients are not to see, besides `server`, `x-powered-by`, `x-internal-server`
        /// and `x-user-id`; `none`: they see all. Default: those four.
        may "internal-headers" internal_headers: OneOrMany<Typed<Text>>,
        /// Registries in which the instances are entered. Default: none.
        may "register" register: Register,
        /// How long a drain may take before what is left is ended. Default: 30s.
        may "drain" drain: Typed<Time>,
    }
}

section! {
    /// One `l7-gateway` process.
    GatewayInstance {
        /// Where it listens, `ADDRESS:PORT`; port 0 lets the system choose.
        must "listen" listen: Typed<SocketAddr>,
        /// Health, metrics and drain, `ADDRESS:PORT`. Default: none.
        may "admin" admin: Typed<SocketAddr>,
        /// The address that `register` tells, `ADDRESS:PORT`. Default: where it listens.
        may "advertise" advertise: Typed<SocketAddr>,
    }
}

section! {
    /// Proxies in front that speak HTTP, as a CDN does, and tell the client's address. It is what limits
    /// by address, `client-address` balancing, services and access records then go by.
    TrustForwarded at spot {
        /// Networks of the last of these proxies, the one that connects; the address that a PROXY header
        /// names counts where there is one.
        must "from" from: Vec<Typed<IpNet>>,
        /// How many of them a request passes, each of which adds who came to it: the client is that entry
        /// from the right. Where there are fewer, or it is no address, the proxy is the client. Default: 1.
        may "hops" hops: Typed<NonZeroU32>,
        /// The header in which they say it: `x-forwarded-for`, or `forwarded` (`for=`, RFC 7239); the other one is
        /// believed of nobody. Default: x-forwarded-for.
        may "header" header: Typed<ForwardedIn>,
    }
}

section! {
    /// TLS towards clients.
    Tls at spot {
        /// Chosen by the server name that the client asks for; the first is the default.
        must "certificates" certificates: Vec<Certificate>,
        /// Authorities that client certificates must come from, `file:PATH`. Default: none is asked
        /// for.
        may "client-ca" client_ca: Typed<SecretRef>,
        /// Whether a client must show a certificate that says who it is (one SPIFFE or other URI, else
        /// its first DNS name or mail address): `required`, or `optional`. Default: `required` where
        /// `client-ca` is set.
        may "client-certificates" client_certificates: Typed<ClientCertificates>,
        /// Lists of revoked client certificates, PEM, `file:PATH` or `env:NAME`; every authority of a
        /// client's chain must have one. One that is past its next update refuses its clients. Read
        /// again with the file; when one has changed, who is connected leaves within `drain`. Default:
        /// none is looked at.
        may "client-crl" client_crl: Vec<Typed<SecretRef>>,
        /// Whether a client must name a server that a certificate covers: `required`, or `optional`
        /// (who does not is shown the first certificate). Default: `optional`.
        may "sni" sni: Typed<Sni>,
        /// Secrets that all instances share and that keys of session tickets are made of, new ones
        /// every six hours: one per line of at least 32 characters, the first seals, all of them
        /// open. `file:PATH` or `env:NAME`. Default: each process makes its own.
        may "ticket-keys" ticket_keys: Typed<SecretRef>,
    }
}

section! {
    /// A certificate and its key.
    Certificate {
        /// PEM, leaf first: `file:PATH` or `env:NAME`.
        must "chain" chain: Typed<SecretRef>,
        /// PEM (PKCS#8, PKCS#1 or SEC1): `file:PATH` or `env:NAME`.
        must "key" key: Typed<SecretRef>,
    }
}

section! {
    /// What a client may send.
    Front {
        /// Most connections of all workers together. Default: 20000.
        may "max-connections" max_connections: Typed<NonZeroU32>,
        /// Most requests to services of all workers under way at a time; others wait in line or are 503
        /// at once. Default: no bound.
        may "max-requests" max_requests: Typed<NonZeroU32>,
        /// The line before `max-requests`. Default: nobody waits.
        may "queue" queue: Queue,
        /// Most header fields of a request. Default: 100.
        may "max-headers" max_headers: Typed<NonZeroUsize>,
        /// Most bytes of request line and headers. Default: 64KiB.
        may "max-head" max_head: Typed<Size>,
        /// Most bytes of the request target. Default: 8KiB.
        may "max-uri" max_uri: Typed<Size>,
        /// Most bytes of a body. Default: 10MiB.
        may "max-body" max_body: Typed<Size>,
        /// TLS handshake, and PROXY header. Default: 5s.
        may "handshake-timeout" handshake_timeout: Typed<Time>,
        /// From the first byte of a head to its end. Default: 10s.
        may "header-timeout" header_timeout: Typed<Time>,
        /// Between two reads of a body. Default: 30s.
        may "body-idle-timeout" body_idle_timeout: Typed<Time>,
        /// A kept connection without a request. Default: 60s.
        may "idle-timeout" idle_timeout: Typed<Time>,
    }
}

section! {
    /// Who may issue tokens. Exactly one of `jwks`, `key` and `introspection`.
    Issuer at spot {
        /// The exact `iss` claim.
        must "issuer" issuer: Typed<Text>,
        /// Accepted `aud` claims, one or a list.
        must "audience" audience: OneOrMany<Typed<Text>>,
        /// Its key set (RFC 7517): an http(s) URL, fetched and refreshed, or `file:PATH`.
        may "jwks" jwks: Typed<Text>,
        /// One PEM public key, or the secret of HS256: `file:PATH` or `env:NAME`.
        may "key" key: Typed<SecretRef>,
        /// The issuer is asked about each token: for tokens that are no JWT. What its answer says of `aud` and
        /// `iss` must fit, if it says anything. Default: it is not.
        may "introspection" introspection: Introspection,
        /// Accepted signature algorithms. Default: none, which only `introspection` allows.
        may "algorithms" algorithms: Vec<Typed<Algorithm>>,
        /// The claim that names the user. Default: `sub`.
        may "user" user: Typed<Text>,
        /// The claim that names the consumer, `client_id` or `azp`: one of `consumers`, by its name or as that is
        /// `claimed-as`, which says whose tokens are meant where several issuers have this. A token that names nobody
        /// there has none. Default: its tokens name no consumer.
        may "consumer" consumer: Typed<Text>,
        /// The claim with the scopes, a text with spaces or a list. Default: `scope`.
        may "scope" scope: Typed<Text>,
        /// The claim with the roles, a text with spaces or a list; with dots a member of a claim,
        /// `realm_access.roles`. Default: `roles`.
        may "roles" roles: Typed<Text>,
        /// Tolerance for `exp` and `nbf`, at most 5m. Default: 30s.
        may "leeway" leeway: Typed<Time>,
    }
}

section! {
    /// One budget. Exactly one of `rate`, `quota` and `concurrent`.
    Limit {
        /// Whose: each client `address` (IPv6: its /64; charged before authentication), each `user`
        /// (or whoever a key or certificate says it is), each `consumer` of API keys, each `device` (by
        /// `device-claim` or `device-cookie`), each `route`, or `all` together; a list counts each combination.
        must "by" by: OneOrMany<Typed<LimitBy>>,
        /// Charged to callers of these plans alone: the quota of a plan. Default: to everybody.
        may "plan" plan: OneOrMany<Typed<Text>>,
        /// How much, `100/min`. Exactly one of `rate`, `quota` and `concurrent`.
        may "rate" rate: Typed<Rate>,
        /// How much in each day or month of the calendar (UTC), `1000/d` or `100000/month`. Exactly one of
        /// `rate`, `quota` and `concurrent`.
        may "quota" quota: Typed<Quota>,
        /// How many requests may be under way at a time, until the last byte of their answers; each
        /// instance counts its own. Exactly one of `rate`, `quota` and `concurrent`.
        may "concurrent" concurrent: Typed<NonZeroU32>,
        /// Most at once with a token bucket, or most that wait for their turn with a leaky bucket.
        /// Default: the rate's count, or as many as drain in a second, at least 1.
        may "burst" burst: Typed<NonZeroU32>,
        /// How it is counted: `token-bucket` refills evenly, `leaky-bucket` lets requests go on one
        /// after the other at even distances, `fixed-window` begins anew at each whole multiple of
        /// the rate's time (UTC) and may pass twice its count around an edge, `sliding-window` never
        /// passes more than its count in any window. Default: `token-bucket`.
        may "algorithm" algorithm: Typed<LimitAlgorithm>,
    }
}

section! {
    /// Where counters live that all instances share.
    LimitStore {
        /// `redis://HOST:PORT[/DB]`, or `rediss://` over TLS; a list names nodes of a cluster, without TLS, of
        /// which one must answer at the start. On a cluster each limit of a request is charged by itself, so that one which refuses
        /// does not give back what the others took.
        must "redis" redis: OneOrMany<Typed<Text>>,
        /// Our name to it (an ACL user). Default: its default user.
        may "user" user: Typed<Text>,
        /// What proves that: `file:PATH` or `env:NAME`. Default: nothing is asked.
        may "password" password: Typed<SecretRef>,
        /// Authorities that the certificate of a `rediss://` server must come from, `file:PATH`. Default: the
        /// system's.
        may "ca" ca: Typed<SecretRef>,
        /// While it is away: `local-share` (each instance counts its share), `fail-open` or
        /// `fail-closed`. Default: `local-share`.
        may "when-away" when_away: Typed<WhenAway>,
        /// How long a decision may wait for it, at most 1s. Default: 20ms.
        may "timeout" timeout: Typed<Time>,
    }
}

section! {
    /// What a route has unless it says otherwise.
    Defaults at spot {
        /// Who may call: `none`, or one or a list of: an issuer (a token of it), a source of API keys, and
        /// `certificate` (a verified client certificate). One is enough; a token counts before a key, a key
        /// before the certificate. Default: `none`.
        may "auth" auth: OneOrMany<Typed<Text>>,
        /// Scopes that a token or key must all have. Default: none.
        may "scopes" scopes: Vec<Typed<Scope>>,
        /// Who may do what. Default: whoever is identified, everything.
        may "allow" allow: Vec<Allow>,
        /// What holds on routes with neither `scopes` nor `allow`: `allow`, or `deny`: nobody may call
        /// them but those that say `auth: none` themselves. Default: `allow`.
        may "access" access: Typed<Access>,
        /// Who else is asked whether a request may go on. Default: nobody.
        may "authorize" authorize: AuthorizeChoice,
        /// Limits that are charged. Default: none.
        may "limits" limits: Vec<Typed<Text>>,
        /// Cross-origin rules. Default: none.
        may "cors" cors: CorsChoice,
        /// Answers are compressed for clients that take it: `true`, `false`, or a section. Default: false.
        may "compress" compress: Choice<Compress>,
        /// All routes are closed for a while: `true`, `false`, or a section. Default: false.
        may "maintenance" maintenance: Choice<Maintenance>,
        /// Headers that tell browsers to be careful, where an answer has none of its own: `api` (nothing in it is
        /// to be shown or run), `web`, or `none`. Default: none.
        may "security-headers" security_headers: Typed<Text>,
        /// What is changed of all requests and answers, besides what routes change. Default: nothing.
        may "transform" transform: Transform,
        /// Who sees all requests that are to go on, before those whom routes and upstreams name. Default: nobody.
        may "external" external: External,
        /// Requests must be as an OpenAPI 3 description says: its path, or a section. They are held against it as they
        /// come, before anything is changed. Default: they may be anything.
        may "validate" validate: ValidateChoice,
    }
}

section! {
    /// Which requests go where. The most specific route that matches wins.
    Route at spot {
        /// Label in metrics and records, unique in the group. Default: the path.
        may "name" name: Typed<Text>,
        /// Hosts it answers for, `api.example` or `*.example`, one or a list. Default: all.
        may "host" host: OneOrMany<Typed<HostPattern>>,
        /// The path: `/api/search` alone, `/api/user/*` with all below it, `/api/user/{id}` with any one
        /// segment, or `~` and a regular expression for the whole path.
        must "path" path: Typed<PathPattern>,
        /// Methods it answers for, in capitals. Default: all.
        may "methods" methods: Vec<Typed<Text>>,
        /// Headers that a request must have, by name: a value, or `*` for any. Default: none.
        may "headers" headers: Named<Typed<Text>>,
        /// Query parameters that it must have, by name: a value, or `*` for any. Default: none.
        may "query" query: Named<Typed<Text>>,
        /// Cookies that it must have, by name: a value, or `*` for any. Default: none.
        may "cookies" cookies: Named<Typed<Text>>,
        /// The version that `Accept` must ask for: `application/json;version=2` or
        /// `application/vnd.v2+json`; `none`: it must ask for none. One or a list: `[1, none]` makes 1
        /// the default. Default: whatever it asks for.
        may "accept-version" accept_version: OneOrMany<Typed<Text>>,
        /// What `User-Agent` says it is: `mobile` or `desktop`. Default: any.
        may "client" client: Typed<Client>,
        /// Where it leads: a service, or GROUP/LISTENER of the balancers in front of one. Exactly one of
        /// `to`, `files`, `aggregate`, `redirect` and `answer`.
        may "to" to: Typed<Text>,
        /// A directory whose files are the answers: its path, or a section. Exactly one of `to`, `files`,
        /// `aggregate`, `redirect` and `answer`.
        may "files" files: FilesChoice,
        /// Several services are asked, and their answers become one. Exactly one of `to`, `files`,
        /// `aggregate`, `redirect` and `answer`.
        may "aggregate" aggregate: Aggregate,
        /// Clients are told to ask elsewhere. Exactly one of `to`, `files`, `aggregate`, `redirect` and
        /// `answer`.
        may "redirect" redirect: Redirect,
        /// A text of the file. Exactly one of `to`, `files`, `aggregate`, `redirect` and `answer`.
        may "answer" answer: Answer,
        /// Answers are compressed for clients that take it: `true`, `false`, or a section; a consumer's own word comes
        /// before it. Default: as upstreams and `defaults` say.
        may "compress" compress: Choice<Compress>,
        /// It is closed for a while: `true`, `false`, or a section. Default: as `defaults` say.
        may "maintenance" maintenance: Choice<Maintenance>,
        /// Most bytes of a request's body. Default: as `front` says.
        may "max-body" max_body: Typed<Size>,
        /// Whether its answers are kept as RFC 9111 allows: `true`, `false`, or a section. Default: false.
        may "cache" cache: Choice<CachePolicy>,
        /// Parts of its requests that lead elsewhere. Default: none.
        may "split" split: Vec<SplitPart>,
        /// Where copies of its safe requests (GET, HEAD, OPTIONS without a body) go; nobody waits for
        /// their answers. Default: nowhere.
        may "mirror" mirror: Mirror,
        /// Who is always led to the same side of a split: each `user` (its address while nobody is
        /// verified), each `address`, or each value of the cookie `cookie:NAME`. Default: `user`.
        may "sticky" sticky: Typed<Text>,
        /// Experiments that its requests take part in. Default: none.
        may "experiments" experiments: Vec<Typed<Text>>,
        /// Who may call: `none`, or one or a list of issuers, sources of API keys, and `certificate`.
        /// Default: as `defaults` say.
        may "auth" auth: OneOrMany<Typed<Text>>,
        /// Scopes that a token or key must all have. Default: as `defaults` say.
        may "scopes" scopes: Vec<Typed<Scope>>,
        /// Who may do what. Default: as `defaults` say.
        may "allow" allow: Vec<Allow>,
        /// Whether it is open to whoever is identified where it has neither `scopes` nor `allow`: `allow` or
        /// `deny`. Default: as `defaults` say.
        may "access" access: Typed<Access>,
        /// Who else is asked whether a request may go on, or `none`. Default: as `defaults` say.
        may "authorize" authorize: AuthorizeChoice,
        /// Limits that are charged; with a `+` before each, besides those of `defaults`. Default: as
        /// `defaults` say.
        may "limits" limits: Vec<Typed<Text>>,
        /// Cross-origin rules, or `none`. Default: as upstreams and `defaults` say.
        may "cors" cors: CorsChoice,
        /// Which version of an interface it is, `v1`: who calls it is counted by consumer, as on routes that are
        /// deprecated or end (`aqueduct_http_version_requests_total`, `/callers`). Default: none.
        may "version" version: Typed<Text>,
        /// The day since which nobody should begin to use it: answers say so (RFC 9745), and who still calls is
        /// counted. Default: none.
        may "deprecated" deprecated: Typed<Day>,
        /// Where that is explained, for people. Default: nowhere.
        may "deprecation-link" deprecation_link: Typed<Text>,
        /// What follows it: a URL or a path. Default: nothing.
        may "successor" successor: Typed<Text>,
        /// Headers that tell browsers to be careful, where the answer has none of its own: `api`, `web` or
        /// `none`. Default: as `defaults` say.
        may "security-headers" security_headers: Typed<Text>,
        /// Its last day (UTC), which answers tell (RFC 8594); afterwards it answers 410. Default: it stays.
        may "sunset" sunset: Typed<Day>,
        /// How long all tries together may take until the answer's head, while the client is not
        /// sending. Default: 15s.
        may "timeout" timeout: Typed<Time>,
        /// How long a connection may take. Default: as the service has it.
        may "connect-timeout" connect_timeout: Typed<Time>,
        /// In each attempt, from the last byte of the request to the answer's head. Default: as the
        /// service has it.
        may "first-byte-timeout" first_byte_timeout: Typed<Time>,
        /// How long an attempt may take until the answer's head. Default: as the service has it.
        may "try-timeout" try_timeout: Typed<Time>,
        /// Between two pieces of an answer's body. Default: as the service has it.
        may "answer-idle-timeout" answer_idle_timeout: Typed<Time>,
        /// How long an exchange may take with its bodies. Default: as the service has it.
        may "total-timeout" total_timeout: Typed<Time>,
        /// Headers set on every answer, by name; those for caches (`cache-control`, `cdn-cache-control`,
        /// `surrogate-control`, `expires`) on answers below 400 alone. Default: none.
        may "response-headers" response_headers: Named<Typed<Text>>,
        /// What is changed of its requests and answers. Default: nothing.
        may "transform" transform: Transform,
        /// Who sees its requests besides whom `defaults` and upstreams name. Default: nobody.
        may "external" external: External,
        /// Requests must be as an OpenAPI 3 description says: its path, a section, or `none`. They are held against it
        /// as they come, before anything is changed. Default: as `defaults` say.
        may "validate" validate: ValidateChoice,
        /// Its requests become gRPC calls. Default: they stay what they are.
        may "transcode" transcode: Transcode,
        /// Browsers may call its gRPC service over gRPC-Web (`application/grpc-web` and `-text`), in HTTP/1.1 too:
        /// `true` or `false`. Its `cors` then allows and exposes what that needs. Default: false.
        may "grpc-web" grpc_web: Typed<Flag>,
    }
}

section! {
    /// Cross-origin rules (Fetch standard).
    Cors at spot {
        /// Origins that may call, `https://app.example`, `https://*.shop.example` for all hosts below; a single `*`
        /// means any.
        must "origins" origins: OneOrMany<Typed<Text>>,
        /// Methods that a preflight answer names. Default: the route's, or GET, HEAD, POST.
        may "methods" methods: Vec<Typed<Text>>,
        /// Request headers that a preflight answer names. Default: authorization, content-type.
        may "headers" headers: Vec<Typed<Text>>,
        /// Headers of answers that scripts may read. Default: those that are open to all.
        may "expose" expose: Vec<Typed<Text>>,
        /// Whether cookies may come along; not together with `*`. Default: false.
        may "credentials" credentials: Typed<Flag>,
        /// How long a browser may keep the preflight answer. Default: 10m.
        may "max-age" max_age: Typed<Time>,
    }
}

/// Cross-origin rules, or that there are none.
#[derive(Debug)]
pub(crate) enum CorsChoice {
    None,
    Rules(Box<Cors>),
}

impl FromTree for CorsChoice {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match &tree.kind {
            Kind::Text(text) if text == "none" => Some(Self::None),
            _ => Cors::from_tree(tree, at, out).map(|cors| Self::Rules(Box::new(cors))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["none"] }, Cors::schema(generator)] })
    }
}
