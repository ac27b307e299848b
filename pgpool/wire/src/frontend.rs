//! Messages that clients send: the ones that a pooler looks into, and the ones that it sends to
//! servers itself. Not for framing and not for the opening packets. Called by the relay and by the
//! side that logs in to servers.
//!
//! Invariant: parsing borrows; writing appends exactly one message per call.

use crate::frame::{put, put_text};
use crate::read::Reader;
use crate::{Fault, Malformed};

/// Type bytes (PostgreSQL manual, "Message Formats").
pub mod tag {
    #![allow(missing_docs, reason = "each is the message of the same name in PostgreSQL's manual")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Terminate, whole.
pub const GOODBYE: &[u8] = b"X\0\0\0\x04";

/// What Describe and Close speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// Parse: a statement to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub name: &'a [u8],
    /// SQL text.
    pub query: &'a [u8],
    /// Everything after the name: query, its zero byte, and the parameter types.
    pub rest: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// Its fields do not fill it exactly.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("Parse", body);
        let name = reader.text()?;
        let rest = reader.rest();
        let query = reader.text()?;
        let types = usize::from(reader.u16()?);
        reader.take(types * 4)?;
        reader.end()?;
        Ok(Self { name, query, rest })
    }
}

/// Bind: a portal from a statement. Parameters are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Empty: the unnamed portal.
    pub portal: &'a [u8],
    /// Empty: the unnamed statement.
    pub statement: &'a [u8],
    /// Everything after the statement's zero byte; as much as has come.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the two names at the front of a body, of which the rest may be still to come.
    ///
    /// # Errors
    /// A name has no end.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("Bind", body);
        let portal = reader.text()?;
        let statement = reader.text()?;
        Ok(Self { portal, statement, rest: reader.rest() })
    }
}

/// Reads the body of Describe or Close.
///
/// # Errors
/// It is not exactly a kind and a name.
pub fn subject(body: &[u8]) -> Result<(Subject, &[u8]), Malformed> {
    let mut reader = Reader::new("Describe or Close", body);
    let subject = match reader.byte()? {
        b'S' => Subject::Statement,
        b'P' => Subject::Portal,
        _ => return Err(reader.fault(Fault::Value)),
    };
    let name = reader.text()?;
    reader.end()?;
    Ok((subject, name))
}

/// The portal that Execute runs.
///
/// # Errors
/// It is not exactly a name and a row limit.
pub fn execute(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new("Execute", body);
    let portal = reader.text()?;
    reader.u32()?;
    reader.end()?;
    Ok(portal)
}

/// The SQL of a simple query.
///
/// # Errors
/// It has no end, or goes on after it.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new("Query", body);
    let text = reader.text()?;
    reader.end()?;
    Ok(text)
}

/// A password, or the answer to an md5 challenge.
///
/// # Errors
/// As [`query`].
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new("Password", body);
    let text = reader.text()?;
    reader.end()?;
    Ok(text)
}

/// The first SASL message of a client: mechanism, and its data when it sent any.
///
/// # Errors
/// The layout does not fill the body exactly.
pub fn sasl_initial(body: &[u8]) -> Result<(&str, Option<&[u8]>), Malformed> {
    let mut reader = Reader::new("SASLInitialResponse", body);
    let mechanism = reader.utf8()?;
    let data = match reader.u32()? {
        u32::MAX => None,
        length => Some(reader.take(length as usize)?),
    };
    reader.end()?;
    Ok((mechanism, data))
}

/// Appends Parse; `rest` as in [`Parse::rest`].
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], rest: &[u8]) {
    put(out, tag::PARSE, |out| {
        put_text(out, name);
        out.extend_from_slice(rest);
    });
}

/// Appends Close or Describe (`message` is its type byte) of `name`.
pub fn put_subject(out: &mut Vec<u8>, message: u8, subject: Subject, name: &[u8]) {
    put(out, message, |out| {
        out.push(match subject {
            Subject::Statement => b'S',
            Subject::Portal => b'P',
        });
        put_text(out, name);
    });
}

/// Appends the front of a Bind up to and with the statement's name, with the length of the whole:
/// `rest` more bytes must follow, now or later.
pub fn put_bind_head(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: u32) {
    let names = u32::try_from(portal.len() + statement.len() + 2).unwrap_or(u32::MAX);
    out.push(tag::BIND);
    out.extend_from_slice(&rest.saturating_add(names).saturating_add(4).to_be_bytes());
    put_text(out, portal);
    put_text(out, statement);
}

/// Appends an Execute of all rows of a portal.
pub fn put_execute(out: &mut Vec<u8>, portal: &[u8]) {
    put(out, tag::EXECUTE, |out| {
        put_text(out, portal);
        out.extend_from_slice(&[0; 4]);
    });
}

/// Appends a simple query.
pub fn put_query(out: &mut Vec<u8>, sql: &[u8]) {
    put(out, tag::QUERY, |out| put_text(out, sql));
}

/// Appends a message without a body: Sync, Flush, Terminate, CopyDone.
pub fn put_empty(out: &mut Vec<u8>, tag: u8) {
    put(out, tag, |_| ());
}

/// Appends a CopyFail with its reason.
pub fn put_copy_fail(out: &mut Vec<u8>, reason: &str) {
    put(out, tag::COPY_FAIL, |out| put_text(out, reason.as_bytes()));
}

/// Appends a password or an md5 answer.
pub fn put_password(out: &mut Vec<u8>, password: &[u8]) {
    put(out, tag::PASSWORD, |out| put_text(out, password));
}

/// Appends the first SASL message.
pub fn put_sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    put(out, tag::PASSWORD, |out| {
        put_text(out, mechanism.as_bytes());
        out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a later SASL message.
pub fn put_sasl(out: &mut Vec<u8>, data: &[u8]) {
    put(out, tag::PASSWORD, |out| out.extend_from_slice(data));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// O5: a Parse whose fields and length disagree is refused (the class of CVE-2024-27304).
    #[test]
    fn parse_must_fill_its_body() {
        assert!(Parse::read(b"s\0select 1\0\0\0").is_ok());
        assert!(Parse::read(b"s\0select 1\0\0\x01\0\0\0\x17").is_ok());
        assert_eq!(Parse::read(b"s\0select 1\0\0\x01").unwrap_err().fault, Fault::Short);
        assert_eq!(Parse::read(b"s\0select 1\0\0\0x").unwrap_err().fault, Fault::Long);
        assert_eq!(Parse::read(b"s\0select 1").unwrap_err().fault, Fault::Unterminated);
    }

    #[test]
    fn bind_is_renamed() {
        let mut out = Vec::new();
        put_bind_head(&mut out, b"p", b"renamed", 3);
        out.extend_from_slice(b"abc");
        let Ok(crate::Found::Whole(frame)) = crate::frame::next(&out, 100) else { panic!() };
        let bind = Bind::read(frame.body).expect("reads");
        assert_eq!(
            (bind.portal, bind.statement, bind.rest),
            (&b"p"[..], &b"renamed"[..], &b"abc"[..])
        );
    }

    proptest! {
        #[test]
        fn subjects_come_back(name in "[^\0]{0,20}", portal in any::<bool>()) {
            let kind = if portal { Subject::Portal } else { Subject::Statement };
            let mut out = Vec::new();
            put_subject(&mut out, tag::CLOSE, kind, name.as_bytes());
            prop_assert_eq!(subject(&out[5..]), Ok((kind, name.as_bytes())));
        }
    }
}
