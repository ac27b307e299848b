//! Reads a TLS ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2) for the name and the protocols that
//! the client asks for. Not for decrypting anything and not for choosing a service (`route`). Called
//! by `opening` with the bytes that a client has sent so far.
//!
//! Invariant: a pure function of the bytes: however they are cut into records and segments, the same
//! hello gives the same answer; and no more than [`LONGEST`] bytes are ever asked for.

/// What stands at the start of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A hello may stand here but is not whole yet: at least so many bytes in all are needed.
    Incomplete(usize),
    /// A whole hello.
    Hello(Hello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066 §3) in lower case without a final dot.
    pub name: Option<String>,
    /// The protocols that it speaks, the dearest first (RFC 7301).
    pub protocols: Vec<Vec<u8>>,
}

/// Why no hello can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first byte is not a TLS handshake's.
    #[error("the connection does not begin with a TLS handshake")]
    NotTls,
    /// It begins as TLS and goes on otherwise.
    #[error("the TLS ClientHello is malformed")]
    Malformed,
    /// Longer than [`LONGEST`].
    #[error("the TLS ClientHello is over the limit of {LONGEST} bytes")]
    TooLong,
}

/// The hello at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
    let (mut rest, mut message) = (bytes, Vec::new());
    loop {
        let at = bytes.len() - rest.len();
        // A record: type, version, length, fragment (RFC 8446 §5.1).
        match rest.first() {
            Some(&HANDSHAKE) => {}
            Some(_) if at == 0 => return Err(Fault::NotTls),
            Some(_) => return Err(Fault::Malformed),
            None => return incomplete(at + RECORD_HEAD + lacking(&message)),
        }
        let Some((&[_, major, _, high, low], after)) = rest.split_first_chunk() else {
            return incomplete(at + RECORD_HEAD + lacking(&message));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Empty fragments of a handshake are forbidden, and would let a client send for ever.
        if major != 3 || length == 0 || length > LARGEST_FRAGMENT {
            return Err(Fault::Malformed);
        }
        let here = after.get(..length).unwrap_or(after);
        message.extend_from_slice(here);
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Fault::Malformed);
        }
        let lacks = lacking(&message);
        if lacks == 0 {
            let whole = message.get(MESSAGE_HEAD..).unwrap_or_default();
            let length = declared(&message).unwrap_or_default();
            // Another message may follow in the same record: it is not ours to read.
            let body = whole.get(..length).ok_or(Fault::Malformed)?;
            return read(body).map(Parsed::Hello).ok_or(Fault::Malformed);
        }
        if here.len() < length {
            // What this record does not hold needs another one, with a head of its own.
            let more = if lacks > length - here.len() { RECORD_HEAD } else { 0 };
            return incomplete(bytes.len() + lacks + more);
        }
        rest = after.get(length..).unwrap_or_default();
    }
}

fn incomplete(wanted: usize) -> Result<Parsed, Fault> {
    if wanted > LONGEST { Err(Fault::TooLong) } else { Ok(Parsed::Incomplete(wanted)) }
}

/// The length that the message's head states.
fn declared(message: &[u8]) -> Option<usize> {
    let &[_, a, b, c] = message.first_chunk()?;
    Some(u32::from_be_bytes([0, a, b, c]) as usize)
}

/// Bytes of the message that have still to come, as far as is known.
fn lacking(message: &[u8]) -> usize {
    let whole = MESSAGE_HEAD + declared(message).unwrap_or(1);
    whole.saturating_sub(message.len())
}

/// The body of a ClientHello.
fn read(body: &[u8]) -> Option<Hello> {
    let mut body = Cursor(body);
    // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let (suites, compressions) = (body.vector16()?, body.vector8()?);
    let odd = suites.0.len() % 2 != 0;
    if session.0.len() > 32 || suites.0.is_empty() || odd || compressions.0.is_empty() {
        return None;
    }
    let mut hello = Hello::default();
    if body.0.is_empty() {
        // Before TLS 1.3 there may be no extensions.
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut spoken) = (false, false);
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.number16()?, extensions.vector16()?);
        match kind {
            // RFC 8446 §4.2: no extension twice, so that nobody reads another one than we do.
            SERVER_NAME if named => return None,
            PROTOCOLS if spoken => return None,
            SERVER_NAME => (named, hello.name) = (true, server_name(content)?),
            PROTOCOLS => (spoken, hello.protocols) = (true, protocols(content)?),
            _ => {}
        }
    }
    Some(hello)
}

/// The list of RFC 6066 §3: one host name. Other kinds of names were never defined.
fn server_name(mut content: Cursor<'_>) -> Option<Option<String>> {
    let mut list = content.vector16()?;
    let (kind, name) = (list.take(1)?, list.vector16()?);
    if !content.0.is_empty() || !list.0.is_empty() || kind != [HOST_NAME] {
        return None;
    }
    let name = name.0.strip_suffix(b".").unwrap_or(name.0);
    let letter = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let empty_label = name.split(|&byte| byte == b'.').any(<[u8]>::is_empty);
    if empty_label || name.len() > LONGEST_NAME || !name.iter().all(letter) {
        return None;
    }
    Some(Some(String::from_utf8_lossy(name).to_ascii_lowercase()))
}

/// The list of RFC 7301 §3.1.
fn protocols(mut content: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.vector16()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.0.is_empty() {
            return None;
        }
        protocols.push(name.0.to_vec());
    }
    (content.0.is_empty() && !protocols.is_empty()).then_some(protocols)
}

/// Bytes that are taken from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    /// A vector with a length of one byte before it.
    fn vector8(&mut self) -> Option<Cursor<'a>> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length)).map(Cursor)
    }

    fn vector16(&mut self) -> Option<Cursor<'a>> {
        let length = self.number16()?;
        self.take(usize::from(length)).map(Cursor)
    }
}

/// The longest hello that is read, record heads included, in bytes.
pub const LONGEST: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;
const LARGEST_FRAGMENT: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;
const HOST_NAME: u8 = 0;
const LONGEST_NAME: usize = 253;

#[cfg(test)]
mod tests;
