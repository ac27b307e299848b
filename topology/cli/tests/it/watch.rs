//! `aqueduct up --watch`: a file saved again and again under load.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::stack::{Stack, folder};

/// T9: twenty good versions of the file and twenty broken ones are saved while requests come without a
/// pause: services, listeners and routes come and go, broken ones are told and change nothing, and no request
/// fails.
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
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (ended, asked) = (Arc::clone(&ended), Arc::clone(&asked));
            let mut words = stack.curl_words("/api/user/profile", &stack.token(&[]));
            words.push("--fail".to_owned());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    let output = Command::new("curl").args(&words).output().expect("curl");
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !output.status.success() {
                        failed.push(String::from_utf8_lossy(&output.stderr).into_owned());
                    }
                }
                failed
            })
        })
        .collect();
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
    assert!(stack.interrupt().status.success());
}
