//! Tiers in this process, started from a topology text as their binaries would be. Not for what is
//! around them: that is `fakes`. Used by the tests.
//!
//! Invariant: every instance stops when its [`Stack`] is dropped.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cli::Options;
use common::lifecycle::Lifecycle;
use tempfile::TempDir;
use topology::Topology;

use crate::address::Address;
use crate::clients::http;
use crate::pki::{self, Trust};

/// A topology text in the making, in a folder of its own and on an address of its own.
#[derive(Debug)]
pub struct Draft {
    /// Where all of it listens.
    pub address: Address,
    /// The topology file's folder.
    pub folder: TempDir,
    /// What clients of the gateways trust.
    pub trust: Trust,
    text: String,
}

impl Draft {
    /// The documented production stack as it is shipped, on an address of its own, with its access
    /// records in a file ([`Stack::records`]), and patient with its Redis: what is counted must not
    /// depend on how busy the machine is.
    pub fn documented() -> Self {
        Self::new(include_str!("../../topology/stacks/instagram-valorant.yaml"))
            .edit("env:AQUEDUCT_HASH_KEY", "file:secrets/hash-key")
            .edit("algorithms: [RS256, ES256]", "algorithms: [ES256]")
            .edit("when-away: local-share", "when-away: local-share, timeout: 1s")
            .edit("    trust-proxy", &format!("    access-log: file:{RECORDS}\n    trust-proxy"))
    }

    /// This text, with an address of its own in the place of 127.0.0.1.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(text: &str) -> Self {
        let (address, folder) = (Address::claim(), tempfile::tempdir().expect("a folder"));
        let trust = pki::make(folder.path(), address.ip());
        let text = text.replace("127.0.0.1", &address.ip().to_string());
        let draft = Self { address, folder, trust, text };
        draft.secret("hash-key", "0123456789abcdef0123456789abcdef");
        draft.secret("app.scram", "not needed by this test");
        draft.file("static/avatar.jpg", AVATAR);
        draft.file("protos/echo.proto", ECHO);
        draft
    }

    /// Writes `secrets/NAME`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn secret(&self, name: &str, text: &str) {
        self.file(&format!("secrets/{name}"), text.as_bytes());
    }

    fn file(&self, name: &str, content: &[u8]) {
        let path = self.folder.path().join(name);
        let folder = path.parent().expect("invariant: a folder's name comes first");
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// All gateway groups write their access records to one file ([`Stack::records`]).
    #[must_use]
    pub fn recorded(mut self) -> Self {
        let Some((before, rest)) = self.text.split_once("\ngateways:\n") else { return self };
        let end = rest.find("\npools:").unwrap_or(rest.len());
        let (gateways, after) = rest.split_at(end);
        let record = format!("\n    access-log: file:{RECORDS}\n    instances:");
        let gateways = gateways.replace("\n    instances:", &record);
        self.text = format!("{before}\ngateways:\n{gateways}{after}");
        self
    }

    /// Replaces a part of the text, where it has it.
    #[must_use]
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        self.text = self.text.replace(from, to);
        self
    }

    /// Replaces a part of the text.
    ///
    /// # Panics
    /// When the part is not there: the file has changed and the test must follow.
    #[must_use]
    pub fn edit(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "the topology file does not say {from:?} any more");
        self.text = self.text.replace(from, to);
        self
    }

    /// Resolves the text; nothing runs yet.
    ///
    /// # Panics
    /// When the file has problems; with all of them.
    pub fn stack(self) -> Stack {
        let topology = topology::parse("stack.yaml", &self.text, self.folder.path());
        let topology = topology.unwrap_or_else(|problems| unreachable!("{problems}"));
        Stack {
            address: self.address,
            folder: self.folder,
            trust: self.trust,
            topology: Arc::new(topology),
            running: Vec::new(),
        }
    }
}

/// What the documented stack serves as a file.
pub const AVATAR: &[u8] = include_bytes!("../../topology/stacks/static/avatar.jpg");

/// What the demo's gRPC service is called by.
const ECHO: &[u8] = include_bytes!("../../topology/stacks/protos/echo.proto");

/// Where access records go, relative to the topology file.
const RECORDS: &str = "access.ndjson";

/// Running instances of one topology.
#[derive(Debug)]
pub struct Stack {
    /// Where all of it listens.
    pub address: Address,
    /// The topology file's folder.
    pub folder: TempDir,
    /// What clients of the gateways trust.
    pub trust: Trust,
    topology: Arc<Topology>,
    running: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    name: String,
    lifecycle: Lifecycle,
    tier: Tier,
}

#[derive(Debug)]
enum Tier {
    Nlb(l4_nlb::Running),
    Gateway(l7_gateway::Running),
    Pool(pgpool::Running),
}

impl Stack {
    /// Starts the instance with two workers and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start; with what it says.
    pub async fn start(&mut self, name: &str) -> &mut Self {
        let options = Options { workers: NonZeroUsize::new(2), ..Options::new(name) };
        let lifecycle = options.lifecycle.clone();
        let topology = self.topology.clone();
        let (tier, admin) = if topology.nlb(name).is_some() {
            let running = l4_nlb::start(topology, name, options).await.map_err(text);
            running.map(|running| (running.admin, Tier::Nlb(running)))
        } else if topology.gateway(name).is_some() {
            let running = l7_gateway::start(topology, name, options).await.map_err(text);
            running.map(|running| (running.admin, Tier::Gateway(running)))
        } else {
            let running = pgpool::start(topology, name, options).await.map_err(text);
            running.map(|running| (running.admin, Tier::Pool(running)))
        }
        .map(|(admin, tier)| (tier, admin))
        .unwrap_or_else(|why| unreachable!("{name} does not start: {why}"));
        self.running.push(Instance { name: name.to_owned(), lifecycle, tier });
        ready(name, admin.expect("an instance with an admin address")).await;
        self
    }

    /// Starts them one after the other.
    pub async fn start_all(&mut self, names: &[&str]) {
        for name in names {
            self.start(name).await;
        }
    }

    /// What the file says.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Has all gateways and balancers go by the file with this part of it replaced.
    ///
    /// # Panics
    /// When the part is not there, or one of them refuses.
    pub async fn change(&mut self, from: &str, to: &str) {
        let text = &self.topology.source.text;
        assert!(text.contains(from), "the topology file does not say {from:?}");
        let changed = topology::parse("stack.yaml", &text.replace(from, to), self.folder.path());
        self.topology = Arc::new(changed.unwrap_or_else(|problems| unreachable!("{problems}")));
        for instance in &self.running {
            let topology = self.topology.clone();
            let refused = match &instance.tier {
                Tier::Gateway(running) => {
                    running.handle().publish(topology).await.err().map(|why| why.to_string())
                }
                Tier::Nlb(running) => {
                    running.handle().publish(topology).await.err().map(|why| why.to_string())
                }
                Tier::Pool(_) => None,
            };
            assert_eq!(refused, None, "{}", instance.name);
        }
    }

    /// Writes the topology file as it stands into its folder, for programs that read it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self) -> PathBuf {
        let path = self.folder.path().join("stack.yaml");
        std::fs::write(&path, &self.topology.source.text).expect("a file");
        path
    }

    /// Tells the instance to take no new work.
    ///
    /// # Panics
    /// When it does not run.
    pub fn drain(&self, name: &str) {
        let instance = self.running.iter().find(|instance| instance.name == name);
        instance.expect("a running instance").lifecycle.drain();
    }

    /// Waits until the drained instance has ended by itself.
    ///
    /// # Panics
    /// When it does not run, does not end within 120 s, or ends with an error.
    pub async fn finished(&mut self, name: &str) {
        let at = self.running.iter().position(|instance| instance.name == name);
        let instance = self.running.swap_remove(at.expect("a running instance"));
        let end = tokio::time::timeout(PATIENCE, instance.tier.finished()).await;
        assert!(end.is_ok(), "{name} did not end within {PATIENCE:?}");
        assert_eq!(end.unwrap_or(Ok(())), Ok(()), "{name} ended with an error");
    }

    /// The access records written so far, one JSON value per line.
    ///
    /// # Panics
    /// When a line is no JSON.
    pub fn records(&self) -> Vec<serde_json::Value> {
        records(&self.records_file())
    }

    /// Where the gateways write them.
    pub fn records_file(&self) -> PathBuf {
        self.folder.path().join(RECORDS)
    }

    /// Waits until there are `count` access records, and returns them.
    ///
    /// # Panics
    /// When they do not come within 120 s.
    pub async fn await_records(&self, count: usize) -> Vec<serde_json::Value> {
        until("access records", async || Some(self.records()).filter(|r| r.len() >= count)).await
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.running.iter().for_each(|instance| instance.lifecycle.stop());
    }
}

impl Tier {
    async fn finished(self) -> Result<(), String> {
        match self {
            Self::Nlb(running) => running.finished().await.map_err(text),
            Self::Gateway(running) => running.finished().await.map_err(text),
            Self::Pool(running) => running.finished().await.map_err(text),
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn records(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
}

/// Asks `/readyz` until it says yes.
async fn ready(name: &str, admin: SocketAddr) {
    until(&format!("{name} to be ready"), async || {
        let answer = http::plain(admin, "/readyz").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Asks again and again until there is an answer; for what can only be asked.
///
/// # Panics
/// When there is none within 120 s.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut again = tokio::time::interval(Duration::from_millis(5));
    let answer = tokio::time::timeout(PATIENCE, async {
        loop {
            again.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    });
    answer.await.ok().unwrap_or_else(|| unreachable!("waited {PATIENCE:?} for {what}"))
}

const PATIENCE: Duration = Duration::from_secs(120);
