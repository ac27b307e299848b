//! `aqueduct up --watch`: a file saved again and again under load; and what runs, as its page sees it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::stack::{Stack, folder};

/// T9: twenty good versions of the file and twenty broken ones are saved while requests come without a
/// pause, on new connections and on one that is kept, players play and one SQL session goes on: services,
/// listeners and routes come and go, broken ones are told and change nothing, no request fails, nothing that is
/// kept ends, and no player meets another server.
#[test]
fn saved_versions_are_applied_under_load() {
    let mut stack = Stack::up_in("watch", folder("watch"), &["--watch"]);
    let original = stack.file_text();
    // Who asks without a pause must not meet a limit.
    let steady = original
        .replace("rate: 100/min", "rate: 10000/min")
        .replace("rate: 1000/min", "rate: 10000/min");
    let ip = stack.address();
    let [service, listener] = stack.free_ports();
    let grown = steady
        .replace(
            "\nnlbs:",
            &format!("  more: {{ endpoints: [{ip}:{service}], health: {{ http: /healthz }}, run: demo user, uses: [data/app] }}\n\nnlbs:"),
        )
        .replace(
            "      payment: { tcp",
            &format!("      more: {{ tcp: \"*:{listener}\", to: more }}\n      payment: {{ tcp"),
        )
        .replace(
            "    routes:\n",
            "    routes:\n      - { path: /api/more/*, to: internal/more, scopes: [user:read] }\n",
        );
    assert_ne!(grown, steady);
    let broken = [
        "aqueduct: 1\nnlbs: 3\n".to_owned(),
        steady.replace("to: internal/feed }", "to: internal/nobody }"),
        steady.replace("services:", "servises:"),
        format!("{steady}\n\t- tab"),
        "aqueduct: 1\npools: []\n".to_owned(),
    ];
    stack.save(&steady);
    let told = stack.until(|line| line.contains(" applied ") || line.contains(" refused "));
    assert!(told.contains(" applied "), "{told}");

    let (ended, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> =
        (0..2).map(|_| std::thread::spawn(new_connections(&stack, &ended, &asked))).collect();
    let kept = [
        std::thread::spawn(one_connection(&stack, &ended)),
        std::thread::spawn(one_session(&stack, &ended)),
        std::thread::spawn(players(&stack, &ended)),
    ];
    for round in 0..20 {
        stack.save(
            &broken[round % broken.len()]
                .replace("aqueduct: 1", &format!("# {round}\naqueduct: 1")),
        );
        let told = stack.until(|line| line.contains(" applied ") || line.contains(" refused "));
        assert!(told.contains(" refused "), "{round}: {told}");
        let good = if round % 2 == 0 { &grown } else { &steady };
        stack.save(&format!("# version {round}\n{good}"));
        let told = stack.until(|line| line.contains(" applied ") || line.contains(" refused "));
        assert!(told.contains(" applied "), "{round}: {told}");
        // Neither knows this path; the gateway says so in its own words where no route leads on.
        let reply = stack.curl("/api/more/profile", &stack.token(&[]));
        assert_eq!(reply.status, 404, "{round}: {reply:?}");
        let ours = reply.body["request_id"].is_string();
        assert_eq!(ours, round % 2 == 1, "{round}: {reply:?}");
    }
    ended.store(true, Ordering::Relaxed);
    let failed: Vec<String> = load.into_iter().flat_map(|one| one.join().expect("ended")).collect();
    assert_eq!(failed, Vec::<String>::new(), "of {asked:?}");
    assert!(asked.load(Ordering::Relaxed) > 40, "{asked:?}");
    for one in kept {
        let answered = one.join().expect("what was kept is whole");
        assert!(answered > 40, "{answered}");
    }
    assert!(stack.interrupt().status.success());
}

/// Asks on a new connection each time until the end, and counts it; what failed.
fn new_connections(
    stack: &Stack,
    ended: &Arc<AtomicBool>,
    asked: &Arc<AtomicUsize>,
) -> impl FnOnce() -> Vec<String> + use<> {
    let (ended, asked) = (Arc::clone(ended), Arc::clone(asked));
    let mut words = stack.curl_words("/api/user/profile", &stack.token(&[]));
    words.push("--fail".to_owned());
    move || {
        let mut failed = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let output = Command::new("curl").args(&words).output().expect("curl");
            asked.fetch_add(1, Ordering::Relaxed);
            if !output.status.success() {
                failed.push(String::from_utf8_lossy(&output.stderr).into_owned());
            }
        }
        failed
    }
}

/// Asks over one HTTPS connection until the end, and has it from the first request to the last; how many
/// were answered.
fn one_connection(stack: &Stack, ended: &Arc<AtomicBool>) -> impl FnOnce() -> usize + use<> {
    let mut words = stack.curl_words("/api/user/profile?n=[1-1000000]", &stack.token(&[]));
    // The last ones count.
    let more =
        ["--max-time", "3600", "--write-out", "%{http_code} %{num_connects}\n", "-o", "/dev/null"];
    let url = words.pop().expect("the URL is last");
    words.extend(more.map(str::to_owned));
    words.extend(["--rate".to_owned(), "3000/m".to_owned(), url]);
    let ended = Arc::clone(ended);
    move || {
        let mut curl = Command::new("curl");
        let mut child = curl.args(&words).stdout(Stdio::piped()).spawn().expect("curl");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut answered = 0;
        for line in lines {
            let wanted = if answered == 0 { "200 1" } else { "200 0" };
            assert_eq!(line.expect("text"), wanted, "after {answered}");
            answered += 1;
            if ended.load(Ordering::Relaxed) {
                break;
            }
        }
        drop(child.kill());
        drop(child.wait());
        answered
    }
}

/// Asks in one SQL session until the end; how many statements were answered.
fn one_session(stack: &Stack, ended: &Arc<AtomicBool>) -> impl FnOnce() -> usize + use<> {
    let mut psql = stack.psql();
    let ended = Arc::clone(ended);
    move || {
        let mut child =
            psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql is installed");
        let mut input = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut answered = 0;
        while !ended.load(Ordering::Relaxed) {
            writeln!(input, "SELECT {answered};").expect("the session goes on");
            let line = lines.next().expect("the session goes on").expect("text");
            assert_eq!(line, answered.to_string());
            answered += 1;
        }
        drop(input);
        assert!(child.wait().expect("ended").success());
        answered
    }
}

/// Eight players play until the end, each with the server that it had first, and none loses a datagram; how
/// many were answered.
fn players(stack: &Stack, ended: &Arc<AtomicBool>) -> impl FnOnce() -> usize + use<> {
    let game = stack.place(7777);
    let ended = Arc::clone(ended);
    move || {
        let mut players: Vec<(UdpSocket, String)> = (0..8)
            .map(|number| {
                let socket = UdpSocket::bind((Ipv4Addr::new(127, 201, 0, number), 0));
                let socket = socket.expect("a player's socket");
                socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
                socket.connect(game).expect("a way to the game");
                (socket, String::new())
            })
            .collect();
        let mut answered = 0_usize;
        while !ended.load(Ordering::Relaxed) {
            for (socket, server) in &mut players {
                let mut packet = b"AQ1\0\0\0\x07".to_vec();
                packet.extend((answered as u64).to_be_bytes());
                packet.extend([0; 65]);
                socket.send(&packet).expect("it leaves");
                let mut answer = [0; 2048];
                let length = socket.recv(&mut answer).expect("no datagram is lost");
                let said = &answer[..length];
                assert_eq!(said[7..15], packet[7..15], "the answer to this one");
                let name = String::from_utf8_lossy(&said[24..24 + usize::from(said[23])]);
                if server.is_empty() {
                    name.as_ref().clone_into(server);
                }
                assert_eq!(*server, name);
                answered += 1;
            }
        }
        answered
    }
}

/// T9: without `--watch` HUP to `up` applies the file once, to all tiers; one with problems is told, and all
/// goes on as before.
#[test]
fn a_hang_up_applies_the_file() {
    let mut stack = Stack::up("again");
    let original = stack.file_text();
    let grown = original.replace(
        "    routes:\n",
        "    routes:\n      - { path: /more/*, to: internal/user, scopes: [user:read] }\n",
    );
    assert_ne!(grown, original);
    stack.save(&grown);
    assert!(!asked_of_user(&stack), "nobody has said so yet");
    stack.hang_up();
    let told = stack.until(|line| line.contains(" applied ") || line.contains(" refused "));
    assert!(told.contains(" applied "), "{told}");
    assert!(asked_of_user(&stack), "the route is there");
    stack.save("aqueduct: 1\nnlbs: 3\n");
    stack.hang_up();
    let told = stack.until(|line| line.contains(" applied ") || line.contains(" refused "));
    assert!(told.contains(" refused "), "{told}");
    assert!(asked_of_user(&stack), "it goes on");
    assert!(stack.interrupt().status.success());
}

/// Whether the user service, which does not know the path, was asked; else the gateway answers.
fn asked_of_user(stack: &Stack) -> bool {
    let reply = stack.curl("/more/anything", &stack.token(&[]));
    assert_eq!(reply.status, 404, "{reply:?}");
    !reply.body["request_id"].is_string()
}

/// "A dead instance shows as dead within 2 s": a process that is frozen, and one that is killed, are dead in the
/// second look after that at the latest; from the start of a look to the end of the next one takes 1.8 s at
/// most, which the watcher holds itself to when it is built.
#[test]
fn who_is_frozen_or_killed_shows_as_dead() {
    let mut stack = Stack::up("dead");
    let [frozen, killed] = ["gw-2", "pool-1"];
    let ready = |look: &serde_json::Value| {
        ["gw-1", frozen, killed].into_iter().all(|name| state(look, name) == "ready")
    };
    assert!(stack.looks().any(|look| ready(&look)));
    stack.signal(frozen, "-STOP");
    stack.signal(killed, "-KILL");
    // The first was there already, the second may have been begun before that.
    let last = stack.looks().nth(2).expect("goes on");
    assert_eq!(state(&last, frozen), "dead", "{last}");
    assert_eq!(state(&last, killed), "dead", "{last}");
    assert_eq!(state(&last, "gw-1"), "ready", "{last}");
    stack.signal(frozen, "-CONT");
    assert!(stack.interrupt().status.success());
}

/// How the page says that an instance is.
fn state(look: &serde_json::Value, name: &str) -> String {
    let mut all = look["instances"].as_array().into_iter().flatten();
    let one = all.find(|one| one["name"] == name).expect(name);
    one["state"].as_str().expect("a word").to_owned()
}
