//! The four texts of a SCRAM exchange (RFC 5802 §7): read strictly, written exactly. Not for the
//! cryptography, which is in `pgpool`. Called by the logins on both sides.
//!
//! Invariant: a text longer than [`LONGEST`] is refused before it is looked at; numbers are bounded
//! while they are read.

/// Far above what any client or server sends, far below what would hurt.
pub const LONGEST: usize = 2048;

/// Without channel binding.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// With channel binding.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What the client says about channel binding (`gs2-cbind-flag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding<'a> {
    /// `n`: it cannot.
    Unsupported,
    /// `y`: it could, but believes that the server cannot. A sign of a downgrade when we offered it.
    NotOffered,
    /// `p=`: it does, with this kind of binding.
    Used(&'a str),
}

/// `n,,n=user,r=nonce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Channel binding.
    pub binding: Binding<'a>,
    /// The GS2 header with its commas, which the last message repeats in base64.
    pub header: &'a str,
    /// Everything after the header: part of what is signed.
    pub bare: &'a str,
    /// The client's nonce.
    pub nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Reads the message.
    ///
    /// # Errors
    /// It is not lawful, or has an authorisation identity or a mandatory extension.
    pub fn read(message: &'a [u8]) -> Result<Self, SaslError> {
        let text = text(message)?;
        let (flag, rest) = text.split_once(',').ok_or(SaslError::Layout("client-first"))?;
        let binding = match flag {
            "n" => Binding::Unsupported,
            "y" => Binding::NotOffered,
            _ => Binding::Used(flag.strip_prefix("p=").ok_or(SaslError::Layout("client-first"))?),
        };
        // PostgreSQL takes the user from the startup packet and refuses an authzid.
        let bare = rest.strip_prefix(',').ok_or(SaslError::Authzid)?;
        let header = text.get(..text.len() - bare.len()).unwrap_or_default();
        let mut fields = bare.split(',');
        fields
            .next()
            .and_then(|f| f.strip_prefix("n="))
            .ok_or(SaslError::Layout("client-first"))?;
        let nonce = attribute(fields.next(), "r=", "client-first")?;
        printable(nonce)?;
        Ok(Self { binding, header, bare, nonce })
    }

    /// Writes one: the header, and the part after it.
    pub fn write(header: &str, nonce: &str) -> (String, String) {
        // The name is empty: PostgreSQL ignores it (manual, "SASL Authentication").
        let bare = format!("n=,r={nonce}");
        (format!("{header}{bare}"), bare)
    }
}

/// `r=nonce,s=salt,i=iterations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFirst<'a> {
    /// Both nonces, joined.
    pub nonce: &'a str,
    /// Base64.
    pub salt: &'a str,
    /// How often the password is hashed.
    pub iterations: u32,
}

impl<'a> ServerFirst<'a> {
    /// Reads the message; the nonce must begin with our own and be longer (RFC 5802 §5.1).
    ///
    /// # Errors
    /// It is not lawful, the nonce is not an answer to ours, or the iterations are zero or above
    /// `limit`: a hostile server could otherwise keep us busy for hours.
    pub fn read(message: &'a [u8], own: &str, limit: u32) -> Result<Self, SaslError> {
        let mut fields = text(message)?.split(',');
        let nonce = attribute(fields.next(), "r=", "server-first")?;
        let salt = attribute(fields.next(), "s=", "server-first")?;
        let count = attribute(fields.next(), "i=", "server-first")?;
        printable(nonce)?;
        if nonce.len() <= own.len() || !nonce.starts_with(own) {
            return Err(SaslError::Nonce);
        }
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let iterations: u32 =
            if digits { count.parse().map_err(|_| SaslError::Iterations)? } else { 0 };
        if iterations == 0 || iterations > limit {
            return Err(SaslError::Iterations);
        }
        Ok(Self { nonce, salt, iterations })
    }

    /// Writes one.
    pub fn write(nonce: &str, salt: &str, iterations: u32) -> String {
        format!("r={nonce},s={salt},i={iterations}")
    }
}

/// `c=binding,r=nonce,p=proof`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFinal<'a> {
    /// Base64 of header and channel binding data.
    pub binding: &'a str,
    /// Both nonces.
    pub nonce: &'a str,
    /// Base64.
    pub proof: &'a str,
    /// Everything before `,p=`: part of what is signed.
    pub without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    /// Reads the message.
    ///
    /// # Errors
    /// It is not lawful.
    pub fn read(message: &'a [u8]) -> Result<Self, SaslError> {
        let text = text(message)?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or(SaslError::Layout("client-final"))?;
        let mut fields = without_proof.split(',');
        let binding = attribute(fields.next(), "c=", "client-final")?;
        let nonce = attribute(fields.next(), "r=", "client-final")?;
        Ok(Self { binding, nonce, proof, without_proof })
    }

    /// Writes the part that is signed.
    pub fn write_without_proof(binding: &str, nonce: &str) -> String {
        format!("c={binding},r={nonce}")
    }
}

/// `v=signature`; an `e=…` is an error.
///
/// # Errors
/// The server refused, or the message is not lawful.
pub fn server_final(message: &[u8]) -> Result<&str, SaslError> {
    let text = text(message)?;
    if text.starts_with("e=") {
        return Err(SaslError::Refused);
    }
    let first = text.split(',').next();
    attribute(first, "v=", "server-final")
}

fn text(message: &[u8]) -> Result<&str, SaslError> {
    if message.len() > LONGEST {
        return Err(SaslError::TooLong);
    }
    std::str::from_utf8(message).map_err(|_| SaslError::Encoding)
}

fn attribute<'a>(
    field: Option<&'a str>,
    name: &str,
    message: &'static str,
) -> Result<&'a str, SaslError> {
    field.and_then(|f| f.strip_prefix(name)).ok_or(SaslError::Layout(message))
}

/// RFC 5802 §7: a nonce is printable ASCII without a comma.
fn printable(nonce: &str) -> Result<(), SaslError> {
    let fine = !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if fine { Ok(()) } else { Err(SaslError::Nonce) }
}

/// Why a SCRAM message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// Longer than [`LONGEST`].
    #[error("a SASL message longer than {LONGEST} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("a SASL message that is not UTF-8")]
    Encoding,
    /// A part is missing or stands at the wrong place.
    #[error("a {0} message that RFC 5802 does not allow")]
    Layout(&'static str),
    /// The client wants to act as somebody else.
    #[error("an authorisation identity, which PostgreSQL does not know")]
    Authzid,
    /// Empty, not printable, or not an answer to ours.
    #[error("a nonce that is not lawful or not the continuation of ours")]
    Nonce,
    /// None, or more than we are willing to compute.
    #[error("an iteration count that is zero or above the limit")]
    Iterations,
    /// The other side said no.
    #[error("the server refused the proof")]
    Refused,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// P4: the exchange printed in RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc() {
        let first = ClientFirst::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("reads");
        assert_eq!((first.binding, first.header), (Binding::Unsupported, "n,,"));
        assert_eq!(first.bare, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let server = ServerFirst::read(server, first.nonce, 5000).expect("reads");
        assert_eq!(server.iterations, 4096);
        let last = ClientFinal::read(b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").expect("reads");
        assert_eq!(last.nonce, server.nonce);
        assert_eq!(
            server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            Ok("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
    }

    /// O5: what a hostile peer may send.
    #[test]
    fn refused() {
        assert_eq!(ClientFirst::read(b"n,a=admin,n=u,r=x"), Err(SaslError::Authzid));
        assert_eq!(ClientFirst::read(&[b'n'; LONGEST + 1]), Err(SaslError::TooLong));
        assert!(ClientFirst::read(b"n,,m=ext,n=u,r=x").is_err());
        for bad in ["r=ab,s=x,i=4096", "r=zz1,s=x,i=1"] {
            assert_eq!(ServerFirst::read(bad.as_bytes(), "ab", 10), Err(SaslError::Nonce));
        }
        for bad in ["i=0", "i=4294967296", "i=2147483647", "i=+5", "i="] {
            let text = format!("r=abc,s=x,{bad}");
            let read = ServerFirst::read(text.as_bytes(), "ab", 100_000);
            assert_eq!(read, Err(SaslError::Iterations), "{bad}");
        }
        assert_eq!(server_final(b"e=other-error"), Err(SaslError::Refused));
    }

    proptest! {
        #[test]
        fn any_bytes(message in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ClientFirst::read(&message);
            let _ = ServerFirst::read(&message, "x", 10);
            let _ = ClientFinal::read(&message);
            let _ = server_final(&message);
        }
    }
}
