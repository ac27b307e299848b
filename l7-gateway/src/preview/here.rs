//! A group as far as this host has what it names: certificates, keys and directories may be another
//! host's. Not for starting. Called by `preview`.
//!
//! Invariant: indices stay what they are; what is taken out is told with its place.

use common::observe::Observer;
use common::tls::server::Server;
use topology::Place;
use topology::gateway::{Group, IssuerKeys, KeySource, Login};
use topology::units::At;

use crate::contract::Contract;
use crate::stages::authn::api_key::directory::Directory;
use crate::stages::authn::jwks::Keys;
use crate::stages::dispatch::files::Site;
use crate::stages::dispatch::service::Upstream;
use crate::stages::rate_limit::Limits;
use crate::stages::request_transform::proof::Prover;
use crate::transcode::Interface;

type Absent = Vec<(Place, String)>;

/// The group without what is not here or would be asked, and what that is.
pub(super) fn of(group: &Group) -> (Group, Absent) {
    let (mut group, mut absent) = (group.clone(), Vec::new());
    // Counters and lists elsewhere: nobody is asked.
    (group.limit_store, group.denylist, group.cache) = (None, None, None);
    keys(&mut group, &mut absent);
    let mut lacks =
        |place: Place, error: &dyn std::fmt::Display| absent.push((place, error.to_string()));
    if let Some(error) = group.tls.as_ref().and_then(|tls| Server::new(tls, &[], None).err()) {
        lacks(error.place(), &error);
        group.tls = None;
    }
    let proves = group.signed_identity.as_ref().map(|model| Prover::new(model, &group));
    if let Some(Err(error)) = proves {
        lacks(error.place(), &error);
        group.signed_identity = None;
    }
    if group.device_cookie.is_some()
        && let Err(error) = Limits::new(&group, Observer::new("preview"))
    {
        lacks(error.place(), &error);
        group.device_cookie = None;
    }
    for files in &mut group.files {
        if let Err(error) = Site::new(files) {
            lacks(error.place(), &error);
            files.directory.value = "/".into();
        }
    }
    for route in &mut group.routes {
        if let Some(error) = route.transcode.as_ref().and_then(|model| Interface::new(model).err())
        {
            lacks(error.place(), &error);
            route.transcode = None;
        }
    }
    descriptions(&mut group, &mut lacks);
    for upstream in &mut group.upstreams {
        if let Err(error) = Upstream::new(upstream, &[]) {
            lacks(error.place(), &error);
            upstream.tls = None;
        }
    }
    (group, absent)
}

/// Descriptions of requests; one that several places name is told once.
fn descriptions(group: &mut Group, lacks: &mut impl FnMut(Place, &dyn std::fmt::Display)) {
    let routes = group.routes.iter_mut().map(|route| &mut route.contract);
    let services = group.upstreams.iter_mut().map(|upstream| &mut upstream.contract);
    let consumers = group.consumers.iter_mut().map(|consumer| &mut consumer.contract);
    let mut told = Vec::new();
    for contract in routes.chain(services).chain(consumers) {
        let Some(model) = contract.as_ref() else { continue };
        if told.contains(&model.place) {
            *contract = None;
        } else if let Err(error) = Contract::new(model, &[]) {
            lacks(error.place(), &error);
            told.push(model.place);
            *contract = None;
        }
    }
}

/// Keys of issuers and API keys.
fn keys(group: &mut Group, absent: &mut Absent) {
    for issuer in &mut group.issuers {
        if let Err(error) = Keys::new(std::slice::from_ref(issuer), None) {
            absent.push((error.place(), error.to_string()));
            let nowhere = At { value: NOWHERE.to_owned(), place: error.place() };
            issuer.keys = IssuerKeys::Url(nowhere);
        }
    }
    for source in &mut group.api_keys {
        if let Err(error) = Directory::new(source, &[]) {
            absent.push((error.place(), error.to_string()));
            let nowhere = At { value: NO_STORE.to_owned(), place: error.place() };
            source.from = KeySource::Redis(nowhere, Login::default());
        }
    }
}

/// Stand for keys that are elsewhere; nobody asks them.
const NOWHERE: &str = "http://127.0.0.1:9/";
const NO_STORE: &str = "redis://127.0.0.1:9";
