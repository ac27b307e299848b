//! Requests held against their description, where a route asks for it. Called by `mod`.
//!
//! Invariant: what passes goes on as it came, byte for byte.

use http_body_util::BodyExt as _;

use crate::body::{BodyFault, RequestBody};
use crate::coding::Coding;
use crate::contract::{self, Breach, Contract};
use crate::exchange::Request;
use crate::transform::{Refused, TransformError, gathered, plain};

/// Reads as much of a request as its description speaks of.
///
/// # Errors
/// With the answer that the client gets.
pub async fn judged(contract: &Contract, request: &mut Request) -> Result<(), Refused> {
    let (target, body) = (&request.target, &mut request.body);
    let meant = contract.find(&request.method, &target.path).map_err(Refused::Breach)?;
    meant.head(target.query.as_deref(), &request.headers).map_err(Refused::Breach)?;
    if meant.has_body() && !body.is_empty() {
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
    contract::body(schema, &text).map_err(Refused::Breach)?;
    *body = RequestBody::whole(bytes, limits);
    Ok(())
}

/// Reads until something comes, and puts it back: a body that ends without a byte is none, however it is framed.
async fn look(body: &mut RequestBody) -> Result<(), BodyFault> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data()
            && !data.is_empty()
        {
            body.give_back(vec![data]);
            return Ok(());
        }
    }
    let limits = body.limits();
    *body = RequestBody::whole(bytes::Bytes::new(), limits);
    Ok(())
}
