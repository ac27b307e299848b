//! A cursor over one message body. Not for framing: it never sees more than one body. Used by
//! every parser of this crate.
//!
//! Invariant: `rest` only shrinks; a failed read leaves it where it was.

use std::ffi::CStr;

use crate::{Fault, Malformed};

/// Reads fields from the front of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over `body`; `message` names it in errors.
    pub(crate) fn new(message: &'static str, body: &'a [u8]) -> Self {
        Self { message, rest: body }
    }

    /// The error of this message.
    pub(crate) fn fault(&self, fault: Fault) -> Malformed {
        Malformed { message: self.message, fault }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(self.fault(Fault::Short))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(self.fault(Fault::Short))?;
        self.rest = rest;
        Ok(*first)
    }

    /// Two bytes, big endian.
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<2>().ok_or(self.fault(Fault::Short))?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*head))
    }

    /// Four bytes, big endian.
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<4>().ok_or(self.fault(Fault::Short))?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*head))
    }

    /// A text up to its zero byte, which is consumed and not part of it.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Malformed> {
        // Many bytes are looked at at once.
        let text =
            CStr::from_bytes_until_nul(self.rest).map_err(|_| self.fault(Fault::Unterminated))?;
        self.rest = self.rest.get(text.count_bytes() + 1..).unwrap_or_default();
        Ok(text.to_bytes())
    }

    /// A text that must be UTF-8.
    pub(crate) fn utf8(&mut self) -> Result<&'a str, Malformed> {
        let mut ahead = *self;
        let text = ahead.text()?;
        let text = std::str::from_utf8(text).map_err(|_| self.fault(Fault::Encoding))?;
        *self = ahead;
        Ok(text)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault(Fault::Long)) }
    }
}
