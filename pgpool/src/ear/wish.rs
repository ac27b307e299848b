//! `LISTEN` and `UNLISTEN` that stand alone in their text, read. Not for texts of several statements and not for
//! what `query` tells of all others. Called for what idle clients send.
//!
//! Invariant: what PostgreSQL might read otherwise than we do is nobody's wish, and goes to a server as it is.

use std::rc::Rc;

/// A channel, as PostgreSQL would compare it.
pub type Channel = Rc<str>;

/// What a client wants to hear from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `LISTEN channel`.
    Listen(Channel),
    /// `UNLISTEN channel`; `None`: `UNLISTEN *`.
    Unlisten(Option<Channel>),
}

/// The longest name that PostgreSQL does not cut.
const LONGEST: usize = 63;

/// Words that no channel can be called by without quotes (manual, appendix C: "reserved", also those that may name a
/// function or type), of all versions: what one of them does not reserve, it listens on itself.
#[rustfmt::skip]
const RESERVED: [&str; 101] = [
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary", "both",
    "case", "cast", "check", "collate", "collation", "column", "concurrently", "constraint", "create", "cross",
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except", "false", "fetch", "for",
    "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike", "in", "initially", "inner", "intersect",
    "into", "is", "isnull", "join", "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp",
    "natural", "not", "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps", "placing",
    "primary", "references", "returning", "right", "select", "session_user", "similar", "some", "symmetric",
    "system_user", "table", "tablesample", "then", "to", "trailing", "true", "union", "unique", "user", "using",
    "variadic", "verbose", "when", "where", "window", "with",
];

/// Whether PostgreSQL reserves a word, in either case.
pub fn is_reserved(word: &[u8]) -> bool {
    RESERVED.iter().any(|reserved| word.eq_ignore_ascii_case(reserved.as_bytes()))
}

/// Whether a text may be one: the look that every query pays for.
pub fn may_be(sql: &[u8]) -> bool {
    let begins =
        |word: &[u8]| sql.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word));
    matches!(sql.first(), Some(b'l' | b'L' | b'u' | b'U'))
        && (begins(b"listen") || begins(b"unlisten"))
}

/// The wish that a text is, if it is nothing else.
pub fn read(sql: &[u8]) -> Option<Wish> {
    let text = std::str::from_utf8(sql).ok().filter(|text| text.is_ascii())?;
    let text = text.trim_end_matches(is_blank);
    let text = text.strip_suffix(';').unwrap_or(text).trim_end_matches(is_blank);
    let (verb, rest) = text.split_at(text.find(|c: char| !c.is_ascii_alphabetic())?);
    let named = rest.trim_start_matches(is_blank);
    // `LISTEN a` needs a blank, `LISTEN "a"` none.
    let apart = named.len() < rest.len() || named.starts_with(['"', '*']);
    match named {
        _ if !apart => None,
        "*" if verb.eq_ignore_ascii_case("unlisten") => Some(Wish::Unlisten(None)),
        _ if verb.eq_ignore_ascii_case("unlisten") => {
            channel(named).map(|c| Wish::Unlisten(Some(c)))
        }
        _ if verb.eq_ignore_ascii_case("listen") => channel(named).map(Wish::Listen),
        _ => None,
    }
}

/// What `UNLISTEN` ends whose target is `text`: one channel, or all. `None`: nothing that we could listen on.
pub fn ended(text: &[u8]) -> Option<Option<Channel>> {
    match std::str::from_utf8(text).ok()? {
        "*" => Some(None),
        name => channel(name).map(Some),
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

fn channel(text: &str) -> Option<Channel> {
    let name = match text.strip_prefix('"') {
        Some(quoted) => {
            let inner = quoted.strip_suffix('"')?;
            let whole = inner.replace("\"\"", "\u{1}");
            if whole.contains('"') {
                return None;
            }
            whole.replace('\u{1}', "\"")
        }
        None => {
            let first = text.bytes().next()?;
            let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$');
            let lawful = (first.is_ascii_alphabetic() || first == b'_') && text.bytes().all(letter);
            if !lawful || is_reserved(text.as_bytes()) {
                return None;
            }
            text.to_ascii_lowercase()
        }
    };
    let lawful = !name.is_empty() && name.len() <= LONGEST && !name.contains('\0');
    lawful.then(|| Rc::from(name))
}

/// `LISTEN` or `UNLISTEN` of a channel, for the server.
pub fn statement(verb: &str, channel: &str) -> String {
    format!("{verb} \"{}\"", channel.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listen(channel: &str) -> Option<Wish> {
        Some(Wish::Listen(Rc::from(channel)))
    }

    /// P1: a lone LISTEN is read as PostgreSQL reads it; whatever else is left to PostgreSQL.
    #[test]
    fn wishes_stand_alone() {
        assert_eq!(read(b"LISTEN Orders"), listen("orders"));
        assert_eq!(read(b"listen\n\"Or\"\"ders; \" ; "), listen("Or\"ders; "));
        assert_eq!(read(b"listen\"a\""), listen("a"));
        assert_eq!(read(b"listen \"select\""), listen("select"));
        assert_eq!(read(b"listen Between"), listen("between"));
        assert_eq!(read(b"UNLISTEN *;"), Some(Wish::Unlisten(None)));
        assert_eq!(read(b"unlisten*"), Some(Wish::Unlisten(None)));
        assert_eq!(read(b"Unlisten a$1"), Some(Wish::Unlisten(Some(Rc::from("a$1")))));
        for other in [
            "listen",
            "listen a b",
            "listen a; select 1",
            "listen *",
            "listens a",
            "listen -- a\nb",
            "listen \"\"",
            "listen \"a",
            "listen \"a\"b\"",
            "listen 1a",
            "listen ä",
            "select 1",
            "listen a.b",
            "listen a;;",
            "unlisten",
            "listen U&\"a\"",
            "listen /* x */ a",
            "listen select",
            "LISTEN Left",
            "unlisten user",
        ] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read(format!("listen {}", "a".repeat(64)).as_bytes()), None, "it would be cut");
    }

    proptest! {
        /// O5: whatever a channel is called, the statement for the server names it and nothing else.
        #[test]
        fn statements_name_their_channel(name in "[ -~]{1,63}") {
            let sql = statement("LISTEN", &name);
            prop_assert_eq!(read(sql.as_bytes()), listen(&name));
        }
    }
}
