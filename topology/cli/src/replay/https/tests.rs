//! Replay of HTTP requests against servers in this process: pacing, tokens, errors, connections.

use std::convert::Infallible;
use std::io::Write;

use bytes::Bytes;
use clap::Parser;
use http::Response;
use http_body_util::Empty;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(target: SocketAddr, more: &[&str]) -> Args {
    let url = format!("http://{target}/a?b=c");
    let fixed = ["replay", "--url", &url, "--threads", "1"];
    let short = (!more.contains(&"--seconds")).then_some(["--seconds", "0.2"]);
    let anonymous = (!more.contains(&"--token-keys")).then_some("--anonymous");
    let all = fixed.iter().chain(more).copied().chain(anonymous).chain(short.into_iter().flatten());
    Cli::try_parse_from(all).unwrap().args
}

type Heads = Rc<RefCell<Vec<String>>>;

/// A server that keeps the heads it saw and answers each with `answer`; an answer without a
/// length ends the connection.
async fn server(answer: &'static str) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Heads::default());
    let seen = heads.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(stream, answer, seen.clone()));
        }
    });
    (address, heads)
}

async fn serve(mut stream: TcpStream, answer: &'static str, heads: Heads) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            heads.borrow_mut().push(String::from_utf8(std::mem::take(&mut head)).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            if !answer.contains("content-length: 2\r\n\r\nok") {
                return;
            }
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn here<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

/// R2: an even rate sends exactly rate × seconds requests and keeps its connections.
#[tokio::test]
async fn a_rate_is_kept_over_few_connections() {
    here(async {
        let (target, heads) = server(OK).await;
        let more = ["--rate", "200", "--connections", "3", "-H", "x-a: 1"];
        let report = measure(&args(target, &more)).await.unwrap();
        assert_eq!((report.requests, report.statuses), (40, [(200, 40)].into()));
        assert!((1..=3).contains(&report.connections), "{}", report.connections);
        assert_eq!(report.body_bytes, 80);
        let expected = format!("GET /a?b=c HTTP/1.1\r\nx-a: 1\r\nhost: {target}\r\n\r\n");
        assert!(heads.borrow().iter().all(|head| *head == expected), "{:?}", heads.borrow()[0]);
    })
    .await;
}

/// R2: a high rate finds its connections open, so that no handshake makes a request late.
#[tokio::test]
async fn connections_are_there_when_the_clock_begins() {
    here(async {
        let (target, _) = server(OK).await;
        let more = ["--rate", "300", "--connections", "8", "--seconds", "0.004"];
        let report = measure(&args(target, &more)).await.unwrap();
        assert_eq!((report.requests, report.connections), (1, 3));
    })
    .await;
}

/// R2: over HTTP/2 all connections have their turn, whatever the number of threads.
#[tokio::test]
async fn http2_uses_all_its_connections() {
    here(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let answer = || async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) };
            loop {
                let stream = TokioIo::new(listener.accept().await.unwrap().0);
                let service = service_fn(move |_| answer());
                let serving = http2::Builder::new(wire::Here).serve_connection(stream, service);
                tokio::task::spawn_local(serving);
            }
        });
        let mut args = args(target, &["--rate", "200", "--connections", "4", "--http", "2"]);
        args.common.threads = NonZeroUsize::new(2);
        let report = measure(&args).await.unwrap();
        assert_eq!((report.statuses, report.connections), ([(200, 40)].into(), 4));
    })
    .await;
}

/// R2: what is no whole answer is an error of its own class.
#[tokio::test]
async fn errors_have_classes() {
    here(async {
        for (answer, class) in [
            ("", "closed"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "truncated"),
            ("SSH-2.0-OpenSSH\r\n\r\n", "protocol"),
        ] {
            let (target, _) = server(answer).await;
            let report = measure(&args(target, &["--rate", "20"])).await.unwrap();
            assert_eq!(report.errors, [(class, 4)].into(), "{answer:?}");
            assert_eq!((report.statuses.len(), report.errors_percent), (0, 100.0));
        }
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let report = measure(&args(gone, &["--rate", "20"])).await.unwrap();
        assert_eq!(report.errors, [("connect", 4)].into());
    })
    .await;
}

/// R2: requests come from the users in turn, each with a token that its key verifies.
#[tokio::test]
async fn each_user_has_a_token() {
    let keys = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    std::fs::write(keys.path().join("es256.pem"), pair.serialize_pem()).unwrap();
    here(async {
        let (target, heads) = server(OK).await;
        let folder = keys.path().to_str().unwrap();
        let more = ["--rate", "20", "--users", "2", "--token-keys", folder];
        measure(&args(target, &more)).await.unwrap();
        let key = jsonwebtoken::DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.set_audience(&["api"]);
        rules.set_issuer(&["https://id.example"]);
        let mut users: Vec<_> =
            heads.borrow().iter().map(|head| user(head, &key, &rules)).collect();
        users.sort_unstable();
        assert_eq!(users, [1000, 1000, 1001, 1001]);
    })
    .await;
}

fn user(head: &str, key: &jsonwebtoken::DecodingKey, rules: &jsonwebtoken::Validation) -> u64 {
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap();
    let data = jsonwebtoken::decode::<serde_json::Value>(token, key, rules).unwrap();
    assert_eq!(data.header.kid.as_deref(), Some("es256-1"));
    data.claims["userId"].as_u64().unwrap()
}

/// R2: a recording is sent with its own methods and paths, and differences are listed.
#[tokio::test]
async fn a_recording_is_compared() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, r#"{{"endpoint":"GET /one","status":200,"at_ms":5}}"#).unwrap();
    writeln!(
        file,
        r#"{{"method":"POST","url":"https://x/two","body":"aGk=","status":404,"at_ms":9}}"#
    )
    .unwrap();
    here(async {
        let (target, heads) = server(OK).await;
        let path = file.path().to_str().unwrap();
        let report = measure(&args(target, &[path])).await.unwrap();
        assert_eq!((report.requests, report.compared), (2, 2));
        let changed =
            crate::replay::report::https::Difference { recorded: 404, now: Some(200), requests: 1 };
        assert_eq!(report.differences, [changed]);
        let heads = heads.borrow();
        assert!(heads.iter().any(|head| head.starts_with("GET /one HTTP/1.1\r\n")));
        assert!(heads.iter().any(|head| head.starts_with("POST /two HTTP/1.1\r\n")));
    })
    .await;
}

/// R2: latency counts from the scheduled time: with one connection and a server that never
/// answers, all requests time out, those that waited for the connection too.
#[tokio::test]
async fn waiting_for_a_connection_counts() {
    here(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = silent.local_addr().unwrap();
        let more = ["--rate", "20", "--connections", "1", "--timeout", "0.1"];
        let report = measure(&args(target, &more)).await.unwrap();
        assert_eq!(report.errors, [("timeout", 4)].into());
    })
    .await;
}

#[test]
fn odd_options_say_what_is_lawful() {
    assert!(script::url("api.example/x").unwrap_err().contains("https://HOST"));
    assert!(script::url("ftp://api.example/x").is_err());
    assert!(script::header("x").unwrap_err().contains("NAME: VALUE"));
    assert!(script::resolve("a:b").unwrap_err().contains("no IP address"));
}
