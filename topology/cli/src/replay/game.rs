//! The demo game protocol as a client speaks it: build a datagram, read an answer. Not for sockets.
//! Used by `udp`.
//!
//! Invariant: whatever bytes come back, reading them gives a value or `None`, never a panic.

/// What every datagram carries behind its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Who sends.
    pub(super) player: u32,
    /// Which of the player's datagrams, from 0.
    pub(super) sequence: u64,
    /// The client's clock when it was sent, nanoseconds from an origin of its own.
    pub(super) sent: u64,
}

/// An answer of a game server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// As the client sent it.
    pub(super) header: Header,
    /// The server's name as it stands on the wire.
    pub(super) server: &'a [u8],
}

/// Mark, player, sequence and clock.
pub(super) const SMALLEST: usize = 23;
/// What fits into one IPv4 datagram.
pub(super) const LARGEST: usize = 65_507;

/// Writes a request over the first [`SMALLEST`] bytes of `out`; the rest is padding.
pub(super) fn write(header: Header, out: &mut [u8]) {
    let fields: [&[u8]; 4] = [
        b"AQ1",
        &header.player.to_be_bytes(),
        &header.sequence.to_be_bytes(),
        &header.sent.to_be_bytes(),
    ];
    for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
}

/// Reads an answer; `None` for anything else.
pub(super) fn read(datagram: &[u8]) -> Option<Answer<'_>> {
    let rest = datagram.strip_prefix(b"AQ2")?;
    let (player, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (sent, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first()?;
    Some(Answer {
        header: Header {
            player: u32::from_be_bytes(*player),
            sequence: u64::from_be_bytes(*sequence),
            sent: u64::from_be_bytes(*sent),
        },
        server: rest.get(..usize::from(*length))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_answer_reads_back(player: u32, sequence: u64, sent: u64, name in "[a-z0-9-]{0,20}") {
            let header = Header { player, sequence, sent };
            let mut datagram = vec![0; SMALLEST];
            write(header, &mut datagram);
            prop_assert!(read(&datagram).is_none(), "a request is no answer");
            datagram[2] = b'2';
            datagram.push(name.len() as u8);
            datagram.extend_from_slice(name.as_bytes());
            prop_assert_eq!(read(&datagram), Some(Answer { header, server: name.as_bytes() }));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&noise);
            let _ = read(&[b"AQ2".as_slice(), &noise].concat());
        }
    }
}
