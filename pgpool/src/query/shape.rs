//! A text without what is said in it: what may be told of a query in logs and spans. Not for what it leaves behind.
//! Used where queries are noted.
//!
//! Invariant: no constant is ever told, wherever the text ends.

use super::lexer::{Lexer, Token};

/// A text without its constants and comments, on one line, at most about `most` bytes of it: what may be
/// told of it.
pub fn shape(sql: &[u8], most: usize) -> String {
    let mut lexer = Lexer::new(sql);
    let mut all = String::new();
    loop {
        let start = lexer.position();
        let token = lexer.next_token();
        let raw = sql.get(start..lexer.position()).unwrap_or_default();
        let number = raw.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let piece = match token {
            Token::End => return all,
            Token::Broken => break,
            Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
            Token::Text(_) => "?".to_owned(),
            Token::Other if number => "?".to_owned(),
            _ => raw.last().map(|byte| char::from(*byte).to_string()).unwrap_or_default(),
        };
        if all.len() + piece.len() > most {
            break;
        }
        let apart = raw.first().is_some_and(u8::is_ascii_whitespace) || raw.starts_with(b"--");
        if (apart || raw.starts_with(b"/*")) && !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&piece);
    }
    all.push('…');
    all
}
