//! Routes that lead to files: what is answered, in which form, and what is not found.

use std::path::Path;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, local, topology, until};

/// A folder with a few files, and a gateway whose `/static/*` leads there.
fn serve(more: &str) -> (TempDir, Rig) {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("assets");
    std::fs::create_dir_all(own.join("docs/.git")).expect("made");
    for (name, text) in [
        ("avatar.jpg", "0123456789"),
        ("app.css", "plain"),
        ("docs/index.html", "<p>index"),
        ("docs/.git/config", "secret"),
        ("docs/a b", "spaced"),
        ("empty", ""),
    ] {
        std::fs::write(own.join(name), text).expect("written");
    }
    std::fs::write(folder.path().join("secret"), "secret").expect("written");
    let rig = rig(&own, more);
    (folder, rig)
}

fn rig(own: &Path, more: &str) -> Rig {
    let own = own.display();
    let route = format!(
        "    routes:\n      - {{ path: /static/*, files: {{ directory: \"{own}\"{more} }} }}"
    );
    Rig::new(&topology("  user: { endpoints: [127.0.0.1:9] }", &route))
}

/// The value of a header of an answer.
fn value<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// G22: the documented `/static/avatar.jpg`, with what caches need to know; HEAD says the same.
#[tokio::test]
async fn a_file_is_an_answer() {
    local(async {
        let (_folder, mut rig) = serve("");
        let answer = rig.get("/static/avatar.jpg", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
        let wanted = [
            ("content-type", "image/jpeg"),
            ("content-length", "10"),
            ("accept-ranges", "bytes"),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
        ];
        for (name, expected) in wanted {
            assert_eq!(value(&answer, name), Some(expected), "{answer}");
        }
        assert!(value(&answer, "etag").is_some_and(|tag| tag.starts_with('"')), "{answer}");
        assert!(value(&answer, "last-modified").is_some() && value(&answer, "vary").is_none());
        let head =
            rig.raw("HEAD /static/avatar.jpg HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let head = head.await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        for name in ["etag", "content-length", "content-type", "last-modified", "accept-ranges"] {
            assert_eq!(value(&head, name), value(&answer, name), "{name}");
        }
        let empty = rig.get("/static/empty", "").await;
        assert!(empty.starts_with("HTTP/1.1 200 ") && empty.ends_with("\r\n\r\n"), "{empty}");
        let records = rig.records();
        let facts = |at: usize| (records[at]["status"].clone(), records[at]["complete"].clone());
        assert!((0..3).all(|at| facts(at) == (200.into(), true.into())), "{records:?}");
        assert_eq!(records[0]["bytes_out"], 10);
    })
    .await;
}

/// G22: what is no file that may be seen is not found; other methods are told which there are; a
/// directory's address gets its slash.
#[tokio::test]
async fn what_may_not_be_seen_is_not_there() {
    local(async {
        let (_folder, rig) = serve("");
        let absent = [
            "/static/none",
            "/static/docs/.git/config",
            "/static/docs/none/",
            "/static/avatar.jpg/",
            "/static/avatar.jpg/x",
            "/static/",
            "/static/%FF",
        ];
        for path in absent {
            let answer = rig.get(path, "").await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
            assert!(answer.contains("application/problem+json") && answer.contains("not_found"));
        }
        for path in ["/static/../secret", "/static/%2e%2e/secret", "/static/..%2fsecret"] {
            let answer = rig.get(path, "").await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        }
        let answer = rig.get("/static/docs/", "").await;
        assert!(answer.ends_with("<p>index"), "{answer}");
        assert!(rig.get("/static/docs/a%20b", "").await.ends_with("spaced"));
        let answer = rig.get("/static/docs?x=1", "").await;
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        assert_eq!(value(&answer, "location"), Some("/static/docs/?x=1"));
        let post = "POST /static/avatar.jpg HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = rig.raw(post).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert_eq!(value(&answer, "allow"), Some("GET, HEAD"));
        let (_folder, rig) = serve(", hidden: true, index: none, cache-control: \"max-age=60\"");
        let answer = rig.get("/static/docs/.git/config", "").await;
        assert!(answer.ends_with("secret"), "{answer}");
        assert_eq!(value(&answer, "cache-control"), Some("max-age=60"));
        assert!(rig.get("/static/docs/", "").await.starts_with("HTTP/1.1 404 "));
        assert!(rig.get("/static/docs", "").await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

/// G22: conditions and ranges over the wire.
#[tokio::test]
async fn files_have_validators_and_ranges() {
    local(async {
        let (_folder, rig) = serve("");
        let tag = rig.get("/static/avatar.jpg", "").await;
        let tag = value(&tag, "etag").expect("a tag").to_owned();
        let ask = async |lines: &str| rig.get("/static/avatar.jpg", lines).await;
        let answer = ask(&format!("If-None-Match: \"x\", {tag}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 304 ") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(value(&answer, "etag"), Some(&*tag));
        assert_eq!(value(&answer, "content-length"), None);
        let answer = ask("If-Match: \"x\"\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 412 "), "{answer}");
        let answer = ask("Range: bytes=2-4\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 206 ") && answer.ends_with("\r\n\r\n234"), "{answer}");
        assert_eq!(value(&answer, "content-range"), Some("bytes 2-4/10"));
        let answer = ask(&format!("Range: bytes=-2\r\nIf-Range: {tag}\r\n")).await;
        assert!(answer.ends_with("\r\n\r\n89"), "{answer}");
        let answer = ask("Range: bytes=-2\r\nIf-Range: \"x\"\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("0123456789"), "{answer}");
        let answer = ask("Range: bytes=10-\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 416 "), "{answer}");
        assert_eq!(value(&answer, "content-range"), Some("bytes */10"));
        let answer = ask("Range: bytes=0-1,8-\r\n").await;
        let kind = value(&answer, "content-type").expect("a type");
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("parts");
        let part = |range: &str, text: &str| {
            format!("\r\n--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Range: bytes {range}/10\r\n\r\n{text}")
        };
        let body = format!("{}{}\r\n--{boundary}--\r\n", part("0-1", "01"), part("8-9", "89"));
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        assert_eq!(value(&answer, "content-length"), Some(&*body.len().to_string()));
        let head = "HEAD /static/avatar.jpg HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\nConnection: close\r\n\r\n";
        assert!(rig.raw(head).await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

/// G22: a compressed form beside the file is sent to who takes it, with a tag of its own; an older one
/// is not.
#[tokio::test]
async fn compressed_forms_are_sent_to_who_takes_them() {
    local(async {
        let (folder, rig) = serve("");
        let own = folder.path().join("assets");
        std::fs::write(own.join("app.css.gz"), "zipped").expect("written");
        std::fs::write(own.join("avatar.jpg.gz"), "zipped").expect("written");
        let plain = rig.get("/static/app.css", "").await;
        assert!(plain.ends_with("plain"), "{plain}");
        assert_eq!(value(&plain, "vary"), Some("accept-encoding"));
        let zipped = rig.get("/static/app.css", "Accept-Encoding: br, gzip\r\n").await;
        assert!(zipped.ends_with("zipped"), "{zipped}");
        assert_eq!(value(&zipped, "content-encoding"), Some("gzip"));
        assert_eq!(value(&zipped, "content-type"), Some("text/css; charset=utf-8"));
        assert_eq!(value(&zipped, "vary"), Some("accept-encoding"));
        assert_ne!(value(&zipped, "etag"), value(&plain, "etag"));
        let refused = rig.get("/static/app.css", "Accept-Encoding: gzip;q=0\r\n").await;
        assert!(refused.ends_with("plain"), "{refused}");
        let image = rig.get("/static/avatar.jpg", "Accept-Encoding: gzip\r\n").await;
        assert!(image.ends_with("0123456789") && value(&image, "vary").is_none(), "{image}");
        let file =
            std::fs::File::options().write(true).open(own.join("app.css.gz")).expect("there");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
        let stale = rig.get("/static/app.css", "Accept-Encoding: gzip\r\n").await;
        assert!(stale.ends_with("plain"), "{stale}");
    })
    .await;
}

/// G22: a large file is streamed as the client takes it, whole or in part, and one that is cut
/// meanwhile breaks off: never a short answer that looks complete.
#[tokio::test]
async fn large_files_stream_and_a_cut_one_breaks_off() {
    local(async {
        let (folder, mut rig) = serve("");
        let path = folder.path().join("assets/large.bin");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
        std::fs::write(&path, &bytes).expect("written");
        let answer = rig.get("/static/large.bin", "").await;
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        assert!(body.as_bytes() == bytes, "{} bytes", body.len());
        let answer = rig.get("/static/large.bin", "Range: bytes=100000-2900000\r\n").await;
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        assert!(body.as_bytes() == &bytes[100_000..=2_900_000], "{} bytes", body.len());
        let (mut stream, _task) = rig.connect();
        stream
            .write_all(b"GET /static/large.bin HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("taken");
        let begun = until(&mut stream, "abcdef").await.len();
        std::fs::File::options().write(true).open(&path).expect("there").set_len(9).expect("cut");
        let mut rest = Vec::new();
        // However the end looks to this client, it is before the length that was told.
        let _reset = stream.read_to_end(&mut rest).await;
        assert!(begun + rest.len() < 3_000_000, "{}", begun + rest.len());
        drop(stream);
        let records = rig.records();
        assert_eq!(records[2]["complete"], false, "{records:?}");
    })
    .await;
}

/// O5, G22: a directory that is not there is a problem at its place.
#[tokio::test]
async fn a_missing_directory_is_reported_at_its_place() {
    let text = "    routes:\n      - { path: /static/*, files: nowhere }";
    let topology = topology("  user: { endpoints: [127.0.0.1:9] }", text);
    let options = l7_gateway::Options::new("gw");
    let fault = l7_gateway::start(std::sync::Arc::new(topology), "gw", options).await;
    let fault = fault.expect_err("refused").to_string();
    assert!(fault.starts_with("test.yaml:9:") && fault.contains("/nowhere/nowhere"), "{fault}");
}
