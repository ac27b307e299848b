//! Redis and PostgreSQL that ask who we are, behind TLS: real servers on sockets, a relay before each that
//! ends TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::observe::Observer;
use l7_gateway::redis_server::RedisServer;
use l7_gateway::stages::authn::api_key::store::{Store, TABLE};
use l7_gateway::stages::authn::api_key::{Digest, Record};
use l7_gateway::stages::authn::denylist::{Denylist, Entry, revoke};
use l7_gateway::stages::rate_limit::budget::Budget;
use l7_gateway::stages::rate_limit::redis as limits;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use topology::gateway::{Denylist as Model, LimitStore, Login, PostgresTls, WhenAway};
use topology::units::{At, Place, SecretRef};

use crate::servers::{Postgres, Redis};

const PASSWORD: &str = "S3CRET-of-the-store";

/// Ends TLS before a socket.
struct Relay {
    port: u16,
    folder: TempDir,
    _task: AbortOnDropHandle<()>,
}

/// What comes before TLS.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// PostgreSQL's wish for TLS, and its answer.
    Wish(u8),
}

impl Relay {
    async fn start(to: PathBuf, before: Before) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), cert.pem()).expect("written");
        std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).expect("written");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(common::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (acceptor, to) = (acceptor.clone(), to.clone());
                tokio::spawn(async move {
                    if let Before::Wish(answer) = before {
                        let mut wish = [0; 8];
                        stream.read_exact(&mut wish).await?;
                        assert_eq!(wish[4..], 80_877_103_u32.to_be_bytes());
                        stream.write_all(&[answer]).await?;
                    }
                    let mut stream = acceptor.accept(stream).await?;
                    copy_bidirectional(&mut stream, &mut UnixStream::connect(to).await?).await
                });
            }
        });
        Self { port, folder, _task: AbortOnDropHandle::new(task) }
    }

    fn file(&self, name: &str) -> At<SecretRef> {
        At { value: SecretRef::File(self.folder.path().join(name)), place: Place::default() }
    }

    fn login(&self) -> Login {
        Login {
            user: Some("gateway".into()),
            password: Some(self.file("password")),
            ca: Some(self.file("ca.pem")),
        }
    }

    fn redis(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }
}

fn at(value: String) -> At<String> {
    At { value, place: Place::default() }
}

/// G7, G8, G10: limits, keys and the denylist log in at a Redis by name and password over TLS; whoever
/// cannot show its certificate, or is not told the password, is not spoken to.
#[tokio::test]
async fn a_redis_that_asks_who_we_are() {
    let redis = Redis::start_asking(PASSWORD);
    let relay = Relay::start(redis.socket(), Before::Nothing).await;
    // API keys.
    let digest = Digest::of(b"a key of more than sixteen bytes");
    let keys = Store::redis(&relay.redis(), &relay.login()).expect("an address");
    keys.put(&digest, &Record { consumer: "acme".into(), ..Record::default() }).await.expect("put");
    assert_eq!(keys.find(&digest).await.expect("told").expect("there").consumer, "acme");
    // Limits.
    let store = limits::Store::new(&LimitStore {
        redis: vec![at(relay.redis())],
        login: relay.login(),
        when_away: WhenAway::FailClosed,
        timeout: Duration::from_secs(1),
    });
    let store = store.expect("an address");
    let mut line = store.connect().await.expect("it is let in");
    let charges = [("k".to_owned(), Budget::FixedWindow { count: 9, per: 60_000_000 })];
    let decision = store.charge(&mut line, &charges, None).await;
    assert_eq!(decision.standings[0].expect("counted").remaining, 8);
    // The denylist.
    let model = Model {
        redis: at(relay.redis()),
        login: relay.login(),
        longest_stale: Duration::from_secs(3600),
    };
    let list = Denylist::new(&model, None).expect("an address");
    let life = Lifecycle::new();
    let keeper = Arc::clone(&list).keep(Observer::new("gw-1"), life.shutdown());
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
    while list.generation() == 0 {
        tokio::task::yield_now().await;
    }
    let before = list.generation();
    let server = RedisServer::new(&relay.redis(), &relay.login()).expect("an address");
    let entry = Entry::Issuer { iss: "a".into(), before: 1 };
    revoke(&server, &entry, Duration::from_secs(60)).await.expect("told");
    while list.generation() == before {
        tokio::task::yield_now().await;
    }
    // Who is refused is told why, and the password is nowhere.
    std::fs::write(relay.folder.path().join("password"), "S3CRET-another").expect("written");
    let other = Relay::start(redis.socket(), Before::Nothing).await;
    let nobody = Login { ca: relay.login().ca, ..Login::default() };
    let foreign = Login { ca: other.login().ca, ..relay.login() };
    let system = Login { ca: None, ..relay.login() };
    for login in [relay.login(), nobody, foreign, system] {
        let fault = Store::redis(&relay.redis(), &login).expect("an address").find(&digest).await;
        let fault = format!("{0} {0:?}", fault.expect_err("not let in"));
        assert!(!fault.contains("S3CRET") && !fault.contains("within 1 s"), "{fault}");
    }
    let plain = format!("redis://127.0.0.1:{}", relay.port);
    assert!(Store::redis(&plain, &relay.login()).expect("an address").find(&digest).await.is_err());
}

/// G9: a reload takes over what is known of a Redis while it is reached in the same way, and logs in anew
/// once the password has changed in its file.
#[tokio::test]
async fn a_changed_password_is_another_login() {
    let relay = Relay::start(Path::new("/nonexistent").into(), Before::Nothing).await;
    let model = Model {
        redis: at(relay.redis()),
        login: relay.login(),
        longest_stale: Duration::from_secs(3600),
    };
    let first = Denylist::new(&model, None).expect("an address");
    let again = Denylist::new(&model, Some(&first)).expect("an address");
    assert!(Arc::ptr_eq(&first, &again));
    std::fs::write(relay.folder.path().join("password"), "another").expect("written");
    let changed = Denylist::new(&model, Some(&again)).expect("an address");
    assert!(!Arc::ptr_eq(&again, &changed));
    std::fs::remove_file(relay.folder.path().join("password")).expect("removed");
    let fault = Denylist::new(&model, Some(&changed)).expect_err("no password").to_string();
    assert!(fault.contains("denylist: password: cannot read"), "{fault}");
}

/// G7: keys stand in a PostgreSQL that is spoken to over TLS and asks for a password; one that does not
/// speak TLS, or cannot show its certificate, is told nothing.
#[tokio::test]
async fn a_postgresql_behind_tls() {
    let server = Postgres::start_asking(PASSWORD);
    let relay = Relay::start(server.socket(), Before::Wish(b'S')).await;
    let address = format!("postgres://postgres@localhost:{}/postgres", relay.port);
    let mut config: tokio_postgres::Config = server.address().parse().expect("an address");
    let (client, connection) =
        config.password(PASSWORD).connect(tokio_postgres::NoTls).await.expect("let in");
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    client.batch_execute(TABLE).await.expect("made");
    let login = || Login { user: None, ..relay.login() };
    let digest = Digest::of(b"a key of more than sixteen bytes");
    let store = Store::postgres(&address, &login(), PostgresTls::VerifyFull).expect("an address");
    store
        .put(&digest, &Record { consumer: "acme".into(), ..Record::default() })
        .await
        .expect("put");
    assert_eq!(store.find(&digest).await.expect("told").expect("there").consumer, "acme");

    let other = Relay::start(server.socket(), Before::Wish(b'N')).await;
    let refused = async |address: &str, login: Login| {
        let store = Store::postgres(address, &login, PostgresTls::VerifyFull).expect("an address");
        let fault = store.find(&digest).await.expect_err("not let in");
        assert!(!format!("{fault} {fault:?}").contains("S3CRET"), "{fault}");
        fault.to_string()
    };
    let plain = format!("postgres://postgres@localhost:{}/postgres", other.port);
    let told = refused(&plain, login()).await;
    assert!(told.contains("does not speak TLS"), "{told}");
    let told = refused(&address, Login { ca: other.login().ca, ..login() }).await;
    assert!(told.contains("certificate"), "{told}");
    std::fs::write(relay.folder.path().join("password"), "S3CRET-another").expect("written");
    refused(&address, login()).await;
}
