//! The live page in a real browser: Chromium, driven from Node, judged by axe-core. For `make verify`; skipped
//! with a message where Chromium is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stack::Stack;

/// One step of `page/check.mjs`.
fn step(words: &[&str]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let clients = here.join("../../target/clients/page");
    let mut node = Command::new("node");
    node.arg(here.join("tests/it/page/check.mjs")).args(words).env("PAGE_CLIENTS", clients);
    let output = node.output().expect("node is installed");
    assert!(output.status.success(), "{}", crate::text(&output.stderr));
}

fn chromium() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/chromium");
    path.exists().then_some(path)
}

/// T6: by day, by night and on a phone no rule of accessibility is broken and the console stays empty;
/// without the token nothing is drained, with it and the keyboard alone an endpoint is; a killed
/// instance shows as dead.
#[test]
fn a_browser_shows_the_page() {
    if chromium().is_none() {
        println!("skipped: /usr/bin/chromium is missing (apt-get install chromium)");
        return;
    }
    let mut stack = Stack::up("browser");
    let (url, key) = stack.page();
    let token = stack.token(&[]);
    let asking = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        // Something to see while the browser looks.
        scope.spawn(|| {
            while asking.load(std::sync::atomic::Ordering::Relaxed) {
                stack.curl("/api/user/profile", &token);
            }
        });
        let all = || {
            step(&["looks", &url]);
            step(&["tables", &url]);
            step(&["asked", &url]);
            step(&["guest", &url]);
            step(&["operator", &key]);
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(all));
        asking.store(false, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    stack.kill("ilb-1");
    step(&["dead", &url, "ilb-1"]);
}
