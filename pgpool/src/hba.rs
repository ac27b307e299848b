//! Rules of who may log in how (`pg_hba.conf`), and maps from names of the system or of certificates to
//! roles (`pg_ident.conf`), as PostgreSQL's manual has them. Not for proofs: that is `client::auth`. Read
//! with the snapshot, asked once per login.
//!
//! Invariant: the first rule that fits decides, none means no; what cannot be understood is a fault with
//! its line, never a rule left out.

mod likened;

use std::net::IpAddr;
use std::path::Path;

use pgpool_wire::startup::Replication;
use regex::{Regex, RegexBuilder};

use crate::client::source::Source;

/// A regular expression of a map takes no more memory.
const LARGEST: usize = 1 << 16;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It gets no connection.
    Reject,
    /// By an md5 answer; by SCRAM if its secret is a verifier.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
    /// By its password in clear, inside TLS or on this host alone.
    Password,
    /// By a certificate that names it.
    Cert,
    /// By the system user of its process.
    Peer,
}

/// What a rule asks of a certificate beside its method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientCert {
    /// Nothing.
    #[default]
    Any,
    /// There must be one.
    VerifyCa,
    /// It must name the user.
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    All,
    SameUser,
    /// Physical replication, which no other name means.
    Replication,
    Is(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    All,
    In(IpAddr, u8),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    kind: Kind,
    databases: Vec<Name>,
    users: Vec<Name>,
    net: Net,
    /// How the client proves who it is.
    pub method: Method,
    /// The map that leads from the system's or the certificate's name to roles.
    pub map: Option<String>,
    /// What is asked of a certificate.
    pub client_cert: ClientCert,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The database.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
    /// From where.
    pub source: Source,
    /// Whether over TLS.
    pub encrypted: bool,
    /// What for.
    pub replication: Replication,
}

/// All rules of a file, in its order.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct HbaError {
    /// Counted from 1.
    pub line: u32,
    /// What.
    pub what: String,
}

/// A word of a line; quoted ones have no special meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    quoted: bool,
}

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// With the first line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, HbaError> {
        let mut all = Vec::new();
        for (line, fields) in lines(text, Commas::Part) {
            let read = fields.and_then(|fields| rule(&fields, None));
            all.push(read.map_err(|what| HbaError { line, what })?);
        }
        Ok(Self(all))
    }

    /// The rule that decides.
    pub fn find(&self, asking: &Asking<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(asking))
    }
}

impl Rule {
    fn fits(&self, asking: &Asking<'_>) -> bool {
        let by = match (self.kind, asking.source) {
            (Kind::Local, Source::Unix { .. }) => true,
            (Kind::Local, Source::Ip(_)) | (_, Source::Unix { .. }) => false,
            (Kind::HostSsl, _) if !asking.encrypted => false,
            (Kind::HostNoSsl, _) if asking.encrypted => false,
            (_, Source::Ip(address)) => self.net.has(address.ip().to_canonical()),
        };
        let named = |names: &[Name], what: &str| {
            names.iter().any(|name| match name {
                Name::All => true,
                Name::SameUser => asking.database == asking.user,
                Name::Replication => false,
                Name::Is(text) => text == what,
            })
        };
        let database = match asking.replication {
            Replication::Physical => self.databases.contains(&Name::Replication),
            Replication::No | Replication::Logical => named(&self.databases, asking.database),
        };
        by && database && named(&self.users, asking.user)
    }
}

impl Net {
    fn has(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::All, _) => true,
            (Self::In(IpAddr::V4(net), bits), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (Self::In(IpAddr::V6(net), bits), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (Self::In(..), _) => false,
        }
    }
}

/// One line; `beside`: as PgBouncer reads it, with lists of names in files of this folder.
fn rule(fields: &[Field], beside: Option<&Path>) -> Result<Rule, String> {
    let mut rest = fields.iter();
    let mut next =
        |what: &str| rest.next().ok_or_else(|| format!("the line ends before its {what}"));
    let kind = kind(&alone(next("kind")?)?.text)?;
    let databases = names(next("databases")?, Place::Databases, beside)?;
    let users = names(next("users")?, Place::Users, beside)?;
    let mut net = Net::All;
    if kind != Kind::Local {
        let address = alone(next("address")?)?;
        net = match address.text.as_str() {
            "all" if !address.quoted => Net::All,
            text if text.contains('/') => network(text)?,
            text => network(&format!("{text}/{}", prefix(text, &alone(next("mask")?)?.text)?))?,
        };
    }
    // PgBouncer reads these anywhere; nobody can prove what they ask then.
    let (ssl, local) =
        (kind == Kind::HostSsl || beside.is_some(), kind == Kind::Local || beside.is_some());
    let method = match alone(next("method")?)?.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::Scram,
        "password" => Method::Password,
        "cert" if ssl => Method::Cert,
        "cert" => return Err("cert is for hostssl alone".to_owned()),
        "peer" if local => Method::Peer,
        "peer" => return Err("peer is for local alone".to_owned()),
        other => return Err(format!("the method {other} is not spoken")),
    };
    let mut rule =
        Rule { kind, databases, users, net, method, map: None, client_cert: ClientCert::Any };
    for field in rest {
        let word = alone(field)?;
        match word.text.split_once('=') {
            Some(("map", map)) => rule.map = Some(map.to_owned()),
            Some(("clientcert", "verify-ca")) if kind == Kind::HostSsl => {
                rule.client_cert = ClientCert::VerifyCa;
            }
            Some(("clientcert", "verify-full")) if kind == Kind::HostSsl => {
                rule.client_cert = ClientCert::VerifyFull;
            }
            _ => return Err(format!("the option {} is not understood", word.text)),
        }
    }
    let named = matches!(method, Method::Cert | Method::Peer);
    if rule.map.is_some() && !named && rule.client_cert < ClientCert::VerifyFull {
        if beside.is_none() {
            return Err("a map is for peer, cert and clientcert=verify-full alone".to_owned());
        }
        rule.map = None;
    }
    Ok(rule)
}

fn kind(word: &str) -> Result<Kind, String> {
    match word {
        "local" => Ok(Kind::Local),
        "host" => Ok(Kind::Host),
        "hostssl" => Ok(Kind::HostSsl),
        "hostnossl" => Ok(Kind::HostNoSsl),
        other => Err(format!("{other} is none of local, host, hostssl, hostnossl")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Databases,
    Users,
}

/// A list with commas.
fn names(field: &Field, place: Place, beside: Option<&Path>) -> Result<Vec<Name>, String> {
    let mut all = Vec::new();
    for word in field {
        let text = word.text.as_str();
        all.push(match text {
            _ if word.quoted => Name::Is(word.text.clone()),
            "all" => Name::All,
            "sameuser" if place == Place::Databases => Name::SameUser,
            "replication" if place == Place::Databases => Name::Replication,
            "samerole" | "samegroup" if place == Place::Databases => {
                return Err(format!("{text} is not understood here: write the names"));
            }
            _ => match (text.strip_prefix('@'), beside) {
                (Some(file), Some(folder)) => {
                    all.extend(likened::names_in(&folder.join(file), place, 0)?);
                    continue;
                }
                _ if text.starts_with(['@', '+', '/']) || text.is_empty() => {
                    return Err(format!("{text:?} is not understood here: write the names"));
                }
                _ => Name::Is(word.text.clone()),
            },
        });
    }
    Ok(all)
}

/// The word of what is no list.
fn alone(field: &Field) -> Result<&Word, String> {
    match field.as_slice() {
        [word] => Ok(word),
        _ => Err("a list stands where one word is meant".to_owned()),
    }
}

fn network(text: &str) -> Result<Net, String> {
    let wrong = || format!("{text} is no network");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most { Err(wrong()) } else { Ok(Net::In(address, bits)) }
}

/// The length of a mask written as an address of the same kind.
fn prefix(address: &str, mask: &str) -> Result<u32, String> {
    let (ones, whole) = match mask.parse() {
        Ok(IpAddr::V4(_)) if address.contains(':') => (0, false),
        Ok(IpAddr::V6(_)) if !address.contains(':') => (0, false),
        Ok(IpAddr::V4(mask)) => {
            let bits = mask.to_bits();
            (bits.leading_ones(), bits.leading_ones() + bits.trailing_zeros() >= 32)
        }
        Ok(IpAddr::V6(mask)) => {
            let bits = mask.to_bits();
            (bits.leading_ones(), bits.leading_ones() + bits.trailing_zeros() >= 128)
        }
        Err(_) => return Err(format!("{mask} is no mask, and names of hosts are not looked up")),
    };
    if whole { Ok(ones) } else { Err(format!("{mask} is no mask")) }
}

/// Words with commas between them.
type Field = Vec<Word>;

/// Whether a comma parts words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commas {
    Part,
    /// It belongs to them: to a regular expression.
    Belong,
}

/// Lines as fields; a comment begins with `#`, and a line that ends with `\` goes on.
fn lines(text: &str, commas: Commas) -> Vec<(u32, Result<Vec<Field>, String>)> {
    let mut all = Vec::new();
    let mut numbered = (1..).zip(text.lines());
    while let Some((line, first)) = numbered.next() {
        let mut whole = first.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, more)) = numbered.next() else { break };
            whole.push_str(more);
        }
        let fields = fields(&whole, commas);
        if fields.as_ref().map_or(true, |fields| !fields.is_empty()) {
            all.push((line, fields.map_err(str::to_owned)));
        }
    }
    all
}

/// A quote ends at a quote, of which two stand for one; spaces around commas say nothing.
fn fields(line: &str, commas: Commas) -> Result<Vec<Field>, &'static str> {
    let ends = |c: char| {
        c.is_whitespace() || matches!(c, '#' | '"') || (c == ',' && commas == Commas::Part)
    };
    let (mut all, mut rest, mut goes_on): (Vec<Field>, _, _) = (Vec::new(), line, false);
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            return if goes_on { Err("a list ends with a comma") } else { Ok(all) };
        }
        if commas == Commas::Part
            && let Some(after) = rest.strip_prefix(',')
        {
            if goes_on || all.is_empty() {
                return Err("a list has an empty place");
            }
            (goes_on, rest) = (true, after);
            continue;
        }
        let word = match rest.strip_prefix('"') {
            Some(inside) => {
                let (text, after) = unquoted(inside).ok_or("a quote is not closed")?;
                rest = after;
                Word { text, quoted: true }
            }
            None => {
                let (text, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                rest = after;
                Word { text: text.to_owned(), quoted: false }
            }
        };
        match all.last_mut().filter(|_| std::mem::take(&mut goes_on)) {
            Some(list) => list.push(word),
            None => all.push(vec![word]),
        }
    }
}

/// A text up to its quote, and what follows.
fn unquoted(inside: &str) -> Option<(String, &str)> {
    let (mut text, mut rest) = (String::new(), inside);
    loop {
        let (before, after) = rest.split_once('"')?;
        text.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            None => return Some((text, after)),
        }
    }
}

/// Maps from names of the system, or of certificates, to roles.
#[derive(Clone, Debug, Default)]
pub struct Maps(Vec<Mapping>);

#[derive(Clone, Debug)]
struct Mapping {
    map: String,
    from: From,
    to: To,
}

#[derive(Clone, Debug)]
enum From {
    Is(String),
    Like(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Any,
    Is(String),
    /// What the pattern has caught stands between these.
    Around(String, String),
}

impl Maps {
    /// Reads a file.
    ///
    /// # Errors
    /// With the first line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, HbaError> {
        let mut all = Vec::new();
        for (line, fields) in lines(text, Commas::Belong) {
            let read = fields.and_then(|fields| mapping(&fields));
            all.push(read.map_err(|what| HbaError { line, what })?);
        }
        Ok(Self(all))
    }

    /// Whether a name of the system may log in as a role; without a map the two must be the same.
    pub fn allow(&self, map: Option<&str>, name: &str, role: &str) -> bool {
        let Some(map) = map else { return name == role };
        self.0.iter().filter(|mapping| mapping.map == map).any(|mapping| match &mapping.from {
            From::Is(text) => text == name && mapping.to.is(role, None),
            From::Like(pattern) => pattern
                .captures(name)
                .is_some_and(|found| mapping.to.is(role, found.get(1).map(|part| part.as_str()))),
        })
    }
}

impl To {
    fn is(&self, role: &str, caught: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Is(name) => name == role,
            Self::Around(before, after) => {
                let inner = role.strip_prefix(before.as_str());
                let inner = inner.and_then(|rest| rest.strip_suffix(after.as_str()));
                caught.is_some() && inner == caught
            }
        }
    }
}

fn mapping(fields: &[Field]) -> Result<Mapping, String> {
    let [map, from, to] = fields else {
        return Err("a line has a map, a name of the system and a role".to_owned());
    };
    let (map, from, to) = (alone(map)?, alone(from)?, alone(to)?);
    let from = match from.text.strip_prefix('/') {
        Some(pattern) => {
            let built = RegexBuilder::new(pattern).size_limit(LARGEST).build();
            From::Like(built.map_err(|_| "the regular expression cannot be used".to_owned())?)
        }
        None => From::Is(from.text.clone()),
    };
    Ok(Mapping { map: map.text.clone(), to: target(to, &from)?, from })
}

/// The role that a line of a map ends with.
fn target(word: &Word, from: &From) -> Result<To, String> {
    if word.quoted {
        return Ok(To::Is(word.text.clone()));
    }
    if word.text == "all" {
        return Ok(To::Any);
    }
    if word.text.starts_with(['+', '/', '@']) || word.text.contains(',') {
        return Err(format!("{} is not understood here: write the role", word.text));
    }
    match (word.text.split_once("\\1"), from) {
        (Some((before, after)), From::Like(pattern)) if pattern.captures_len() > 1 => {
            Ok(To::Around(before.to_owned(), after.to_owned()))
        }
        (Some(_), From::Like(_)) => Err("the regular expression catches no \\1".to_owned()),
        _ => Ok(To::Is(word.text.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "
# TYPE  DATABASE  USER  ADDRESS  METHOD
local   all       postgres             peer map=os
local   all       all                  scram-sha-256
host    shop, \\
        crm       all   10.0.0.0/8     md5
hostssl sameuser  all   ::/0           cert clientcert=verify-full
hostnossl all     bad   all            reject   # by hand
host    \"all\"     x     192.168.0.0 255.255.0.0 password
host    replication app   all            trust
host    all       app,other  127.0.0.1/32 trust
host    \"my db\",books  \"a\"\"b\" , \"c d\" ,e  127.0.0.3/32 md5
";

    fn by(ip: &str) -> Source {
        Source::Ip((ip.parse::<IpAddr>().expect("an address"), 1).into())
    }

    /// P4: the first rule that fits decides.
    #[test]
    fn rules_are_found() {
        let rules = Rules::parse(RULES).expect("lawful");
        let unix = Source::Unix { uid: 1, pid: 1, port: 1 };
        let method = |database, user, source, encrypted| {
            let replication = Replication::No;
            let found = rules.find(&Asking { database, user, source, encrypted, replication });
            found.map(|rule| rule.method)
        };
        let replicating = |user, replication| {
            let source = by("1.1.1.1");
            let asking = Asking { database: "x", user, source, encrypted: true, replication };
            rules.find(&asking).map(|rule| rule.method)
        };
        assert_eq!(method("a", "postgres", unix, false), Some(Method::Peer));
        assert_eq!(method("a", "app", unix, false), Some(Method::Scram));
        assert_eq!(method("crm", "app", by("10.9.9.9"), false), Some(Method::Md5));
        assert_eq!(method("crm", "app", by("::ffff:10.9.9.9"), false), Some(Method::Md5));
        assert_eq!(method("crm", "app", by("11.0.0.1"), false), None);
        assert_eq!(method("joe", "joe", by("2001:db8::1"), true), Some(Method::Cert));
        assert_eq!(method("joe", "joe", by("2001:db8::1"), false), None);
        assert_eq!(method("a", "bad", by("1.1.1.1"), false), Some(Method::Reject));
        assert_eq!(method("all", "x", by("192.168.7.7"), false), Some(Method::Password));
        assert_eq!(method("a", "x", by("192.168.7.7"), false), None, "a quoted `all` is a name");
        assert_eq!(method("a", "other", by("127.0.0.1"), true), Some(Method::Trust));
        assert_eq!(method("a", "other", by("127.0.0.2"), true), None);
        for (database, user) in [("my db", "a\"b"), ("books", "c d"), ("books", "e")] {
            let found = method(database, user, by("127.0.0.3"), true);
            assert_eq!(found, Some(Method::Md5), "{database} {user}");
        }
        assert_eq!(method("replication", "app", by("1.1.1.1"), true), None, "no such connection");
        assert_eq!(replicating("app", Replication::Physical), Some(Method::Trust));
        assert_eq!(replicating("bad", Replication::Physical), None, "`all` is no replication");
        assert_eq!(replicating("app", Replication::Logical), None, "it is for a database");
    }

    /// O5: what is not understood is told with its line.
    #[test]
    fn odd_rules_are_refused() {
        for (text, what) in [
            ("\nhosts all all all md5", "line 2: hosts is none of"),
            ("host all all 10.0.0.0/33 md5", "10.0.0.0/33 is no network"),
            ("host all all 10.0.0.0 255.0.255.0 md5", "is no mask"),
            ("host all all db.internal md5", "names of hosts"),
            ("host all +staff all md5", "write the names"),
            ("host all @file all md5", "write the names"),
            ("host samerole all all md5", "write the names"),
            ("host all all 10.0.0.0 ffff:: md5", "is no mask"),
            ("host all all \"all\" md5", "is no mask"),
            ("host all all all md5 map=os", "a map is for"),
            ("host all all all ldap", "the method ldap is not spoken"),
            ("host all all all cert", "hostssl alone"),
            ("host all all all peer", "local alone"),
            ("local all all md5 clientcert=verify-ca", "is not understood"),
            ("host all all", "ends before its address"),
            ("host \"all all all md5", "a quote is not closed"),
            ("host a,,b all all md5", "an empty place"),
            ("host a, # b", "ends with a comma"),
            ("host all all 10.0.0.0/8,11.0.0.0/8 md5", "one word is meant"),
        ] {
            let fault = Rules::parse(text).expect_err(text).to_string();
            assert!(fault.contains(what), "{text}: {fault}");
        }
    }

    /// P4: names of the system lead to roles by name and by pattern.
    #[test]
    fn maps() {
        let maps = Maps::parse(
            "os root postgres\nmail /^(.*)@example\\.org$ \\1\nany x all\n
             name x \"all\"\nhalf /^a(b)?$ r\\1\nround /^(.*)$ a_\\1_z\n",
        );
        let maps = maps.expect("lawful");
        assert!(maps.allow(None, "a", "a") && !maps.allow(None, "a", "b"));
        assert!(
            maps.allow(Some("os"), "root", "postgres") && !maps.allow(Some("os"), "root", "root")
        );
        assert!(maps.allow(Some("mail"), "joe@example.org", "joe"));
        assert!(!maps.allow(Some("mail"), "joe@example.org.evil", "joe"));
        assert!(maps.allow(Some("any"), "x", "whoever") && !maps.allow(Some("none"), "x", "x"));
        assert!(!maps.allow(Some("name"), "x", "y") && maps.allow(Some("name"), "x", "all"));
        assert!(maps.allow(Some("half"), "ab", "rb") && !maps.allow(Some("half"), "a", "r"));
        assert!(maps.allow(Some("round"), "x", "a_x_z") && !maps.allow(Some("round"), "x", "x"));
        for wrong in ["os root", "os /( x", "os /x a\\1", "os x a,b", "os x +staff"] {
            assert!(Maps::parse(wrong).is_err(), "{wrong}");
        }
    }
}
