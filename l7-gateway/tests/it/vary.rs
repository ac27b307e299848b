//! What answers depend on, by an oracle: of two requests to one URL that are answered differently no cache may take one
//! for the other.

use std::fmt::Write as _;

use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::rig::{Rig, local, topology};

const GROUP: &str = "    api-keys: { partners: { from: \"file:KEYS\", header: X-API-Key } }
    consumers:
      acme: { compress: { min: 0B }, transform: { response: { headers: { set: { x-for: '${consumer}' } } } } }
    experiments: { colour: { variants: { red: 50%, blue: 50% }, by: cookie:who } }
    upstreams:
      two: { transform: { request: { headers: { set: { x-shop: '${request.header.x-tenant|none}' } } } } }
    routes:
      - { name: beta, host: '*.example', path: /a/*, headers: { X-Beta: '1' }, to: two }
      - { name: exact, path: /a/b, to: one }
      - { name: version, host: [api.example, b.example], path: /a/b, accept-version: 2, to: two }
      - { name: escaped, path: /caf%C3%A9/*, cookies: { group: a }, to: two }
      - { name: nearer, path: /caf%C3%A9/x, to: one }
      - { name: phones, path: '~/r/[a-z]+', client: mobile, to: two }
      - { name: others, path: '~/r/.*', to: one }
      - { name: query, path: /r/x, query: { q: '*' }, headers: { X-Tenant: '*' }, to: two }
      - { name: sticky, path: /sticky, to: one, split: [{ to: two, part: 50% }], sticky: cookie:who }
      - { name: handed, path: /handed, to: one, split: [{ to: two, part: 1%, cookie: group=a }] }
      - { name: trial, path: /trial, to: one, experiments: [colour] }
      - { name: keyed, path: /keyed, to: one, auth: partners }
      - { name: given, path: /given, redirect: { to: '/to/${request.header.x-tenant|none}/${request.cookie.who|none}' } }
      - { name: cors, path: /cors, to: one, cors: { origins: ['https://app.example', 'https://b.example'] } }
      - { name: renamed, path: /renamed, to: one, transform: { request: { headers: { rename: { x-beta: x-shop } } } } }
      - { name: small, path: /small, to: one, compress: { min: 0B } }
      - { name: from, path: /from, to: one, transform: { response: { headers: { set: { x-from: '${client.address}' } } } } }
      - { name: plain, path: /plain, to: one }
";

const PATHS: [&str; 16] = [
    "/a/b",
    "/a/c",
    "/caf%C3%A9/x",
    "/caf%c3%a9/x",
    "/caf%C3%A9/y",
    "/r/x",
    "/r/x?q=1",
    "/r/7",
    "/sticky",
    "/handed",
    "/trial",
    "/keyed",
    "/given",
    "/cors",
    "/renamed",
    "/small",
];
const HOSTS: [&str; 4] = ["api.example", "b.example", "c.example", "elsewhere"];

/// Fields that a request may have, each with its values.
const FIELDS: [(&str, &[&str]); 8] = [
    ("x-beta", &["1", "2"]),
    ("accept", &["*/*", "application/json;version=2"]),
    ("cookie", &["group=a", "group=b; who=7", "who=8", "who=9; group=a"]),
    ("user-agent", &["Mobi", "else"]),
    ("x-tenant", &["shop", "none"]),
    ("x-api-key", &["aqk_acme-acme-acme-acme", "aqk_else-else-else-else", "wrong"]),
    ("origin", &["https://app.example", "https://b.example", "https://evil.example"]),
    ("accept-encoding", &["gzip", "identity", "br;q=0.5"]),
];

/// Fields by which a service may tell requests apart that the file has changed.
const SHOWN: [&str; 2] = ["x-shop: ", "x-experiment-colour: "];

/// Answers with its name, the line that it was asked, and what it was told of `SHOWN`.
async fn serve(mut stream: TcpStream, name: &'static str) {
    let mut bytes = Vec::new();
    while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
        if !bytes.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut body = format!("{name} {}", text.lines().next().unwrap_or_default());
        // A service that lies about what it depends on is not this gateway's fault: one that only the file tells of it.
        let own = text.lines().filter(|line| SHOWN.iter().any(|shown| line.starts_with(shown)));
        own.for_each(|line| body += line);
        bytes.clear();
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn service(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(serve(stream, name));
        }
    });
    format!("  {name}: {{ endpoints: [{address}] }}")
}

/// A request's fields and its answer.
struct Asked {
    fields: Vec<(&'static str, &'static str)>,
    answer: String,
}

impl Asked {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Lines of the answer that say what it is, without what is made anew each time.
    fn told(&self) -> Vec<&str> {
        let fresh = ["x-request-id: ", "set-cookie: ", "date: ", "vary: "];
        let lines = self.answer.lines();
        lines.filter(|line| !fresh.iter().any(|fresh| line.starts_with(fresh))).collect()
    }

    /// Whether a shared cache that has it gives it to another request.
    fn serves(&self, other: &Self) -> bool {
        let lines = self.answer.lines();
        let mut names =
            lines.filter_map(|line| line.strip_prefix("vary: ")).flat_map(|names| names.split(','));
        let kept = !self.answer.contains("no-store") && !self.answer.contains("private");
        kept && names.all(|name| {
            let name = name.trim().to_ascii_lowercase();
            name != "*" && self.field(&name) == other.field(&name)
        })
    }
}

/// G11, G12, G13, G22: answers to one URL that differ are told apart by what `Vary` names: routes chosen by headers
/// behind hosts, suffixes and escapes, parts and variants by cookies, callers, templates, origins and forms.
#[tokio::test]
async fn no_cache_takes_one_answer_for_another() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.ndjson");
        for (consumer, key) in
            [("acme", "aqk_acme-acme-acme-acme"), ("else", "aqk_else-else-else-else")]
        {
            let record = Record { consumer: consumer.into(), ..Record::default() };
            file::append(&path, &Digest::of(key.as_bytes()), &record).expect("written");
        }
        let services = [service("one").await, service("two").await].join("\n");
        let rig =
            Rig::new(&topology(&services, &GROUP.replace("KEYS", &path.display().to_string())));
        let mut rng = SmallRng::seed_from_u64(8);
        let mut differ = 0;
        for (host, path) in HOSTS.iter().flat_map(|host| PATHS.map(|path| (host, path))) {
            let mut all: Vec<Asked> = Vec::new();
            for _ in 0..24 {
                let mut fields = Vec::new();
                for (name, values) in FIELDS {
                    if rng.random_bool(0.5) {
                        fields.push((name, values[rng.random_range(0..values.len())]));
                    }
                }
                let mut text =
                    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
                fields.iter().for_each(|(name, value)| _ = write!(text, "{name}: {value}\r\n"));
                let (mut stream, _task) = rig.connect();
                stream.write_all(format!("{text}\r\n").as_bytes()).await.expect("taken");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.expect("an end");
                all.push(Asked { fields, answer: String::from_utf8_lossy(&answer).into_owned() });
            }
            for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other)))
            {
                if one.told() != other.told() {
                    differ += 1;
                    let what = format!(
                        "{host}{path}\n{:?}\n{}\n{:?}\n{}",
                        one.fields, one.answer, other.fields, other.answer
                    );
                    assert!(!one.serves(other), "{what}");
                }
            }
        }
        assert!(differ > 5000, "{differ}: too few to show anything");
        // What no header says cannot be told apart.
        let answer = rig.get("/from", "").await;
        assert!(answer.contains("vary: *\r\n"), "{answer}");
        // What depends on nothing says so.
        assert!(!rig.get("/plain", "").await.contains("vary"));
    })
    .await;
}
