//! `aqueduct up --isolate`: who can connect to whom, tried for every pair. Needs root, `ip` and `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::stack::{Stack, folder, text};

/// Who connects to whom in the documented stack: from, to, and the documented port.
const WIRES: [(&str, &str, u16); 33] = [
    ("clients", "nlb-1", 8443),
    ("nlb-1", "gw-1", 9441),
    ("nlb-1", "gw-2", 9442),
    ("gw-1", "ilb-1", 7010),
    ("gw-1", "ilb-1", 7015),
    ("gw-1", "ilb-1", 7020),
    ("gw-1", "ilb-1", 7030),
    ("gw-1", "echo-1", 7041),
    ("gw-1", "echo-2", 7042),
    ("gw-1", "redis", 6379),
    ("gw-1", "issuer", 7900),
    ("gw-2", "ilb-1", 7010),
    ("gw-2", "ilb-1", 7015),
    ("gw-2", "ilb-1", 7020),
    ("gw-2", "ilb-1", 7030),
    ("gw-2", "echo-1", 7041),
    ("gw-2", "echo-2", 7042),
    ("gw-2", "redis", 6379),
    ("gw-2", "issuer", 7900),
    ("ilb-1", "user-1", 7011),
    ("ilb-1", "user-2", 7012),
    ("ilb-1", "user-v2-1", 7013),
    ("ilb-1", "user-v2-2", 7014),
    ("ilb-1", "feed-1", 7021),
    ("ilb-1", "feed-2", 7022),
    ("ilb-1", "payment-1", 7031),
    ("feed-1", "ilb-1", 7010),
    ("feed-2", "ilb-1", 7010),
    ("pool-1", "primary", 5433),
    ("pool-1", "replica", 5434),
    ("replica", "primary", 5433),
    ("user-1", "pool-1", 6432),
    ("payment-1", "pool-1", 6432),
];

/// Further services that ask the database.
const ASKING: [&str; 5] = ["user-2", "user-v2-1", "user-v2-2", "feed-1", "feed-2"];

/// Whose each documented TCP port is.
const PORTS: [(&str, u16); 26] = [
    ("nlb-1", 8443),
    ("nlb-1", 9101),
    ("ilb-1", 7010),
    ("ilb-1", 7015),
    ("ilb-1", 7020),
    ("ilb-1", 7030),
    ("ilb-1", 9102),
    ("gw-1", 9441),
    ("gw-1", 9111),
    ("gw-2", 9442),
    ("gw-2", 9112),
    ("pool-1", 6432),
    ("pool-1", 9121),
    ("user-1", 7011),
    ("user-2", 7012),
    ("user-v2-1", 7013),
    ("user-v2-2", 7014),
    ("feed-1", 7021),
    ("feed-2", 7022),
    ("payment-1", 7031),
    ("echo-1", 7041),
    ("echo-2", 7042),
    ("redis", 6379),
    ("issuer", 7900),
    ("primary", 5433),
    ("replica", 5434),
];

fn able() -> bool {
    let root = text(&Command::new("id").arg("-u").output().expect("id").stdout).trim() == "0";
    let nft = Command::new("nft").arg("--version").output().is_ok_and(|out| out.status.success());
    let made = root && nft && {
        let name = format!("aqtry{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        let made = made.is_ok_and(|out| out.status.success());
        drop(Command::new("ip").args(["netns", "del", &name]).output());
        made
    };
    if !made {
        let why = "SKIPPED: this test needs root, `ip` and `nft`, and a kernel with namespaces";
        drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{why}\n").as_bytes()));
    }
    made
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect(program);
    text(&output.stdout)
}

/// The namespace of every part, by its process.
fn namespaces(stack: &Stack) -> BTreeMap<String, String> {
    let of = |process: u32| {
        let name = said("ip", &["netns", "identify", &process.to_string()]);
        name.trim().to_owned()
    };
    let mut all: BTreeMap<String, String> =
        stack.processes.iter().map(|(name, process)| (name.clone(), of(*process))).collect();
    let (prefix, _) = all["nlb-1"].split_once('-').expect("a prefix");
    all.insert("clients".to_owned(), format!("{prefix}-clients"));
    all
}

fn wire(namespace: &str) -> String {
    let shown = said("ip", &["-n", namespace, "-4", "-o", "addr", "show", "dev", "wire"]);
    let address = shown.split_whitespace().find(|word| word.starts_with("10.203."));
    address.and_then(|word| word.split('/').next()).expect("an address").to_owned()
}

/// What becomes of a connection to each of these, tried inside: `open`, `refused`, or whatever else.
fn tried(namespace: &str, addresses: &[(String, u16)]) -> Vec<String> {
    let each = addresses.iter().map(|(ip, port)| format!("{ip}/{port}"));
    let list: Vec<String> = each.collect();
    let script = format!(
        "for one in {}; do if out=$(timeout 5 bash -c \"exec 3<>/dev/tcp/$one\" 2>&1); then echo open; \
         elif [[ $out == *refused* ]]; then echo refused; else echo \"other $out\" | head -1; fi; done",
        list.join(" ")
    );
    let output = said("ip", &["netns", "exec", namespace, "bash", "-c", &script]);
    output.lines().map(str::to_owned).collect()
}

/// A game's ping by UDP, from inside.
fn pinged(namespace: &str, ip: &str, port: u16) -> bool {
    let script = format!("exec 3<>/dev/udp/{ip}/{port}; printf ping >&3; timeout 3 head -c 4 <&3");
    said("ip", &["netns", "exec", namespace, "bash", "-c", &script]) == "pong"
}

/// T7: from the namespace of every part and of the clients, exactly what is wired can be connected to, by
/// the file's address and by the other namespace's own; all else is refused with a reset. A crash leaves
/// nothing that the next start cannot take away, and the end leaves nothing.
#[test]
fn only_what_is_wired_connects() {
    if !able() {
        return;
    }
    let crashed = Stack::up_in("isolate", folder("isolate"), &["--isolate"]).crash();
    let mut stack = Stack::up_in("isolate", crashed, &["--isolate"]);
    let spaces = namespaces(&stack);
    assert_eq!(spaces.values().collect::<BTreeSet<_>>().len(), 22, "{spaces:?}");
    let mut wired: BTreeSet<(&str, &str, u16)> = WIRES.into_iter().collect();
    wired.extend(ASKING.map(|name| (name, "pool-1", 6432)));
    let wires: BTreeMap<&str, String> =
        spaces.iter().map(|(name, space)| (name.as_str(), wire(space))).collect();
    let file = stack.address().to_string();
    let mut count = 0;
    for (from, space) in &spaces {
        let others: Vec<_> = PORTS.iter().filter(|(to, _)| to != from).collect();
        for by_file in [true, false] {
            let place = |to: &str| if by_file { file.clone() } else { wires[to].clone() };
            let each = others.iter().map(|(to, port)| (place(to), stack.port(*port)));
            let outcomes = tried(space, &each.collect::<Vec<_>>());
            assert_eq!(outcomes.len(), others.len());
            for ((to, port), outcome) in others.iter().zip(&outcomes) {
                let wanted = if wired.contains(&(from, to, *port)) { "open" } else { "refused" };
                assert_eq!(
                    outcome, wanted,
                    "{from} to {to}:{port}, by the file's address: {by_file}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 800, "{count}");

    // Datagrams: clients to the edge, the edge to the games, nobody else.
    let games = [("game-1", 7801), ("game-2", 7802), ("game-3", 7803)];
    assert!(pinged(&spaces["clients"], &file, stack.port(7777)));
    for (name, port) in games {
        assert!(pinged(&spaces["nlb-1"], &file, stack.port(port)), "{name}");
        for from in ["clients", "gw-1", "user-1"] {
            assert!(!pinged(&spaces[from], &wires[name], stack.port(port)), "{from} to {name}");
        }
    }

    // And the whole works, from where clients stand.
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", &spaces["clients"], "curl"]);
    let profile = stack.curl_by(curl, "/api/user/profile", &stack.token(&[]));
    assert_eq!((profile.status, &profile.body["name"]), (200, &"livia".into()), "{profile:?}");

    assert!(stack.interrupt().status.success());
    let left = said("ip", &["netns", "list"]);
    for space in spaces.values() {
        assert!(!left.lines().any(|line| line.split(' ').next() == Some(space)), "{left}");
    }
    assert!(!said("ip", &["-4", "-o", "addr"]).contains(&wires["nlb-1"]));
}
