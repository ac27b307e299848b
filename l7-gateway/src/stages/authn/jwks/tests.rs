//! Key sets over time, on a paused clock, from a source that counts.

use std::sync::atomic::AtomicUsize;

use common::lifecycle::Lifecycle;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::advance;
use topology::gateway::Algorithm;

use super::super::forge::{Signer, set, text};
use super::*;

const NOW: u64 = 1_800_000_000;

/// Serves what it is told to, and counts how often it is asked.
#[derive(Clone, Default)]
struct Counting {
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    takes: Arc<Mutex<Duration>>,
}

impl Counting {
    fn serve(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = Some(set(keys));
    }

    fn fail(&self) {
        *self.answer.lock().unwrap() = None;
    }

    fn slow(&self, takes: Duration) {
        *self.takes.lock().unwrap() = takes;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Fetch for Counting {
    async fn fetch(&self, _most: usize) -> Result<Bytes, FetchError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let takes = *self.takes.lock().unwrap();
        if takes.is_zero() {
            yield_now().await;
        } else if timeout(crate::fetch::PATIENCE, sleep(takes)).await.is_err() {
            return Err(FetchError::Timeout {
                host: "id.example:443".to_owned(),
                limit: crate::fetch::PATIENCE,
            });
        }
        let answer = self.answer.lock().unwrap().clone();
        answer.map(Bytes::from).ok_or(FetchError::Timeout {
            host: "id.example:443".to_owned(),
            limit: crate::fetch::PATIENCE,
        })
    }
}

fn issuer(name: &str, audience: &str) -> Issuer {
    let place = Place { line: 7, column: 9 };
    Issuer {
        name: IssuerName::new(name),
        issuer: format!("https://{name}.example"),
        audiences: vec![audience.to_owned()],
        keys: IssuerKeys::Url(At { value: "http://127.0.0.1:1/jwks.json".to_owned(), place }),
        algorithms: vec![Algorithm::ES256],
        user_claim: "sub".to_owned(),
        consumer_claim: None,
        scope_claim: "scope".to_owned(),
        role_claim: "realm.roles".to_owned(),
        leeway: Duration::from_secs(30),
        place,
    }
}

fn token(signer: &Signer, id: &str) -> String {
    let claims = json!({
        "iss": "https://app.example", "aud": "api", "exp": NOW + 300, "sub": "7",
    });
    signer.token("ES256", Some(id), &claims)
}

/// One source that a keeper looks after, and its issuer's endpoint.
struct Scene {
    keys: Arc<Keys>,
    endpoint: Counting,
    _life: Lifecycle,
}

impl Scene {
    fn begin(endpoint: Counting) -> Self {
        let keys = Keys::new(&[issuer("app", "api")], None).unwrap();
        let life = Lifecycle::new();
        let (kept, from, shutdown) = (Arc::clone(&keys), endpoint.clone(), life.shutdown());
        tokio::spawn(async move {
            kept.sources[0].keep_by(&from, &Observer::new("gw-1"), &shutdown).await;
        });
        Self { keys, endpoint, _life: life }
    }

    fn source(&self) -> &Source {
        &self.keys.sources[0]
    }

    /// What a worker does with a token it has not seen.
    async fn check(&self, token: &str) -> Result<(), JwtFault> {
        let parsed = Token::parse(token.as_bytes()).unwrap();
        let verify =
            || self.source().verify(&parsed, NOW * 1000).expect("there are keys").0.map(|_| ());
        match verify() {
            Err(fault) if parsed.may_need_new_keys(&fault) => {
                self.source().renew(Instant::now()).await;
                verify()
            }
            outcome => outcome,
        }
    }
}

/// Lets the keeper run until it sleeps.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Lets time pass in steps, so that every timer on the way fires at its time.
async fn pass(time: Duration) {
    for _ in 0..100 {
        advance(time / 100).await;
        settle().await;
    }
}

/// G5: a flood of unknown `kid`s causes at most one fetch per 30 s.
#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys() {
    let (own, forger) = (Signer::es256(), Signer::es256());
    let endpoint = Counting::default();
    endpoint.serve(&[own.jwk("own")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    assert_eq!(scene.endpoint.asked(), 1, "the first fetch");
    let odd: Vec<String> = (0..20).map(|n| token(&forger, &format!("odd-{n}"))).collect();
    for second in 0..60_u64 {
        for odd in &odd {
            assert_eq!(scene.check(odd).await, Err(JwtFault::UnknownKey));
        }
        assert_eq!(scene.check(&token(&own, "own")).await, Ok(()));
        assert_eq!(scene.endpoint.asked() as u64, 2 + second / 30, "after {second} s");
        advance(Duration::from_secs(1)).await;
    }
}

/// G5: 10 000 different unknown `kid`s at once cause one fetch, and hold up no token that is known.
#[tokio::test(start_paused = true)]
async fn ten_thousand_unknown_keys_are_one_fetch() {
    let own = Signer::es256();
    let endpoint = Counting::default();
    endpoint.serve(&[own.jwk("own")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    let good = token(&own, "own");
    for n in 0..10_000 {
        let header = text(format!("{{\"alg\":\"ES256\",\"kid\":\"{n}\"}}").as_bytes());
        let odd = format!("{header}.{}", good.split_once('.').unwrap().1);
        assert_eq!(scene.check(&odd).await, Err(JwtFault::UnknownKey));
        if n % 1000 == 0 {
            assert_eq!(scene.check(&good).await, Ok(()));
        }
    }
    assert_eq!(scene.endpoint.asked(), 2, "the first fetch, and one for all of them");
}

/// G5: the endpoint takes 5 s for each answer, then hangs, while keys are rotated and tokens come: no
/// valid token is refused, and known ones never wait.
#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_holds_nobody_up() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let endpoint = Counting::default();
    endpoint.serve(&[old.jwk("old"), new.jwk("new")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    scene.endpoint.slow(Duration::from_secs(5));
    for second in 0..1200 {
        let began = Instant::now();
        // Rotation with overlap: both keys are published before the new one signs.
        let signed = if second < 600 { token(&old, "old") } else { token(&new, "new") };
        assert_eq!(scene.check(&signed).await, Ok(()), "after {second} s");
        assert_eq!(began.elapsed(), Duration::ZERO);
        if second == 900 {
            scene.endpoint.slow(Duration::from_secs(100_000));
        }
        advance(Duration::from_secs(1)).await;
        settle().await;
    }
}

/// G5: many requests that meet an unknown key at once wait for one fetch together.
#[tokio::test(start_paused = true)]
async fn one_fetch_for_all_who_wait() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let endpoint = Counting::default();
    endpoint.serve(&[old.jwk("old")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    scene.endpoint.serve(&[old.jwk("old"), new.jwk("new")]);
    let token = token(&new, "new");
    let all = futures_util::future::join_all((0..50).map(|_| scene.check(&token))).await;
    assert_eq!(all, vec![Ok(()); 50]);
    assert_eq!(scene.endpoint.asked(), 2);
}

/// G5: rotation with overlap refuses no valid token, and a removed key ends with the next refresh.
#[tokio::test(start_paused = true)]
async fn rotation() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let endpoint = Counting::default();
    endpoint.serve(&[old.jwk("old")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    let first = scene.source().generation();
    scene.endpoint.serve(&[old.jwk("old"), new.jwk("new")]);
    assert_eq!(scene.check(&token(&new, "new")).await, Ok(()));
    assert_eq!(scene.check(&token(&old, "old")).await, Ok(()));
    assert_ne!(scene.source().generation(), first);
    scene.endpoint.serve(&[new.jwk("new")]);
    pass(REFRESH + REFRESH / 5).await;
    assert_eq!(scene.check(&token(&old, "old")).await, Err(JwtFault::UnknownKey));
    assert_eq!(scene.check(&token(&new, "new")).await, Ok(()));
}

/// G5: the endpoint being down changes nothing for 24 h; then nobody is believed any more, until
/// it is back.
#[tokio::test(start_paused = true)]
async fn the_endpoint_is_down() {
    let own = Signer::es256();
    let endpoint = Counting::default();
    endpoint.serve(&[own.jwk("own")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    let first = scene.source().generation();
    scene.endpoint.fail();
    pass(LONGEST_STALE - Duration::from_secs(60)).await;
    assert_eq!(scene.check(&token(&own, "own")).await, Ok(()));
    assert_eq!(scene.source().generation(), first, "verified tokens stay verified");
    assert_eq!(scene.keys.waiting(), [""; 0]);
    pass(Duration::from_secs(600)).await;
    assert_eq!(scene.source().generation(), None);
    assert_eq!(scene.keys.waiting(), ["issuer app: no keys yet"]);
    scene.endpoint.serve(&[own.jwk("own")]);
    pass(Duration::from_secs(60)).await;
    assert_eq!(scene.check(&token(&own, "own")).await, Ok(()));
}

/// G5: an endpoint that is down at start is asked again, more and more slowly.
#[tokio::test(start_paused = true)]
async fn the_first_fetch_fails() {
    let scene = Scene::begin(Counting::default());
    settle().await;
    assert_eq!(scene.keys.waiting(), ["issuer app: no keys yet"]);
    pass(Duration::from_secs(300)).await;
    let asked = scene.endpoint.asked();
    assert!((10..=25).contains(&asked), "{asked}");
    let own = Signer::es256();
    scene.endpoint.serve(&[own.jwk("own")]);
    pass(Duration::from_secs(35)).await;
    assert_eq!(scene.keys.waiting(), [""; 0]);
}

/// The same set again is no change: verified tokens stay verified.
#[tokio::test(start_paused = true)]
async fn an_unchanged_set() {
    let endpoint = Counting::default();
    endpoint.serve(&[Signer::es256().jwk("own")]);
    let scene = Scene::begin(endpoint);
    settle().await;
    let first = scene.source().generation();
    pass(REFRESH * 3).await;
    assert!(scene.endpoint.asked() >= 3);
    assert_eq!(scene.source().generation(), first);
    scene.endpoint.serve(&[json!({"kty": "oct", "k": "AAAA"})]);
    pass(REFRESH * 2).await;
    assert_eq!(scene.source().generation(), first, "a set without a usable key replaces nothing");
}

/// G5: several issuers, each for the routes that name it; of two with one name, the audience tells.
#[test]
fn whose_keys() {
    let mut twin = issuer("drivers", "drivers");
    twin.issuer = "https://riders.example".to_owned();
    let keys =
        Keys::new(&[issuer("riders", "riders"), twin, issuer("drivers", "drivers")], None).unwrap();
    let [riders, twin, drivers] = [0, 1, 2].map(IssuerId);
    let signer = Signer::es256();
    let select = |iss: &str, aud: &str, allowed: &[IssuerId]| {
        let token = signer.token("ES256", None, &json!({"iss": iss, "aud": aud}));
        let parsed = Token::parse(token.as_bytes()).unwrap();
        keys.select(&parsed, allowed).map(|(id, _)| id)
    };
    let all = [riders, twin, drivers];
    assert_eq!(select("https://drivers.example", "x", &all), Ok(drivers));
    assert_eq!(select("https://drivers.example", "x", &[riders]), Err(JwtFault::OtherIssuer));
    assert_eq!(select("https://riders.example", "riders", &all), Ok(riders));
    assert_eq!(select("https://riders.example", "drivers", &all), Ok(twin));
    assert_eq!(select("https://riders.example", "x", &all), Ok(riders));
    assert_eq!(select("https://evil.example", "riders", &all), Err(JwtFault::OtherIssuer));
    assert_eq!(
        select("https://riders.example", "riders", &[IssuerId(9)]),
        Err(JwtFault::OtherIssuer)
    );
}

/// G5: keys in files are read at start; what is wrong with them has its place.
#[test]
fn keys_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { line: 3, column: 5 };
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        At { value: SecretRef::File(path), place }
    };
    let signer = Signer::es256();
    let with = |keys| Keys::new(&[Issuer { keys, ..issuer("app", "api") }], None);
    assert!(with(IssuerKeys::Key(at("good.pem", &signer.pem()))).unwrap().waiting().is_empty());
    let jwks = set(&[signer.jwk("k")]);
    assert!(with(IssuerKeys::JwksFile(at("set.json", &jwks))).unwrap().waiting().is_empty());
    for bad in [
        with(IssuerKeys::Key(at("bad.pem", "not a key at all, but thirty-two bytes"))),
        with(IssuerKeys::JwksFile(at("bad.json", "{}"))),
        with(IssuerKeys::Key(At { value: SecretRef::File("/nonexistent".into()), place })),
        with(IssuerKeys::Url(At { value: "ftp://id.example/".to_owned(), place })),
    ] {
        let fault = bad.expect_err("unusable");
        assert_eq!(fault.place(), place);
        assert!(fault.to_string().starts_with("issuer app: "), "{fault}");
    }
}

/// Answers one connection with these bytes.
async fn answer_once(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        assert!(head[..read].starts_with(b"GET /keys?v=1 HTTP/1.1\r\n"));
        // The reader may go before it has had everything.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    });
    format!("http://{address}/keys?v=1")
}

/// G5: what an issuer's endpoint may answer, and what becomes of it.
#[tokio::test]
async fn fetching() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}";
    let moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let large = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b' '; 2000]].concat();
    let fetch = async |bytes: &[u8]| {
        let address = answer_once(bytes.to_vec()).await;
        HttpFetch::new(&address).unwrap().fetch(1000).await
    };
    assert_eq!(fetch(ok).await.unwrap(), "{}");
    assert!(matches!(fetch(cut).await, Err(FetchError::Broken { .. })));
    assert!(matches!(fetch(b"nonsense\r\n\r\n").await, Err(FetchError::Broken { .. })));
    assert!(matches!(fetch(&large).await, Err(FetchError::TooLarge { .. })));
    assert!(matches!(fetch(moved).await, Err(FetchError::Status { status, .. }) if status == 302));
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    // A 10 MiB set is given up after the first mebibyte.
    let flood =
        [&b"HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n"[..], &[b' '; 10 << 20]].concat();
    let address = answer_once(flood).await;
    let outcome = HttpFetch::new(&address).unwrap().fetch(key_file::LARGEST_SET).await;
    assert!(matches!(outcome, Err(FetchError::TooLarge { .. })));
    let refused = HttpFetch::new(&nobody).unwrap().fetch(1000).await;
    assert!(matches!(refused, Err(FetchError::Connect { .. })));
    for bad in ["", "id.example", "file:///etc/passwd", "http://", "ftp://x/"] {
        assert!(matches!(HttpFetch::new(bad), Err(FetchError::Address(_))), "{bad}");
    }
}

/// T9: a reload keeps a fetched set as long as the file says the same of its issuer, wherever it is
/// written; of an issuer that says something else it is fetched anew.
#[test]
fn a_reload_keeps_fetched_sets() {
    let before = Keys::new(&[issuer("app", "api")], None).unwrap();
    let mut moved = issuer("app", "api");
    moved.place.line += 7;
    let after = Keys::new(&[issuer("other", "api"), moved], Some(&before)).unwrap();
    assert!(Arc::ptr_eq(&after.sources[1], &before.sources[0]));
    let changed = Keys::new(&[issuer("app", "web")], Some(&before)).unwrap();
    assert!(!Arc::ptr_eq(&changed.sources[0], &before.sources[0]));
}
