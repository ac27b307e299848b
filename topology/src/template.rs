//! Texts with holes that a request fills: `/users/${path.id}`, `${claim.tenant|none}`. Read once, with the
//! file; not filled here: the gateway does that.
//!
//! Invariant: printing and reading again gives the same one; its size is that of a text of the file.

use std::fmt;
use std::str::FromStr;

use crate::units::UnitError;

/// A text with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Vec<Part>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// What a request says; where it says nothing, the other text; without one there is no value.
    Hole(Variable, Option<String>),
}

/// What can stand in a hole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `user`: the user of a token.
    User,
    /// `claim.NAME`: of the token; with dots a member.
    Claim(Vec<String>),
    /// `consumer`: whose API key it is.
    Consumer,
    /// `plan`: the consumer's.
    Plan,
    /// `principal`: whom the client's certificate names.
    Principal,
    /// `client.address`.
    Address,
    /// `request.id`.
    RequestId,
    /// `request.method`.
    Method,
    /// `request.scheme`: `http` or `https`.
    Scheme,
    /// `request.host`: without a port.
    Host,
    /// `request.path`: as the client asked for it.
    Path,
    /// `request.query`: whole, without the `?`.
    WholeQuery,
    /// `request.query.NAME`: a parameter.
    Query(String),
    /// `request.header.NAME`.
    Header(String),
    /// `request.cookie.NAME`.
    Cookie(String),
    /// `path.NAME`: what a name in the route's path stands for; `path.rest`: what its `/*` does.
    Capture(String),
    /// `call.NAME.MEMBER`: of another call's answer, in an aggregate.
    Call(Vec<String>),
    /// `route`: its name.
    Route,
    /// `service`: its name.
    Service,
}

/// What a template may say.
pub(crate) const TEMPLATE: &str = "text with ${user}, ${claim.NAME}, ${consumer}, ${plan}, ${principal}, \
     ${client.address}, ${request.id}, ${request.method}, ${request.scheme}, ${request.host}, ${request.path}, \
     ${request.query}, ${request.query.NAME}, ${request.header.NAME}, ${request.cookie.NAME}, ${path.NAME}, \
     ${route}, ${service}; `|` before the end gives what stands in for nothing: ${claim.tenant|none}; $$ is $";

impl Template {
    /// A text without holes.
    pub fn text(text: &str) -> Self {
        let part = Part::Text(text.to_owned());
        Self { parts: if text.is_empty() { Vec::new() } else { vec![part] } }
    }

    /// First to last.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text, where there are no holes.
    pub fn plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// What stands in its holes.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Hole(variable, _) => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// Names of claims that it reads.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.variables().filter_map(|variable| match variable {
            Variable::Claim(path) => path.first().map(String::as_str),
            _ => None,
        })
    }

    fn push(&mut self, letter: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(letter),
            _ => self.parts.push(Part::Text(letter.to_string())),
        }
    }
}

impl FromStr for Template {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: String| UnitError::new(what, TEMPLATE);
        let (mut template, mut rest) = (Self::default(), text);
        while let Some(letter) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("$$") {
                template.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let (hole, after) = after
                    .split_once('}')
                    .ok_or_else(|| wrong(format!("`{rest}` has no closing brace")))?;
                let (name, other) = match hole.split_once('|') {
                    Some((name, other)) => (name, Some(other.to_owned())),
                    None => (hole, None),
                };
                if other.as_ref().is_some_and(|other| other.contains(['$', '{'])) {
                    return Err(wrong(format!("`{hole}` has a hole within its other text")));
                }
                let variable = Variable::named(name)
                    .ok_or_else(|| wrong(format!("there is no `{name}` in a request")))?;
                template.parts.push(Part::Hole(variable, other));
                rest = after;
            } else if letter == '$' {
                return Err(wrong(format!("`{rest}` begins with a single $"))
                    .meant(format_args!("${rest}")));
            } else {
                template.push(letter);
                rest = rest.get(letter.len_utf8()..).unwrap_or_default();
            }
        }
        Ok(template)
    }
}

impl Variable {
    const PLAIN: [(&'static str, Self); 13] = [
        ("user", Self::User),
        ("consumer", Self::Consumer),
        ("plan", Self::Plan),
        ("principal", Self::Principal),
        ("client.address", Self::Address),
        ("request.id", Self::RequestId),
        ("request.method", Self::Method),
        ("request.scheme", Self::Scheme),
        ("request.host", Self::Host),
        ("request.path", Self::Path),
        ("request.query", Self::WholeQuery),
        ("route", Self::Route),
        ("service", Self::Service),
    ];

    fn named(text: &str) -> Option<Self> {
        if let Some((_, variable)) = Self::PLAIN.iter().find(|(name, _)| *name == text) {
            return Some(variable.clone());
        }
        let sound = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let of = |prefix: &str| text.strip_prefix(prefix).filter(sound).map(str::to_owned);
        let members = |path: String| {
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            names.iter().all(|name| !name.is_empty()).then_some(names)
        };
        if let Some(path) = of("claim.") {
            return members(path).map(Self::Claim);
        }
        if let Some(path) = of("call.") {
            return members(path).filter(|names| names.len() > 1).map(Self::Call);
        }
        of("request.query.")
            .map(Self::Query)
            .or_else(|| of("request.header.").map(|name| Self::Header(name.to_ascii_lowercase())))
            .or_else(|| of("request.cookie.").map(Self::Cookie))
            .or_else(|| of("path.").map(Self::Capture))
    }

    /// Whether it needs to be known who asks.
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::User | Self::Claim(_) | Self::Consumer | Self::Plan)
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(path) => write!(f, "claim.{}", path.join(".")),
            Self::Call(path) => write!(f, "call.{}", path.join(".")),
            Self::Query(name) => write!(f, "request.query.{name}"),
            Self::Header(name) => write!(f, "request.header.{name}"),
            Self::Cookie(name) => write!(f, "request.cookie.{name}"),
            Self::Capture(name) => write!(f, "path.{name}"),
            plain => {
                let name = Self::PLAIN.iter().find(|(_, own)| own == plain);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('$', "$$")),
            Part::Hole(variable, None) => write!(f, "${{{variable}}}"),
            Part::Hole(variable, Some(other)) => write!(f, "${{{variable}|{other}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// G13: what stands in a template is read, and printed as it was.
    #[test]
    fn templates_are_read_and_printed() {
        for text in [
            "",
            "plain",
            "/v2/users/${path.id}",
            "${claim.realm.tenant|none}-$$5",
            "${request.header.x-country-code}${request.query.q|}",
            "${user}${consumer}${plan}${principal}${client.address}${request.id}",
        ] {
            let template: Template = text.parse().expect(text);
            assert_eq!(template.to_string(), text);
        }
        let template: Template = "${request.header.X-A}".parse().expect("a template");
        assert_eq!(template.variables().collect::<Vec<_>>(), [&Variable::Header("x-a".to_owned())]);
    }

    /// G13: what cannot be filled is refused where it is written.
    #[test]
    fn odd_templates_are_refused() {
        for text in [
            "$",
            "a$b",
            "${",
            "${user",
            "${}",
            "${nobody}",
            "${claim.}",
            "${claim.a..b}",
            "${user|${plan}}",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    proptest! {
        /// Printing and reading again gives the same one, for whatever can be read.
        #[test]
        fn printing_keeps_a_template(text in "(\\$\\$|\\$\\{(user|path\\.[a-z]|claim\\.[a-z]\\.b)(\\|[a-z]{0,3})?\\}|[a-z/{} ]){0,12}") {
            if let Ok(template) = text.parse::<Template>() {
                prop_assert_eq!(template.to_string().parse::<Template>().ok(), Some(template));
            }
        }
    }
}
