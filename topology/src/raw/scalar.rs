//! Single values: which type reads which text, and what an editor is told about it. Not for
//! values that need the rest of the file: `resolve`.
//!
//! Invariant: what `parse` refuses, `allowed` explains.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;

use ipnet::IpNet;
use schemars::{Schema, json_schema};

use crate::answers::Merge;
use crate::expression::{EXPRESSION, Expression};
use crate::files::Links;
use crate::gateway::UpstreamProtocol;
use crate::gateway::{Algorithm, Client, ForwardedIn, LimitAlgorithm, LimitBy, WhenAway};
use crate::identity::{Access, PostgresTls, Told, UnansweredIs};
use crate::l4::{Balance, HashTable, ListenAt, OnDown, ProxyVersion};
use crate::pool::{
    AuthType, Console, HostOrder, ListenAddress, PoolMode, Reads, ReadyWhen, ServerAddress,
    SocketMode, SslMode, SslNegotiation,
};
use crate::problem::nearest;
use crate::telemetry::{SAMPLE, Sample};
use crate::template::{TEMPLATE, Template};
use crate::tls::{ClientCertificates, Sni};
use crate::units::{
    Day, HostPattern, LISTEN_AT, PATH, PERCENT, PathPattern, Percent, QUOTA, Quota, RATE, Rate,
    SIZE, Scope, SecretRef, Size, TIME, Time, UnitError, Weight, is_token,
};
use crate::upstream::{HashBy, RetryOn, UpstreamBalance};

/// A value that is one text.
pub(crate) trait Scalar: Sized {
    /// Whether a wrong text may be a secret, so that its line must not be shown.
    const SECRET: bool = false;

    /// The value.
    fn parse(text: &str) -> Result<Self, UnitError>;

    /// What may be written.
    fn allowed() -> String;

    /// What an editor is told.
    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Free text: one line, not empty.
#[derive(Clone, Debug)]
pub(crate) struct Text(pub(crate) String);

impl Scalar for Text {
    fn parse(text: &str) -> Result<Self, UnitError> {
        match text {
            _ if text.len() > 4096 => Err(UnitError::new("the text is too long", "4096 bytes")),
            _ if text.chars().any(char::is_control) => {
                Err(UnitError::new("the text has control characters", Self::allowed()))
            }
            "" => Err(UnitError::new("the text is empty", Self::allowed())),
            _ => Ok(Self(text.to_owned())),
        }
    }

    fn allowed() -> String {
        "one line of text".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"], "minLength": 1 })
    }
}

/// `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

impl Scalar for Flag {
    fn parse(text: &str) -> Result<Self, UnitError> {
        let error = |meant| {
            UnitError::new(format!("`{text}` is not true or false"), Self::allowed()).meant(meant)
        };
        match text {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            "yes" | "on" | "True" | "1" => Err(error("true")),
            "no" | "off" | "False" | "0" => Err(error("false")),
            _ => Err(UnitError::new(format!("`{text}` is not true or false"), Self::allowed())),
        }
    }

    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// Version of the file's format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version;

impl Scalar for Version {
    fn parse(text: &str) -> Result<Self, UnitError> {
        let unknown = || {
            UnitError::new(format!("version {text} of the format is not known"), Self::allowed())
        };
        (text == "1").then_some(Self).ok_or_else(unknown)
    }

    fn allowed() -> String {
        "1".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "enum": [1] })
    }
}

/// Units that say themselves what is wrong with a text.
macro_rules! unit {
    ($($ty:ty: $title:literal, $allowed:expr, $pattern:expr;)+) => {$(
        impl Scalar for $ty {
            fn parse(text: &str) -> Result<Self, UnitError> {
                text.parse()
            }

            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn schema() -> Schema {
                json_schema!({ "type": "string", "title": $title, "pattern": $pattern })
            }
        }
    )+};
}

unit! {
    Time: "time", TIME, "^[0-9]+(ms|s|m|h|d)$";
    Size: "size", SIZE, "^[0-9]+(B|KiB|MiB|GiB)$";
    Rate: "rate", RATE, "^[0-9]+/(s|min|h|d)$";
    Quota: "quota", QUOTA, "^[0-9]+/(d|month)$";
    Percent: "part", PERCENT, "^(100|[0-9]{1,2})%$";
    Sample: "part", SAMPLE, "^[0-9]{1,3}([.][0-9]{1,4})?%$";
    Day: "day", "a day as YEAR-MONTH-DAY", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
    Expression: "expression", EXPRESSION, ".";
    Scope: "scope", "an OAuth 2.0 scope", "^[!#-\\[\\]-~]+$";
    HostPattern: "host", "a host name, or *.example for every host below it", "^[^ /]+$";
    PathPattern: "path", PATH, "^[/~]";
    ListenAt: "`*:PORT` or `ADDRESS:PORT`", LISTEN_AT, ":[0-9]{1,5}$";
}

impl Scalar for Template {
    fn parse(text: &str) -> Result<Self, UnitError> {
        if !text.is_empty() {
            Text::parse(text)?;
        }
        text.parse()
    }

    fn allowed() -> String {
        TEMPLATE.to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"], "title": "template" })
    }
}

impl Scalar for SecretRef {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn allowed() -> String {
        "file:PATH or env:NAME".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "reference", "pattern": "^(file:.+|env:[A-Za-z_][A-Za-z0-9_]*)$" })
    }
}

/// Whole numbers of a range.
macro_rules! number {
    ($($ty:ty: $least:literal, $most:expr;)+) => {$(
        impl Scalar for $ty {
            fn parse(text: &str) -> Result<Self, UnitError> {
                let what = match text.parse::<i128>() {
                    Err(_) => format!("`{text}` is no whole number"),
                    Ok(number) if number < $least => format!("{number} is under {}", $least),
                    Ok(number) if number > i128::from($most) => {
                        format!("{number} is over {}", $most)
                    }
                    Ok(_) => match text.trim_start_matches('+').parse() {
                        Ok(number) => return Ok(number),
                        Err(_) => format!("`{text}` is no whole number"),
                    },
                };
                Err(UnitError::new(what, Self::allowed()))
            }

            fn allowed() -> String {
                format!("a whole number from {} to {}", $least, $most)
            }

            fn schema() -> Schema {
                json_schema!({ "type": "integer", "minimum": $least, "maximum": $most })
            }
        }
    )+};
}

number! {
    u8: 0, u8::MAX;
    u16: 0, u16::MAX;
    u32: 0, u32::MAX;
    NonZeroU32: 1, u32::MAX;
    NonZeroUsize: 1, u32::MAX;
}

impl Scalar for Weight {
    fn parse(text: &str) -> Result<Self, UnitError> {
        text.parse()
    }

    fn allowed() -> String {
        "a whole number from 1 to 1000".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 1000 })
    }
}

/// Types of the network that the standard library and `ipnet` read.
fn foreign<T: FromStr>(text: &str, what: &str, allowed: String) -> Result<T, UnitError> {
    text.parse().map_err(|_| UnitError::new(format!("`{text}` is no {what}"), allowed))
}

impl Scalar for SocketAddr {
    fn parse(text: &str) -> Result<Self, UnitError> {
        foreign(text, "address with a port", Self::allowed())
    }

    fn allowed() -> String {
        "ADDRESS:PORT as numbers, 127.0.0.1:8080 or [::1]:8080".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "`ADDRESS:PORT`", "pattern": "^(\\[.+\\]|[0-9.]+):[0-9]{1,5}$" })
    }
}

impl Scalar for ServerAddress {
    fn parse(text: &str) -> Result<Self, UnitError> {
        foreign(text, "address of a server", Self::allowed())
    }

    fn allowed() -> String {
        "ADDRESS:PORT, HOST:PORT or unix:/FOLDER:PORT".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "`HOST:PORT` or `unix:/FOLDER:PORT`", "pattern": "^.+:[0-9]{1,5}$" })
    }
}

impl Scalar for ListenAddress {
    fn parse(text: &str) -> Result<Self, UnitError> {
        foreign(text, "address to listen on", Self::allowed())
    }

    fn allowed() -> String {
        "ADDRESS:PORT or unix:/FOLDER:PORT".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "`ADDRESS:PORT` or `unix:/FOLDER:PORT`", "pattern": "^.+:[0-9]{1,5}$" })
    }
}

impl Scalar for SocketMode {
    fn parse(text: &str) -> Result<Self, UnitError> {
        foreign(text, "mode of a file", Self::allowed())
    }

    fn allowed() -> String {
        "three or four octal digits, \"0770\"".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "mode", "pattern": "^0?[0-7]{3}$" })
    }
}

impl Scalar for IpAddr {
    fn parse(text: &str) -> Result<Self, UnitError> {
        foreign(text, "address", Self::allowed())
    }

    fn allowed() -> String {
        "an IPv4 or IPv6 address without a port, 10.0.0.7 or fd00::7".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "address" })
    }
}

impl Scalar for IpNet {
    fn parse(text: &str) -> Result<Self, UnitError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let net: Self = foreign(text, "network", Self::allowed())?;
        if net.trunc() == net {
            return Ok(net);
        }
        let what = format!("`{text}` has bits set behind its length");
        Err(UnitError::new(what, Self::allowed()).meant(net.trunc()))
    }

    fn allowed() -> String {
        "a network as ADDRESS/LENGTH, 10.0.0.0/8 or fd00::/8, or one address".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "title": "network" })
    }
}

impl Scalar for UpstreamBalance {
    fn parse(text: &str) -> Result<Self, UnitError> {
        const WORDS: [&str; 5] =
            ["round-robin", "least-connections", "two-choices", "hash:user", "hash:address"];
        let named = |kind: &str| text.strip_prefix(kind).filter(|name| is_token(name));
        Ok(match text {
            "round-robin" => Self::RoundRobin,
            "least-connections" => Self::LeastConnections,
            "two-choices" => Self::TwoChoices,
            "hash:user" => Self::Hash(HashBy::User),
            "hash:address" => Self::Hash(HashBy::Address),
            _ => match (named("hash:header:"), named("hash:cookie:")) {
                (Some(name), _) => Self::Hash(HashBy::Header(name.to_ascii_lowercase())),
                (_, Some(name)) => Self::Hash(HashBy::Cookie(name.to_owned())),
                _ => {
                    let what = format!("`{text}` is no way to choose an endpoint");
                    let error = UnitError::new(what, Self::allowed());
                    return Err(match nearest(text, WORDS) {
                        Some(word) => error.meant(word),
                        None => error,
                    });
                }
            },
        })
    }

    fn allowed() -> String {
        "round-robin, least-connections, two-choices, hash:user, hash:address, hash:header:NAME, \
         hash:cookie:NAME"
            .to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern":
            "^(round-robin|least-connections|two-choices|hash:(user|address|(header|cookie):[^ :;=,]+))$" })
    }
}

impl Scalar for Told {
    fn parse(text: &str) -> Result<Self, UnitError> {
        const WORDS: [&str; 6] = ["scopes", "roles", "issuer", "consumer", "plan", "principal"];
        Ok(match (text, text.strip_prefix("claim:")) {
            ("scopes", _) => Self::Scopes,
            ("roles", _) => Self::Roles,
            ("issuer", _) => Self::Issuer,
            ("consumer", _) => Self::Consumer,
            ("plan", _) => Self::Plan,
            ("principal", _) => Self::Principal,
            (_, Some(name)) if is_token(name) => Self::Claim(name.to_owned()),
            _ => {
                let what = format!("`{text}` is nothing that services are told");
                let error = UnitError::new(what, Self::allowed());
                return Err(match nearest(text, WORDS) {
                    Some(word) => error.meant(word),
                    None => error,
                });
            }
        })
    }

    fn allowed() -> String {
        "scopes, roles, issuer, consumer, plan, principal, claim:NAME".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern":
            "^(scopes|roles|issuer|consumer|plan|principal|claim:[^ :;=,]+)$" })
    }
}

impl Scalar for RetryOn {
    fn parse(text: &str) -> Result<Self, UnitError> {
        Ok(match text {
            "connect" => Self::Connect,
            "reset" => Self::Reset,
            "timeout" => Self::Timeout,
            _ => match text.parse() {
                Ok(status) if status == 429 || (500..=599).contains(&status) => {
                    Self::Status(status)
                }
                _ => {
                    let what = format!("`{text}` is no reason to try again");
                    let error = UnitError::new(what, Self::allowed());
                    return Err(match nearest(text, ["connect", "reset", "timeout"]) {
                        Some(word) => error.meant(word),
                        None => error,
                    });
                }
            },
        })
    }

    fn allowed() -> String {
        "connect, reset, timeout, 429, 500 to 599".to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["connect", "reset", "timeout", 429] },
            { "type": "integer", "minimum": 500, "maximum": 599 },
        ] })
    }
}

/// Types of which each value is a word.
macro_rules! words {
    ($($ty:ty { $($word:literal => $value:expr,)+ })+) => {$(
        impl Scalar for $ty {
            fn parse(text: &str) -> Result<Self, UnitError> {
                match text {
                    $($word => Ok($value),)+
                    _ => {
                        let what = format!("`{text}` is not known here");
                        let error = UnitError::new(what, Self::allowed());
                        Err(match nearest(text, [$($word),+]) {
                            Some(word) => error.meant(word),
                            None => error,
                        })
                    }
                }
            }

            fn allowed() -> String {
                [$($word),+].join(", ")
            }

            fn schema() -> Schema {
                json_schema!({ "enum": [$($word),+] })
            }
        }
    )+};
}

words! {
    UpstreamProtocol {
        "http1" => Self::Http1,
        "http2" => Self::Http2,
        "auto" => Self::Auto,
    }
    Balance {
        "client-address" => Self::ClientAddress,
        "five-tuple" => Self::FiveTuple,
        "round-robin" => Self::RoundRobin,
        "least-connections" => Self::LeastConnections,
        "two-choices" => Self::TwoChoices,
    }
    HashTable {
        "maglev" => Self::Maglev,
        "rendezvous" => Self::Rendezvous,
    }
    OnDown {
        "rehash" => Self::Rehash,
        "keep" => Self::Keep,
        "reset" => Self::Reset,
    }
    ProxyVersion {
        "v1" => Self::V1,
        "v2" => Self::V2,
    }
    Algorithm {
        "RS256" => Self::RS256,
        "RS384" => Self::RS384,
        "RS512" => Self::RS512,
        "PS256" => Self::PS256,
        "PS384" => Self::PS384,
        "PS512" => Self::PS512,
        "ES256" => Self::ES256,
        "ES384" => Self::ES384,
        "EdDSA" => Self::EdDSA,
        "HS256" => Self::HS256,
    }
    Client {
        "mobile" => Self::Mobile,
        "desktop" => Self::Desktop,
    }
    ClientCertificates {
        "required" => Self::Required,
        "optional" => Self::Optional,
    }
    Sni {
        "required" => Self::Required,
        "optional" => Self::Optional,
    }
    LimitBy {
        "address" => Self::Address,
        "user" => Self::User,
        "consumer" => Self::Consumer,
        "device" => Self::Device,
        "route" => Self::Route,
        "all" => Self::All,
    }
    LimitAlgorithm {
        "token-bucket" => Self::TokenBucket,
        "leaky-bucket" => Self::LeakyBucket,
        "fixed-window" => Self::FixedWindow,
        "sliding-window" => Self::SlidingWindow,
    }
    UnansweredIs {
        "refuse" => Self::Refused,
        "allow" => Self::Allowed,
    }
    PostgresTls {
        "disable" => Self::Disable,
        "verify-full" => Self::VerifyFull,
    }
    Access {
        "allow" => Self::Allow,
        "deny" => Self::Deny,
    }
    Merge {
        "by-name" => Self::ByName,
        "flat" => Self::Flat,
    }
    Links {
        "inside" => Self::Inside,
        "anywhere" => Self::Anywhere,
    }
    ForwardedIn { "x-forwarded-for" => Self::XForwardedFor, "forwarded" => Self::Forwarded, }
    WhenAway {
        "fail-open" => Self::FailOpen,
        "fail-closed" => Self::FailClosed,
        "local-share" => Self::LocalShare,
    }
    PoolMode {
        "session" => Self::Session,
        "transaction" => Self::Transaction,
        "statement" => Self::Statement,
    }
    SslMode {
        "disable" => Self::Disable,
        "allow" => Self::Allow,
        "prefer" => Self::Prefer,
        "require" => Self::Require,
        "verify-ca" => Self::VerifyCa,
        "verify-full" => Self::VerifyFull,
    }
    AuthType {
        "md5" => Self::Md5,
        "scram-sha-256" => Self::Scram,
        "plain" => Self::Plain,
    }
    HostOrder { "round-robin" => Self::RoundRobin, "disable" => Self::Sticky, }
    SslNegotiation { "postgres" => Self::Postgres, "direct" => Self::Direct, }
    ReadyWhen {
        "running" => Self::Running,
        "some-database" => Self::SomeDatabase,
        "all-databases" => Self::AllDatabases,
    }
    Reads {
        "alias" => Self::Alias,
        "asked" => Self::Asked,
        "read-only" => Self::ReadOnly,
        "automatic" => Self::Automatic,
    }
    Console {
        "no" => Self::No,
        "stats" => Self::Stats,
        "admin" => Self::Admin,
    }
}
