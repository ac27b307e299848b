//! Messages that servers send: the ones that a pooler looks into, and the ones with which it
//! answers clients itself. Not for framing. Called by the relay, by logins on both sides and by
//! the admin database.
//!
//! Invariant: parsing borrows; writing appends exactly one message per call.

use crate::frame::{put, put_text};
use crate::read::Reader;
use crate::startup::{CancelKey, LONGEST_SECRET, Version};
use crate::{Fault, Malformed, SqlState};

/// Type bytes (PostgreSQL manual, "Message Formats").
pub mod tag {
    #![allow(missing_docs, reason = "each is the message of the same name in PostgreSQL's manual")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_RESULT: u8 = b'V';
    pub const NEGOTIATE: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// What ReadyForQuery says about the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not in a transaction.
    Idle,
    /// In one.
    Transaction,
    /// In one that has failed and only ROLLBACK leaves.
    Failed,
}

/// Reads ReadyForQuery.
///
/// # Errors
/// It is not exactly one of the three letters.
pub fn ready(body: &[u8]) -> Result<Status, Malformed> {
    match body {
        b"I" => Ok(Status::Idle),
        b"T" => Ok(Status::Transaction),
        b"E" => Ok(Status::Failed),
        _ => Err(Malformed { message: "ReadyForQuery", fault: Fault::Value }),
    }
}

/// Name and value of a ParameterStatus; the value is in the encoding of the client.
///
/// # Errors
/// It is not exactly two texts, or the name is no UTF-8.
pub fn parameter(body: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let mut reader = Reader::new("ParameterStatus", body);
    let pair = (reader.utf8()?, reader.text()?);
    reader.end()?;
    Ok(pair)
}

/// The columns of a DataRow as texts; NULL is an empty one.
///
/// # Errors
/// Its lengths do not fit, or a column is no UTF-8.
pub fn row(body: &[u8]) -> Result<Vec<String>, Malformed> {
    Ok(nullable_row(body)?.into_iter().map(Option::unwrap_or_default).collect())
}

/// The columns of a DataRow as text; `None`: NULL.
///
/// # Errors
/// Its lengths do not fit, or a column is no UTF-8.
pub fn nullable_row(body: &[u8]) -> Result<Vec<Option<String>>, Malformed> {
    let mut reader = Reader::new("DataRow", body);
    let mut all = Vec::new();
    for _ in 0..reader.u16()? {
        let length = reader.u32()?;
        // -1 is NULL.
        if length == u32::MAX {
            all.push(None);
            continue;
        }
        let bytes = reader.take(length as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| reader.fault(Fault::Encoding))?;
        all.push(Some(text.to_owned()));
    }
    reader.end()?;
    Ok(all)
}

/// The command tag of CommandComplete.
///
/// # Errors
/// It is not exactly one text.
pub fn command(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new("CommandComplete", body);
    let text = reader.text()?;
    reader.end()?;
    Ok(text)
}

/// The channel of a NotificationResponse.
///
/// # Errors
/// It is not a process, a channel and a payload.
pub fn notification(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new("NotificationResponse", body);
    let _sender = reader.u32()?;
    let channel = reader.text()?;
    let _payload = reader.text()?;
    reader.end()?;
    Ok(channel)
}

/// The key with which a server's query is cancelled.
///
/// # Errors
/// The secret is shorter than 4 or longer than 256 bytes.
pub fn key(body: &[u8]) -> Result<CancelKey, Malformed> {
    let mut reader = Reader::new("BackendKeyData", body);
    let pid = reader.u32()?;
    let secret = reader.rest();
    if !(4..=LONGEST_SECRET).contains(&secret.len()) {
        return Err(reader.fault(Fault::Value));
    }
    Ok(CancelKey { pid, secret: secret.to_vec() })
}

/// What a server wants to see before it lets us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// We are in.
    Ok,
    /// The password as it is.
    Cleartext,
    /// Its md5 with this salt.
    Md5([u8; 4]),
    /// One of these mechanisms: a list of texts, each with its zero byte.
    Sasl(&'a [u8]),
    /// The next message of the mechanism.
    SaslContinue(&'a [u8]),
    /// The last one.
    SaslFinal(&'a [u8]),
    /// Something that we do not speak (Kerberos, SSPI …).
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// It is too short for its kind.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("Authentication", body);
        Ok(match reader.u32()? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => {
                let salt = reader.take(4)?;
                Self::Md5(salt.try_into().map_err(|_| reader.fault(Fault::Short))?)
            }
            10 => Self::Sasl(reader.rest()),
            11 => Self::SaslContinue(reader.rest()),
            12 => Self::SaslFinal(reader.rest()),
            other => Self::Other(other),
        })
    }
}

/// Whether a list of mechanisms (as in [`Authentication::Sasl`]) has `wanted`.
pub fn offers(mechanisms: &[u8], wanted: &str) -> bool {
    mechanisms.split(|b| *b == 0).any(|m| m == wanted.as_bytes())
}

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Over a body; nothing is checked yet.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The text of one field; `None` where it is missing or the body is broken before it.
    pub fn field(self, wanted: u8) -> Option<&'a [u8]> {
        let mut reader = Reader::new("ErrorResponse", self.0);
        loop {
            let code = reader.byte().ok().filter(|c| *c != 0)?;
            let text = reader.text().ok()?;
            if code == wanted {
                return Some(text);
            }
        }
    }

    /// Its SQLSTATE. Some servers and poolers send none.
    pub fn code(self) -> Option<SqlState> {
        self.field(b'C').and_then(SqlState::parse)
    }

    /// The message, for logs; never trusted to be more than text.
    pub fn message(self) -> String {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default()).chars().take(500).collect()
    }

    /// The server closes the connection after this.
    pub fn is_fatal(self) -> bool {
        // `V` is `S` untranslated (since 9.6).
        let severity = self.field(b'V').or_else(|| self.field(b'S'));
        matches!(severity, Some(b"FATAL" | b"PANIC"))
    }
}

/// How bad an error of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the connection lives.
    Error,
    /// The connection ends.
    Fatal,
    /// Something that may have gone wrong.
    Warning,
    /// Only something to know.
    Notice,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// Appends an ErrorResponse, or a NoticeResponse for [`Severity::Notice`] and [`Severity::Warning`].
pub fn put_error(
    out: &mut Vec<u8>,
    severity: Severity,
    code: SqlState,
    message: &str,
    hint: Option<&str>,
) {
    let aside = matches!(severity, Severity::Notice | Severity::Warning);
    let tag = if aside { tag::NOTICE } else { tag::ERROR };
    put(out, tag, |out| {
        let mut field = |code: u8, text: &[u8]| {
            out.push(code);
            put_text(out, text);
        };
        field(b'S', severity.text().as_bytes());
        field(b'V', severity.text().as_bytes());
        field(b'C', code.as_bytes());
        field(b'M', message.as_bytes());
        if let Some(hint) = hint {
            field(b'H', hint.as_bytes());
        }
        out.push(0);
    });
}

/// Appends ReadyForQuery.
pub fn put_ready(out: &mut Vec<u8>, status: Status) {
    put(out, tag::READY, |out| {
        out.push(match status {
            Status::Idle => b'I',
            Status::Transaction => b'T',
            Status::Failed => b'E',
        });
    });
}

/// Appends a ParameterStatus.
pub fn put_parameter(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, tag::PARAMETER_STATUS, |out| {
        put_text(out, name.as_bytes());
        put_text(out, value.as_bytes());
    });
}

/// Appends BackendKeyData.
pub fn put_key(out: &mut Vec<u8>, key: &CancelKey) {
    put(out, tag::BACKEND_KEY, |out| {
        out.extend_from_slice(&key.pid.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

/// Appends NegotiateProtocolVersion: what is spoken, and the protocol options that are not known.
pub fn put_negotiate<'a>(
    out: &mut Vec<u8>,
    version: Version,
    unknown: impl Iterator<Item = &'a str>,
) {
    put(out, tag::NEGOTIATE, |out| {
        let code = u32::from(version.major) << 16 | u32::from(version.minor);
        out.extend_from_slice(&code.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        for name in unknown {
            put_text(out, name.as_bytes());
            count += 1;
        }
        if let Some(field) = out.get_mut(at..at + 4) {
            field.copy_from_slice(&count.to_be_bytes());
        }
    });
}

/// Appends an authentication message of this kind.
pub fn put_authentication(out: &mut Vec<u8>, message: Authentication<'_>) {
    put(out, tag::AUTHENTICATION, |out| {
        let (code, data): (u32, &[u8]) = match &message {
            Authentication::Ok => (0, b""),
            Authentication::Cleartext => (3, b""),
            Authentication::Md5(salt) => (5, salt),
            Authentication::Sasl(mechanisms) => (10, mechanisms),
            Authentication::SaslContinue(data) => (11, data),
            Authentication::SaslFinal(data) => (12, data),
            Authentication::Other(code) => (*code, b""),
        };
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a message without a body: ParseComplete, BindComplete, CloseComplete, NoData …
pub fn put_empty(out: &mut Vec<u8>, tag: u8) {
    put(out, tag, |_| ());
}

/// Appends CommandComplete.
pub fn put_command(out: &mut Vec<u8>, tag: &str) {
    put(out, self::tag::COMMAND_COMPLETE, |out| put_text(out, tag.as_bytes()));
}

/// Type of a column of ours: PostgreSQL's text.
pub const TEXT: u32 = 25;
/// Type of a column of ours: PostgreSQL's int8.
pub const INT8: u32 = 20;

/// Appends a RowDescription of columns in text format.
pub fn put_columns(out: &mut Vec<u8>, columns: &[(&str, u32)]) {
    put(out, tag::ROW_DESCRIPTION, |out| {
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
        for (name, kind) in columns {
            put_text(out, name.as_bytes());
            // No table, no column number; then the type, its size, no modifier, text format.
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&kind.to_be_bytes());
            let size: i16 = if *kind == INT8 { 8 } else { -1 };
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&[0; 2]);
        }
    });
}

/// Appends a DataRow of texts; `None` is NULL.
pub fn put_row<'a>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    put(out, tag::DATA_ROW, |out| {
        out.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
        for value in values {
            let length = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(0));
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(value.unwrap_or_default());
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_are_read_as_written() {
        let mut out = Vec::new();
        put_error(&mut out, Severity::Fatal, SqlState::new(b"57P01"), "going down", Some("wait"));
        let fields = Fields::new(&out[5..]);
        assert!(fields.is_fatal());
        assert_eq!(fields.code(), Some(SqlState::new(b"57P01")));
        assert_eq!(fields.message(), "going down");
        assert_eq!(fields.field(b'H'), Some(&b"wait"[..]));
        // A server's error without SQLSTATE, or cut in the middle, is only an error without one.
        assert_eq!(Fields::new(b"SERROR\0Mx\0\0").code(), None);
        assert_eq!(Fields::new(b"SERROR\0Mx").field(b'M'), None);
    }

    #[test]
    fn keys_have_bounds() {
        assert!(key(&[0, 0, 0, 1, 1, 2, 3]).is_err());
        assert!(key(&[0; 8]).is_ok());
        assert!(key(&[0; 4 + 257]).is_err());
    }

    proptest! {
        #[test]
        fn any_body(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let fields = Fields::new(&body);
            let _ = (fields.code(), fields.message(), fields.is_fatal());
            let _ = (ready(&body), parameter(&body), command(&body), key(&body));
            let _ = Authentication::read(&body);
        }
    }
}
