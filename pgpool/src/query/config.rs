//! What a call of `set_config(name, value, is_local)` makes of its session, as far as its arguments are constants. Not
//! for `SET`, though what is said of names holds there as well. Used by `query` for texts in which the word stands.
//!
//! Invariant: an argument is known only if it is a single token; what is not known may be anything.

use super::Tie;
use super::lexer::Token;
use crate::variables::{IDENTITY, PATH, Variables, has_temporary};

/// What a call makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing that counts.
    Nothing,
    /// A setting of the transaction that parsing may read.
    Local,
    /// A setting of the session.
    Setting,
    /// Nobody knows what.
    Anything,
    /// What ties.
    Tie(Tie),
}

/// A call of which the end has not been seen yet.
#[derive(Default)]
pub(super) struct Call<'a> {
    /// Parentheses that are open since its name.
    depth: u32,
    /// Commas so far.
    at: usize,
    /// What each argument is, if it is one token, and how many tokens it has.
    arguments: [(Option<Token<'a>>, usize); 3],
    named: bool,
}

impl<'a> Call<'a> {
    /// Takes a token in; `true`: the call is at its end.
    pub(super) fn see(&mut self, token: &Token<'a>) -> bool {
        // Its own name comes first.
        if !std::mem::replace(&mut self.named, true) {
            return false;
        }
        match token {
            Token::Close if self.depth <= 1 => return true,
            Token::Close => self.depth -= 1,
            Token::Open => {
                self.depth += 1;
                if self.depth == 1 {
                    return false;
                }
            }
            Token::Comma if self.depth == 1 => {
                self.at += 1;
                return false;
            }
            _ => {}
        }
        if let Some((first, count)) = self.arguments.get_mut(self.at) {
            *first = (*count == 0).then_some(*token);
            *count += 1;
        }
        false
    }

    fn text(&self, at: usize) -> Option<&'a [u8]> {
        match self.arguments.get(at) {
            // What escapes stand for is not read.
            Some((Some(Token::Text(text)), _)) if !text.contains(&b'\\') => Some(*text),
            _ => None,
        }
    }

    /// What it makes.
    pub(super) fn made(&self) -> Made {
        let (name, value) = (self.text(0), self.text(1));
        let name = name.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
        let name = name.as_deref();
        let local =
            matches!(self.arguments[2], (Some(Token::Word(word)), _) if super::is(word, "true"));
        let path = name.is_none_or(|name| name == PATH);
        if path && value.is_some_and(has_temporary) {
            return Made::Tie(Tie::Temporary);
        }
        match name {
            Some(name) if Variables::ends_with_transaction(name) => Made::Nothing,
            Some(name) if local && !is_felt(name) => Made::Nothing,
            _ if local => Made::Local,
            Some(name) if IDENTITY.contains(&name) => Made::Tie(Tie::Role),
            Some(PATH) if value.is_none() => Made::Anything,
            Some(_) => Made::Setting,
            None => Made::Anything,
        }
    }
}

/// Whether a setting of one transaction may change how a text is parsed, for those who share the statement. What an
/// application or an extension calls its own (`app.tenant`) is read when a statement runs, and so is a role: plans that
/// depend on it are made anew by PostgreSQL itself.
pub(super) fn is_felt(name: &str) -> bool {
    Variables::is_read_by_parsing(name) && !name.contains('.') && !IDENTITY.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::{Tie, Trace, judge};

    /// P3: a call is as harmless as what it names, and what it does not name may be anything.
    #[test]
    fn what_set_config_makes() {
        let role = Trace::Pin(Tie::Role);
        let temporary = Trace::Pin(Tie::Temporary);
        for (arguments, expected) in [
            ("'app.tenant', $1, false", Trace::Settings),
            ("'app.tenant', f('x', (1)), false", Trace::Settings),
            ("'app.tenant', $1, true", Trace::Nothing),
            ("'app.tenant', $1, not true", Trace::Settings),
            ("'app.tenant', 'true'", Trace::Settings),
            ("'statement_timeout', $1, TRUE", Trace::Nothing),
            ("'DateStyle', $1, true", Trace::Local(None)),
            ("$1, $2, true", Trace::Local(None)),
            ("$1, $2, false", Trace::Unknown),
            ("'work' || '_mem', '1MB', false", Trace::Unknown),
            ("'work'\n'_mem', '1MB', false", Trace::Unknown),
            ("E'r\\157le', 'x', false", Trace::Unknown),
            ("U&'r\\006fle', 'x', false", Trace::Unknown),
            ("is_local => true, setting_name => 'role', new_value => 'x'", Trace::Unknown),
            ("'Role', 'x', false", role.clone()),
            ("'session_authorization', $1, false", role),
            ("'role', $1, true", Trace::Nothing),
            ("'search_path', 'a, b', false", Trace::Settings),
            ("'search_path', $1, false", Trace::Unknown),
            ("'search_path', 'a, PG_TEMP', false", temporary.clone()),
            ("'search_path', 'pg_temp', true", temporary),
            ("'transaction_read_only', 'on', false", Trace::Nothing),
            ("set_config('role', 'x', false), 'x', true", Trace::Unknown),
        ] {
            let sql = format!("select pg_catalog.set_config({arguments}) from t");
            assert_eq!(judge(sql.as_bytes()), expected, "{sql}");
        }
        let twice = b"select set_config('role', 'x', true), set_config('work_mem', '1MB', false)";
        assert_eq!(judge(twice), Trace::Settings);
        assert_eq!(judge(b"select set_config from t"), Trace::Settings);
        assert_eq!(judge(b"select set_config('a.b', 'x', true"), Trace::Settings);
    }
}
