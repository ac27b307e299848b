//! Requests held against a description in OpenAPI: paths, parameters, media types and bodies. Run by `make fuzz`.
//!
//! Invariant: the same request is judged the same way, and a body that passes is JSON that everybody reads alike.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use l7_gateway::contract::{self, Breach, Contract};
use l7_gateway::strict;
use libfuzzer_sys::fuzz_target;
use topology::Place;
use topology::answers::Attached;
use topology::contract::Contract as Model;

static PETS: LazyLock<Arc<Contract>> = LazyLock::new(|| {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/described/pets.yaml"));
    let model =
        Model { file, prefix: None, most: 4096, by: Attached::Route, place: Place::default() };
    Contract::new(&model, &[]).expect("a description")
});

fuzz_target!(|bytes: &[u8]| {
    let once = judged(bytes);
    assert_eq!(once, judged(bytes));
});

/// A method's letter and a target, a header's lines, an empty line and a body.
fn judged(bytes: &[u8]) -> Result<(), Breach> {
    let mut lines = bytes.splitn(6, |byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let (letter, target) = line.split_first().unwrap_or((&0, &[]));
    let Ok(target) = std::str::from_utf8(target) else { return Ok(()) };
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let method = [Method::GET, Method::POST, Method::HEAD][usize::from(letter % 3)].clone();
    let mut headers = HeaderMap::new();
    for (name, value) in
        ["x-trace", "cookie", "content-type", "content-type"].into_iter().zip(&mut lines)
    {
        let value = HeaderValue::from_bytes(value).ok().filter(|value| !value.is_empty());
        headers.extend(value.map(|value| (HeaderName::from_static(name), value)));
    }
    let body = lines.next().unwrap_or_default();
    let meant = PETS.find(&method, path)?;
    meant.head(query, &headers)?;
    if let Some(schema) = meant.kind(&headers, body.is_empty())? {
        contract::body(schema, body, 1 << 20)?;
        assert!(strict::read(body, usize::MAX).is_ok(), "it passed");
    }
    Ok(())
}
