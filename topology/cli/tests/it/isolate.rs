//! `aqueduct up --isolate`: who can connect to whom, tried for every pair. Needs root, `ip` and `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

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

/// Who sends datagrams to whom.
const DATAGRAM_WIRES: [(&str, &str, u16); 4] = [
    ("clients", "nlb-1", 7777),
    ("nlb-1", "game-1", 7801),
    ("nlb-1", "game-2", 7802),
    ("nlb-1", "game-3", 7803),
];

/// Whose each documented UDP port is.
const DATAGRAM_PORTS: [(&str, u16); 4] =
    [("nlb-1", 7777), ("game-1", 7801), ("game-2", 7802), ("game-3", 7803)];

/// One listener: whose it is, and its documented port.
type Listener = (&'static str, u16);

fn able() -> bool {
    static ABLE: OnceLock<bool> = OnceLock::new();
    *ABLE.get_or_init(look)
}

fn look() -> bool {
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
    let (prefix, _) = all["gw-1"].split_once('-').expect("a prefix");
    let clients = format!("{prefix}-clients");
    all.insert("clients".to_owned(), clients);
    all
}

/// A namespace's own addresses: IPv4, IPv6.
fn ends(namespace: &str) -> [IpAddr; 2] {
    ["-4", "-6"].map(|family| {
        let words =
            ["-n", namespace, family, "-o", "addr", "show", "dev", "wire", "scope", "global"];
        let shown = said("ip", &words);
        let own = |word: &&str| word.starts_with("10.203.") || word.starts_with("fd5c:a90e:d0c7:");
        let address = shown.split_whitespace().find(own).and_then(|word| word.split('/').next());
        address.and_then(|word| word.parse().ok()).expect("an address")
    })
}

/// What becomes of a connection to each of these, tried inside: `open`, `refused`, or whatever else.
fn tried(namespace: &str, addresses: &[SocketAddr]) -> Vec<String> {
    let each = addresses.iter().map(|at| format!("{}/{}", at.ip(), at.port()));
    let list: Vec<String> = each.collect();
    let script = format!(
        "for one in {}; do if out=$(timeout 5 bash -c \"exec 3<>/dev/tcp/$one\" 2>&1); then echo open; \
         elif [[ $out == *refused* ]]; then echo refused; else echo \"other $out\" | head -1; fi; done",
        list.join(" ")
    );
    let output = said("ip", &["netns", "exec", namespace, "bash", "-c", &script]);
    output.lines().map(str::to_owned).collect()
}

/// What becomes of a datagram to each of these, sent inside, all before the first answer is waited for:
/// `open` when a game answers, `refused` when the sender is told so, or whatever else.
fn sent(namespace: &str, addresses: Vec<SocketAddr>) -> Vec<String> {
    let inside = File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    // Where a thread stands when it opens a socket is where that socket stays.
    let send = move || -> Vec<io::Result<UdpSocket>> {
        setns(&inside, CloneFlags::CLONE_NEWNET).expect("inside");
        addresses.into_iter().map(ping).collect()
    };
    let all = std::thread::spawn(send).join().expect("sent");
    all.into_iter().map(|socket| became(socket.and_then(|socket| answer(&socket)))).collect()
}

/// A socket that has sent a game's ping there.
fn ping(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    socket.send(b"ping")?;
    Ok(socket)
}

fn answer(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut bytes = [0; 16];
    let length = socket.recv(&mut bytes)?;
    Ok(bytes[..length].to_vec())
}

/// The own firewall refuses at once (EPERM), the other's by ICMP.
fn became(answer: io::Result<Vec<u8>>) -> String {
    match answer {
        Ok(bytes) if bytes.starts_with(b"pong") => "open".to_owned(),
        Err(fault)
            if matches!(
                fault.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused
            ) =>
        {
            "refused".to_owned()
        }
        other => format!("other {other:?}"),
    }
}

/// From everywhere to each of these: by the file's address, and by the other namespace's own addresses of the
/// file's family and of the other; `attempt` tries them inside one
/// namespace. How many pairs that were.
fn pairs(
    stack: &Stack,
    spaces: &BTreeMap<String, String>,
    listeners: &[Listener],
    wired: &BTreeSet<(&str, &str, u16)>,
    attempt: impl Fn(&str, Vec<SocketAddr>) -> Vec<String>,
) -> usize {
    let ends: BTreeMap<&str, [IpAddr; 2]> =
        spaces.iter().map(|(name, space)| (name.as_str(), ends(space))).collect();
    let family = usize::from(stack.address().is_ipv6());
    let mut count = 0;
    for (from, space) in spaces {
        let others: Vec<_> = listeners.iter().filter(|(to, _)| to != from).collect();
        for by in [None, Some(0), Some(1)] {
            let place = |(to, port): &Listener| match by {
                None => stack.place(*port),
                Some(own) => SocketAddr::new(ends[to][own], stack.port(*port)),
            };
            let outcomes = attempt(space, others.iter().map(|it| place(it)).collect());
            assert_eq!(outcomes.len(), others.len());
            let known = by.is_none_or(|own| own == family);
            for ((to, port), outcome) in others.iter().zip(&outcomes) {
                let is_wired = wired.contains(&(from, to, *port));
                let wanted = if is_wired && known { "open" } else { "refused" };
                assert_eq!(outcome, wanted, "{from} to {to}:{port} by {by:?} in family {family}");
                count += 1;
            }
        }
    }
    count
}

fn every_pair_is_tried(stack: &Stack, spaces: &BTreeMap<String, String>) {
    let mut wired: BTreeSet<(&str, &str, u16)> = WIRES.into_iter().collect();
    wired.extend(ASKING.map(|name| (name, "pool-1", 6432)));
    let count = pairs(stack, spaces, &PORTS, &wired, |space, to| tried(space, &to));
    assert!(count > 1200, "{count}");

    // Datagrams to all ports, those of TCP too: clients to the edge, the edge to the games, nobody else.
    let all: Vec<Listener> = DATAGRAM_PORTS.into_iter().chain(PORTS).collect();
    let count = pairs(stack, spaces, &all, &DATAGRAM_WIRES.into_iter().collect(), sent);
    assert!(count > 1800, "{count}");

    // And the whole works, from where clients stand.
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", &spaces["clients"], "curl"]);
    let profile = stack.curl_by(curl, "/api/user/profile", &stack.token(&[]));
    assert_eq!((profile.status, &profile.body["name"]), (200, &"livia".into()), "{profile:?}");
}

/// The end leaves nothing behind.
fn ends_without_a_trace(stack: &mut Stack, spaces: &BTreeMap<String, String>) {
    let own = ends(&spaces["nlb-1"]);
    assert!(stack.interrupt().status.success());
    let left = said("ip", &["netns", "list"]);
    for space in spaces.values() {
        assert!(!left.lines().any(|line| line.split(' ').next() == Some(space)), "{left}");
    }
    let left = said("ip", &["-o", "addr"]);
    let network = |ip: &IpAddr| ip.to_string().trim_end_matches(char::is_alphanumeric).to_owned();
    assert!(own.iter().all(|ip| !left.contains(&network(ip))), "{left}");
}

/// T7: from the namespace of every part and of the clients, exactly what is wired can be connected to, by
/// the file's address and by the other namespace's own; all else is refused with a reset, in IPv6 too. A
/// crash leaves nothing that the next start cannot take away, and the end leaves nothing.
#[test]
fn only_what_is_wired_connects() {
    if !able() {
        return;
    }
    let crashed = Stack::up_in("isolate", folder("isolate"), &["--isolate"]).crash();
    let mut stack = Stack::up_in("isolate", crashed, &["--isolate"]);
    let spaces = namespaces(&stack);
    assert_eq!(spaces.values().collect::<BTreeSet<_>>().len(), 22, "{spaces:?}");
    every_pair_is_tried(&stack, &spaces);
    ends_without_a_trace(&mut stack, &spaces);
}

/// T7: the same for a file in IPv6, on loopback and at an address that only its namespaces know.
#[test]
fn only_what_is_wired_connects_in_ipv6() {
    if !able() {
        return;
    }
    let mut stack = Stack::up_in_six(folder("isolate-six"), &["--isolate"]);
    let spaces = namespaces(&stack);
    every_pair_is_tried(&stack, &spaces);
    ends_without_a_trace(&mut stack, &spaces);
}

/// T7: services that verify tokens by themselves reach their issuer, whom clients do not.
#[test]
fn services_of_a_plain_balancer_reach_their_issuer() {
    if !able() {
        return;
    }
    let stack = Stack::up_ready("l7-only", folder("l7-only"), &["--isolate"]);
    let spaces = namespaces(&stack);
    let curl = |token: &str| {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &spaces["clients"], "curl"]);
        stack.curl_by(curl, "/api/v1/user/7", token).status
    };
    assert_eq!((curl(&stack.token(&[])), curl("none")), (200, 401));
    assert_eq!(tried(&spaces["clients"], &[stack.place(7900)]), ["refused"]);
}
