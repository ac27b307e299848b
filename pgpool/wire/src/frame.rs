//! Where one message ends and the next begins: a type byte and a length of four bytes. Not for what
//! is inside. Called by the relay for every byte that passes, so it borrows and never copies.
//!
//! Invariant: a length is compared with its limit before it takes part in any arithmetic.

/// Type byte and length field.
pub const HEADER: usize = 5;

/// The longest body that PostgreSQL itself accepts (its largest allocation is 1 GiB − 1).
pub const LONGEST: u32 = 0x3fff_ffff;

/// The first five bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type byte.
    pub tag: u8,
    /// Bytes after the header.
    pub body: u32,
}

impl Head {
    /// Reads a header; `None` while fewer than five bytes are there.
    ///
    /// # Errors
    /// The declared length is below 4 or above `limit` + 4.
    pub fn read(bytes: &[u8], limit: u32) -> Result<Option<Self>, FrameError> {
        let [tag, a, b, c, d, ..] = *bytes else { return Ok(None) };
        let declared = u32::from_be_bytes([a, b, c, d]);
        let Some(body) = declared.checked_sub(4) else {
            return Err(FrameError::TooShort { tag, declared });
        };
        if body > limit.min(LONGEST) {
            return Err(FrameError::TooLong { tag, body, limit });
        }
        Ok(Some(Self { tag, body }))
    }

    /// Header and body together.
    pub fn total(self) -> usize {
        HEADER + self.body as usize
    }
}

/// One whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type byte.
    pub tag: u8,
    /// What follows the header.
    pub body: &'a [u8],
    /// Header and body, as they came.
    pub raw: &'a [u8],
}

/// What stands at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A message that is there in full.
    Whole(Frame<'a>),
    /// A message of which only the header and some of the body have come.
    Partial(Head, &'a [u8]),
    /// Fewer than five bytes.
    Nothing,
}

/// Looks at the front of `bytes`.
///
/// # Errors
/// The length field is impossible or above `limit`; nothing after it can be trusted.
pub fn next(bytes: &[u8], limit: u32) -> Result<Found<'_>, FrameError> {
    let Some(head) = Head::read(bytes, limit)? else { return Ok(Found::Nothing) };
    match bytes.split_at_checked(head.total()) {
        Some((raw, _)) => {
            let body = raw.get(HEADER..).unwrap_or_default();
            Ok(Found::Whole(Frame { tag: head.tag, body, raw }))
        }
        None => Ok(Found::Partial(head, bytes.get(HEADER..).unwrap_or_default())),
    }
}

/// Appends one message whose body `fill` writes. A body longer than [`LONGEST`] is a mistake of
/// the caller: the messages that we make are small.
pub fn put(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    put_sized(out, fill);
}

/// As [`put`], without a type byte: the packets that open a connection.
pub(crate) fn put_sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends `text` and its zero byte; zero bytes inside would end it early and are left out.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    if text.contains(&0) {
        text.split(|byte| *byte == 0).for_each(|part| out.extend_from_slice(part));
    } else {
        out.extend_from_slice(text);
    }
    out.push(0);
}

/// A length field that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length does not even cover itself.
    #[error("message {:?} declares a length of {declared}, less than the length field", *tag as char)]
    TooShort {
        /// Type byte.
        tag: u8,
        /// The field's value.
        declared: u32,
    },
    /// The body is longer than this side may send.
    #[error("message {:?} declares {body} bytes, the limit is {limit}", *tag as char)]
    TooLong {
        /// Type byte.
        tag: u8,
        /// Declared body length.
        body: u32,
        /// The limit that it exceeds.
        limit: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_that_cannot_be() {
        assert_eq!(next(b"Q\0\0\0\x03", 10), Err(FrameError::TooShort { tag: b'Q', declared: 3 }));
        assert!(matches!(next(b"Q\xff\xff\xff\xff", u32::MAX), Err(FrameError::TooLong { .. })));
        assert!(matches!(next(b"Q\0\0\0\x0f", 10), Err(FrameError::TooLong { body: 11, .. })));
        assert_eq!(next(b"Q\0\0\0", 10), Ok(Found::Nothing));
    }

    proptest! {
        /// P1: messages put one after another are found again, whatever the cut.
        #[test]
        fn put_and_next_agree(
            messages in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 0usize..400,
        ) {
            let mut bytes = Vec::new();
            for (tag, body) in &messages {
                put(&mut bytes, *tag, |out| out.extend_from_slice(body));
            }
            let mut rest = &bytes[..cut.min(bytes.len())];
            let mut seen = 0;
            while let Found::Whole(frame) = next(rest, 1000)? {
                prop_assert_eq!(frame.tag, messages[seen].0);
                prop_assert_eq!(frame.body, &messages[seen].1[..]);
                rest = &rest[frame.raw.len()..];
                seen += 1;
            }
            prop_assert!(rest.len() < 45 || cut > bytes.len());
        }
    }
}
