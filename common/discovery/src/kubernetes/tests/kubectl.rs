//! `kubectl`, of the package `kubernetes-client`, reads the same cluster beside us: what it makes of pages and
//! watches must be what we make of them, or the fake is none.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use serde_json::Deserializer;
use tokio::sync::mpsc;

use super::*;

/// A command with nothing of this user's.
fn kubectl(fake: &Fake, folder: &tempfile::TempDir, more: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command
        .env("HOME", folder.path())
        .env("KUBECONFIG", "/dev/null")
        .args(["--server", &fake.server.address(), "--namespace", "shop"])
        .arg("--cache-dir")
        .arg(folder.path().join("cache"))
        .args(["get", "endpointslices.v1.discovery.k8s.io", "-o", "json"])
        .args(["-l", "kubernetes.io/service-name=user"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// The last numbers of the addresses in these slices.
fn numbers<'s>(slices: impl IntoIterator<Item = &'s Value>) -> Vec<u16> {
    let members = slices.into_iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    let text = members.filter_map(|member| member["addresses"][0].as_str());
    let mut numbers: Vec<u16> =
        text.filter_map(|text| text.rsplit_once('.')?.1.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// One that watches; it ends with this.
struct Watcher {
    process: Child,
    events: mpsc::UnboundedReceiver<Value>,
    known: BTreeMap<String, Value>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

impl Watcher {
    fn start(mut command: Command) -> Self {
        let mut process = command.spawn().expect("kubectl of the package kubernetes-client");
        let output = process.stdout.take().expect("its output");
        let (told, events) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for event in Deserializer::from_reader(output).into_iter::<Value>().flatten() {
                if told.send(event).is_err() {
                    break;
                }
            }
        });
        Self { process, events, known: BTreeMap::new() }
    }

    /// Waits until it has heard of exactly these.
    async fn sees(&mut self, wanted: &[u16]) {
        while numbers(self.known.values()) != wanted {
            let event = self.events.recv().await.expect("kubectl goes on");
            let object = event["object"].clone();
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => self.known.insert(name, object),
                Some("DELETED") => self.known.remove(&name),
                _ => panic!("kubectl says {event}"),
            };
        }
    }
}

/// D2: an independent client lists by pages and watches the same fake, and sees what we see.
#[tokio::test]
async fn kubectl_sees_what_we_see() {
    let fake = Fake::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    for part in 0..5_u16 {
        fake.api.put(slice(&format!("user-{part}"), &[member(part + 1)]));
    }
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1, 2, 3, 4, 5]);
    let mut command = kubectl(&fake, &folder, &["--chunk-size", "2"]);
    let listed = tokio::task::spawn_blocking(move || command.output()).await.expect("run");
    let listed = listed.expect("kubectl of the package kubernetes-client");
    let list: Value = serde_json::from_slice(&listed.stdout).expect("a list");
    assert_eq!(numbers(list["items"].as_array().expect("items")), [1, 2, 3, 4, 5]);
    let pages = fake.api.asked();
    let pages = pages.iter().filter(|target| target.contains("limit=2")).count();
    assert_eq!(pages, 3, "it went from page to page");
    let command = kubectl(&fake, &folder, &["--watch", "--output-watch-events"]);
    let mut watcher = Watcher::start(command);
    watcher.sees(&[1, 2, 3, 4, 5]).await;
    fake.api.remove("user-2");
    watcher.sees(&[1, 2, 4, 5]).await;
    assert_eq!(asked(&mut source).await, [1, 2, 4, 5]);
    fake.api.put(slice("user-4", &[member(5), member(6)]));
    watcher.sees(&[1, 2, 4, 5, 6]).await;
    assert_eq!(asked(&mut source).await, [1, 2, 4, 5, 6]);
    fake.api.put(slice("user-0", &[]));
    watcher.sees(&[2, 4, 5, 6]).await;
    assert_eq!(asked(&mut source).await, [2, 4, 5, 6]);
}
