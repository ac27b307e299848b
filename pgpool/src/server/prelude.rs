//! What a server is told before anybody uses it: the database's `connect_query`. Not for its settings, which go
//! with the login. Called for each connection of a pool; after a reset the query is run again by `pool::reset`.
//!
//! Invariant: what the query reports counts as the server's own; one that fails, or leaves a transaction open, is
//! the end of the connection.

use pgpool_wire::backend::{self, Fields, Status, tag};
use pgpool_wire::{SqlState, frontend};
use tokio::io::AsyncWriteExt;

use super::connect::{self, ConnectError, Ready};

/// Bytes that may come in answer.
const MOST_BYTES: usize = 1 << 20;

/// Runs it. Give it a time.
///
/// # Errors
/// It failed, or its answer is none of a query.
pub async fn run(ready: &mut Ready, sql: &str) -> Result<(), ConnectError> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql.as_bytes());
    ready.io.write_all(&out).await?;
    let (mut input, mut seen) = (Vec::new(), 0);
    let mut fault: Option<(Option<SqlState>, String)> = None;
    loop {
        let (tag, body) = connect::read(&mut ready.io, &mut input).await?;
        seen += body.len();
        if seen > MOST_BYTES {
            return Err(ConnectError::Unexpected);
        }
        match tag {
            tag::ERROR => {
                let fields = Fields::new(&body);
                fault = fault.or_else(|| Some((fields.code(), fields.message())));
            }
            tag::PARAMETER_STATUS => ready.report(&body)?,
            tag::NOTICE
            | tag::NOTIFICATION
            | tag::ROW_DESCRIPTION
            | tag::DATA_ROW
            | tag::COMMAND_COMPLETE
            | tag::EMPTY_QUERY => {}
            tag::READY => {
                return match fault {
                    Some((code, message)) => Err(ConnectError::Prelude(code, message)),
                    None if input.is_empty() && backend::ready(&body)? == Status::Idle => Ok(()),
                    None => Err(ConnectError::Unexpected),
                };
            }
            _ => return Err(ConnectError::Unexpected),
        }
    }
}
