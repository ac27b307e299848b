//! Whether issuers give keys that can be used, and whoever else is asked answers. Not for tokens. Called by
//! `live`.
//!
//! Invariant: keys are read by the gateway's own code.

use common::fetch::{Fetch as _, HttpFetch};
use http_body_util::Empty;
use l7_gateway::stages::authn::key_file::{Audience, LARGEST_SET, key_set};
use topology::gateway::{Group, Issuer, IssuerKeys};
use topology::problem::Problem;
use topology::units::At;

use super::{Trial, bounded, wrong};

/// Of one group.
pub(super) fn trials<'t>(group: &'t Group, trials: &mut Vec<Trial<'t>>) {
    for issuer in &group.issuers {
        match &issuer.keys {
            IssuerKeys::Url(at) => trials.push(Box::pin(keys(issuer, at))),
            IssuerKeys::Asked(asked) => trials.push(Box::pin(answers(&asked.url))),
            IssuerKeys::JwksFile(_) | IssuerKeys::Key(_) => {}
        }
    }
    let policies = group.routes.iter().map(|route| &route.policy).chain(&group.unmatched);
    for asked in policies.filter_map(|policy| policy.authorize.as_ref()) {
        trials.push(Box::pin(answers(&asked.url)));
    }
}

async fn keys(issuer: &Issuer, at: &At<String>) -> Vec<Problem> {
    let hint =
        "correct the address, or ask whoever runs the issuer; until then every token is refused";
    let told = |why: String| {
        vec![wrong(at.place, format!("issuer {} gives no keys: {why}", issuer.name), hint)]
    };
    let from = match HttpFetch::new(&at.value) {
        Ok(from) => from,
        Err(error) => return told(error.to_string()),
    };
    let text = match bounded(from.fetch(LARGEST_SET)).await {
        Ok(text) => text,
        Err(why) => return told(why),
    };
    match key_set(&text, &issuer.algorithms, Audience::Public) {
        Ok(read) if read.keys.is_empty() => told("none is for its algorithms".to_owned()),
        Ok(_) => Vec::new(),
        Err(fault) => told(fault.to_string()),
    }
}

/// Somebody takes connections there, over TLS where that is asked for.
async fn answers(at: &At<String>) -> Vec<Problem> {
    let hint = "start it, or correct the address";
    let told = |why: String| vec![wrong(at.place, format!("nobody answers: {why}"), hint)];
    let whom = match HttpFetch::new(&at.value) {
        Ok(whom) => whom,
        Err(error) => return told(error.to_string()),
    };
    match bounded(whom.open::<Empty<bytes::Bytes>>()).await {
        Ok(_) => Vec::new(),
        Err(why) => told(why),
    }
}
