//! A worker in memory: streams instead of sockets, a PostgreSQL that answers as it is told, and
//! tokio's paused clock. Not for what PostgreSQL really does. Used by `time`.
//!
//! Invariant: no thread, no socket, no wall time.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::observe::Observer;
use common::workers::WorkerId;
use pgpool::admin::verbs::Command;
use pgpool::cancel::Waiting;
use pgpool::client::source::Source;
use pgpool::names::{Names, Resolve, Resolving};
use pgpool::server::connect::Dialled;
use pgpool::snapshot::{Held, Snapshot};
use pgpool::stream::Stream;
use pgpool::tally::Tally;
use pgpool::worker::{Arrival, Dial, Dialing, Message, Parts, Worker};
use pgpool_wire::SqlState;
use pgpool_wire::backend::{self, Authentication, Severity, Status};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use pgpool_wire::startup::{self, CancelKey, Opening, Startup, V3_0, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use topology::pool::ServerAddress;

/// Servers that answer `select` at once and `hang` never.
#[derive(Default)]
pub(crate) struct Fake {
    /// Connections open now.
    pub(crate) open: AtomicUsize,
    /// Most at a time.
    pub(crate) most: AtomicUsize,
    /// Where each of these led.
    pub(crate) peers: Mutex<Vec<String>>,
    /// Connections tried so far.
    pub(crate) dialled: AtomicUsize,
    /// Logins so far.
    pub(crate) logins: AtomicUsize,
    /// Those of these that let nobody connect.
    pub(crate) dead: Mutex<Vec<String>>,
    /// Those of these from which nothing ever comes.
    pub(crate) lost: Mutex<Vec<String>>,
    /// Refuse everybody.
    pub(crate) down: std::sync::atomic::AtomicBool,
    /// Answer nobody who connects.
    pub(crate) stuck: std::sync::atomic::AtomicBool,
    /// Take a second to end after a goodbye.
    pub(crate) lingers: std::sync::atomic::AtomicBool,
    /// Keep the answer to `set_config` back until told to go on.
    pub(crate) slow: std::sync::atomic::AtomicBool,
    /// One has come.
    pub(crate) came: Notify,
    /// It is to be answered.
    pub(crate) go: Notify,
    /// Queries seen.
    pub(crate) said: Mutex<Vec<String>>,
    /// Cancel requests seen.
    pub(crate) cancels: AtomicUsize,
    /// The last one's secret.
    pub(crate) secret: Mutex<Vec<u8>>,
    /// What it does about protocol 3.2.
    pub(crate) newest: Mutex<Newest>,
    /// Startup packets seen, by the version that they ask for.
    pub(crate) asked: Mutex<Vec<Version>>,
}

/// What a server does about protocol 3.2.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Newest {
    /// Answers that it speaks 3.0.
    #[default]
    Negotiates,
    /// Refuses it.
    Refuses,
    /// Speaks it.
    Speaks,
}

/// Where the one name leads, and how often that was asked.
#[derive(Default)]
pub(crate) struct Book {
    /// Its addresses; none: the lookup fails.
    pub(crate) leads: Mutex<Vec<IpAddr>>,
    /// Lookups so far.
    pub(crate) asked: AtomicUsize,
    /// From now on they are never answered.
    pub(crate) silent: std::sync::atomic::AtomicBool,
}

impl Book {
    /// Leads to 10.0.0.N for each of these.
    pub(crate) fn lead(&self, to: &[u8]) {
        *self.leads.lock().expect("whole") = to.iter().map(|n| [10, 0, 0, *n].into()).collect();
    }
}

impl Resolve for Book {
    fn resolve(&self, name: &str) -> Resolving {
        assert_eq!(name, "db.internal");
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let leads = self.leads.lock().expect("whole").clone();
        let fault = || io::Error::other("no such name");
        Box::pin(async move { if leads.is_empty() { Err(fault()) } else { Ok(leads) } })
    }
}

struct Dialer(Arc<Fake>);

impl Dial for Dialer {
    fn dial(&self, address: &ServerAddress) -> Dialing {
        let peer = address.clone();
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            fake.dialled.fetch_add(1, Ordering::SeqCst);
            fake.peers.lock().expect("whole").push(peer.to_string());
            let dead = fake.dead.lock().expect("whole").contains(&peer.to_string());
            if dead || fake.down.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let lost = fake.lost.lock().expect("whole").contains(&peer.to_string());
            if lost || fake.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::task::spawn_local(serve(fake, theirs));
            Ok(Dialled { io: Stream::Memory(Box::new(ours)), local: None, peer })
        })
    }
}

async fn serve(fake: Arc<Fake>, mut io: DuplexStream) {
    let mut input = Vec::new();
    let version = loop {
        match startup::opening(&input) {
            Ok(Some((Opening::Cancel(key), _))) => {
                *fake.secret.lock().expect("whole") = key.secret;
                fake.cancels.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Ok(Some((Opening::Startup(startup), _))) => break startup.version,
            Ok(Some((Opening::Gss, _))) => {
                // It may be gone.
                let _ = io.write_all(b"N").await;
                return;
            }
            _ => {}
        }
        if io.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    };
    fake.asked.lock().expect("whole").push(version);
    let newest = *fake.newest.lock().expect("whole");
    let mut out = Vec::new();
    match newest {
        Newest::Refuses if version > V3_0 => {
            let (code, text) = (SqlState::new(b"0A000"), "unsupported frontend protocol 3.2");
            backend::put_error(&mut out, Severity::Fatal, code, text, None);
            // It may be gone.
            let _ = io.write_all(&out).await;
            return;
        }
        Newest::Negotiates if version > V3_0 => {
            backend::put_negotiate(&mut out, V3_0, std::iter::empty());
        }
        _ => {}
    }
    let secret = vec![1; if newest == Newest::Speaks { 32 } else { 4 }];
    let now = fake.open.fetch_add(1, Ordering::SeqCst) + 1;
    fake.most.fetch_max(now, Ordering::SeqCst);
    fake.logins.fetch_add(1, Ordering::SeqCst);
    backend::put_authentication(&mut out, Authentication::Ok);
    backend::put_parameter(&mut out, "server_version", "16.0");
    backend::put_parameter(&mut out, "client_encoding", "UTF8");
    backend::put_key(&mut out, &CancelKey { pid: 1, secret });
    backend::put_ready(&mut out, Status::Idle);
    talk(&fake, &mut io, out).await;
    if fake.lingers.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fake.open.fetch_sub(1, Ordering::SeqCst);
}

async fn talk(fake: &Fake, io: &mut DuplexStream, mut out: Vec<u8>) {
    let mut input = Vec::new();
    let mut status = Status::Idle;
    loop {
        while let Ok(Found::Whole(frame)) = frame::next(&input, 1 << 20) {
            let sql = frontend::query(frame.body).unwrap_or_default();
            fake.said.lock().expect("whole").push(String::from_utf8_lossy(sql).into_owned());
            let sets = sql.windows(10).any(|word| word == b"set_config");
            if sets && fake.slow.load(Ordering::SeqCst) {
                fake.came.notify_one();
                fake.go.notified().await;
            }
            match sql {
                b"hang" => {}
                // Somebody notifies at once.
                listen if listen.starts_with(b"LISTEN ") => {
                    backend::put_command(&mut out, "LISTEN");
                    backend::put_ready(&mut out, status);
                    frame::put(&mut out, backend::tag::NOTIFICATION, |out| {
                        out.extend(b"\0\0\0\x07jobs\0first\0");
                    });
                }
                b"stream" => {
                    frame::put(&mut out, backend::tag::COPY_BOTH, |out| out.extend([0; 3]));
                    frame::put(&mut out, backend::tag::COPY_DATA, |out| out.extend([7; 100]));
                }
                sql => {
                    status = match sql {
                        b"begin" => Status::Transaction,
                        b"ROLLBACK" | b"commit" => Status::Idle,
                        _ => status,
                    };
                    backend::put_command(&mut out, "SELECT 0");
                    backend::put_ready(&mut out, status);
                }
            }
            let used = frame.raw.len();
            input.drain(..used);
        }
        if io.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        if io.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// A worker with its servers.
pub(crate) struct Bench {
    /// The servers.
    pub(crate) fake: Arc<Fake>,
    /// The worker.
    pub(crate) worker: Rc<Worker>,
    /// Its phases.
    pub(crate) lifecycle: Lifecycle,
    inbox: mpsc::UnboundedSender<Message>,
}

impl Bench {
    /// A worker with one database `shop` and a trusted user `open`. Call it on a `LocalSet`.
    pub(crate) fn new(size: u32, settings: &str) -> Self {
        Self::with(size, "", settings)
    }

    /// The same, with keys of the user's own.
    pub(crate) fn with(size: u32, user: &str, settings: &str) -> Self {
        Self::of(1, Self::snapshot(&shop("127.0.0.1:5432", size), user, settings)).remove(0)
    }

    /// A worker whose file names no database: `*` stands for all.
    pub(crate) fn any(size: u32, settings: &str) -> Self {
        let databases = format!("\"*\": {{ primary: 127.0.0.1:5432, pool-size: {size} }}");
        Self::of(1, Self::snapshot(&databases, "", settings)).remove(0)
    }

    /// A worker whose database is at several places, each as good as the other.
    pub(crate) fn spread(more: &str, settings: &str) -> Self {
        let databases =
            format!("shop: {{ primary: 10.0.0.1:5432, tls: {{ mode: disable }}, {more} }}");
        Self::of(1, Self::snapshot(&databases, "", settings)).remove(0)
    }

    /// A worker of these databases.
    pub(crate) fn stocked(databases: &str, settings: &str) -> Self {
        Self::of(1, Self::snapshot(databases, "", settings)).remove(0)
    }

    /// A worker whose database is at `db.internal`, and where that leads.
    pub(crate) fn named(size: u32, user: &str, settings: &str) -> (Self, Arc<Book>) {
        let book = Arc::new(Book::default());
        let shop = shop("db.internal:5432, tls: { mode: disable }", size);
        let mut snapshot = Self::snapshot(&shop, user, settings);
        snapshot.names = Arc::new(Names::new(Arc::clone(&book) as Arc<dyn Resolve>));
        (Self::of(1, snapshot).remove(0), book)
    }

    /// So many workers of one instance, over all of which the pool is spread.
    pub(crate) fn team(workers: usize, size: u32, settings: &str) -> Vec<Self> {
        let settings = format!("pool_shards: {workers}, {settings}");
        Self::of(workers, Self::snapshot(&shop("127.0.0.1:5432", size), "", &settings))
    }

    fn snapshot(databases: &str, user: &str, settings: &str) -> Snapshot {
        let text = format!(
            "aqueduct: 1
pools:
  data:
    instances: {{ pool-1: {{ listen: 127.0.0.1:0 }} }}
    databases: {{ {databases} }}
    users: {{ open: {{ {user} }} }}
    settings: {{ {settings} }}
"
        );
        let topology = topology::parse("bench.yaml", &text, std::path::Path::new("/"));
        let topology = topology.unwrap_or_else(|fault| panic!("{fault}"));
        let built =
            Snapshot::build(&topology, "pool-1", None).unwrap_or_else(|fault| panic!("{fault}"));
        built.0
    }

    fn of(workers: usize, snapshot: Snapshot) -> Vec<Self> {
        let fake = Arc::new(Fake::default());
        let (snapshot, lifecycle) = (Arc::new(snapshot), Lifecycle::new());
        let tally = Arc::new(Tally::default());
        let (all, messages): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let peers: pgpool::worker::Peers = all.clone().into();
        let make = |(id, (inbox, messages))| {
            let worker = Worker::new(Parts {
                id: WorkerId(id),
                snapshot: Arc::clone(&snapshot),
                observer: Observer::new("pool-1"),
                lifecycle: lifecycle.clone(),
                dialer: Arc::new(Dialer(Arc::clone(&fake))),
                peers: Arc::clone(&peers),
                tally: Arc::clone(&tally),
                handle: None,
                outbox: None,
            });
            tokio::task::spawn_local(Rc::clone(&worker).run(messages));
            Self { fake: Arc::clone(&fake), worker, lifecycle: lifecycle.clone(), inbox }
        };
        all.into_iter().zip(messages).enumerate().map(make).collect()
    }

    /// The worker carries out a command of the console.
    pub(crate) fn tell(&self, command: &Command) {
        command.carry_out(&self.worker);
    }

    /// A client that is logged in.
    pub(crate) async fn client(&self) -> Talk {
        let mut talk = self.arrive(&[]);
        talk.answer().await;
        talk
    }

    /// A client asks for the end of its query.
    pub(crate) fn cancel(&self, client: u32) {
        let entry = self.worker.client(client).expect("it is here");
        let (_, theirs) = tokio::io::duplex(64);
        let source = Source::Ip(([127, 0, 0, 1], 1).into());
        let waiting = Waiting::Client(Stream::Memory(Box::new(theirs)), source);
        let key = CancelKey { pid: client, secret: entry.secret.to_vec() };
        assert!(self.inbox.send(Message::Cancel(waiting, key)).is_ok());
    }

    /// A client that asks for more at its login, whose answer is still to come.
    pub(crate) fn arrive(&self, more: &[(&str, &str)]) -> Talk {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let place = Held::enter(&self.worker.snapshot().clients).expect("room");
        let parameters = [("user", "open"), ("database", "shop")];
        let parameters = parameters.iter().chain(more);
        let parameters = parameters.map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let arrival = Arrival {
            io: Stream::Memory(Box::new(theirs)),
            source: Source::Ip(([127, 0, 0, 1], 1).into()),
            startup: Startup { version: V3_0, parameters },
            place,
            until: Instant::now() + self.worker.snapshot().settings.client_login_timeout,
        };
        assert!(self.inbox.send(Message::Client(Box::new(arrival))).is_ok());
        Talk { io: ours, input: Vec::new() }
    }
}

fn shop(primary: &str, size: u32) -> String {
    format!("shop: {{ primary: {primary}, pool-size: {size} }}")
}

/// The client's end.
pub(crate) struct Talk {
    io: DuplexStream,
    input: Vec<u8>,
}

impl Talk {
    /// Sends a simple query.
    pub(crate) async fn send(&mut self, sql: &str) {
        let mut out = Vec::new();
        frontend::put_query(&mut out, sql.as_bytes());
        self.io.write_all(&out).await.expect("sent");
    }

    /// Sends a simple query and reads its answer.
    pub(crate) async fn ask(&mut self, sql: &str) -> String {
        self.send(sql).await;
        self.answer().await
    }

    /// Writes what is taken without anything else happening; how much that was.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        while count < bytes.len() {
            let some = self.io.write(&bytes[count..]);
            let Ok(some) = tokio::time::timeout(Duration::from_secs(1), some).await else { break };
            count += some.expect("it is there");
        }
        count
    }

    /// All that is still to come, as it came.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        self.io.read_to_end(&mut self.input).await.expect("an end");
        self.input
    }

    /// The type of the next message, if one comes without anything else happening.
    pub(crate) async fn tag(&mut self) -> Option<char> {
        let next = async {
            loop {
                if let Ok(Found::Whole(frame)) = frame::next(&self.input, 1 << 20) {
                    let (tag, used) = (frame.tag, frame.raw.len());
                    self.input.drain(..used);
                    return tag as char;
                }
                assert!(self.io.read_buf(&mut self.input).await.unwrap_or(0) > 0, "it is gone");
            }
        };
        tokio::time::timeout(Duration::from_secs(1), next).await.ok()
    }

    /// Type bytes up to ReadyForQuery or the end; an error by its SQLSTATE.
    pub(crate) async fn answer(&mut self) -> String {
        let mut seen = String::new();
        loop {
            while let Ok(Found::Whole(frame)) = frame::next(&self.input, 1 << 20) {
                let tag = frame.tag;
                match (tag, backend::Fields::new(frame.body).code()) {
                    (b'E', Some(code)) => seen.push_str(&code.to_string()),
                    _ => seen.push(tag as char),
                }
                let used = frame.raw.len();
                self.input.drain(..used);
                if tag == b'Z' {
                    return seen;
                }
            }
            if self.io.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                seen.push('$');
                return seen;
            }
        }
    }
}

/// Runs a test on a `LocalSet`.
pub(crate) async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}
