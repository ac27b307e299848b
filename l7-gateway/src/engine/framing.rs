//! HTTP/1.1 framing as bytes: where a head ends, how long its body is, where a chunked body ends.
//! Pure and strict: what two programs could read differently is a fault. Not for meaning: stage 2
//! judges path, host and headers. Called by `guard`; an own codec takes it over later.
//!
//! Invariant: never looks at a byte twice for the end of a head, never allocates for a body.

use std::mem::MaybeUninit;

use super::Fault;

/// What a head may cost.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Line and headers together.
    pub bytes: usize,
    /// The target.
    pub target: usize,
    /// Header fields.
    pub headers: usize,
}

/// What the framing of a complete head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its bytes, the empty line included.
    pub length: usize,
    /// What follows.
    pub body: BodyLength,
    /// Whether it asks for another protocol.
    pub upgrade: Upgrade,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Exact(u64),
    /// Chunks.
    Chunked,
}

/// Whether a head has an `Upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// Bytes behind it may be of another protocol.
    Asked,
    /// None.
    No,
}

/// Looks for a complete head at the start of `bytes`; `scanned` keeps how far was looked.
///
/// # Errors
/// The head is, or will be, malformed or too large.
pub fn head(bytes: &[u8], scanned: &mut usize, limits: HeadLimits) -> Result<Option<Head>, Fault> {
    let from = *scanned;
    for (at, _) in bytes.iter().enumerate().skip(from).filter(|(_, b)| **b == b'\n') {
        // RFC 9112 §2.2 lets a recipient take a bare LF; peers behind us may not agree where.
        if at == 0 || bytes.get(at - 1) != Some(&b'\r') {
            return Err(Fault::Syntax);
        }
        if bytes.get(..=at).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            return parse(bytes.get(..=at).unwrap_or_default(), limits).map(Some);
        }
    }
    *scanned = bytes.len();
    if bytes.len() > limits.bytes {
        return Err(Fault::HeadTooLarge);
    }
    let line = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    // Method, two spaces and the version take less than 64 bytes.
    if line > limits.target + 64 { Err(Fault::TargetTooLong) } else { Ok(None) }
}

/// Most header fields that any configuration gets.
const SLOTS: usize = 256;

fn parse(bytes: &[u8], limits: HeadLimits) -> Result<Head, Fault> {
    if bytes.len() > limits.bytes {
        return Err(Fault::HeadTooLarge);
    }
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Fault::Syntax),
        Err(httparse::Error::Version) => return Err(Fault::Version),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Err(_) => return Err(Fault::Syntax),
    }
    if request.headers.len() > limits.headers {
        return Err(Fault::TooManyHeaders);
    }
    if matches!(request.method, Some("CONNECT" | "TRACE")) {
        return Err(Fault::Method);
    }
    target(request.path.unwrap_or_default().as_bytes(), limits)?;
    let mut fields = Fields::default();
    for header in request.headers.iter() {
        fields.add(header.name, header.value)?;
    }
    let body = fields.body(request.version == Some(1))?;
    Ok(Head { length: bytes.len(), body, upgrade: fields.upgrade })
}

/// Origin form or absolute form (RFC 9112 §3.2), visible ASCII without fragment and backslash.
fn target(text: &[u8], limits: HeadLimits) -> Result<(), Fault> {
    if text.len() > limits.target {
        return Err(Fault::TargetTooLong);
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let form =
        text.starts_with(b"/") || lower.starts_with(b"http://") || lower.starts_with(b"https://");
    let clean = text.iter().all(|b| b.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(b));
    if form && clean { Ok(()) } else { Err(Fault::Target) }
}

/// The header fields that frame.
#[derive(Debug)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: Upgrade,
}

impl Default for Fields {
    fn default() -> Self {
        Self { hosts: 0, length: None, chunked: false, upgrade: Upgrade::No }
    }
}

impl Fields {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is("host") {
            self.hosts += 1;
        } else if is("content-length") {
            let known = self.length.replace(length(value)?);
            if known.is_some() {
                return Err(Fault::Length);
            }
        } else if is("transfer-encoding") {
            // RFC 9112 §6.1: nothing but one `chunked` can be undone by everybody.
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::TransferCoding);
            }
            self.chunked = true;
        } else if is("upgrade") {
            self.upgrade = Upgrade::Asked;
        }
        Ok(())
    }

    fn body(&self, http_1_1: bool) -> Result<BodyLength, Fault> {
        if self.hosts != 1 {
            return Err(Fault::Host);
        }
        match (self.length, self.chunked) {
            // RFC 9112 §6.1: a gateway may refuse both together, which nobody sends in good faith.
            (Some(_), true) => Err(Fault::Length),
            (None, true) if !http_1_1 => Err(Fault::TransferCoding),
            (None, true) => Ok(BodyLength::Chunked),
            (length, false) => Ok(BodyLength::Exact(length.unwrap_or(0))),
        }
    }
}

/// RFC 9110 §8.6: digits and nothing else.
fn length(value: &[u8]) -> Result<u64, Fault> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Fault::Length)
}

/// Where in a body the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes belong to it.
    More,
    /// It ended; so many of the given bytes belong to it.
    Done(usize),
}

/// Follows a body to its end.
#[derive(Clone, Copy, Debug)]
pub enum Follow {
    /// So many bytes are left.
    Exact(u64),
    /// Chunks.
    Chunked(Chunks),
}

impl From<BodyLength> for Follow {
    fn from(length: BodyLength) -> Self {
        match length {
            BodyLength::Exact(bytes) => Self::Exact(bytes),
            BodyLength::Chunked => Self::Chunked(Chunks::default()),
        }
    }
}

impl Follow {
    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    /// A chunk is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, Fault> {
        match self {
            Self::Chunked(chunks) => chunks.advance(bytes),
            Self::Exact(left) => {
                let take = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                Ok(if *left == 0 { Progress::Done(take) } else { Progress::More })
            }
        }
    }
}

/// The grammar of RFC 9112 §7.1, byte by byte, data in one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunks {
    at: At,
    left: u64,
    /// Digits of a size, or bytes of an extension or of trailers.
    seen: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
}

/// Sixteen digits could overflow.
const MAX_SIZE_DIGITS: usize = 15;
const MAX_EXTENSION: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

impl Chunks {
    fn advance(&mut self, bytes: &[u8]) -> Result<Progress, Fault> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.at == At::Data {
                let take = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            at += 1;
            if self.byte(byte)? {
                return Ok(Progress::Done(at));
            }
        }
        Ok(Progress::More)
    }

    /// One byte outside of data; true at the very end.
    fn byte(&mut self, byte: u8) -> Result<bool, Fault> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (At::Size, b';') if self.seen > 0 => {
                self.seen = 0;
                At::Extension
            }
            (At::Size, b'\r') if self.seen > 0 => At::SizeLf,
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\t' | b' '..=b'~') => self.count(MAX_EXTENSION, At::Extension)?,
            (At::SizeLf, b'\n') => {
                self.seen = 0;
                if self.left == 0 { At::TrailerStart } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::TrailerStart | At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count(MAX_TRAILERS, At::Trailer)?
            }
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::LastLf, b'\n') => return Ok(true),
            _ => return Err(Fault::Chunk),
        };
        Ok(false)
    }

    fn digit(&mut self, byte: u8) -> Result<At, Fault> {
        let value = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
        self.left = if self.seen == 0 { 0 } else { self.left } << 4 | u64::from(value);
        self.count(MAX_SIZE_DIGITS, At::Size)
    }

    fn count(&mut self, most: usize, next: At) -> Result<At, Fault> {
        self.seen += 1;
        if self.seen > most { Err(Fault::Chunk) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests;
