//! Entry functions for a fuzzer, and the properties that they check. Not part of the data path:
//! a test runs them over the stored corpus and over mutations of it on stable Rust. Called by
//! `tests/corpus.rs` here and by any fuzzer that can call a function with bytes.
//!
//! Invariant: none of them panics, whatever the bytes.

use crate::{Found, backend, frame, frontend, sasl, startup};

/// The packets that open a connection.
pub fn fuzz_opening(bytes: &[u8]) {
    if let Ok(Some((_, used))) = startup::opening(bytes) {
        assert!(used <= bytes.len(), "a packet longer than its bytes");
        let again = startup::opening(bytes.get(..used).unwrap_or_default());
        assert!(
            matches!(again, Ok(Some((_, n))) if n == used),
            "a packet that depends on what follows"
        );
    }
}

/// A client's stream of messages.
pub fn fuzz_frontend(bytes: &[u8]) {
    frames(bytes, |tag, body| {
        let _ = match tag {
            frontend::tag::PARSE => frontend::Parse::read(body).map(|p| p.query.len()),
            frontend::tag::BIND => frontend::Bind::read(body).map(|b| b.rest.len()),
            frontend::tag::DESCRIBE | frontend::tag::CLOSE => {
                frontend::subject(body).map(|(_, name)| name.len())
            }
            frontend::tag::EXECUTE => frontend::execute(body).map(<[u8]>::len),
            frontend::tag::QUERY => frontend::query(body).map(<[u8]>::len),
            _ => frontend::sasl_initial(body).map(|(name, _)| name.len()),
        };
    });
}

/// A server's stream of messages.
pub fn fuzz_backend(bytes: &[u8]) {
    frames(bytes, |tag, body| match tag {
        backend::tag::ERROR | backend::tag::NOTICE => {
            let fields = backend::Fields::new(body);
            let _ = (fields.code(), fields.message(), fields.is_fatal());
        }
        backend::tag::AUTHENTICATION => drop(backend::Authentication::read(body)),
        backend::tag::PARAMETER_STATUS => drop(backend::parameter(body)),
        backend::tag::BACKEND_KEY => drop(backend::key(body)),
        backend::tag::READY => drop(backend::ready(body)),
        _ => drop(backend::command(body)),
    });
}

/// The texts of a SCRAM exchange.
pub fn fuzz_sasl(bytes: &[u8]) {
    let _ = sasl::ClientFirst::read(bytes);
    let _ = sasl::ServerFirst::read(bytes, "r", 100_000);
    let _ = sasl::ClientFinal::read(bytes);
    let _ = sasl::server_final(bytes);
}

fn frames(bytes: &[u8], mut see: impl FnMut(u8, &[u8])) {
    let mut rest = bytes;
    while let Ok(Found::Whole(frame)) = frame::next(rest, 1 << 20) {
        assert!(frame.raw.len() >= frame::HEADER, "a message without a header");
        see(frame.tag, frame.body);
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
    }
}
