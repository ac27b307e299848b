//! The five characters that name an error. Not for which one belongs to which of our errors: that
//! is `pgpool`'s `fatal.rs`. Read from servers' errors, written into ours.
//!
//! Invariant: five ASCII digits or upper case letters.

use std::fmt;

/// A SQLSTATE (SQL:2016 part 2, 24.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// From text that is known at compile time; anything unlawful becomes `XX000`.
    pub const fn new(text: &[u8; 5]) -> Self {
        let mut at = 0;
        while at < 5 {
            if !(text[at].is_ascii_digit() || text[at].is_ascii_uppercase()) {
                return Self(*b"XX000");
            }
            at += 1;
        }
        Self(*text)
    }

    /// From a server's error field; `None` when it is not one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let code: [u8; 5] = text.try_into().ok()?;
        code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The five bytes.
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The first two: what kind of error it is.
    pub const fn class(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| fmt::Write::write_char(f, *b as char))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lawful_characters() {
        assert_eq!(SqlState::parse(b"57P01").map(|s| s.to_string()).as_deref(), Some("57P01"));
        assert_eq!(SqlState::parse(b"57p01"), None);
        assert_eq!(SqlState::parse(b"57P0"), None);
        assert_eq!(SqlState::new(b"08P01").class(), *b"08");
    }
}
