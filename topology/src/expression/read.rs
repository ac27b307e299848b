//! From text to expression: a recursive descent over words. Called by `raw`.
//!
//! Invariant: no text makes it panic or recurse deeper than [`DEEPEST`].

use std::str::FromStr;

use super::{Comparison, Expression, Fact, Term};
use crate::units::UnitError;

/// Deepest nesting of parentheses and `not`.
const DEEPEST: usize = 16;

/// Longest text, in bytes.
const LONGEST: usize = 1024;

/// What may be written.
pub(crate) const EXPRESSION: &str =
    "comparisons of claims, `tenant == 'acme' and (level >= 3 or groups has 'admins')`";

impl FromStr for Expression {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.len() > LONGEST {
            return Err(UnitError::new("the expression is longer than 1024 bytes", EXPRESSION));
        }
        let mut reader = Reader { left: text };
        let expression = reader.any(0)?;
        match reader.rest() {
            "" => Ok(expression),
            rest => Err(fault(format!("`{}` is not understood here", shown(rest)))),
        }
    }
}

fn fault(what: impl Into<String>) -> UnitError {
    UnitError::new(what, EXPRESSION)
}

/// The begin of what could not be read.
fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(20).map_or(text.len(), |(at, _)| at);
    text.split_at(end).0
}

struct Reader<'t> {
    left: &'t str,
}

impl<'t> Reader<'t> {
    fn any(&mut self, depth: usize) -> Result<Expression, UnitError> {
        let mut list = vec![self.all(depth)?];
        while self.word("or") {
            list.push(self.all(depth)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::Any(list) })
    }

    fn all(&mut self, depth: usize) -> Result<Expression, UnitError> {
        let mut list = vec![self.one(depth)?];
        while self.word("and") {
            list.push(self.one(depth)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::All(list) })
    }

    fn one(&mut self, depth: usize) -> Result<Expression, UnitError> {
        if depth > DEEPEST {
            return Err(fault("this is nested too deeply"));
        }
        if self.word("not") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.sign("(") {
            let inner = self.any(depth + 1)?;
            return if self.sign(")") { Ok(inner) } else { Err(self.missing(")")) };
        }
        if self.word("exists") {
            return Ok(Expression::Exists(self.named()?));
        }
        let term = self.term()?;
        let Some(comparison) = self.comparison() else {
            return match term {
                Term::Claim(_) => Ok(Expression::Holds(term)),
                other => Err(fault(format!("`{other}` is compared with nothing"))),
            };
        };
        let other = self.term()?;
        let listed = match comparison {
            Comparison::In => matches!(other, Term::List(_) | Term::Claim(_)),
            Comparison::Has => matches!(term, Term::List(_) | Term::Claim(_)),
            _ => !matches!(term, Term::List(_)) && !matches!(other, Term::List(_)),
        };
        if !listed {
            let word = comparison.word();
            return Err(fault(format!("`{term} {word} {other}` can never be told")));
        }
        if !names(&term) && !names(&other) {
            return Err(fault(format!("`{term} {} {other}` asks nobody", comparison.word())));
        }
        Ok(Expression::Test(term, comparison, other))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let found = Comparison::ALL.into_iter().find(|(word, _)| {
            let letters = word.bytes().all(|b| b.is_ascii_alphabetic());
            if letters { self.word(word) } else { self.sign(word) }
        });
        found.map(|(_, comparison)| comparison)
    }

    /// A claim or a fact.
    fn named(&mut self) -> Result<Term, UnitError> {
        match self.term()? {
            term if names(&term) => Ok(term),
            other => Err(fault(format!("`{other}` is no claim"))),
        }
    }

    fn term(&mut self) -> Result<Term, UnitError> {
        if self.sign("[") {
            let mut list = Vec::new();
            while !self.sign("]") {
                if !list.is_empty() && !self.sign(",") {
                    return Err(self.missing("]"));
                }
                match self.single()? {
                    term if names(&term) => {
                        return Err(fault(format!("`{term}` stands in a list of values")));
                    }
                    term => list.push(term),
                }
            }
            return Ok(Term::List(list));
        }
        self.single()
    }

    fn single(&mut self) -> Result<Term, UnitError> {
        if let Some(text) = self.quoted()? {
            return Ok(Term::Text(text));
        }
        if self.sign("@") {
            let name = self.name().unwrap_or_default();
            let known = Fact::ALL.iter().find(|(known, _)| *known == name);
            return known.map(|(_, fact)| Term::Fact(*fact)).ok_or_else(|| {
                let error = fault(format!("`@{name}` is not known"));
                match crate::problem::nearest(name, Fact::ALL.iter().map(|(known, _)| *known)) {
                    Some(near) => error.meant(format!("@{near}")),
                    None => error,
                }
            });
        }
        let rest = self.rest();
        if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let digits =
                rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |at| at + 1);
            let (number, left) = rest.split_at(digits);
            self.left = left;
            return number
                .parse()
                .map(Term::Number)
                .map_err(|_| fault(format!("`{number}` is no whole number")));
        }
        match self.name() {
            Some("true") => Ok(Term::Bool(true)),
            Some("false") => Ok(Term::Bool(false)),
            Some(word @ ("and" | "or" | "not" | "in" | "has" | "exists")) => {
                Err(fault(format!("`{word}` stands where a value belongs")))
            }
            Some("claim") if self.left.starts_with('[') => self.path(Vec::new()),
            Some(name) => self.path(vec![name.to_owned()]),
            None if self.rest().is_empty() => Err(fault("the expression ends too early")),
            None => Err(fault(format!("`{}` is not understood here", shown(self.rest())))),
        }
    }

    /// Members of a claim: `.name` or `['name']`.
    fn path(&mut self, mut path: Vec<String>) -> Result<Term, UnitError> {
        loop {
            if let Some(left) = self.left.strip_prefix("['") {
                self.left = left;
                path.push(self.until_quote()?);
                if !self.sign("]") {
                    return Err(self.missing("]"));
                }
            } else if let Some(left) = self.left.strip_prefix('.') {
                self.left = left;
                path.push(
                    self.name().ok_or_else(|| fault("a name is missing after `.`"))?.to_owned(),
                );
            } else {
                return Ok(Term::Claim(path));
            }
        }
    }

    fn quoted(&mut self) -> Result<Option<String>, UnitError> {
        if !self.sign("'") {
            return Ok(None);
        }
        self.until_quote().map(Some)
    }

    /// Up to a quote that is not written twice.
    fn until_quote(&mut self) -> Result<String, UnitError> {
        let mut text = String::new();
        loop {
            let (part, rest) =
                self.left.split_once('\'').ok_or_else(|| fault("a quote is not closed"))?;
            text.push_str(part);
            self.left = rest;
            match rest.strip_prefix('\'') {
                Some(left) => {
                    text.push('\'');
                    self.left = left;
                }
                None => return Ok(text),
            }
        }
    }

    fn rest(&mut self) -> &'t str {
        self.left = self.left.trim_start();
        self.left
    }

    fn sign(&mut self, sign: &str) -> bool {
        match self.rest().strip_prefix(sign) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let before = self.left;
        let found = self.name() == Some(word);
        if !found {
            self.left = before;
        }
        found
    }

    /// Letters, digits, `_` and `-`, the first a letter or `_`.
    fn name(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return None;
        }
        let lawful = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let (name, left) = rest.split_at(rest.find(|c| !lawful(c)).unwrap_or(rest.len()));
        self.left = left;
        Some(name)
    }

    fn missing(&mut self, sign: &str) -> UnitError {
        match self.rest() {
            "" => fault(format!("`{sign}` is missing at the end")),
            rest => fault(format!("`{sign}` is missing before `{}`", shown(rest))),
        }
    }
}

fn names(term: &Term) -> bool {
    matches!(term, Term::Claim(_) | Term::Fact(_))
}
