//! Lists on a disk of the test's own.

use common::observe::Observer;
use topology::model::DiscoverSource;
use topology::units::ZoneName;
use topology::{At, Place, ServiceName};

use super::*;
use crate::Endpoints;
use crate::testing::{self, Registry, address, discover, numbers};

fn watched(path: &Path, version: Option<&str>) -> Endpoints {
    let source = DiscoverSource::File { path: path.to_owned() };
    let version = version.map(str::to_owned);
    let value = topology::model::Discover { version, ..discover(source) };
    let discover = At { value, place: Place::default() };
    crate::watch(&ServiceName::new("user"), &[], Some(&discover), &Observer::new("gw-1"))
}

async fn next(endpoints: &mut Endpoints) -> Vec<u8> {
    numbers(&endpoints.changed().await)
}

/// Waits until something wrong was told that has this in it.
async fn told(endpoints: &Endpoints, text: &str) {
    let tells = || {
        let shown = endpoints.status().show();
        shown["last_error"].as_str().is_some_and(|error| error.contains(text))
    };
    while !tells() {
        tokio::task::yield_now().await;
    }
}

/// D1: a list is followed through writing in place, replacing by renaming, swapping of links as
/// Kubernetes does it, and removal; what is wrong with it is told and changes nothing.
#[tokio::test]
async fn a_list_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("user.yaml");
    let mut watched = watched(&path, None);
    told(&watched, "cannot read").await;
    fs::write(&path, "endpoints: [10.0.0.1:80, 10.0.0.2:80]").expect("written");
    assert_eq!(next(&mut watched).await, [1, 2], "made");
    let other = folder.path().join("other");
    fs::write(&other, r#"{"endpoints":["10.0.0.3:80",{"address":"10.0.0.4:80","health":"down"}]}"#)
        .expect("written");
    fs::rename(&other, &path).expect("renamed");
    assert_eq!(next(&mut watched).await, [3], "put in its place");
    fs::write(&path, "endpoints: [10.0.0.1:80").expect("written");
    told(&watched, "user.yaml:1").await;
    fs::remove_file(&path).expect("removed");
    assert_eq!(numbers(&watched.current()), [3]);
    for (data, list) in [("..1", "endpoints: [10.0.0.5:80]"), ("..2", "endpoints: [10.0.0.6:80]")] {
        fs::create_dir(folder.path().join(data)).expect("made");
        fs::write(folder.path().join(data).join("user.yaml"), list).expect("written");
        std::os::unix::fs::symlink(data, folder.path().join("..tmp")).expect("linked");
        fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).expect("swapped");
        if data == "..1" {
            std::os::unix::fs::symlink("..data/user.yaml", &path).expect("linked");
        }
        assert_eq!(next(&mut watched).await, if data == "..1" { [5] } else { [6] });
    }
}

/// D3: of a list, a service may be those of one version; who is draining takes nothing new.
#[tokio::test]
async fn a_service_may_be_one_version_of_a_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("user.yaml");
    let list = "endpoints:
  - { address: 10.0.0.1:80, version: v1 }
  - { address: 10.0.0.2:80, version: v2, zone: b, weight: 3 }
  - { address: 10.0.0.3:80, version: v2, health: draining }
  - 10.0.0.4:80
";
    fs::write(&path, list).expect("written");
    let set = watched(&path, Some("v2")).changed().await;
    assert_eq!(numbers(&set), [2]);
    assert_eq!((set[0].weight.0, set[0].zone.as_ref().map(ZoneName::as_str)), (3, Some("b")));
}

/// O5: a list over the bound is refused; how it was before stays.
#[test]
fn a_list_has_a_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("user.yaml");
    fs::write(&path, vec![b' '; LONGEST as usize + 1]).expect("written");
    assert_eq!(read(&path).expect_err("too long").kind(), io::ErrorKind::FileTooLarge);
}

/// A list as a registry.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn put(&self, text: &str) {
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, text).expect("written");
        fs::rename(fresh, self.folder.path().join("user.yaml")).expect("renamed");
    }
}

impl Registry for Desk {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::File { path: self.folder.path().join("user.yaml") }
    }

    async fn name(&mut self, numbers: &[u16]) {
        let rows: Vec<String> = numbers.iter().map(|n| address(*n).to_string()).collect();
        self.put(&format!("endpoints: [{}]", rows.join(", ")));
    }

    async fn babble(&mut self) {
        self.put("endpoints: [user.example:80]");
    }

    async fn vanish(&mut self) {
        fs::remove_file(self.folder.path().join("user.yaml")).expect("removed");
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        self.name(numbers).await;
    }
}

/// D1, D3: the contract, with a list.
#[tokio::test]
async fn a_list_keeps_the_contract() {
    testing::contract(Desk { folder: tempfile::tempdir().expect("a folder") }).await;
}
