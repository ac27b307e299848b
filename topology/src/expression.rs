//! What a rule asks of a caller beside scopes and roles, as a small language: `tenant == 'acme' and (level
//! >= 3 or groups has 'admins')`. Read once, with the file; not evaluated here: the gateway does that.
//!
//! Invariant: an expression has a bounded depth and size, so that evaluating it needs neither a budget
//! nor a stack guard; printing and reading again gives the same one.

mod read;

pub(crate) use read::EXPRESSION;

use std::fmt;

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// All of them; at least two.
    All(Vec<Expression>),
    /// Any of them; at least two.
    Any(Vec<Expression>),
    /// The opposite.
    Not(Box<Expression>),
    /// A comparison; false where a claim is absent or the two cannot be compared.
    Test(Term, Comparison, Term),
    /// The term is there and is `true`.
    Holds(Term),
    /// The term is there, whatever it is.
    Exists(Term),
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A claim, and members of it.
    Claim(Vec<String>),
    /// Something known beside claims.
    Fact(Fact),
    /// `'text'`.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Bool(bool),
    /// `[…]` of texts, numbers and booleans.
    List(Vec<Term>),
}

/// What is known of a request beside claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// `@user`: the user of a token.
    User,
    /// `@consumer`: whose API key it is.
    Consumer,
    /// `@plan`: the consumer's plan.
    Plan,
    /// `@principal`: whom the client's certificate names.
    Principal,
    /// `@method`: of the request.
    Method,
}

/// How two terms are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`: both are there, of one kind, and differ.
    Differs,
    /// `<`, of numbers.
    Below,
    /// `<=`, of numbers.
    AtMost,
    /// `>`, of numbers.
    Above,
    /// `>=`, of numbers.
    AtLeast,
    /// `in`: the left is one of the right.
    In,
    /// `has`: the right is one of the left.
    Has,
}

impl Fact {
    const ALL: [(&'static str, Self); 5] = [
        ("user", Self::User),
        ("consumer", Self::Consumer),
        ("plan", Self::Plan),
        ("principal", Self::Principal),
        ("method", Self::Method),
    ];
}

impl Comparison {
    /// The longer before what they begin with.
    const ALL: [(&'static str, Self); 8] = [
        ("==", Self::Equal),
        ("!=", Self::Differs),
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("<", Self::Below),
        (">", Self::Above),
        ("in", Self::In),
        ("has", Self::Has),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, own)| *own == self).map_or("", |(word, _)| word)
    }
}

impl Expression {
    /// Names of the claims that it reads.
    pub fn claims<'e>(&'e self, found: &mut Vec<&'e str>) {
        match self {
            Self::All(list) | Self::Any(list) => list.iter().for_each(|one| one.claims(found)),
            Self::Not(one) => one.claims(found),
            Self::Holds(term) | Self::Exists(term) => term.claim(found),
            Self::Test(one, _, other) => {
                one.claim(found);
                other.claim(found);
            }
        }
    }
}

impl Expression {
    /// Whether it reads this.
    pub fn asks(&self, fact: Fact) -> bool {
        let is = |term: &Term| *term == Term::Fact(fact);
        match self {
            Self::All(list) | Self::Any(list) => list.iter().any(|one| one.asks(fact)),
            Self::Not(one) => one.asks(fact),
            Self::Holds(term) | Self::Exists(term) => is(term),
            Self::Test(one, _, other) => is(one) || is(other),
        }
    }
}

impl Term {
    fn claim<'e>(&'e self, found: &mut Vec<&'e str>) {
        if let Self::Claim(path) = self {
            found.extend(path.first().map(String::as_str));
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(all) => {
                joined(f, all, " and ", |one| matches!(one, Self::All(_) | Self::Any(_)))
            }
            Self::Any(any) => joined(f, any, " or ", |one| matches!(one, Self::Any(_))),
            Self::Not(one) => match **one {
                Self::All(_) | Self::Any(_) => write!(f, "not ({one})"),
                _ => write!(f, "not {one}"),
            },
            Self::Test(one, comparison, other) => {
                write!(f, "{one} {} {other}", comparison.word())
            }
            Self::Holds(term) => write!(f, "{term}"),
            Self::Exists(term) => write!(f, "exists {term}"),
        }
    }
}

/// Expressions with a word between them; in parentheses are those that would else read as something else, and
/// no others: what is printed is nested no deeper than what was read.
fn joined(
    f: &mut fmt::Formatter<'_>,
    list: &[Expression],
    word: &str,
    apart: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (index, one) in list.iter().enumerate() {
        f.write_str(if index > 0 { word } else { "" })?;
        if apart(one) { write!(f, "({one})")? } else { write!(f, "{one}")? }
    }
    Ok(())
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(path) => {
                f.write_str("claim")?;
                path.iter().try_for_each(|name| write!(f, "['{}']", escaped(name)))
            }
            Self::Fact(fact) => {
                let name =
                    Fact::ALL.iter().find(|(_, own)| own == fact).map_or("", |(name, _)| name);
                write!(f, "@{name}")
            }
            Self::Text(text) => write!(f, "'{}'", escaped(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::List(list) => {
                f.write_str("[")?;
                for (index, one) in list.iter().enumerate() {
                    write!(f, "{}{one}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A text as it stands between quotes: a quote in it is written twice.
fn escaped(text: &str) -> String {
    text.replace('\'', "''")
}

#[cfg(test)]
mod tests;
