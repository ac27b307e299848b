//! Whether an expression of a rule is true of who asks. Pure. Called by `mod`.
//!
//! Invariant: what is absent, or of another kind than it is compared with, makes a comparison false,
//! `!=` too: a rule never allows because something is missing.

use http::Method;
use serde_json::Value;
use topology::expression::{Comparison, Expression, Fact, Term};

use crate::exchange::Identity;

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Who it is.
    pub identity: Option<&'a Identity>,
    /// Whom the client's certificate names.
    pub principal: Option<&'a str>,
    /// The method of the request.
    pub method: &'a Method,
}

/// A term's value.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    Text(&'a str),
    Number(f64),
    Bool(bool),
    Members(&'a [Value]),
    Written(&'a [Term]),
    /// An object or null: it is there, and equal to nothing.
    Other,
}

impl Asking<'_> {
    /// Whether it is true.
    pub fn fits(&self, expression: &Expression) -> bool {
        match expression {
            Expression::All(all) => all.iter().all(|one| self.fits(one)),
            Expression::Any(any) => any.iter().any(|one| self.fits(one)),
            Expression::Not(one) => !self.fits(one),
            Expression::Holds(term) => matches!(self.find(term), Some(Found::Bool(true))),
            Expression::Exists(term) => self.find(term).is_some(),
            Expression::Test(one, comparison, other) => {
                let (Some(one), Some(other)) = (self.find(one), self.find(other)) else {
                    return false;
                };
                compare(one, *comparison, other)
            }
        }
    }

    fn find<'t>(&'t self, term: &'t Term) -> Option<Found<'t>> {
        Some(match term {
            Term::Text(text) => Found::Text(text),
            Term::Number(number) => Found::Number(*number as f64),
            Term::Bool(bool) => Found::Bool(*bool),
            Term::List(list) => Found::Written(list),
            Term::Fact(fact) => Found::Text(self.fact(*fact)?),
            Term::Claim(path) => {
                let (first, members) = path.split_first()?;
                let claim = self.identity?.claim(first)?;
                let member = |value: &'t Value, name: &String| value.as_object()?.get(name);
                found(members.iter().try_fold(claim, member)?)
            }
        })
    }

    fn fact(&self, fact: Fact) -> Option<&str> {
        match fact {
            Fact::User => self.identity?.user()?.to_str().ok(),
            Fact::Consumer => self.identity?.consumer(),
            Fact::Plan => self.identity?.plan(),
            Fact::Principal => self.principal,
            Fact::Method => Some(self.method.as_str()),
        }
    }
}

fn found(value: &Value) -> Found<'_> {
    match value {
        Value::String(text) => Found::Text(text),
        Value::Bool(bool) => Found::Bool(*bool),
        Value::Array(list) => Found::Members(list),
        Value::Number(number) => number.as_f64().map_or(Found::Other, Found::Number),
        Value::Null | Value::Object(_) => Found::Other,
    }
}

fn compare(one: Found<'_>, comparison: Comparison, other: Found<'_>) -> bool {
    let ordered = |holds: fn(&f64, &f64) -> bool| match (one, other) {
        (Found::Number(one), Found::Number(other)) => holds(&one, &other),
        _ => false,
    };
    match comparison {
        Comparison::Equal => same(one, other) == Some(true),
        Comparison::Differs => same(one, other) == Some(false),
        Comparison::Below => ordered(f64::lt),
        Comparison::AtMost => ordered(f64::le),
        Comparison::Above => ordered(f64::gt),
        Comparison::AtLeast => ordered(f64::ge),
        Comparison::In => among(one, other),
        Comparison::Has => among(other, one),
    }
}

/// Whether two values are the same; `None` where they cannot be.
fn same(one: Found<'_>, other: Found<'_>) -> Option<bool> {
    match (one, other) {
        (Found::Text(one), Found::Text(other)) => Some(one == other),
        (Found::Number(one), Found::Number(other)) => Some(one.total_cmp(&other).is_eq()),
        (Found::Bool(one), Found::Bool(other)) => Some(one == other),
        _ => None,
    }
}

fn among(one: Found<'_>, list: Found<'_>) -> bool {
    match list {
        Found::Members(list) => list.iter().any(|member| same(one, found(member)) == Some(true)),
        Found::Written(list) => list.iter().any(|term| {
            let member = match term {
                Term::Text(text) => Found::Text(text),
                Term::Number(number) => Found::Number(*number as f64),
                Term::Bool(bool) => Found::Bool(*bool),
                Term::List(_) | Term::Claim(_) | Term::Fact(_) => return false,
            };
            same(one, member) == Some(true)
        }),
        _ => false,
    }
}
