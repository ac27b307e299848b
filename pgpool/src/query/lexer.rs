//! PostgreSQL's lexical rules as far as finding words outside of strings and comments needs them
//! (manual, "Lexical Structure"). Not for numbers or operators. Used by `query` alone.
//!
//! Invariant: always moves forward; a text that ends inside a string or comment, or whose quotes
//! depend on a server setting, is [`Token::Broken`].

/// One piece of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or identifier, quoted or not, without its quotes.
    Word(&'a [u8]),
    /// The inside of a string.
    Text(&'a [u8]),
    Open,
    Close,
    Semicolon,
    Comma,
    Dot,
    /// Anything else, one byte.
    Other,
    End,
    /// Nothing after this can be trusted.
    Broken,
}

/// Cuts SQL into tokens.
pub(super) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0 }
    }

    /// How far it has read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether the string that it has just read stood in quotes, which may hide what is in it.
    pub(super) fn was_quoted(&self) -> bool {
        self.at.checked_sub(1).and_then(|last| self.sql.get(last)) == Some(&b'\'')
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    pub(super) fn next_token(&mut self) -> Token<'a> {
        if !self.skip_blank() {
            return Token::Broken;
        }
        let Some(byte) = self.peek(0) else { return Token::End };
        match byte {
            b'\'' => self.string(false),
            b'"' => self.quoted(),
            b'$' => self.dollar(),
            b'E' | b'e' if self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.string(true)
            }
            // What its escapes stand for is not read.
            b'U' | b'u' if self.peek(1) == Some(b'&') && self.peek(2) == Some(b'"') => {
                Token::Broken
            }
            b if kind(b) & START != 0 => Token::Word(self.word()),
            b if b.is_ascii_digit() => {
                self.word();
                Token::Other
            }
            b => {
                self.at += 1;
                match b {
                    b';' => Token::Semicolon,
                    b',' => Token::Comma,
                    b'.' => Token::Dot,
                    b'(' => Token::Open,
                    b')' => Token::Close,
                    _ => Token::Other,
                }
            }
        }
    }

    /// White space and comments; `false` when a comment has no end.
    pub(super) fn skip_blank(&mut self) -> bool {
        loop {
            let blanks = self.rest().iter().position(|b| kind(*b) & BLANK == 0);
            self.at = blanks.map_or(self.sql.len(), |end| self.at + end);
            match (self.peek(0), self.peek(1)) {
                (Some(b'-'), Some(b'-')) => {
                    let line = self.rest().iter().position(|b| matches!(b, b'\n' | b'\r'));
                    self.at = line.map_or(self.sql.len(), |end| self.at + end);
                }
                (Some(b'/'), Some(b'*')) => {
                    if !self.skip_comment() {
                        return false;
                    }
                }
                _ => return true,
            }
        }
    }

    /// Comments nest.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return false,
            }
        }
    }

    fn word(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let end = rest.iter().position(|b| kind(*b) & PART == 0).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn string(&mut self, escapes: bool) -> Token<'a> {
        self.at += 1;
        let start = self.at;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\''), Some(b'\'')) => self.at += 2,
                (Some(b'\''), _) => {
                    self.at += 1;
                    return Token::Text(self.sql.get(start..self.at - 1).unwrap_or_default());
                }
                (Some(b'\\'), _) if escapes => self.at += 2,
                // Ends here or not, as standard_conforming_strings says.
                (Some(b'\\'), Some(b'\'')) => return Token::Broken,
                (Some(_), _) => self.at += 1,
                (None, _) => return Token::Broken,
            }
        }
    }

    fn quoted(&mut self) -> Token<'a> {
        self.at += 1;
        let rest = self.rest();
        let Some(end) = rest.iter().position(|b| *b == b'"') else { return Token::Broken };
        self.at += end + 1;
        Token::Word(rest.get(..end).unwrap_or_default())
    }

    /// `$1`, or `$tag$ … $tag$`.
    fn dollar(&mut self) -> Token<'a> {
        let rest = self.rest();
        let inner = rest.get(1..).unwrap_or_default();
        let tag =
            inner.iter().position(|b| kind(*b) & PART == 0 || *b == b'$').unwrap_or(inner.len());
        let opens = inner.get(tag) == Some(&b'$') && !inner.first().is_some_and(u8::is_ascii_digit);
        if !opens {
            self.at += 1;
            return Token::Other;
        }
        let fence = rest.get(..tag + 2).unwrap_or_default();
        let body = rest.get(tag + 2..).unwrap_or_default();
        let Some(end) = find(body, fence) else { return Token::Broken };
        self.at += fence.len() * 2 + end;
        Token::Text(body.get(..end).unwrap_or_default())
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len().max(1)).position(|window| window == wanted)
}

/// A word may begin with it.
pub(super) const START: u8 = 1;
/// A word may have it.
pub(super) const PART: u8 = 2;
/// White space.
const BLANK: u8 = 4;

/// What each byte can be.
static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut all = [0; 256];
    let mut byte = 0_u8;
    loop {
        let start = byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80;
        let part = start || byte.is_ascii_digit() || byte == b'$';
        let blank = byte.is_ascii_whitespace() || byte == 0x0b;
        all[byte as usize] = (start as u8) | (part as u8) << 1 | (blank as u8) << 2;
        if byte == u8::MAX {
            return all;
        }
        byte += 1;
    }
}

#[inline]
pub(super) fn kind(byte: u8) -> u8 {
    KINDS.get(usize::from(byte)).copied().unwrap_or_default()
}
