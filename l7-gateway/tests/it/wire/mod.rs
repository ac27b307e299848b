//! Bytes on the wire, from the tables in `tests/corpus/`: what clients may send, what services may
//! answer. The engine is never called: only bytes go in and come out.

mod answer;
mod corpus;
mod downgrades;
mod recorder;
mod requests;
mod services;
