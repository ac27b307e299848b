//! Forms against what they are made of, and bombs against the bound.

use std::io::Write as _;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use proptest::prelude::*;

use super::compress::Compressed;
use super::expand::{Fault, expand};
use super::*;
use crate::body::AnswerBody;

fn collected(body: Compressed) -> Bytes {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(body.collect()).expect("a body").to_bytes()
}

proptest! {
    /// G13: every form is what it was made of, of any bytes.
    #[test]
    fn forms_stand_for_what_they_are_made_of(bytes in proptest::collection::vec(any::<u8>(), 0..800), times in 1..12usize) {
        let bytes = Bytes::from(bytes.repeat(times));
        for coding in Coding::ALL {
            let body = Compressed::new(AnswerBody::Whole(bytes.clone()), coding).expect("a form");
            let made = collected(body);
            let most = bytes.len() as u64;
            prop_assert_eq!(expand(coding, &made, most), Ok(bytes.to_vec()));
            if !bytes.is_empty() {
                prop_assert_eq!(expand(coding, &made, most - 1), Err(Fault::TooLarge));
            }
            let cut = &made[..made.len() / 2];
            if let Ok(part) = expand(coding, cut, most) {
                prop_assert!(bytes.starts_with(&part) && part.len() < bytes.len().max(1));
            }
        }
    }

    /// Whatever comes, it is bounded.
    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for coding in Coding::ALL {
            if let Ok(made) = expand(coding, &bytes, 1000) {
                prop_assert!(made.len() <= 1000);
            }
        }
    }
}

/// G13: a bomb of a gigabyte costs no more than the bound.
#[test]
fn bombs_do_not_go_off() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..256 {
        bomb.write_all(&[0; 1 << 20]).expect("written");
    }
    let bomb = bomb.finish().expect("written");
    assert!(bomb.len() < 1 << 20);
    assert_eq!(expand(Coding::Gzip, &bomb, 1 << 20), Err(Fault::TooLarge));
}

/// G13: several forms, in one line or in more, are nobody's: the last of them would have to be undone first.
#[test]
fn forms_are_one_or_none() {
    for (lines, form) in [
        (&[][..], Ok(None)),
        (&["identity"], Ok(None)),
        (&["GZIP "], Ok(Some(Coding::Gzip))),
        (&["x-gzip"], Ok(Some(Coding::Gzip))),
        (&["br"], Ok(Some(Coding::Brotli))),
        (&["compress"], Err(Unknown)),
        (&["gzip, br"], Err(Unknown)),
        (&["gzip", "br"], Err(Unknown)),
        (&["identity", "zstd"], Err(Unknown)),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(line));
        }
        assert_eq!(Coding::of(&headers), form, "{lines:?}");
    }
}
