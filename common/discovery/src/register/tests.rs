//! The loop with a registry that a test speaks through, under a paused clock; and what each registry's own tests
//! share.

use std::sync::{Arc, Mutex, MutexGuard};

use common::lifecycle::Phase;
use tokio::sync::watch;
use tokio::time::sleep;

use super::*;
use crate::keep::Source;

/// A registry that does what a test wants.
#[derive(Clone)]
struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What it knows: who, where, and how they are.
    entries: Vec<(String, SocketAddr, Health)>,
    asked: u32,
    away: bool,
    silent: bool,
}

impl Script {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("whole")
    }
}

impl PartialEq for Script {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a script")
    }
}

struct Scripted(Target<Script>);

impl Registry for Scripted {
    type Settings = Script;
    const KIND: &'static str = "script";

    fn new(target: &Target<Script>) -> Self {
        Self(target.clone())
    }

    fn ttl(_settings: &Script) -> Duration {
        Duration::from_secs(15)
    }

    fn replaces(next: &Target<Script>, former: &Target<Script>) -> bool {
        next.settings == former.settings
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        let silent = {
            let mut state = self.0.settings.state();
            state.asked += 1;
            if state.away {
                return Err(Fault::Broken);
            }
            let entry = &self.0.entry;
            state.entries.retain(|(name, ..)| *name != *entry.instance);
            state.entries.push((entry.instance.to_string(), entry.address, health));
            state.silent
        };
        if silent {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        if self.0.settings.state().silent {
            std::future::pending::<()>().await;
        }
        let mut state = self.0.settings.state();
        if state.away {
            return Err(Fault::Broken);
        }
        state.entries.retain(|(name, ..)| *name != *self.0.entry.instance);
        Ok(())
    }
}

/// An instance with a registration.
struct Scene {
    script: Script,
    wanted: watch::Sender<Option<Target<Script>>>,
    lifecycle: Lifecycle,
    ready: Arc<Mutex<bool>>,
    board: Board,
}

fn target(script: &Script, last: u8) -> Target<Script> {
    Target { settings: script.clone(), entry: entry(last) }
}

fn entry(last: u8) -> Entry {
    Entry {
        instance: Arc::from("gw-1"),
        address: ([10, 0, 0, last], 443).into(),
        zone: Some("a".to_owned()),
        version: Some("v2".to_owned()),
        linger: Duration::from_secs(1),
    }
}

impl Scene {
    fn new() -> Self {
        let (script, lifecycle) = (Script::new(), Lifecycle::new());
        let wanted = watch::Sender::new(Some(target(&script, 1)));
        let (ready, board) = (Arc::new(Mutex::new(false)), Board::default());
        let asked = Arc::clone(&ready);
        let who = Who {
            lifecycle: lifecycle.clone(),
            ready: Arc::new(move || *asked.lock().expect("whole")),
            observer: Observer::new("gw-1"),
            board: board.clone(),
        };
        tokio::spawn(hold::<Scripted>(wanted.subscribe(), who));
        Self { script, wanted, lifecycle, ready, board }
    }

    fn is(&self, ready: bool) {
        *self.ready.lock().expect("whole") = ready;
    }

    fn entries(&self) -> Vec<(SocketAddr, Health)> {
        self.script.state().entries.iter().map(|(_, at, health)| (*at, *health)).collect()
    }

    fn row(&self, key: &str) -> Value {
        self.board.show()[0][key].clone()
    }
}

fn at(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 443).into()
}

const SECOND: Duration = Duration::from_secs(1);

/// O4: a registry knows within a second whether the instance is ready, and is told again and again that it lives.
#[tokio::test(start_paused = true)]
async fn readiness_is_told_within_a_second() {
    let scene = Scene::new();
    sleep(SECOND).await;
    assert_eq!(scene.entries(), [(at(1), Health::Unready)]);
    for (ready, health) in [(true, Health::Ready), (false, Health::Unready), (true, Health::Ready)]
    {
        scene.is(ready);
        sleep(SECOND).await;
        assert_eq!(scene.entries(), [(at(1), health)]);
    }
    let asked = scene.script.state().asked;
    sleep(60 * SECOND).await;
    let signs = scene.script.state().asked - asked;
    assert!((12..=20).contains(&signs), "a third of 15 s lies between two: {signs}");
    assert_eq!(scene.row("told"), "ready");
}

/// O4: ten minutes without the registry are a bounded number of tries; one that comes back with nothing knows the
/// instance soon.
#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes() {
    let scene = Scene::new();
    scene.is(true);
    sleep(SECOND).await;
    scene.script.state().away = true;
    sleep(600 * SECOND).await;
    assert!(scene.script.state().asked < 150, "{}", scene.script.state().asked);
    assert_eq!(scene.row("last_error"), "the answer broke off");
    *scene.script.state() = State::default();
    sleep(16 * SECOND).await;
    assert_eq!(scene.entries(), [(at(1), Health::Ready)]);
    assert_eq!(scene.lifecycle.phase(), Phase::Running);
}

/// O4, T8: the entry is gone before the instance drains, which waits for those who read it; and not for ever.
#[tokio::test(start_paused = true)]
async fn it_leaves_before_it_drains() {
    let scene = Scene::new();
    scene.is(true);
    sleep(SECOND).await;
    scene.lifecycle.drain();
    sleep(SECOND / 2).await;
    assert!(scene.entries().is_empty() && scene.lifecycle.phase() == Phase::Running);
    sleep(SECOND).await;
    assert_eq!(scene.lifecycle.phase(), Phase::Draining);
    let scene = Scene::new();
    scene.script.state().silent = true;
    sleep(SECOND).await;
    scene.lifecycle.drain();
    sleep(4 * SECOND).await;
    assert_eq!(scene.lifecycle.phase(), Phase::Draining, "a silent registry delays it no longer");
}

/// O4: a drain waits for an entry that a changed file is taking back.
#[tokio::test(start_paused = true)]
async fn what_is_taken_back_is_gone_before_a_drain() {
    let scene = Scene::new();
    sleep(SECOND).await;
    scene.script.state().silent = true;
    scene.wanted.send_replace(None);
    sleep(SECOND).await;
    scene.lifecycle.drain();
    assert_eq!(scene.lifecycle.phase(), Phase::Running);
    sleep(4 * SECOND).await;
    assert_eq!(scene.lifecycle.phase(), Phase::Draining);
}

/// T9: an instance that hands over leaves its entry to the new process.
#[tokio::test(start_paused = true)]
async fn a_hand_over_leaves_nothing() {
    let scene = Scene::new();
    sleep(SECOND).await;
    scene.lifecycle.hand_over();
    // As every program does whose instance drains.
    scene.lifecycle.drain();
    sleep(60 * SECOND).await;
    assert_eq!(scene.entries().len(), 1);
}

/// T9: a changed file moves the entry: from one registry to another, to another address, to nowhere.
#[tokio::test(start_paused = true)]
async fn a_changed_file_moves_the_entry() {
    let scene = Scene::new();
    sleep(SECOND).await;
    scene.wanted.send_replace(Some(target(&scene.script, 2)));
    sleep(SECOND).await;
    assert_eq!(scene.entries(), [(at(2), Health::Unready)]);
    let other = Script::new();
    scene.wanted.send_replace(Some(target(&other, 2)));
    sleep(SECOND).await;
    assert!(scene.entries().is_empty() && other.state().entries.len() == 1);
    scene.wanted.send_replace(None);
    sleep(SECOND).await;
    assert!(other.state().entries.is_empty());
    assert_eq!(scene.board.show(), json!([]));
    scene.lifecycle.drain();
    assert_eq!(scene.lifecycle.phase(), Phase::Draining, "nobody has to leave");
}

/// O4: a registry whose every answer is slow, though in time, does not take the whole lease for one round.
#[tokio::test(start_paused = true)]
async fn a_round_is_bounded_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret").expect("written");
    let slow = |_request| async {
        sleep(Duration::from_millis(2500)).await;
        let body = json!({ "token": "t", "ID": "7" }).to_string();
        Ok(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(body))))
    };
    let server = crate::testing::Server::start(slow).await;
    let settings = RegisterEtcd {
        servers: vec![server.address()],
        prefix: "/services/".to_owned(),
        login: Some(("root".to_owned(), topology::SecretRef::File(password))),
        ca: None,
        ttl: Duration::from_secs(15),
    };
    let begun = Instant::now();
    let fault = entered_in::<etcd::Etcd>(settings).tell(Health::Ready).await;
    assert!(matches!(fault, Err(Fault::Late(round)) if round == 6 * SECOND), "{fault:?}");
    assert!(begun.elapsed() < 7 * SECOND);
}

/// An instance that is to be entered so.
pub(crate) fn entered_in<R: Registry>(settings: R::Settings) -> R {
    R::new(&Target { settings, entry: entry(1) })
}

/// It comes, is told not to be ready, and is again.
pub(crate) async fn begins(entry: &mut impl Registry, reader: &mut impl Source) {
    entry.tell(Health::Unready).await.expect("told");
    assert!(read(reader).await.is_empty());
    entry.tell(Health::Ready).await.expect("told");
    found(reader).await;
    entry.tell(Health::Unready).await.expect("told");
    assert!(read(reader).await.is_empty());
    entry.tell(Health::Ready).await.expect("told");
    entry.tell(Health::Ready).await.expect("a sign of life");
    found(reader).await;
}

/// The registry has forgotten it: it comes again, and leaves; also twice.
pub(crate) async fn goes_on(entry: &mut impl Registry, reader: &mut impl Source) {
    assert!(read(reader).await.is_empty());
    entry.tell(Health::Ready).await.expect("told anew");
    found(reader).await;
    for _ in 0..2 {
        hold::leave(entry).await.expect("left");
        assert!(read(reader).await.is_empty());
    }
}

/// A registration's whole life, as our own reader sees it.
pub(crate) async fn round(
    entry: &mut impl Registry,
    reader: &mut impl Source,
    forget: impl FnOnce(),
) {
    begins(entry, reader).await;
    forget();
    goes_on(entry, reader).await;
}

async fn read(reader: &mut impl Source) -> Vec<crate::instance::Instance> {
    reader.forget();
    let answer = reader.ask().await.expect("an answer");
    assert_eq!(answer.nonsense, None);
    answer.instances
}

async fn found(reader: &mut impl Source) {
    let all = read(reader).await;
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(one.address, at(1));
    assert_eq!((one.zone.as_deref(), one.version.as_deref()), (Some("a"), Some("v2")));
}
