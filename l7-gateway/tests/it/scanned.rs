//! Bodies that external filters are told: however they grow as JSON, and however they are compressed.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::external::{gateway, post, told};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local};

fn says(text: String) -> Act {
    Act::Answer(Box::leak(text.into_boxed_str()))
}

/// G2: no client switches off a filter by what grows as JSON: a control character is six bytes there, and filters may
/// write all but ASCII likewise; one that says too much is there all the same.
#[tokio::test]
async fn a_body_that_grows_switches_nothing_off() {
    const MOST: usize = 64 << 10;
    local(async {
        for (letter, written) in [("\u{1}", "\\u0001"), ("\u{e9}", "\\u00e9")] {
            let count = MOST / letter.len();
            let (body, echo) = (letter.repeat(count), written.repeat(count));
            let service = Fake::new(Act::Answer("x")).await;
            let text =
                format!("{{\"headers\":{{\"set\":{{\"x-seen\":\"yes\"}}}},\"body\":\"{echo}\"}}");
            let filter = Fake::new(says(text)).await;
            let rig = gateway(&service, &filter, ", body: 64KiB, when-away: allow");
            let answer = rig.raw(&post(&body)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{written}: {answer}");
            let sent = service.seen.last();
            assert!(sent.contains("x-seen: yes\r\n"), "{written}: it was passed by");
            assert!(sent.ends_with(&format!("\r\n\r\n{body}")), "{written}");
            assert_eq!(told(&filter)["body"], body);
        }
        for (words, length) in
            [("", 65 << 10), (", body: 64KiB", 8 * MOST), (", body: 64KiB", MOST + 1)]
        {
            let service = Fake::new(Act::Answer("x")).await;
            let filter = Fake::new(says(format!("{{\"body\":\"{}\"}}", "x".repeat(length)))).await;
            let rig = gateway(&service, &filter, &format!("{words}, when-away: allow"));
            let answer = rig.raw(&post("hello")).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{words} {length}: {answer}");
            assert_eq!((filter.seen.count(), service.seen.count()), (1, 0), "{words} {length}");
        }
    })
    .await;
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::best());
    to.write_all(text).expect("in memory");
    to.finish().expect("in memory")
}

/// A POST of a body in this form.
async fn coded(rig: &Rig, coding: &str, body: &[u8]) -> String {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (mut stream, _task) = rig.connect();
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// G2, G23: a filter is told what a compressed body stands for, within its bound; what it leaves goes on as it came, and
/// what it gives in its place is plain, and called so.
#[tokio::test]
async fn compressed_bodies_are_told_as_what_they_stand_for() {
    local(async {
        let service = Fake::new(Act::Answer("x")).await;
        let filter = Fake::new(Act::Answer("{}")).await;
        let rig = gateway(&service, &filter, ", body: 300B");
        let packed = gzip(b"an attack");
        let answer = coded(&rig, "gzip", &packed).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(told(&filter)["body"], "an attack");
        let sent = service.seen.last();
        assert!(sent.contains("content-encoding: gzip\r\n"), "{sent}");
        assert!(sent.contains(&format!("content-length: {}\r\n", packed.len())), "{sent}");
        assert!(sent.ends_with(&String::from_utf8_lossy(&packed).into_owned()), "{sent}");
        for (coding, body, status) in [
            ("gzip", gzip(&[b'x'; 301]), "413"),
            ("gzip", b"no gzip".to_vec(), "422"),
            ("gzip", packed[..packed.len() - 4].to_vec(), "422"),
            ("x-own", b"hello".to_vec(), "422"),
            ("identity", b"hello".to_vec(), "200"),
        ] {
            let answer = coded(&rig, coding, &body).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{coding}: {answer}");
        }
        assert_eq!((filter.seen.count(), service.seen.count()), (2, 2));
        let filter = Fake::new(Act::Answer("{\"body\":\"harmless\"}")).await;
        let rig = gateway(&service, &filter, ", body: 300B");
        let answer = coded(&rig, "gzip", &packed).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let sent = service.seen.last();
        assert!(sent.ends_with("\r\n\r\nharmless") && !sent.contains("content-encoding"), "{sent}");
    })
    .await;
}
