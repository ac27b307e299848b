//! Stage 10: the answer's way out, and its record. Called by `pipeline`.
//!
//! Invariant: every exchange leaves exactly one record.

use crate::body::AnswerBody;
use crate::exchange::{AnsweredBy, Exchange, Transformed};

/// What the engine sends.
#[derive(Debug)]
pub enum Emitted {
    /// This.
    Answer(http::Response<AnswerBody>),
    /// Nothing: the connection or stream ends.
    Disconnect,
}

/// The stage.
#[derive(Debug)]
pub struct Emit;

impl Emit {
    /// Ends the exchange.
    pub fn finish(&self, _x: Exchange, answer: Transformed) -> Emitted {
        let Transformed(answer) = answer;
        if answer.by == AnsweredBy::Nobody {
            return Emitted::Disconnect;
        }
        let mut response = http::Response::new(answer.body);
        *response.status_mut() = answer.head.status;
        *response.headers_mut() = answer.head.headers;
        Emitted::Answer(response)
    }
}
