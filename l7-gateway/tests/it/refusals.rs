//! Everything that the gateway answers by itself, one request for each kind of it: what the client is
//! told, what it is not told, and the one record.

use std::path::Path;

use bytes::Bytes;
use http::{Request, StatusCode};
use l7_gateway::halt::Kind;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::peers::{Secure, rest};
use crate::rig::{Rig, local, topology};

/// A request that is answered so.
struct Case {
    /// What the service does.
    act: Act,
    /// The inner lines of the gateway's section.
    gateway: String,
    /// A request that is under way, or has been, when it comes.
    before: Option<&'static str>,
    request: String,
}

fn case(gateway: &str, request: &str) -> Case {
    let (gateway, request) = (gateway.to_owned(), request.to_owned());
    Case { act: Act::Answer("fine"), gateway, before: None, request }
}

/// One route to the service with these further words.
fn route(more: &str) -> String {
    format!("    routes:\n      - {{ name: inmost, path: /*, to: ledger{more} }}")
}

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
}

const SIMPLE: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What leads to it; `None`: a plain connection cannot.
fn leads_to(kind: Kind, issuers: &Issuers, folder: &Path) -> Option<Case> {
    let plain = |request: &str| Some(case(&route(""), request));
    let with = |more: &str| Some(case(&route(more), &get("/", "")));
    let front = |front: &str, request: &str| {
        Some(case(&format!("    front: {{ {front} }}\n{}", route("")), request))
    };
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\nabc");
    match kind {
        Kind::Preflight => {
            let asks = "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n";
            let cors = ", cors: { origins: [\"https://app.example\"], methods: [PUT] }";
            let request =
                format!("OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{asks}\r\n");
            Some(case(&route(cors), &request))
        }
        Kind::Malformed => plain("GET / HTTP/1.1\r\nHost: a\r\nBad name: x\r\n\r\n"),
        Kind::Unauthenticated => {
            Some(case(&issuers.gateway(&route(", auth: riders")), &get("/", "")))
        }
        Kind::Forbidden => {
            let token = issuers.riders.token("ES256", None, &rider(serde_json::json!({})));
            let gateway = issuers.gateway(&route(", auth: riders, scopes: [pay]"));
            Some(case(&gateway, &get("/", &bearer(&token))))
        }
        Kind::NoRoute => {
            Some(case("    routes:\n      - { path: /a, to: ledger }", &get("/b", "")))
        }
        Kind::MethodNotAllowed => with(", methods: [PUT]"),
        Kind::HeadTimeout => front("header-timeout: 30ms", "GET / HTTP/1.1\r\nHost: a\r\n"),
        Kind::BodyTimeout => front("body-idle-timeout: 30ms", &post("Content-Length: 9")),
        Kind::Gone => with(", sunset: 2020-01-01"),
        Kind::BodyTooLarge => front("max-body: 2B", &post("Content-Length: 3")),
        Kind::TargetTooLong => front("max-uri: 256B", &get(&format!("/{}", "a".repeat(256)), "")),
        // Where it leads from is in `external`.
        Kind::AnswerUnfiltered => None,
        Kind::Misdirected => None,
        Kind::TooManyRequests => {
            let limits = format!(
                "    limits: {{ few: {{ by: route, rate: 1/h }} }}\n{}",
                route(", limits: [few]")
            );
            Some(Case { before: Some(SIMPLE), ..case(&limits, &get("/", "")) })
        }
        Kind::HeadTooLarge => front("max-headers: 2", &get("/", "A: 1\r\n")),
        Kind::Expectation => plain(&post("Expect: magic\r\nContent-Length: 3")),
        Kind::UpstreamFailed
        | Kind::UpstreamUnavailable
        | Kind::Overloaded
        | Kind::LimitsUnavailable
        | Kind::IdentityUnavailable
        | Kind::FilterUnavailable
        | Kind::UpstreamTimeout => Some(away(kind, issuers)),
        Kind::Moved
        | Kind::NotFound
        | Kind::PreconditionFailed
        | Kind::RangeNotSatisfiable
        | Kind::FilesUnavailable
        | Kind::Invalid
        | Kind::UnsupportedType
        | Kind::NotKept => Some(held(kind, folder)),
        Kind::Closed => with(", maintenance: true"),
        Kind::Unchangeable => with(", transform: { request: { path: '/${request.query.a}' } }"),
        Kind::AnswerUnchangeable => {
            let answer =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{";
            let change = ", transform: { response: { body: { json: [{ remove: a }] } } }";
            Some(Case { act: Act::Raw(answer), ..case(&route(change), &get("/", "")) })
        }
    }
}

/// What leads to those that say that somebody else is away, busy or odd.
fn away(kind: Kind, issuers: &Issuers) -> Case {
    let acting = |act, more: &str| Case { act, ..case(&route(more), &get("/", "")) };
    match kind {
        Kind::UpstreamFailed => acting(Act::Hang, ""),
        Kind::UpstreamUnavailable => {
            let gateway = "    routes:\n      - { name: inmost, path: /*, to: nobody }";
            case(gateway, &get("/", ""))
        }
        Kind::Overloaded => {
            let gateway =
                format!("    upstreams: {{ ledger: {{ max-requests: 1 }} }}\n{}", route(""));
            let busy = case(&gateway, &get("/", ""));
            Case { act: Act::Silent, before: Some(SIMPLE), ..busy }
        }
        Kind::LimitsUnavailable => {
            // A port that nobody has.
            let store = "redis: \"redis://127.0.0.1:9\", when-away: fail-closed";
            let limits = "few: { by: route, rate: 1/h }";
            let lines = format!(
                "    limit-store: {{ {store} }}\n    limits: {{ {limits} }}\n{}",
                route(", limits: [few]")
            );
            case(&lines, &get("/", ""))
        }
        Kind::IdentityUnavailable => {
            let issuer = "issuer: \"https://riders.example\", audience: api, algorithms: [ES256], jwks: \"http://127.0.0.1:9/jwks\"";
            let lines =
                format!("    issuers: {{ riders: {{ {issuer} }} }}\n{}", route(", auth: riders"));
            let token = issuers.riders.token("ES256", None, &rider(serde_json::json!({})));
            case(&lines, &get("/", &bearer(&token)))
        }
        Kind::FilterUnavailable => {
            acting(Act::Silent, ", external: { url: \"http://127.0.0.1:9/\" }")
        }
        Kind::UpstreamTimeout => acting(Act::Silent, ", timeout: 30ms"),
        _ => unreachable!("{kind:?}"),
    }
}

/// What leads to those about files and kept answers.
fn held(kind: Kind, folder: &Path) -> Case {
    let file = |folder: &Path, path: &str, lines: &str| {
        let route =
            format!("    routes:\n      - {{ path: /static/*, files: \"{}\" }}", folder.display());
        case(&route, &get(path, lines))
    };
    match kind {
        Kind::Moved => file(folder, "/static/docs", ""),
        Kind::NotFound => file(folder, "/static/none", ""),
        Kind::PreconditionFailed => file(folder, "/static/a.txt", "If-Match: \"x\"\r\n"),
        Kind::RangeNotSatisfiable => file(folder, "/static/a.txt", "Range: bytes=99-\r\n"),
        // The kernel says that these are longer than what can be read of them.
        Kind::FilesUnavailable => file(Path::new("/sys/devices/system/cpu"), "/static/online", ""),
        Kind::Invalid => {
            let file = folder.join("api.json");
            let wanted = r#"{ "name": "n", "in": "query", "required": true }"#;
            let text = format!(
                r#"{{ "openapi": "3.1.0", "paths": {{ "/": {{ "get": {{ "parameters": [{wanted}] }} }} }} }}"#
            );
            std::fs::write(&file, text).expect("written");
            case(&route(&format!(", validate: \"{}\"", file.display())), &get("/", ""))
        }
        Kind::UnsupportedType => {
            let file = folder.join("bodies.json");
            let wanted = r#"{ "requestBody": { "content": { "application/json": {} } } }"#;
            let text =
                format!(r#"{{ "openapi": "3.1.0", "paths": {{ "/": {{ "post": {wanted} }} }} }}"#);
            std::fs::write(&file, text).expect("written");
            let ask =
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
            case(&route(&format!(", validate: \"{}\"", file.display())), ask)
        }
        Kind::NotKept => {
            let lines = "Cache-Control: only-if-cached\r\n";
            case(&route(", cache: true"), &get("/", lines))
        }
        _ => unreachable!("{kind:?}"),
    }
}

/// The answer to a case, and the records of the gateway.
async fn ask(case: Case) -> (http::Response<Vec<u8>>, Vec<Value>) {
    let fake = Fake::new(case.act).await;
    let services = format!(
        "  ledger: {{ endpoints: [{}] }}\n  nobody: {{ endpoints: [127.0.0.1:9] }}",
        fake.address
    );
    let mut rig = Rig::new(&topology(&services, &case.gateway));
    let (mut earlier, _task) = rig.connect();
    if let Some(before) = case.before {
        earlier.write_all(before.as_bytes()).await.expect("taken");
        while fake.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
    }
    let answer = parsed(&rig.raw(&case.request).await);
    (answer, rig.records())
}

pub(crate) fn parsed(text: &str) -> http::Response<Vec<u8>> {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
    let mut answer = http::Response::builder().status(status);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        answer = answer.header(name, value);
    }
    answer.body(body.as_bytes().to_vec()).expect("an answer")
}

/// What a client may not learn: names of the topology file, addresses, folders.
const SECRETS: [&str; 9] =
    ["ledger", "nobody", "inmost", "riders", "127.0.0.1", "redis", "jwks", "/sys", "/tmp"];

pub(crate) fn judge(kind: Kind, answer: &http::Response<Vec<u8>>, records: &[Value]) {
    let (row, headers) = (kind.row(), answer.headers());
    let body = String::from_utf8(answer.body().clone()).expect("text");
    assert_eq!(answer.status(), row.status, "{kind:?}: {body}");
    let id = headers["x-request-id"].to_str().expect("text");
    if row.status == StatusCode::NO_CONTENT {
        assert_eq!(body, "", "{kind:?}");
    } else {
        assert_eq!(headers["content-type"], "application/problem+json", "{kind:?}");
        assert_eq!(headers["cache-control"], "no-store", "{kind:?}");
        assert_eq!(headers["content-length"], body.len().to_string(), "{kind:?}");
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["status"], row.status.as_u16(), "{kind:?}");
        assert_eq!((&problem["code"], &problem["title"]), (&row.code.into(), &row.title.into()));
        assert_eq!(problem["request_id"], id, "{kind:?}");
    }
    for secret in SECRETS {
        let told = headers.values().any(|value| value.to_str().is_ok_and(|v| v.contains(secret)));
        assert!(!told && !body.contains(secret), "{kind:?}: {secret} in {headers:?} {body}");
    }
    let own: Vec<_> = records.iter().filter(|record| record["request_id"] == id).collect();
    assert_eq!(own.len(), 1, "{kind:?}: {records:?}");
    assert_eq!(own[0]["status"], row.status.as_u16(), "{kind:?}: {own:?}");
}

/// Issue 4, O5: every refusal is a problem with a stable code and the request's id, tells nothing of what
/// is inside, and leaves one record.
#[tokio::test]
async fn every_refusal_is_a_problem_and_a_record() {
    local(async {
        let (issuers, folder) = (Issuers::new(), tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(folder.path().join("docs")).expect("made");
        std::fs::write(folder.path().join("docs/index.html"), "").expect("written");
        std::fs::write(folder.path().join("a.txt"), "text").expect("written");
        let mut elsewhere = Vec::new();
        for kind in Kind::ALL {
            let Some(case) = leads_to(kind, &issuers, folder.path()) else {
                elsewhere.push(kind);
                continue;
            };
            let (answer, records) = ask(case).await;
            judge(kind, &answer, &records);
        }
        assert_eq!(elsewhere, [Kind::Misdirected, Kind::AnswerUnfiltered]);
    })
    .await;
}

/// Issue 4, O5: so is one over TLS and HTTP/2, for a host that the certificate does not cover.
#[tokio::test]
async fn a_misdirected_request_is_a_problem_and_a_record() {
    local(async {
        let mut secure = Secure::new("  ledger: { endpoints: [127.0.0.1:9] }", &route(""));
        let mut client = secure.client().await;
        let request = Request::get("https://evil.example/").body(()).expect("a request");
        let (head, _) = client.send_request(request, true).expect("open");
        let (head, mut body) = head.await.expect("an answer").into_parts();
        let body = rest(&mut body).await.expect("whole").0;
        drop(client);
        let answer = http::Response::from_parts(head, Bytes::from(body).to_vec());
        judge(Kind::Misdirected, &answer, &secure.rig.records());
    })
    .await;
}

/// Issue 4: docs/errors.md has the line of every kind.
#[test]
fn every_refusal_is_documented() {
    let text = include_str!("../../../docs/errors.md");
    let line = |kind: Kind| {
        let row = kind.row();
        format!("| {} | `{}` | {} |", row.status.as_u16(), row.code, row.title)
    };
    let missing: Vec<_> = Kind::ALL.into_iter().map(line).filter(|l| !text.contains(l)).collect();
    assert!(missing.is_empty(), "add to docs/errors.md:\n{}", missing.join("\n"));
}
