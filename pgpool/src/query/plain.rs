//! Texts that leave nothing behind, told at a glance: no word of theirs is among those that may tell of
//! more. Not for what the others leave behind. Asked by `query` first, for nearly all texts are plain.
//!
//! Invariant: what is plain here leaves nothing behind for the whole judgement either; in doubt it is
//! not plain.

use super::lexer::{PART, START, kind};

/// Whether no word in `sql` may tell of something that stays. Comments, and strings with a backslash,
/// are left to the lexer.
pub(super) fn is_plain(sql: &[u8]) -> bool {
    let mut rest = sql;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            byte if kind(*byte) & PART != 0 && *byte != b'$' => {
                let (word, next) = rest.split_at(1 + length(after));
                if kind(*byte) & START != 0 && is_telling(word) {
                    return false;
                }
                next
            }
            b'\'' => match cut(after, |byte| matches!(byte, b'\'' | b'\\')) {
                Some((_, b'\'', next)) => next,
                _ => return false,
            },
            // Its escapes are not read.
            b'"' if is_escaped(sql, rest) => return false,
            b'"' => match cut(after, |byte| byte == b'"') {
                Some((word, _, next)) if !is_telling(word) => next,
                _ => return false,
            },
            // `$1`, and no `$tag$`.
            b'$' if !after.first().is_some_and(u8::is_ascii_digit) => return false,
            b'-' if after.first() == Some(&b'-') => return false,
            b'/' if after.first() == Some(&b'*') => return false,
            _ => after,
        };
    }
    true
}

/// Whether what is quoted at the front of `rest` stands behind `U&`.
fn is_escaped(sql: &[u8], rest: &[u8]) -> bool {
    let before = sql.get(..sql.len() - rest.len()).unwrap_or_default();
    matches!(before, [.., b'u' | b'U', b'&'])
}

/// How much of a word there is.
fn length(text: &[u8]) -> usize {
    text.iter().position(|byte| kind(*byte) & PART == 0).unwrap_or(text.len())
}

/// What stands before the first byte that ends it, that byte, and what follows.
fn cut(text: &[u8], ends: impl Fn(u8) -> bool) -> Option<(&[u8], u8, &[u8])> {
    let at = text.iter().position(|byte| ends(*byte))?;
    let (before, after) = text.split_at_checked(at)?;
    let (end, after) = after.split_first()?;
    Some((before, *end, after))
}

/// Whether a word begins like one that the judgement looks for, wherever it stands.
fn is_telling(word: &[u8]) -> bool {
    let (front, whole) = match *word {
        [a, b, c, d, ref more @ ..] => ([a, b, c, d], more.is_empty()),
        [a, b, c] => ([a, b, c, 0], true),
        [a, b] => ([a, b, 0, 0], true),
        _ => return false,
    };
    // `SELECT`, the most frequent of all.
    match &front.map(|byte| byte.to_ascii_lowercase()) {
        b"sele" => false,
        b"temp" | b"hold" | b"pg_t" | b"pg_a" | b"set_" | b"set\0" | b"list" | b"load" => true,
        b"prep" | b"deal" | b"disc" | b"rese" | b"unli" | b"chai" => true,
        b"do\0\0" => whole,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Trace, judge, judge_whole};
    use super::*;

    #[test]
    fn usual_texts_are_plain() {
        for sql in [
            "",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "select \"users\".* from \"users\" where \"users\".\"id\" = $1 limit $2",
            "insert into t (a, b) values ('it''s', -1.5e3) returning id",
            "begin; update t set a = a + 1; commit",
        ] {
            let plain = !sql.contains(" set ");
            assert_eq!(is_plain(sql.as_bytes()), plain, "{sql}");
            assert_eq!(judge(sql.as_bytes()), Trace::Nothing, "{sql}");
        }
    }

    /// Pieces that the judgement looks at, and what may hide them.
    fn piece() -> impl Strategy<Value = String> {
        let words = [
            "select",
            "from",
            "SET",
            "set_config",
            "reset",
            "listen",
            "UNLISTEN",
            "load",
            "prepare",
            "do",
            "discard",
            "deallocate",
            "all",
            "temp",
            "TEMPORARY",
            "create",
            "table",
            "hold",
            "with",
            "pg_temp_3",
            "pg_advisory_lock",
            "pg_try_advisory_lock",
            "local",
            "session",
            "role",
            "x",
            "'",
            "\"",
            "\\",
            "$",
            "$1",
            "$a$",
            "--",
            "/*",
            "*/",
            "\n",
            ";",
            ".",
            "(",
            ")",
            ",",
            "=",
            "e",
            "é",
            "1",
            "true",
            "-",
            "/",
            " ",
        ];
        prop_oneof![4 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
            1 => "[ -~]{0,3}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        /// P3: a glance never says less than the whole judgement.
        #[test]
        fn a_glance_never_says_less(
            pieces in proptest::collection::vec(piece(), 0..12),
            gaps in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let gap = |apart: &bool| if *apart { " " } else { "" };
            let sql: String = pieces.iter().zip(&gaps).flat_map(|(one, apart)| [one, gap(apart)]).collect();
            if is_plain(sql.as_bytes()) {
                prop_assert_eq!(judge_whole(sql.as_bytes()), Trace::Nothing, "{}", sql);
            }
        }
    }
}
