//! The PROXY protocol, versions 1 and 2: parse, read, write. Not for deciding whose header is
//! believed: the tier does, before it reads one. Called by l4-nlb (both ways) and the gateway (in).
//! Section numbers are those of HAProxy's `proxy-protocol.txt`.
//!
//! Invariant: a header is whole and valid or it is a fault; exactly its bytes are consumed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What stands at the start of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header may stand here but is not whole yet: at least so many bytes in all are needed.
    Incomplete(usize),
    /// A header.
    Header(Header),
}

/// A PROXY header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's address and the one that it connected to; `None` for a connection that the
    /// sender made itself (LOCAL) or whose addresses it does not know: use the socket's own.
    pub addresses: Option<Addresses>,
    /// Version 2's further fields, checked for form; CRC32c is verified and left out.
    pub tlvs: Vec<Tlv>,
    /// Bytes that the header takes.
    pub length: usize,
}

impl Header {
    /// The value of the first field of this kind.
    pub fn field(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value.as_slice())
    }
}

/// Both ends of the proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Who connected.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// A type-length-value field (§2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Its type, `PP2_TYPE_…`.
    pub kind: u8,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Why something is not a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Neither signature.
    #[error("no PROXY header: the connection does not begin with its signature")]
    Signature,
    /// Version 1: not the form of §2.1, or longer than 107 bytes.
    #[error("the PROXY header line is malformed")]
    Line,
    /// Version 2: version or command unknown.
    #[error("the PROXY header's version and command byte is {0:#04x}")]
    Command(u8),
    /// Version 2: the transport is not a byte stream over IP, or the block is too short for it.
    #[error("the PROXY header's family byte is {0:#04x} with an address block of {1} bytes")]
    Family(u8, usize),
    /// Longer than [`LONGEST`].
    #[error("the PROXY header is {0} bytes long, over the limit of {LONGEST}")]
    TooLong(usize),
    /// A datagram ends within its header.
    #[error("the datagram ends within its PROXY header, after {0} bytes")]
    Cut(usize),
    /// A field reaches past the end.
    #[error("a field of the PROXY header is cut off")]
    Tlv,
    /// The connection's id is longer than [`LONGEST_ID`].
    #[error("the PROXY header's connection id is {0} bytes long, over the limit of {LONGEST_ID}")]
    Id(usize),
    /// CRC32c does not match.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// The bytes are not a header.
    #[error(transparent)]
    Header(#[from] Fault),
    /// The connection failed or ended before the header was whole.
    #[error("the connection ended within the PROXY header: {0}")]
    Io(#[from] std::io::Error),
}

/// The header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
    if bytes.starts_with(SIGNATURE) {
        return parse_v2(bytes, STREAM);
    }
    if bytes.starts_with(PREFIX) {
        return parse_v1(bytes);
    }
    if SIGNATURE.starts_with(bytes) || PREFIX.starts_with(bytes) {
        return Ok(Parsed::Incomplete(SHORTEST));
    }
    Err(Fault::Signature)
}

/// The header at the start of a datagram: version 2, for datagrams, and whole.
pub fn parse_datagram(bytes: &[u8]) -> Result<Header, Fault> {
    if !bytes.starts_with(SIGNATURE) {
        return Err(Fault::Signature);
    }
    match parse_v2(bytes, DATAGRAM)? {
        Parsed::Header(header) => Ok(header),
        Parsed::Incomplete(_) => Err(Fault::Cut(bytes.len())),
    }
}

/// Reads exactly one header and not a byte more, so that what follows (TLS, HTTP) is still in the
/// stream. Sets no time limit. Not cancel safe: give up the connection.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, ReadFault> {
    let mut bytes = vec![0; SHORTEST];
    stream.read_exact(&mut bytes).await?;
    loop {
        match parse(&bytes)? {
            Parsed::Header(header) => return Ok(header),
            Parsed::Incomplete(wanted) => {
                let have = bytes.len();
                bytes.resize(wanted.max(have + 1), 0);
                stream.read_exact(bytes.get_mut(have..).unwrap_or_default()).await?;
            }
        }
    }
}

/// Appends a version 1 header. Addresses of two families are written as IPv6.
pub fn v1(addresses: Option<Addresses>, out: &mut Vec<u8>) {
    use std::io::Write;
    let Some(Addresses { source, destination }) = addresses else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let (from, to) = same_family(source.ip(), destination.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from_port, to_port) = (source.port(), destination.port());
    // Writing to a Vec cannot fail.
    let _written = write!(out, "PROXY {family} {from} {to} {from_port} {to_port}\r\n");
}

/// Appends a version 2 header for a byte stream, with its checksum (§2.2.3); `None` writes a LOCAL
/// one. What does not fit into [`LONGEST`] is left out.
pub fn v2(addresses: Option<Addresses>, tlvs: &[Tlv], out: &mut Vec<u8>) {
    write_v2(addresses, STREAM, tlvs, out);
}

/// Appends a version 2 header for a datagram: it stands before the payload of each one.
pub fn v2_datagram(addresses: Addresses, out: &mut Vec<u8>) {
    write_v2(Some(addresses), DATAGRAM, &[], out);
}

fn write_v2(addresses: Option<Addresses>, transport: u8, tlvs: &[Tlv], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(SIGNATURE);
    let Some(Addresses { source, destination }) = addresses else {
        out.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]);
        return;
    };
    match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[PROXY, INET | transport, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[PROXY, INET6 | transport, 0, 0]);
            out.extend_from_slice(&mapped(from).octets());
            out.extend_from_slice(&mapped(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    for tlv in tlvs {
        if let Ok(length) = u16::try_from(tlv.value.len())
            && out.len() - start + 3 + tlv.value.len() <= LONGEST
        {
            out.push(tlv.kind);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&tlv.value);
        }
    }
    let room = out.len() - start + SUM.len() <= LONGEST;
    if room {
        out.extend_from_slice(&SUM);
    }
    let header = out.get_mut(start..).unwrap_or_default();
    let length = (header.len().saturating_sub(SHORTEST_V2)) as u16;
    if let Some(bytes) = header.get_mut(SHORTEST_V2 - 2..SHORTEST_V2) {
        bytes.copy_from_slice(&length.to_be_bytes());
    }
    let sum = crc32c([header, &[], &[]]);
    if let (true, Some(bytes)) = (room, header.last_chunk_mut::<4>()) {
        *bytes = sum.to_be_bytes();
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, Fault> {
    // §2.1: the longest line, CR LF included, is 107 bytes.
    let head = bytes.get(..LONGEST_V1.min(bytes.len())).unwrap_or_default();
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        let cut = head.len() == LONGEST_V1;
        return if cut { Err(Fault::Line) } else { Ok(Parsed::Incomplete(head.len() + 1)) };
    };
    let line = head.get(PREFIX.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(Fault::Line)?;
    let length = end + 2;
    // §2.1: after UNKNOWN the rest of the line is ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Parsed::Header(Header { length, ..Header::default() }));
    }
    let addresses = addresses_v1(line).ok_or(Fault::Line)?;
    Ok(Parsed::Header(Header { addresses: Some(addresses), tlvs: Vec::new(), length }))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, single spaces, no leading zeros in ports.
fn addresses_v1(line: &str) -> Option<Addresses> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        let port = word.parse::<u16>().ok()?;
        (port.to_string() == word).then_some(port)
    };
    let (source_port, destination_port) = (port()?, port()?);
    words.next().is_none().then_some(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn parse_v2(bytes: &[u8], transport: u8) -> Result<Parsed, Fault> {
    let Some(&[command, family, high, low]) = bytes.get(12..).and_then(<[u8]>::first_chunk) else {
        return Ok(Parsed::Incomplete(SHORTEST_V2));
    };
    if command != LOCAL && command != PROXY {
        return Err(Fault::Command(command));
    }
    let length = SHORTEST_V2 + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Fault::TooLong(length));
    }
    let Some(whole) = bytes.get(..length) else { return Ok(Parsed::Incomplete(length)) };
    let block = whole.get(SHORTEST_V2..).unwrap_or_default();
    // §2.2: of a LOCAL header the receiver discards the addresses, and takes the socket's own.
    if command == LOCAL {
        return Ok(Parsed::Header(Header { length, ..Header::default() }));
    }
    let (addresses, rest) = block_v2(family, transport, block)?;
    let tlvs = tlvs(whole, rest)?;
    Ok(Parsed::Header(Header { addresses, tlvs, length }))
}

/// The addresses of the block, and what follows them.
fn block_v2(family: u8, transport: u8, block: &[u8]) -> Result<(Option<Addresses>, &[u8]), Fault> {
    let fault = Fault::Family(family, block.len());
    let size = match family & 0xf0 {
        _ if family == UNSPECIFIED => 0,
        _ if family & 0x0f != transport => return Err(fault),
        INET => 12,
        INET6 => 36,
        UNIX => 216,
        _ => return Err(fault),
    };
    let (block, rest) = block.split_at_checked(size).ok_or(fault)?;
    let end = |ips: &[IpAddr], at: usize, ports: usize| -> Option<SocketAddr> {
        let port = block.get(ports..).and_then(<[u8]>::first_chunk)?;
        Some(SocketAddr::new(*ips.get(at)?, u16::from_be_bytes(*port)))
    };
    let ips: Vec<IpAddr> = match family & 0xf0 {
        INET => {
            block.chunks_exact(4).filter_map(<[u8]>::first_chunk::<4>).map(|&o| o.into()).collect()
        }
        INET6 => block
            .chunks_exact(16)
            .filter_map(<[u8]>::first_chunk::<16>)
            .map(|&o| o.into())
            .collect(),
        _ => return Ok((None, rest)),
    };
    let ports = size - 4;
    let both = end(&ips, 0, ports).zip(end(&ips, 1, ports + 2));
    Ok((both.map(|(source, destination)| Addresses { source, destination }), rest))
}

/// The fields, of which a CRC32c is checked over the whole header (§2.2.3).
fn tlvs(whole: &[u8], mut rest: &[u8]) -> Result<Vec<Tlv>, Fault> {
    let mut tlvs = Vec::new();
    while !rest.is_empty() {
        let (&[kind, high, low], after) = rest.split_first_chunk().ok_or(Fault::Tlv)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = after.split_at_checked(length).ok_or(Fault::Tlv)?;
        if kind == CRC32C {
            let sent = value.try_into().map(u32::from_be_bytes).map_err(|_| Fault::Tlv)?;
            // The sum is taken with its own four bytes at zero.
            let before = whole.get(..whole.len() - after.len() - 4).unwrap_or_default();
            if crc32c([before, &[0; 4], after]) != sent {
                return Err(Fault::Checksum);
            }
        } else if kind == UNIQUE_ID && length > LONGEST_ID {
            return Err(Fault::Id(length));
        } else if kind != NOOP {
            tlvs.push(Tlv { kind, value: value.to_vec() });
        }
        rest = after;
    }
    Ok(tlvs)
}

/// CRC-32C (RFC 3720 §12.1).
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(!0_u32, |crc, &byte| {
        let at = usize::from((crc as u8) ^ byte);
        (crc >> 8) ^ REMAINDERS.get(at).copied().unwrap_or_default()
    })
}

/// What each byte adds to the sum.
const REMAINDERS: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Both as IPv4 where both are, else both as IPv6.
fn same_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (mapped(a).into(), mapped(b).into()) }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The longest header that is read or written, in bytes. The protocol allows 65 551; nobody sends
/// them, and this is what a stranger can make us hold.
pub const LONGEST: usize = 4096;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: &[u8] = b"PROXY ";
/// `PROXY UNKNOWN\r\n` is 15 bytes; version 2 has 16 and more.
const SHORTEST: usize = 15;
const SHORTEST_V2: usize = 16;
const LONGEST_V1: usize = 107;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
/// Address families, the upper half of the byte; the lower half is the transport.
const INET: u8 = 0x10;
const INET6: u8 = 0x20;
const UNIX: u8 = 0x30;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;
const CRC32C: u8 = 0x03;
const NOOP: u8 = 0x04;
/// A checksum field before its value is known.
const SUM: [u8; 7] = [CRC32C, 0, 4, 0, 0, 0, 0];
/// PP2_TYPE_ALPN: the protocol spoken above (RFC 7301).
pub const ALPN: u8 = 0x01;
/// PP2_TYPE_AUTHORITY: the host name that the client asked for, as in TLS's server name.
pub const AUTHORITY: u8 = 0x02;
/// PP2_TYPE_UNIQUE_ID: names the connection on its way, at most [`LONGEST_ID`] bytes.
pub const UNIQUE_ID: u8 = 0x05;
/// §2.2.5
pub const LONGEST_ID: usize = 128;

#[cfg(test)]
mod tests;
