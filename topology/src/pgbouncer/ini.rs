//! PgBouncer's configuration language: sections, `key = value`, connection strings, and the user list.
//! Not for what the keys mean. Used by `pgbouncer` alone.
//!
//! Invariant: every line is a value, a comment, or a fault that names it.

/// One `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// What a text holds: its lines, and those that could not be read.
pub(super) fn lines(text: &str) -> (Vec<Line>, Vec<(u32, String)>) {
    let (mut all, mut faults, mut section) = (Vec::new(), Vec::new(), String::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some((name, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = name.trim().to_ascii_lowercase();
            // PgBouncer reads on behind it; what stands there in fact is a comment.
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with([';', '#']) {
                faults.push((number, "behind a section only a comment stands".to_owned()));
            }
        } else if let Some((key, value)) = named(line) {
            let key = key.trim();
            // Names of databases may be quoted, PgBouncer's way or as SQL does.
            let single = key.strip_prefix('\'').and_then(|key| key.strip_suffix('\''));
            let plain = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
            let plain = plain.map(|key| key.replace("\"\"", "\""));
            let key = plain.unwrap_or_else(|| single.unwrap_or(key).to_owned());
            let value = value.trim().to_owned();
            all.push(Line { number, section: section.clone(), key, value });
        } else {
            // Without its text: it may be a line of a user list.
            faults.push((number, "this is neither a section nor `key = value`".to_owned()));
        }
    }
    (all, faults)
}

/// Key and value; in a key in quotes `=` is no end.
fn named(line: &str) -> Option<(&str, &str)> {
    let Some(quote) = line.chars().next().filter(|letter| matches!(letter, '\'' | '"')) else {
        return line.split_once('=');
    };
    let mut from = 1;
    loop {
        let end = from + line.get(from..)?.find(quote)?;
        let rest = line.get(end + 1..)?;
        // Two double ones stand for one.
        if quote == '"' && rest.starts_with(quote) {
            from = end + 2;
            continue;
        }
        let value = rest.trim_start().strip_prefix('=')?;
        return Some((line.get(..=end)?, value));
    }
}

/// The file that a line includes.
pub(super) fn included(line: &str) -> Option<&str> {
    let rest = line.trim().strip_prefix("%include")?;
    rest.starts_with([' ', '\t']).then(|| rest.trim())
}

/// `host=a port=5 password='it''s'`; `None`: a quote is not closed, or a word has no `=`.
pub(super) fn connection(text: &str) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, left) = match after.strip_prefix('\'') {
            Some(quoted) => quote(quoted)?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (value, left) = after.split_at(end);
                (value.to_owned(), left)
            }
        };
        all.push((key.trim().to_ascii_lowercase(), value));
        rest = left.trim_start();
    }
    Some(all)
}

/// A text up to its quote, of which two stand for one; and what follows.
fn quote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

/// `"name" "secret"` per line, quotes doubled inside.
pub(super) fn users(text: &str) -> Vec<(String, String)> {
    let quoted = |text: &str| {
        let mut rest = text.trim_start().strip_prefix('"')?;
        let mut value = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            value.push_str(before);
            match after.strip_prefix('"') {
                Some(more) => {
                    value.push('"');
                    rest = more;
                }
                None => return Some((value, after.to_owned())),
            }
        }
    };
    let user = |line: &str| {
        let (name, rest) = quoted(line)?;
        Some((name, quoted(&rest)?.0))
    };
    text.lines().filter(|line| !line.trim_start().starts_with(';')).filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O3: what stands behind a section is a comment, or a fault.
    #[test]
    fn a_comment_stands_behind_a_section() {
        let (all, faults) = lines("[databases] ; ours\nshop = a\n[pgbouncer]# all\nuser = b\n");
        let all: Vec<_> =
            all.iter().map(|line| (line.section.as_str(), line.key.as_str())).collect();
        assert_eq!((all, faults), (vec![("databases", "shop"), ("pgbouncer", "user")], vec![]));
        let (all, faults) = lines("[databases] shop = a\n[pgbouncer\n");
        assert!(all.is_empty());
        assert_eq!(faults.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2]);
    }

    /// T3: names in single quotes, as PgBouncer has them, and in double ones, with `=` inside.
    #[test]
    fn names_in_quotes() {
        let text = "[databases]\n'a=b' = host=x\n'my \"db\"'=host=y\n\"c=\"\"d\" = host=z\n\"e\" = v\nplain = w";
        let (lines, faults) = lines(text);
        assert_eq!(faults, []);
        let pairs: Vec<_> = lines.iter().map(|l| (l.key.as_str(), l.value.as_str())).collect();
        let expected = [
            ("a=b", "host=x"),
            ("my \"db\"", "host=y"),
            ("c=\"d", "host=z"),
            ("e", "v"),
            ("plain", "w"),
        ];
        assert_eq!(pairs, expected);
    }
}
