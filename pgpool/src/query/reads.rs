//! Whether a text may be carried out by a replica: because its client says so in a leading comment,
//! because it begins a transaction that is read-only, or because nothing in it can write. Not a
//! parser and not a guard: a replica refuses writes by itself. Called by `route`.
//!
//! Invariant: pure and linear in the text; what cannot be told is [`Access::Unknown`].

use super::lexer::{Lexer, Token};
use crate::family::Functions;

/// What a text needs of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its comment asks for a replica.
    Replica,
    /// Its comment asks for the primary.
    Primary,
    /// It begins a transaction that is read-only.
    ReadOnly,
    /// It reads alone, as far as names tell.
    Reads,
    /// Anything.
    Unknown,
}

/// Judges a text. `functions` are those that change nothing; `None`: only its comment counts.
pub fn access(sql: &[u8], functions: Option<&Functions>) -> Access {
    if let Some(asked) = asked(sql) {
        return asked;
    }
    let Some(functions) = functions else { return Access::Unknown };
    let mut lexer = Lexer::new(sql);
    match lexer.next_token() {
        Token::Word(word) if is(word, &["select", "values", "table", "with"]) => {
            if reads(lexer, functions) { Access::Reads } else { Access::Unknown }
        }
        Token::Word(word) if is(word, &["begin", "start"]) => begins(lexer),
        _ => Access::Unknown,
    }
}

/// `/* pgpool: replica */` or `/* pgpool: role=replica */` before anything else but comments.
fn asked(sql: &[u8]) -> Option<Access> {
    let mut rest = sql.trim_ascii_start();
    while let Some(inner) = rest.strip_prefix(b"/*") {
        let end = inner.windows(2).position(|two| two == b"*/")?;
        let text = inner.get(..end)?.trim_ascii().to_ascii_lowercase();
        if let Some(role) = text.strip_prefix(b"pgpool:") {
            let role = role.trim_ascii();
            return match role.strip_prefix(b"role=").unwrap_or(role) {
                b"replica" => Some(Access::Replica),
                b"primary" => Some(Access::Primary),
                _ => None,
            };
        }
        rest = inner.get(end + 2..)?.trim_ascii_start();
    }
    None
}

/// Words that make a statement write, lock, or need a session of its own.
const WRITES: [&str; 10] = [
    "insert",
    "update",
    "delete",
    "merge",
    "into",
    "share",
    "temp",
    "temporary",
    "pg_temp",
    "call",
];

/// Words before a parenthesis that are no functions.
const SYNTAX: [&str; 58] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "bit",
    "by",
    "case",
    "cast",
    "char",
    "character",
    "coalesce",
    "cube",
    "dec",
    "decimal",
    "distinct",
    "else",
    "except",
    "exists",
    "extract",
    "filter",
    "float",
    "from",
    "greatest",
    "group",
    "grouping",
    "having",
    "in",
    "intersect",
    "is",
    "join",
    "lateral",
    "least",
    "like",
    "limit",
    "not",
    "nullif",
    "numeric",
    "offset",
    "on",
    "or",
    "over",
    "overlay",
    "position",
    "rollup",
    "row",
    "select",
    "sets",
    "some",
    "substring",
    "then",
    "trim",
    "union",
    "using",
    "values",
    "when",
    "where",
];

/// The rest of one statement that began like a read.
fn reads(mut lexer: Lexer<'_>, functions: &Functions) -> bool {
    let mut name: Option<Vec<u8>> = None;
    loop {
        match lexer.next_token() {
            Token::End => return true,
            Token::Broken => return false,
            Token::Semicolon => return lexer.next_token() == Token::End,
            Token::Word(word) => {
                let word = word.to_ascii_lowercase();
                if is(&word, &WRITES) {
                    return false;
                }
                name = Some(word);
            }
            Token::Open => {
                let known = name
                    .take()
                    .is_none_or(|word| is(&word, &SYNTAX) || functions.contains(word.as_slice()));
                if !known {
                    return false;
                }
            }
            Token::Text(_) | Token::Close | Token::Comma | Token::Dot | Token::Other => {
                name = None;
            }
        }
    }
}

/// `BEGIN … READ ONLY` or `START TRANSACTION … READ ONLY`, alone or before nothing but
/// `SET TRANSACTION … READ ONLY`.
fn begins(mut lexer: Lexer<'_>) -> Access {
    let (mut words, mut statements) = (Vec::new(), 1);
    loop {
        match lexer.next_token() {
            Token::Word(word) => words.push(word.to_ascii_lowercase()),
            Token::Semicolon => {
                statements += 1;
                words.push(b";".to_vec());
            }
            Token::Other | Token::Comma => {}
            Token::End => break,
            _ => return Access::Unknown,
        }
    }
    let follows = |pair: &[&str; 2]| {
        words.windows(2).any(|two| matches!(two, [a, b] if is(a, &pair[..1]) && is(b, &pair[1..])))
    };
    let second = words.iter().rposition(|word| word == b";").filter(|at| at + 1 < words.len());
    let sets = second.is_none_or(|at| {
        matches!(words.get(at + 1..at + 3), Some([a, b]) if is(a, &["set"]) && is(b, &["transaction"]))
    });
    // A replica knows no serializable transactions.
    let lawful = follows(&["read", "only"])
        && !follows(&["read", "write"])
        && !words.iter().any(|word| is(word, &["serializable"]));
    if lawful && sets && statements <= 2 { Access::ReadOnly } else { Access::Unknown }
}

fn is(word: &[u8], among: &[&str]) -> bool {
    among.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> Functions {
        ["count", "now", "lower"].map(|name| name.as_bytes().into()).into()
    }

    /// P5: what goes to a replica by itself, and what does not.
    #[test]
    fn what_may_go_to_a_replica() {
        use Access::{Primary, ReadOnly, Reads, Replica, Unknown};
        let table = [
            ("select 1", Reads),
            ("SELECT count(*), lower(b) from t where a in (1, 2) -- insert", Reads),
            ("select 'insert into t', $$update$$;", Reads),
            ("with x as (select now()) select * from x", Reads),
            ("values (1), (2)", Reads),
            ("table t", Reads),
            ("select cast(a as numeric(3, 2)) from t", Reads),
            ("select nextval('s')", Unknown),
            ("select my_function(1)", Unknown),
            ("select public.my_function(1)", Unknown),
            ("select \"My\"(1)", Unknown),
            ("select * from t for update", Unknown),
            ("select * from t for no key update", Unknown),
            ("select * from t for share", Unknown),
            ("select * from t for key share", Unknown),
            ("select * into u from t", Unknown),
            ("with x as (insert into t values (1) returning a) select * from x", Unknown),
            ("with x as (delete from t returning a) select * from x", Unknown),
            ("select 1; select 2", Unknown),
            ("select 1; drop table t", Unknown),
            ("select 'not closed", Unknown),
            ("explain analyze delete from t", Unknown),
            ("insert into t values (1)", Unknown),
            ("show work_mem", Unknown),
            ("/* pgpool: replica */ select my_function(1)", Replica),
            ("/* a */ /* pgpool: role=replica */ begin", Replica),
            ("/* pgpool: primary */ select 1", Primary),
            ("/* pgpool: nobody */ select 1", Reads),
            ("/* x */ select 1", Reads),
            ("select /* pgpool: replica */ my_function(1)", Unknown),
            ("begin read only", ReadOnly),
            ("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;", ReadOnly),
            ("start transaction read only", ReadOnly),
            ("begin; set transaction read only", ReadOnly),
            ("begin isolation level serializable read only deferrable", Unknown),
            ("begin", Unknown),
            ("begin read write", Unknown),
            ("begin read only; select 1; commit; insert into t values (1)", Unknown),
            ("begin read only; set transaction read write", Unknown),
            ("begin read only; set local x = 1", Unknown),
        ];
        for (sql, expected) in table {
            assert_eq!(access(sql.as_bytes(), Some(&known())), expected, "{sql}");
        }
    }

    proptest! {
        /// A word that writes is seen wherever it stands outside of strings and comments.
        #[test]
        fn writes_are_seen(before in "[a-z0-9 ,=*.]{0,20}", word in prop::sample::select(&WRITES[..])) {
            let sql = format!("select {before} {word} from t");
            prop_assert_eq!(access(sql.as_bytes(), Some(&known())), Access::Unknown);
        }
    }
}
