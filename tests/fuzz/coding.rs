//! Compressed forms of clients and services, and what clients take. The first byte chooses which. Run by `make fuzz`.
//!
//! Invariant: nothing grows beyond its bound, and every form stands for what it was made of.
#![no_main]

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use l7_gateway::body::AnswerBody;
use l7_gateway::coding::compress::Compressed;
use l7_gateway::coding::expand::expand;
use l7_gateway::coding::{Coding, accepted};
use libfuzzer_sys::fuzz_target;

const MOST: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match usize::from(*choice) % 8 {
        form @ 0..=2 => expands(Coding::ALL[form], bytes),
        form @ 3..=5 => stands(Coding::ALL[form - 3], bytes),
        6 => wishes(bytes),
        _ => names(bytes),
    }
});

fn expands(coding: Coding, bytes: &[u8]) {
    let Ok(plain) = expand(coding, bytes, MOST) else { return };
    assert!(plain.len() as u64 <= MOST);
    assert!(expand(coding, bytes, plain.len() as u64).is_ok(), "a bound that it keeps");
}

fn stands(coding: Coding, bytes: &[u8]) {
    let body = AnswerBody::Whole(Bytes::copy_from_slice(bytes));
    let made = Compressed::new(body, coding).expect("a form");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let made = runtime.block_on(made.collect()).expect("a body").to_bytes();
    assert_eq!(expand(coding, &made, bytes.len() as u64).as_deref(), Ok(bytes));
}

fn wishes(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(3) {
        headers.extend(HeaderValue::from_bytes(line).ok().map(|value| (ACCEPT_ENCODING, value)));
    }
    let forms = accepted(&headers);
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    for (at, form) in forms.iter().enumerate() {
        assert!(!forms[at + 1..].contains(form), "once each");
        assert!(text.contains(form.name()) || text.contains('*'), "nobody asked for it: {text}");
    }
}

fn names(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.append(CONTENT_ENCODING, value.clone());
    let once = Coding::of(&headers);
    headers.append(CONTENT_ENCODING, value);
    assert!(Coding::of(&headers).is_err(), "of two forms the last would have to be undone first");
    assert!(once != Ok(None) || bytes.trim_ascii().eq_ignore_ascii_case(b"identity"));
}
