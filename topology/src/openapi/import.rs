//! From a description to a topology file. Who issues tokens and where services stand is seldom in a
//! description: what is missing is noted.
//!
//! Invariant: paths, methods and scopes are those of the description; an operation that asks for something that
//! cannot be written is left out and noted, never opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde_json::{Map, Value};

/// Why a description is none.
#[derive(Debug)]
pub enum OpenApiError {
    /// It cannot be read.
    Text(String),
    /// It is another kind of document.
    Version,
    /// It has nothing to route.
    Paths,
}

impl fmt::Display for OpenApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(fault) => write!(f, "this is neither JSON nor YAML: {fault}"),
            Self::Version => {
                f.write_str("there is no `openapi: 3.…` in it: only OpenAPI 3 is read")
            }
            Self::Paths => f.write_str("there are no `paths` in it"),
        }
    }
}

impl std::error::Error for OpenApiError {}

/// What a description does not say.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The service's name in the file.
    pub service: String,
    /// What stands before every path, if not what `servers` says.
    pub prefix: Option<String>,
    /// Requests are held against this file, which is the description.
    pub validate: Option<String>,
}

/// A topology file, and what is left to do.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The file.
    pub text: String,
    /// In the order of the description.
    pub notes: Vec<String>,
}

/// Most bytes of a description.
const MOST: usize = 16 << 20;

/// The methods of a path item (OpenAPI 3.1 §4.8.9).
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Reads a description, JSON or YAML, as it stands.
///
/// # Errors
/// It is none, or of another version than 3.
pub fn read(text: &str) -> Result<Value, OpenApiError> {
    if text.len() > MOST {
        return Err(OpenApiError::Text(format!("it is over {MOST} bytes")));
    }
    let whole: Value =
        serde_saphyr::from_str(text).map_err(|fault| OpenApiError::Text(fault.to_string()))?;
    let version = whole.get("openapi").and_then(Value::as_str).unwrap_or_default();
    if version.starts_with("3.") { Ok(whole) } else { Err(OpenApiError::Version) }
}

/// What stands before every path of a description: the path of its first server, if that is one.
pub fn prefix(whole: &Value) -> String {
    let (_, path) = server(whole);
    if path.contains('{') { String::new() } else { path.to_owned() }
}

/// Host and path of the first server.
fn server(whole: &Value) -> (&str, &str) {
    let url = whole.pointer("/servers/0/url").and_then(Value::as_str).unwrap_or("/");
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None if url.contains("://") => (rest, ""),
        None => ("", rest),
    };
    (host, path.trim_end_matches('/'))
}

/// Makes a topology file of a description, JSON or YAML.
///
/// # Errors
/// It is none.
pub fn import(text: &str, wishes: &Wishes) -> Result<Imported, OpenApiError> {
    let whole = read(text)?;
    let paths = whole.get("paths").and_then(Value::as_object).ok_or(OpenApiError::Paths)?;
    let mut reader =
        Reader { whole: &whole, notes: Vec::new(), used: BTreeSet::new(), limits: BTreeSet::new() };
    let (server, prefix) = reader.server();
    let prefix = wishes.prefix.clone().unwrap_or(prefix);
    let mut routes = Vec::new();
    for (path, item) in paths {
        let item = reader.resolved(item).as_object().cloned().unwrap_or_default();
        reader.path(path, &prefix, &item, &mut routes);
    }
    let text = reader.file(wishes, server.as_deref(), &routes);
    Ok(Imported { text, notes: reader.notes })
}

/// What some methods of one path ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Terms {
    auth: Vec<String>,
    scopes: Vec<String>,
    more: String,
}

struct Route {
    pattern: String,
    methods: Vec<String>,
    terms: Terms,
    deprecated: bool,
}

struct Reader<'d> {
    whole: &'d Value,
    notes: Vec<String>,
    used: BTreeSet<String>,
    /// Limits that operations name.
    limits: BTreeSet<String>,
}

impl<'d> Reader<'d> {
    /// Follows a reference within the document, once.
    fn resolved(&self, value: &'d Value) -> &'d Value {
        let reference = value.get("$ref").and_then(Value::as_str);
        let pointer = reference.and_then(|text| text.strip_prefix('#'));
        pointer.and_then(|pointer| self.whole.pointer(pointer)).unwrap_or(value)
    }

    /// Where the first server stands, if that is an address, and the path of its URL.
    fn server(&mut self) -> (Option<String>, String) {
        let (host, path) = server(self.whole);
        if path.contains('{') {
            self.notes.push(format!("servers: the variables of `{path}` are not filled in"));
            return (None, String::new());
        }
        let address = host.parse::<std::net::SocketAddr>().is_ok().then(|| host.to_owned());
        (address, path.to_owned())
    }

    fn path(
        &mut self,
        path: &str,
        prefix: &str,
        item: &Map<String, Value>,
        routes: &mut Vec<Route>,
    ) {
        let Some(pattern) = pattern(&format!("{prefix}{path}")) else {
            self.notes.push(format!("{path}: no route can be made of this path"));
            return;
        };
        let mut alike: BTreeMap<(Terms, bool), Vec<String>> = BTreeMap::new();
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let place = format!("{} {path}", method.to_ascii_uppercase());
            if method == "trace" {
                self.notes.push(format!("{place}: no gateway passes TRACE"));
                continue;
            }
            let Some(terms) = self.terms(&place, operation) else { continue };
            let deprecated = operation.get("deprecated").and_then(Value::as_bool) == Some(true);
            let methods = alike.entry((terms, deprecated)).or_default();
            methods.push(method.to_ascii_uppercase());
            if method == "get" && !item.contains_key("head") {
                methods.push("HEAD".to_owned());
            }
        }
        for ((terms, deprecated), methods) in alike {
            routes.push(Route { pattern: pattern.clone(), methods, terms, deprecated });
        }
    }

    /// What an operation asks for; `None`: it cannot be written.
    fn terms(&mut self, place: &str, operation: &Value) -> Option<Terms> {
        let security = operation.get("security").or_else(|| self.whole.get("security"));
        let ways = security.and_then(Value::as_array).cloned().unwrap_or_default();
        let open =
            ways.is_empty() || ways.iter().any(|way| way.as_object().is_some_and(Map::is_empty));
        let (mut auth, mut scopes) = (Vec::new(), Vec::new());
        for way in ways.iter().filter_map(Value::as_object).filter(|_| !open) {
            let mut schemes = way.iter();
            let (Some((name, wanted)), None) = (schemes.next(), schemes.next()) else {
                self.notes
                    .push(format!("{place}: left out, it asks for several credentials at once"));
                return None;
            };
            self.known(place, name)?;
            auth.push(name.clone());
            let wanted = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            scopes.push(wanted.map(str::to_owned).collect::<Vec<_>>());
        }
        let scopes = match scopes.as_slice() {
            [] => Vec::new(),
            [one] => one.clone(),
            [first, rest @ ..] if rest.iter().all(|other| other == first) => first.clone(),
            _ => {
                self.notes.push(format!("{place}: left out, its scopes differ by credential"));
                return None;
            }
        };
        let more = operation.get("x-aqueduct").and_then(Value::as_object);
        let limits = more.and_then(|more| more.get("limits")).and_then(Value::as_array);
        self.limits
            .extend(limits.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        let more = more.into_iter().flatten();
        let more = more.map(|(key, value)| format!(", {}: {value}", quoted(key))).collect();
        self.used.extend(auth.iter().cloned());
        Some(Terms { auth, scopes, more })
    }

    /// Whether a security scheme can be a source of identity here.
    fn known(&mut self, place: &str, name: &str) -> Option<()> {
        let kind = self.scheme(name).and_then(|scheme| scheme.get("type")).and_then(Value::as_str);
        let basic =
            self.scheme(name).and_then(|scheme| scheme.get("scheme")).and_then(Value::as_str);
        match kind {
            Some("oauth2" | "openIdConnect" | "apiKey") => Some(()),
            Some("http") if basic.is_some_and(|it| it.eq_ignore_ascii_case("bearer")) => Some(()),
            _ => {
                self.notes.push(format!("{place}: left out, `{name}` is no token and no API key"));
                None
            }
        }
    }

    fn scheme(&self, name: &str) -> Option<&'d Value> {
        let all = self.whole.pointer("/components/securitySchemes")?;
        all.get(name).map(|scheme| self.resolved(scheme))
    }

    fn file(&mut self, wishes: &Wishes, server: Option<&str>, routes: &[Route]) -> String {
        let title =
            self.whole.pointer("/info/title").and_then(Value::as_str).unwrap_or("an interface");
        let title: String = title.chars().filter(|c| !c.is_control()).collect();
        let mut text = format!("aqueduct: 1\n# Routes of {title}.\nservices:\n");
        let address = server.unwrap_or("127.0.0.1:8080");
        if server.is_none() {
            self.notes.push(format!("services.{}: say where it stands", wishes.service));
        }
        let service = quoted(&wishes.service);
        let validate = self.validate(wishes).unwrap_or_default();
        let _ = writeln!(text, "  {service}: {{ endpoints: [{}] }}", quoted(address));
        text.push_str(
            "gateways:\n  app:\n    instances:\n      gw-1: { listen: 127.0.0.1:8000 }\n",
        );
        self.vouchers(&mut text);
        self.section(&mut text);
        text.push_str("    routes:\n");
        for (index, route) in routes.iter().enumerate() {
            let Route { pattern, methods, terms, deprecated } = route;
            let same = routes.iter().take(index).any(|other| other.pattern == *pattern);
            let name = same.then(|| {
                format!("name: {}, ", quoted(&format!("{} {pattern}", methods.join(","))))
            });
            let auth = match terms.auth.as_slice() {
                [] => "none".to_owned(),
                names => list(names),
            };
            let scopes =
                (!terms.scopes.is_empty()).then(|| format!(", scopes: {}", list(&terms.scopes)));
            let _ = writeln!(
                text,
                "      - {{ {}path: {}, methods: {}, to: {service}, auth: {auth}{}{validate}{} }}",
                name.unwrap_or_default(),
                quoted(pattern),
                list(methods),
                scopes.unwrap_or_default(),
                terms.more
            );
            if *deprecated {
                self.notes.push(format!(
                    "{} {pattern}: deprecated; say since when with `deprecated: DAY`",
                    methods.join(",")
                ));
            }
        }
        text
    }

    /// What holds requests against the description, if that is wished for.
    fn validate(&mut self, wishes: &Wishes) -> Option<String> {
        let file = quoted(wishes.validate.as_deref()?);
        match wishes.prefix.as_deref() {
            Some("") if !prefix(self.whole).is_empty() => {
                self.notes.push(
                    "validate: left out, the path of the first server stands before all paths"
                        .to_owned(),
                );
                None
            }
            None | Some("") => Some(format!(", validate: {{ openapi: {file} }}")),
            Some(prefix) => {
                let prefix = quoted(prefix);
                Some(format!(", validate: {{ openapi: {file}, prefix: {prefix} }}"))
            }
        }
    }

    /// What the description itself says of the gateway (`x-aqueduct` at its top): limits, for instance.
    fn section(&mut self, text: &mut String) {
        let own = self.whole.get("x-aqueduct").and_then(Value::as_object);
        for (key, value) in own.into_iter().flatten() {
            let _ = writeln!(text, "    {}: {value}", quoted(key));
        }
        let known = own.and_then(|own| own.get("limits"));
        for name in &self.limits {
            let name = name.trim_start_matches('+');
            if known.and_then(|limits| limits.get(name)).is_none() {
                self.notes.push(format!("limits.{name}: say how much it allows"));
            }
        }
    }

    /// Issuers and sources of API keys, as far as they can be known.
    fn vouchers(&mut self, text: &mut String) {
        let used: Vec<String> = self.used.iter().cloned().collect();
        let (keys, tokens): (Vec<_>, Vec<_>) = used.into_iter().partition(|name| {
            self.scheme(name).and_then(|scheme| scheme.get("type")) == Some(&Value::from("apiKey"))
        });
        if !tokens.is_empty() {
            text.push_str("    issuers:\n");
        }
        for name in tokens {
            let url = self.scheme(&name).and_then(|scheme| scheme.get("openIdConnectUrl"));
            let url = url
                .and_then(Value::as_str)
                .and_then(|url| url.strip_suffix("/.well-known/openid-configuration"));
            let issuer = url.unwrap_or("https://issuer.invalid");
            let _ = writeln!(
                text,
                "      {}: {{ issuer: {}, audience: api, algorithms: [RS256], jwks: {} }}",
                quoted(&name),
                quoted(issuer),
                quoted(&format!("{issuer}/.well-known/jwks.json"))
            );
            self.notes.push(format!(
                "issuers.{name}: say who issues its tokens, for whom and with which keys"
            ));
        }
        if !keys.is_empty() {
            text.push_str("    api-keys:\n");
        }
        for name in keys {
            let scheme = self.scheme(&name);
            let of = |key: &str| scheme.and_then(|scheme| scheme.get(key)).and_then(Value::as_str);
            let place =
                of("in").filter(|place| ["header", "query"].contains(place)).unwrap_or("header");
            let field = of("name").unwrap_or("x-api-key");
            let _ = writeln!(
                text,
                "      {}: {{ from: \"file:secrets/{}.keys\", {place}: {} }}",
                quoted(&name),
                name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
                quoted(field)
            );
            self.notes.push(format!("api-keys.{name}: make keys with `aqueduct key`"));
        }
    }
}

/// The route for a path with `{names}`: a template where whole segments have names, else a regular expression.
fn pattern(path: &str) -> Option<String> {
    let sound = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty()
    };
    let mut whole = true;
    for segment in path.split('/') {
        if segment.contains(['{', '}']) {
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            whole &= name.is_some_and(sound);
        }
    }
    if whole {
        return path.starts_with('/').then(|| path.to_owned());
    }
    let mut expression = String::from("~");
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (_, behind) = after.split_once('}')?;
        expression.push_str(&regex::escape(before));
        expression.push_str("[^/]+");
        rest = behind;
    }
    expression.push_str(&regex::escape(rest));
    Some(expression)
}

/// JSON's texts are YAML's too.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn list(names: &[String]) -> String {
    Value::from(names.to_vec()).to_string()
}
