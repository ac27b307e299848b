//! HTTP/2 requests that would become something else as HTTP/1.1: injections, doubled and missing
//! pseudo-fields, fields of a connection, lengths that lie; before the recording service.

use std::time::Duration;

use super::recorder::Recorder;
use crate::frames::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, field, frame,
};
use crate::instance::{folder, run};
use crate::rig::local;

type Fields<'a> = &'a [(&'a str, &'a str)];

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const PATH: (&str, &str) = (":path", "/v");
const AUTHORITY: (&str, &str) = (":authority", "api.example");

/// Refused, each of them: by a reset, a goodbye or an answer of ours.
const REFUSED: [(&str, Fields<'_>); 60] = [
    ("a capital letter in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("X-A", "b")]),
    ("a space in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x a", "b")]),
    ("a colon in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x:a", "b")]),
    ("a line end in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x\r\nhost", "b")]),
    ("an LF in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x\nhost", "b")]),
    ("a NUL in a name", &[METHOD, SCHEME, PATH, AUTHORITY, ("x\0", "b")]),
    ("an empty name", &[METHOD, SCHEME, PATH, AUTHORITY, ("", "b")]),
    ("a line end in a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y\r\nx-user-id: 1")]),
    ("an LF in a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y\nx-user-id: 1")]),
    ("a CR in a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y\rz")]),
    ("a NUL in a value", &[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y\0z")]),
    (
        "a request in a value",
        &[METHOD, SCHEME, PATH, AUTHORITY, ("x", "y\r\n\r\nGET /admin HTTP/1.1\r\nhost: a")],
    ),
    ("a space in the path", &[METHOD, SCHEME, (":path", "/v w"), AUTHORITY]),
    (
        "a request line in the path",
        &[METHOD, SCHEME, (":path", "/v HTTP/1.1\r\nhost: b\r\n\r\n"), AUTHORITY],
    ),
    ("a version in the path", &[METHOD, SCHEME, (":path", "/v HTTP/1.1"), AUTHORITY]),
    ("a NUL in the path", &[METHOD, SCHEME, (":path", "/v\0"), AUTHORITY]),
    ("a tab in the path", &[METHOD, SCHEME, (":path", "/v\tw"), AUTHORITY]),
    ("a backslash in the path", &[METHOD, SCHEME, (":path", "/v\\w"), AUTHORITY]),
    ("a step up in the path", &[METHOD, SCHEME, (":path", "/a/../admin"), AUTHORITY]),
    ("an escaped step up in the path", &[METHOD, SCHEME, (":path", "/a/%2e%2e/admin"), AUTHORITY]),
    ("an empty path", &[METHOD, SCHEME, (":path", ""), AUTHORITY]),
    ("a path without a slash", &[METHOD, SCHEME, (":path", "v"), AUTHORITY]),
    ("a star for a path", &[METHOD, SCHEME, (":path", "*"), AUTHORITY]),
    ("a URL for a path", &[METHOD, SCHEME, (":path", "http://b/v"), AUTHORITY]),
    ("another script in the path", &[METHOD, SCHEME, (":path", "/\u{e9}"), AUTHORITY]),
    ("a space in the method", &[(":method", "GET /x"), SCHEME, PATH, AUTHORITY]),
    (
        "a request line in the method",
        &[(":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"), SCHEME, PATH, AUTHORITY],
    ),
    ("an empty method", &[(":method", ""), SCHEME, PATH, AUTHORITY]),
    ("CONNECT", &[(":method", "CONNECT"), AUTHORITY]),
    ("CONNECT with a path", &[(":method", "CONNECT"), SCHEME, PATH, AUTHORITY]),
    ("TRACE", &[(":method", "TRACE"), SCHEME, PATH, AUTHORITY]),
    ("a line end in the scheme", &[METHOD, (":scheme", "https\r\nx: y"), PATH, AUTHORITY]),
    ("a URL for a scheme", &[METHOD, (":scheme", "https://evil/"), PATH, AUTHORITY]),
    ("a line end in the authority", &[METHOD, SCHEME, PATH, (":authority", "api.example\r\nx: y")]),
    ("a user in the authority", &[METHOD, SCHEME, PATH, (":authority", "user@api.example")]),
    ("a path in the authority", &[METHOD, SCHEME, PATH, (":authority", "api.example/x")]),
    ("a space in the authority", &[METHOD, SCHEME, PATH, (":authority", "api.example b")]),
    ("a port that is no number", &[METHOD, SCHEME, PATH, (":authority", "api.example:+443")]),
    ("an empty authority", &[METHOD, SCHEME, PATH, (":authority", "")]),
    ("no authority", &[METHOD, SCHEME, PATH]),
    (
        "another authority than the certificate's",
        &[METHOD, SCHEME, PATH, (":authority", "evil.example")],
    ),
    (
        "another host than the authority",
        &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "evil.example")],
    ),
    (
        "two hosts",
        &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "api.example"), ("host", "api.example")],
    ),
    ("no method", &[SCHEME, PATH, AUTHORITY]),
    ("no scheme", &[METHOD, PATH, AUTHORITY]),
    ("no path", &[METHOD, SCHEME, AUTHORITY]),
    ("two methods", &[METHOD, (":method", "POST"), SCHEME, PATH, AUTHORITY]),
    ("two schemes", &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY]),
    ("two paths", &[METHOD, SCHEME, PATH, (":path", "/admin"), AUTHORITY]),
    ("two authorities", &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY]),
    ("a pseudo-field behind a field", &[METHOD, SCHEME, AUTHORITY, ("x", "y"), PATH]),
    ("a pseudo-field that nobody knows", &[METHOD, SCHEME, PATH, AUTHORITY, (":user", "1")]),
    ("a status", &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")]),
    ("Connection", &[METHOD, SCHEME, PATH, AUTHORITY, ("connection", "close")]),
    ("Transfer-Encoding", &[METHOD, SCHEME, PATH, AUTHORITY, ("transfer-encoding", "chunked")]),
    ("Keep-Alive", &[METHOD, SCHEME, PATH, AUTHORITY, ("keep-alive", "timeout=5")]),
    ("Proxy-Connection", &[METHOD, SCHEME, PATH, AUTHORITY, ("proxy-connection", "close")]),
    ("Upgrade", &[METHOD, SCHEME, PATH, AUTHORITY, ("upgrade", "h2c")]),
    ("TE with a coding", &[METHOD, SCHEME, PATH, AUTHORITY, ("te", "gzip")]),
    ("a length without a body", &[METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "5")]),
];

/// Lengths that lie about the body `hello`, and trailers.
const BODIES: [(&str, Fields<'_>, Fields<'_>, bool); 12] = [
    ("a length that is too small", &[("content-length", "3")], &[], false),
    ("a length that is too large", &[("content-length", "9")], &[], false),
    ("a length of nothing", &[("content-length", "0")], &[], false),
    ("two lengths that differ", &[("content-length", "5"), ("content-length", "6")], &[], false),
    ("a list of lengths", &[("content-length", "5, 5")], &[], false),
    ("a length with a plus", &[("content-length", "+5")], &[], false),
    ("a length that is a word", &[("content-length", "five")], &[], false),
    ("a pseudo-field behind the body", &[], &[(":path", "/admin")], true),
    ("the true length", &[("content-length", "5")], &[], true),
    ("no length", &[], &[], true),
    ("trailers that frame", &[], &[("content-length", "50"), ("x-user-id", "spoofed")], true),
    ("trailers of a connection", &[], &[("trailer", "x"), ("x", "y")], true),
];

fn block(fields: Fields<'_>) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// G23: what HTTP/2 can say and HTTP/1.1 would read as something else never becomes a request; the
/// strict recording service takes whatever passes.
#[tokio::test]
async fn nothing_is_injected_on_the_way_to_http1() {
    local(async {
        let (folder, recorder) = (folder(), Recorder::start().await);
        let (running, options) = run(folder.path(), recorder.address).await;
        let mut faults = Vec::new();
        for (name, fields) in REFUSED {
            let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
            let mut client = Client::connect(folder.path(), &running, &[]).await;
            client.send(&head).await.expect("taken");
            let outcome = settled(&mut client).await;
            let reached = recorder.reached().await.map(|reached| reached.bytes.len());
            if outcome == Outcome::Answer(200) || reached != Ok(0) {
                faults.push(format!("{name}: {outcome:?}, {reached:?}"));
            }
        }
        for (name, fields, trailers, passes) in BODIES {
            let post = [(":method", "POST"), SCHEME, PATH, AUTHORITY];
            let head = frame(HEADERS, END_HEADERS, 1, &block(&[&post, fields].concat()));
            let ends = if trailers.is_empty() { END_STREAM } else { 0 };
            let mut bytes = [head, frame(DATA, ends, 1, b"hello")].concat();
            if !trailers.is_empty() {
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
            }
            let mut client = Client::connect(folder.path(), &running, &[]).await;
            client.send(&bytes).await.expect("taken");
            let outcome = settled(&mut client).await;
            let reached = recorder.reached().await.map(|reached| reached.requests);
            let fine = match &reached {
                Ok(seen) if passes => matches!(&seen[..], [one] if one.body == b"hello"),
                Ok(seen) => seen.is_empty(),
                Err(_) => false,
            };
            if (outcome == Outcome::Answer(200)) != passes || !fine {
                faults.push(format!("{name}: {outcome:?}, {reached:?}"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G23: what the library leaves out of a request is not there afterwards either.
#[tokio::test]
async fn what_is_left_out_stays_out() {
    local(async {
        let (folder, recorder) = (folder(), Recorder::start().await);
        let (running, options) = run(folder.path(), recorder.address).await;
        let cases: [(&str, Fields<'_>); 2] = [
            ("a fragment", &[METHOD, SCHEME, (":path", "/v#/../admin"), AUTHORITY]),
            ("an empty scheme", &[METHOD, (":scheme", ""), PATH, AUTHORITY]),
        ];
        for (name, fields) in cases {
            let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
            let mut client = Client::connect(folder.path(), &running, &[]).await;
            client.send(&head).await.expect("taken");
            assert_eq!(settled(&mut client).await, Outcome::Answer(200), "{name}");
            let reached = recorder.reached().await.expect("nothing dangerous");
            assert_eq!(reached.requests[0].line, "GET /v", "{name}");
        }
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G6, G4: what may be said is said once, in one form: a host, a cookie, nobody's identity.
#[tokio::test]
async fn what_passes_to_http1_has_one_form() {
    local(async {
        let (folder, recorder) = (folder(), Recorder::start().await);
        let (running, options) = run(folder.path(), recorder.address).await;
        let cases: [(&str, Fields<'_>, &str, &str); 7] = [
            ("the authority", &[], "host: api.example", "evil"),
            ("a host that agrees", &[("host", "api.example")], "host: api.example", "evil"),
            ("crumbs", &[("cookie", "a=b"), ("cookie", "c=d")], "cookie: a=b; c=d", "evil"),
            ("what it takes", &[("te", "trailers")], "host: api.example", "te: "),
            ("an identity", &[("x-user-id", "spoofed")], "host: api.example", "spoofed"),
            ("another spelling", &[("x_user_id", "spoofed")], "host: api.example", "spoofed"),
            ("a coding", &[("transfer_encoding", "chunked")], "host: api.example", "chunked"),
        ];
        let mut client = Client::connect(folder.path(), &running, &[]).await;
        for (number, (name, fields, wanted, banned)) in cases.iter().enumerate() {
            let stream = crate::frames::stream(number as u32);
            let all = [&[METHOD, SCHEME, PATH, AUTHORITY][..], fields].concat();
            let (first, rest) = (block(&all[..4]), block(&all[4..]));
            let head = frame(HEADERS, END_STREAM, stream, &first);
            let more = frame(CONTINUATION, END_HEADERS, stream, &rest);
            client.send(&[head, more].concat()).await.expect("taken");
            assert_eq!(client.outcome(stream).await, Outcome::Answer(200), "{name}");
            let reached = recorder.reached().await.expect("nothing dangerous");
            let [seen] = &reached.requests[..] else { panic!("{name}: {reached:?}") };
            assert!(seen.fields.iter().any(|line| line == wanted), "{name}: {seen:?}");
            let text = String::from_utf8_lossy(&reached.bytes).into_owned();
            assert!(!text.contains(banned), "{name}: {text}");
        }
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

async fn settled(client: &mut Client) -> Outcome {
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, client.outcome(1)).await.expect("an outcome")
}
