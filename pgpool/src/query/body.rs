//! Whether a `DO` block may leave something behind. Not a parser of PL/pgSQL: a word counts wherever it stands. Used by
//! `query`.
//!
//! Invariant: of all of PostgreSQL's commands (manual, "SQL Commands"), those that leave something in a session are in
//! [`LEAVE`], as a word that they cannot do without; what is not PL/pgSQL, or not seen as it is, may leave anything.

use super::Words;
use super::lexer::{Lexer, Token};

/// What a statement that leaves something has: `CREATE TEMP`, `DECLARE … WITH HOLD`, and whatever carries out another
/// text, which can hold anything.
const LEAVE: [&str; 13] = [
    "deallocate",
    "discard",
    "execute",
    "hold",
    "listen",
    "load",
    "prepare",
    "reset",
    "set",
    "set_config",
    "temp",
    "temporary",
    "unlisten",
];

/// Whether a body may leave something behind; `quoted`: it stood in single quotes.
pub(super) fn hides(body: &[u8], quoted: bool) -> bool {
    // A quote within is written twice, and one byte may stand for another: not what is here is carried out.
    if quoted && body.iter().any(|byte| matches!(byte, b'\'' | b'\\')) {
        return true;
    }
    let mut lexer = Lexer::new(body);
    let mut block = false;
    loop {
        let token = lexer.next_token();
        // `ON CONFLICT DO …` is no block within the block.
        let clause = matches!(token, Token::Word(word) if among(word, &["nothing", "update"]));
        if std::mem::take(&mut block) && !clause {
            return true;
        }
        match token {
            Token::End => return false,
            Token::Broken => return true,
            Token::Word(word) if leaves(word) => return true,
            Token::Word(word) => block = among(word, &["do"]),
            _ => {}
        }
    }
}

fn leaves(word: &[u8]) -> bool {
    let lock = b"advisory_lock";
    among(word, &LEAVE)
        || word.get(..7).is_some_and(|front| front.eq_ignore_ascii_case(b"pg_temp"))
        || word.windows(lock.len()).any(|part| part.eq_ignore_ascii_case(lock))
}

fn among(word: &[u8], all: &[&str]) -> bool {
    all.iter().any(|known| super::is(word, known))
}

/// Whether a statement is a `DO` block of which not all is known to be PL/pgSQL.
pub(super) fn is_foreign(words: &Words<'_>) -> bool {
    let plain = || words.tokens == 2 && words.count == 1;
    let named = || words.tokens == 4 && words.starts(&["do", "language", "plpgsql"]);
    words.starts(&["do"]) && !plain() && !named()
}

#[cfg(test)]
mod tests {
    use super::super::{Trace, judge};

    /// P3: a block says what it leaves, or may leave anything.
    #[test]
    fn what_blocks_hide() {
        for (sql, harmless) in [
            ("do $$ begin perform f(1); insert into t values ('reset'); end $$", true),
            ("do language plpgsql $x$ begin raise notice 'it''s'; end $x$", true),
            ("do $$ begin null; end $$ language PLPGSQL", true),
            ("do $$ begin insert into t values (1) on conflict do nothing; end $$", true),
            ("do 'begin perform 1; end'", true),
            ("do $$ begin create table pg_temp.x (a int); end $$", false),
            ("do $$ begin create table pg_temp_3.x (a int); end $$", false),
            ("do $$ begin deallocate all; end $$", false),
            ("do $$ begin DISCARD plans; end $$", false),
            ("do $$ begin reset all; end $$", false),
            ("do $$ begin prepare p as select 1; end $$", false),
            ("do $$ begin unlisten *; end $$", false),
            ("do $$ begin do $x$ begin null; end $x$; end $$", false),
            ("do $$ begin do", false),
            ("do $$ begin insert into t values (1) on conflict do$$", false),
            ("do 'begin raise notice ''--''; null; end'", false),
            ("do E'begin res\\x65t all; end'", false),
            ("do language plperl $$ 1 $$", false),
            ("do language 'plpython3u' $$ plpy.execute(\"select 1\") $$", false),
            ("do $$ 1 $$ language plpython3u", false),
        ] {
            let expected = if harmless { Trace::Nothing } else { Trace::Unknown };
            assert_eq!(judge(sql.as_bytes()), expected, "{sql}");
        }
    }
}
