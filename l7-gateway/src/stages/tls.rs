//! Stage 1: the handshake. Called by `server`.
//!
//! Invariant: nothing is read from a client for longer than the handshake timeout.
