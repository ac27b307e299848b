//! The program itself under the signals that an operator sends it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A gateway that runs; killed with its handle.
struct Program {
    child: Child,
    listen: SocketAddr,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let file = folder.join("gateway.yaml");
        let text = "aqueduct: 1
services:
  user: { endpoints: [127.0.0.1:9] }
gateways:
  app:
    instances: { gw: { listen: 127.0.0.1:0 } }
    access-log: file:log
    routes: [{ path: /user/*, to: user }]
";
        std::fs::write(&file, text).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_l7-gateway"))
            .args(["--log-format", "json", "--topology"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its output")).lines();
        let listen = lines.find_map(|line| {
            let told: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            told["listen"].as_str()?.parse().ok()
        });
        // What it says later must neither block nor end it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, listen: listen.expect("it serves") }
    }

    fn ask(&self, path: &str) {
        let mut stream = TcpStream::connect(self.listen).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file's text once it is as wanted.
fn until(path: &Path, wanted: impl Fn(&str) -> bool) -> String {
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if wanted(&text) => return text,
            _ => std::thread::yield_now(),
        }
    }
}

/// G19, O3: SIGUSR1 opens a moved log anew, and TERM ends the program, all lines written.
#[test]
fn usr1_opens_a_moved_log_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, aside) = (folder.path().join("log"), folder.path().join("log.1"));
    let mut program = Program::start(folder.path());
    program.ask("/before");
    until(&log, |text| text.contains("/before") && text.ends_with('\n'));
    std::fs::rename(&log, &aside).expect("moved");
    program.signal("-USR1");
    // What is asked before the program has seen the signal still goes to the old file.
    let mut asked = vec!["/before".to_owned()];
    while std::fs::read_to_string(&log).unwrap_or_default().is_empty() {
        asked.push(format!("/after-{}-", asked.len()));
        program.ask(&asked[asked.len() - 1]);
    }
    program.signal("-TERM");
    assert!(program.child.wait().expect("it ends").success());
    let [old, new] = [aside, log].map(|path| until(&path, |_| true));
    for path in asked {
        let written = format!("{old}{new}").matches(&path).count();
        assert_eq!(written, 1, "{path} in {old} and {new}");
    }
    assert!(old.contains("/before"), "{old}");
}
