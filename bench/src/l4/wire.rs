//! What a datagram of the generators says: which run, which flow, which number, when it was sent.
//! Not a protocol of the product.
//!
//! Invariant: what `write` wrote, `read` reads; a foreign or short datagram reads as `None`.

use std::net::{IpAddr, Ipv4Addr};

/// Bytes of the header; a datagram is at least as long.
pub const LENGTH: usize = 32;

/// A datagram that any server sends back as it is: the question of health checks.
pub const ALIVE: &str = "alive?";

const MAGIC: [u8; 3] = *b"aqb";

/// The header of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the server sends it back.
    pub echo: bool,
    /// The run: a number that is used once.
    pub run: u32,
    /// The flow within the run.
    pub flow: u32,
    /// The number of the datagram within its flow.
    pub sequence: u64,
    /// When it was due, on [`super::clock`].
    pub due: u64,
    /// The endpoint that answered.
    pub endpoint: Option<Ipv4Addr>,
}

impl Header {
    /// Writes it to the beginning of `bytes`, which are at least [`LENGTH`].
    pub fn write(&self, bytes: &mut [u8]) {
        let endpoint = self.endpoint.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut out = Vec::with_capacity(LENGTH);
        out.extend(MAGIC);
        out.push(u8::from(self.echo));
        out.extend(self.run.to_le_bytes());
        out.extend(self.flow.to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.due.to_le_bytes());
        out.extend(endpoint.octets());
        bytes[..LENGTH].copy_from_slice(&out);
    }

    /// Reads the beginning of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.first_chunk()?;
        let rest = bytes.strip_prefix(&MAGIC)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        let endpoint = Ipv4Addr::new(bytes[28], bytes[29], bytes[30], bytes[31]);
        Some(Self {
            echo: rest[0] == 1,
            run: number(4),
            flow: number(8),
            sequence: long(12),
            due: long(20),
            endpoint: (!endpoint.is_unspecified()).then_some(endpoint),
        })
    }

    /// Marks a datagram as answered by `endpoint`.
    pub fn sign(bytes: &mut [u8], endpoint: IpAddr) {
        if let (IpAddr::V4(v4), Some(place)) = (endpoint, bytes.get_mut(28..32)) {
            place.copy_from_slice(&v4.octets());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_written() {
        let header = Header {
            echo: true,
            run: 7,
            flow: 1 << 20,
            sequence: u64::MAX - 3,
            due: 1 << 50,
            endpoint: None,
        };
        let mut bytes = [0_u8; 64];
        header.write(&mut bytes);
        assert_eq!(Header::read(&bytes), Some(header));
        Header::sign(&mut bytes, "10.0.0.9".parse().unwrap());
        assert_eq!(Header::read(&bytes).unwrap().endpoint, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(Header::read(&bytes[..31]), None);
        assert_eq!(Header::read(&[0; 64]), None);
    }
}
