//! Requests held against their description, where a route asks for it. Called by `mod`.
//!
//! Invariant: what passes goes on as it came, byte for byte.

use crate::body::RequestBody;
use crate::coding::Coding;
use crate::contract::{self, Breach, Contract};
use crate::exchange::Request;
use crate::transform::{Refused, TransformError, gathered, look, plain};

/// Reads as much of a request as its description speaks of.
///
/// # Errors
/// With the answer that the client gets.
pub async fn judged(contract: &Contract, request: &mut Request) -> Result<(), Refused> {
    let (target, body) = (&request.target, &mut request.body);
    let meant = contract.find(&request.method, &target.path).map_err(Refused::Breach)?;
    meant.head(target.query.as_deref(), &request.headers).map_err(Refused::Breach)?;
    if meant.has_body() {
        look(body).await.map_err(|fault| Refused::Request(TransformError::Body(fault)))?;
    }
    let schema = meant.kind(&request.headers, body.is_empty()).map_err(Refused::Breach)?;
    let Some(schema) = schema else { return Ok(()) };
    if Coding::of(&request.headers).is_err() {
        return Err(Refused::Breach(Breach::Coding));
    }
    let limits = body.limits();
    let read = gathered(body, contract.most).await;
    let bytes = read.map_err(|fault| Refused::Request(TransformError::Body(fault)))?;
    let text = plain(&request.headers, bytes.clone(), contract.most).map_err(Refused::Request)?;
    contract::body(schema, &text, contract.most).map_err(Refused::Breach)?;
    *body = RequestBody::whole(bytes, limits);
    Ok(())
}
