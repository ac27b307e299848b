//! The tool's own load against the documented stack: what `aqueduct replay` reports is what the
//! stack did.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::fakes::game::Game;
use tests::fakes::issuer::Issuer;
use tests::fakes::redis::Redis;
use tests::fakes::upstream::Upstream;
use tests::program::{run, sibling};
use tests::tier::{Draft, until};

/// Runs `aqueduct replay LINE --json …` to its end, which must be a success; its report.
async fn replay(line: String, report: PathBuf) -> Value {
    let file = report.clone();
    let words = format!("replay {line} --json {}", report.display());
    let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
    tokio::task::spawn_blocking(move || run(sibling("aqueduct"), &words, None)).await.unwrap();
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// R1, N2: players of the replay meet one server each, and its account adds up.
#[tokio::test]
async fn replayed_players_meet_one_server_each() {
    let mut stack = Draft::documented().stack();
    let _games = [
        Game::start(stack.address.at(7801), "game-1").await,
        Game::start(stack.address.at(7802), "game-2").await,
        Game::start(stack.address.at(7803), "game-3").await,
    ];
    stack.start("nlb-1").await;
    let (at, file) = (stack.address.at(7777), stack.folder.path().join("udp.json"));
    let line = format!("udp --target {at} --players 40 --rate 25 --seconds 1 --slo affinity=0");
    let report = replay(line, file).await;
    assert_eq!((&report["sent"], &report["affinity_violations"]), (&1000.into(), &0.into()));
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(number("received") + number("lost"), 1000);
    assert!(report["servers"].as_object().is_some_and(|servers| servers.len() == 3), "{report}");
}

/// R2, N6, G10: requests of many users from many addresses are answered; the gateways' own access
/// log, replayed with tokens signed anew, gives the same answers again.
#[tokio::test]
async fn a_replayed_access_log_is_answered_as_before() {
    let mut stack = Draft::documented().stack();
    let _redis = Redis::start(stack.address.at(6379));
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let users = Upstream::start(stack.address.at(7011), "user-1").await;
    stack.start_all(&["ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
    let folder = stack.folder.path();
    issuer.write_keys(&folder.join("keys"));
    let (ip, keys) = (stack.address.ip(), path(folder, "keys"));
    let common = format!(
        "https --url https://api.example:8443/api/user/profile --resolve api.example:{ip} \
         --ca {} --token-keys {keys} --slo errors=0%",
        path(folder, "pki/ca.pem")
    );

    let line = format!("{common} --users 10 --rate 60 --seconds 1");
    let first = replay(line, folder.join("first.json")).await;
    assert_eq!(first["statuses"], serde_json::json!({ "200": 60 }), "{first}");
    let records = stack.await_records(60).await;
    let clients: BTreeSet<_> = records.iter().filter_map(|r| r["client"].as_str()).collect();
    assert!(clients.len() > 1, "{clients:?}");
    assert!(clients.iter().all(|client| client.starts_with("127.64.")), "{clients:?}");

    let log = folder.join("recorded.ndjson");
    std::fs::copy(stack.records_file(), &log).unwrap();
    let line = format!("{common} {}", log.display());
    let second = replay(line, folder.join("second.json")).await;
    assert_eq!(second["statuses"], serde_json::json!({ "200": 60 }), "{second}");
    assert_eq!((&second["compared"], &second["differences"]), (&60.into(), &Value::Array(vec![])));
    assert_eq!(users.count(), 120);
    let named: BTreeSet<_> = users.seen().iter().map(|r| r.headers["x-user-id"].clone()).collect();
    assert_eq!(named.len(), 10, "{named:?}");
}

/// The lines of all files with this ending in a folder, once there are so many.
async fn recorded(folder: &Path, count: usize) -> String {
    until("what was recorded", async || {
        let files = std::fs::read_dir(folder).ok()?;
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(file.ok()?.path()).ok()
        };
        let text: String = files.filter_map(read).collect();
        (text.lines().count() >= count).then_some(text)
    })
    .await
}

/// R2, R4: what the gateways recorded, replayed with tokens signed anew, has the same mix of statuses;
/// no token, cookie or secret parameter is in the record.
#[tokio::test]
async fn a_recorded_run_replays_with_its_own_statuses() {
    let draft = Draft::documented()
        .edit("    trust-proxy", "    record: { folder: recorded }\n    trust-proxy");
    let mut stack = draft.stack();
    let _redis = Redis::start(stack.address.at(6379));
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let _users = Upstream::start(stack.address.at(7011), "user-1").await;
    stack.start_all(&["ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
    let folder = stack.folder.path();
    issuer.write_keys(&folder.join("keys"));
    let (ip, keys) = (stack.address.ip(), path(folder, "keys"));
    let common = format!(
        "https --url https://api.example:8443/api/user/profile --resolve api.example:{ip} \
         --ca {} --token-keys {keys} --rate 60",
        path(folder, "pki/ca.pem")
    );
    let targets = "GET /nowhere?token=s3cret\nCookie: sid=s3cret\n\nGET /api/feed/home\nAccept: */*\n\n\
                   GET /api/checkout/cart\n";
    std::fs::write(folder.join("targets.txt"), targets).unwrap();
    let users = replay(format!("{common} --users 10 --seconds 0.5"), folder.join("a.json")).await;
    let line = format!("{common} {} --seconds 0.5", path(folder, "targets.txt"));
    let others = replay(line, folder.join("b.json")).await;
    assert_eq!(users["statuses"], serde_json::json!({ "200": 30 }), "{users}");
    assert!(others["statuses"].as_object().is_some_and(|all| all.len() > 1), "{others}");

    let text = recorded(&folder.join("recorded"), 60).await;
    assert!(!text.contains("s3cret") && !text.contains("Bearer"), "{text}");
    std::fs::write(folder.join("all.ndjson"), text).unwrap();
    let line = format!("{} {}", common.replace(" --rate 60", ""), path(folder, "all.ndjson"));
    let again = replay(line, folder.join("c.json")).await;
    let mut mix = others["statuses"].as_object().unwrap().clone();
    mix.insert("200".into(), 30.into());
    assert_eq!(again["statuses"], Value::Object(mix), "{again}");
    assert_eq!((&again["compared"], &again["differences"]), (&60.into(), &Value::Array(vec![])));
}

/// R2, R4: a gateway that records digests lets a replay tell by route whose bodies became others, though their
/// statuses and sizes did not; without being asked to, nobody compares them.
#[tokio::test]
async fn recorded_digests_tell_which_bodies_changed() {
    let draft = Draft::documented().edit(
        "    trust-proxy",
        "    record: { folder: recorded, digests: true }\n    trust-proxy",
    );
    let mut stack = draft.stack();
    let _redis = Redis::start(stack.address.at(6379));
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let users = Upstream::start(stack.address.at(7011), "user-1").await;
    let _feed = Upstream::start(stack.address.at(7021), "feed-1").await;
    stack.start_all(&["ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
    let folder = stack.folder.path();
    issuer.write_keys(&folder.join("keys"));
    let (ip, keys) = (stack.address.ip(), path(folder, "keys"));
    let common = format!(
        "https --url https://api.example:8443/ --resolve api.example:{ip} --ca {} --token-keys {keys}",
        path(folder, "pki/ca.pem")
    );
    let targets = "GET /api/user/profile\n\nGET /static/avatar.jpg\n";
    std::fs::write(folder.join("targets.txt"), targets).unwrap();
    let token = issuer.token(7, "user:read");
    let line = format!("{common} --token {token} {}", path(folder, "targets.txt"));
    let line = line.replace(&format!(" --token-keys {keys}"), "");
    let first = replay(format!("{line} --rate 40 --seconds 0.5"), folder.join("a.json")).await;
    assert_eq!(first["statuses"], serde_json::json!({ "200": 20 }), "{first}");
    let text = recorded(&folder.join("recorded"), 20).await;
    assert_eq!(text.matches("\"body_sha256\":\"").count(), 20, "{text}");
    std::fs::write(folder.join("all.ndjson"), text).unwrap();

    let changed = |report: &Value| -> Vec<[u64; 3]> {
        let count = |route: &Value, what: &str| route[format!("{what}_changed")].as_u64().unwrap();
        let of = |route| ["statuses", "sizes", "bodies"].map(|what| count(route, what));
        let mut all: Vec<_> = report["routes"].as_array().unwrap().iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let again = format!("{common} {}", path(folder, "all.ndjson"));
    let compared = format!("{again} --compare-bodies");
    let same = replay(compared.clone(), folder.join("b.json")).await;
    assert_eq!(changed(&same), [[0; 3]; 2], "{same}");
    users.kill().await;
    let _others = Upstream::start(stack.address.at(7011), "user-9").await;
    let other = replay(compared, folder.join("c.json")).await;
    assert_eq!(changed(&other), [[0, 0, 0], [0, 0, 10]], "{other}");
    let unasked = replay(again, folder.join("d.json")).await;
    assert_eq!(changed(&unasked), [[0; 3]; 2], "{unasked}");
}

/// R1, R4: what the balancer recorded is a capture whose players play again, one server each.
#[tokio::test]
async fn recorded_datagrams_are_played_again() {
    let draft = Draft::documented().edit(
        "to: game, balance: client-address",
        "to: game, balance: client-address, record: { folder: recorded }",
    );
    let mut stack = draft.stack();
    let _games = [
        Game::start(stack.address.at(7801), "game-1").await,
        Game::start(stack.address.at(7802), "game-2").await,
        Game::start(stack.address.at(7803), "game-3").await,
    ];
    stack.start("nlb-1").await;
    let (at, folder) = (stack.address.at(7777), stack.folder.path().to_owned());
    let line = format!("udp --target {at} --players 20 --rate 25 --seconds 1 --size 40..90");
    let first = replay(line, folder.join("first.json")).await;
    stack.drain("nlb-1");
    stack.finished("nlb-1").await;
    stack.start("nlb-1").await;
    let capture = folder.join("played.pcapng");
    std::fs::rename(folder.join("recorded/nlb-1-game.pcapng"), &capture).unwrap();
    let line = format!("udp --target {at} {} --speed 2 --slo affinity=0", capture.display());
    let again = replay(line, folder.join("again.json")).await;
    assert_eq!((&first["sent"], &again["sent"]), (&500.into(), &500.into()), "{again}");
    assert_eq!(again["players"], 20);
    let recording = &again["recording"];
    assert_eq!((&recording["port"], &recording["fragments"]), (&7777.into(), &0.into()));
    assert_eq!(recording["faults"], Value::Array(vec![]));
}
