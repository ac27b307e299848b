//! What is cut out of a statement's text once it is known to be one that counts. Not for judging what it is. Used by
//! `query` alone.
//!
//! Invariant: what is cut out means by itself what it means where it stands.

use std::rc::Rc;

use super::Setting;
use super::lexer::{Lexer, Token};

/// What `SET SESSION CHARACTERISTICS` with one mode sets, by another name.
pub(super) fn mode(text: &[u8]) -> Option<&'static str> {
    let mut lexer = Lexer::new(text);
    let mut words = Vec::new();
    loop {
        match lexer.next_token() {
            Token::Word(word) => words.push(word.to_ascii_lowercase()),
            Token::Semicolon | Token::End => break,
            _ => return None,
        }
    }
    let words: Vec<&[u8]> = words.iter().map(|word| &**word).collect();
    let [b"set", b"session", b"characteristics", b"as", b"transaction", modes @ ..] = &*words
    else {
        return None;
    };
    match modes {
        [b"isolation", b"level", b"serializable"]
        | [b"isolation", b"level", b"repeatable", b"read"]
        | [b"isolation", b"level", b"read", b"committed" | b"uncommitted"] => {
            Some("default_transaction_isolation")
        }
        [b"read", b"only" | b"write"] => Some("default_transaction_read_only"),
        [b"deferrable"] | [b"not", b"deferrable"] => Some("default_transaction_deferrable"),
        _ => None,
    }
}

/// What can be said again; `None`: it is too long, or in another encoding than ours.
pub(super) fn setting(name: Rc<str>, text: &[u8]) -> Option<Rc<Setting>> {
    let statement = std::str::from_utf8(bare(text)).ok()?;
    let short = statement.len() <= LONGEST_SETTING;
    short.then(|| Rc::new(Setting { name, statement: Rc::from(statement) }))
}

/// A statement without its semicolon and the comments around it: one that ends a line would swallow what is said
/// behind it.
fn bare(text: &[u8]) -> &[u8] {
    let mut lexer = Lexer::new(text);
    lexer.skip_blank();
    let start = lexer.position();
    let mut end = start;
    while !matches!(lexer.next_token(), Token::Semicolon | Token::End | Token::Broken) {
        end = lexer.position();
    }
    text.get(start..end).unwrap_or_default()
}

/// What the verb of a statement is followed by, without comments around it.
pub(super) fn target(text: &[u8]) -> &[u8] {
    let mut lexer = Lexer::new(text);
    lexer.next_token();
    let (mut start, mut end) = (None, 0);
    loop {
        let token = lexer.next_token();
        let length = match token {
            Token::Semicolon | Token::End | Token::Broken => {
                return start.and_then(|start| text.get(start..end)).unwrap_or_default();
            }
            Token::Word(word) => word.len(),
            _ => 1,
        };
        end = lexer.position();
        let quoted = matches!(token, Token::Word(_)) && text.get(end - 1) == Some(&b'"');
        let whole = length + if quoted { 2 } else { 0 };
        start = start.or(end.checked_sub(whole));
    }
}

/// A longer `SET` is not kept per client.
const LONGEST_SETTING: usize = 1024;
