//! The documented stack on free ports, started by the program under test. Not for what is asserted
//! about it. Used by the tests of this folder.
//!
//! Invariant: dropping a [`Stack`] ends `up`, which ends everything else.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Lines};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A running `aqueduct up`.
pub(crate) struct Stack {
    folder: TempDir,
    child: Child,
    output: BufReader<ChildStdout>,
    /// An address of this stack's own, so that stacks side by side never meet.
    address: IpAddr,
    /// Port in the documented stack → port here.
    ports: BTreeMap<u16, u16>,
    /// By the name of the part.
    pub(crate) processes: BTreeMap<String, u32>,
    /// Of the live page, with its token.
    page: String,
}

/// What curl saw.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// How `up` ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
}

impl Stack {
    /// Starts the documented stack on free ports and waits for `ready`.
    pub(crate) fn up(name: &str) -> Self {
        Self::up_in(name, folder(name), &[])
    }

    /// The same in a folder, perhaps one of a former run, and with further words.
    pub(crate) fn up_in(name: &str, folder: TempDir, more: &[&str]) -> Self {
        let address = own_address(name);
        let text = DOCUMENTED.replace("127.0.0.1", &address.to_string());
        Self::up_at(address.into(), &text, folder, more)
    }

    /// Another ready stack, likewise.
    pub(crate) fn up_ready(name: &str, folder: TempDir, more: &[&str]) -> Self {
        let file = format!("{}/../stacks/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let address = own_address(name);
        let text = std::fs::read_to_string(file).expect("a ready stack");
        Self::up_at(address.into(), &text.replace("127.0.0.1", &address.to_string()), folder, more)
    }

    /// The same in IPv6: services at an address that this machine does not have, all else on loopback.
    pub(crate) fn up_in_six(folder: TempDir, more: &[&str]) -> Self {
        let whole = |line: &str| {
            let at = if line.contains(" endpoints: [") { ELSEWHERE } else { Ipv6Addr::LOCALHOST };
            let line = line.replace("127.0.0.0/8", &format!("\"{at}/128\""));
            let mut pieces = line.split("127.0.0.1");
            let mut text = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                let digits = |rest: &str| rest.find(|c: char| !c.is_ascii_digit());
                let port = piece.strip_prefix(':').map(|rest| digits(rest).unwrap_or(rest.len()));
                let (port, rest) = piece.split_at(port.map_or(0, |length| length + 1));
                let bare = if port.is_empty() { at.to_string() } else { format!("[{at}]{port}") };
                let quoted = !text.ends_with("//");
                text += &if quoted { format!("\"{bare}\"{rest}") } else { format!("{bare}{rest}") };
            }
            text + "\n"
        };
        let text: String = DOCUMENTED.lines().map(whole).collect();
        Self::up_at(Ipv6Addr::LOCALHOST.into(), &text, folder, more)
    }

    fn up_at(address: IpAddr, text: &str, folder: TempDir, more: &[&str]) -> Self {
        check_programs();
        let (text, ports) = on_free_ports(text, address);
        let file = folder.path().join("stack.yaml");
        std::fs::write(&file, text).expect("written");
        let mut command = aqueduct();
        command.arg("up").arg(&file).arg("--plain").arg("--state").arg(folder.path().join("state"));
        command.args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (processes, page) = (BTreeMap::new(), String::new());
        let mut stack = Self { folder, child, output, address, ports, processes, page };
        stack.until(|line| line == "ready\n");
        stack
    }

    /// Reads output up to the first line that fits, and notes the processes on the way.
    pub(crate) fn until(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("readable");
            assert!(read > 0, "`up` ended early:\n{seen}");
            seen.push_str(&line);
            if line.contains("/#token=") {
                line.trim().clone_into(&mut self.page);
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, "s", "ready", _, name, .., "(process", process] = words.as_slice() {
                let process = process.trim_end_matches(')').parse().expect("a number");
                self.processes.insert((*name).to_owned(), process);
            }
            if fits(&line) {
                return line;
            }
        }
    }

    /// A token of the stack's issuer.
    pub(crate) fn token(&self, more: &[&str]) -> String {
        let mut command = aqueduct();
        command.args(["token", "--user", "98765", "--scope", "user:read pay", "--state"]);
        let output = command.arg(self.state()).args(more).output().expect("run");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    }

    /// A request to the edge, the certificate verified against the stack's own authority.
    pub(crate) fn curl(&self, path: &str, token: &str) -> Reply {
        self.curl_by(Command::new("curl"), path, token)
    }

    /// The same by a command that becomes curl.
    pub(crate) fn curl_by(&self, mut curl: Command, path: &str, token: &str) -> Reply {
        let output = curl.args(self.curl_words(path, token)).output().expect("curl is installed");
        let shown = text(&output.stdout);
        let (body, status) = shown.rsplit_once('\n').expect("the status comes last");
        let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
        let status = status.parse().expect("a number");
        Reply { status, body }
    }

    /// What curl is told for that.
    pub(crate) fn curl_words(&self, path: &str, token: &str) -> Vec<String> {
        let place = format!("api.example:{}", self.port(8443));
        let authority = self.state().join("ca.pem").display().to_string();
        let plain = ["--silent", "--show-error", "--max-time", "20", "--noproxy", "*", "--cacert"];
        let mut words: Vec<String> = plain.map(str::to_owned).to_vec();
        words.push(authority);
        let at = SocketAddr::new(self.address, 0).to_string();
        let at = at.trim_end_matches(":0");
        words.extend(["--resolve".to_owned(), format!("{place}:{at}")]);
        words.extend(["--header".to_owned(), format!("Authorization: Bearer {token}")]);
        words.extend(["--write-out".to_owned(), "\n%{http_code}".to_owned()]);
        words.push(format!("https://{place}{path}"));
        words
    }

    /// The topology file as it stands.
    pub(crate) fn file_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stack.yaml")).expect("there")
    }

    /// Saves another one, as editors do: whole, in the place of the old one.
    pub(crate) fn save(&self, text: &str) {
        let (new, file) =
            (self.folder.path().join("stack.yaml.new"), self.folder.path().join("stack.yaml"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, file).expect("in its place");
    }

    /// Ports that nobody has.
    pub(crate) fn free_ports<const N: usize>(&self) -> [u16; N] {
        let mut held = Vec::new();
        [(); N].map(|()| free_port(self.address, &mut held))
    }

    /// One value through pgpool.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let output = self.psql().args(["-c", statement]).output().expect("psql is installed");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    }

    /// A client of pgpool.
    pub(crate) fn psql(&self) -> Command {
        let password = std::fs::read_to_string(self.state().join("secrets/app.password"));
        let mut psql = Command::new("psql");
        psql.env("PGPASSWORD", password.expect("made").trim());
        psql.args(["-U", "app", "-At", "-d", "app", "-h", &self.address.to_string(), "-p"]);
        psql.arg(self.port(6432).to_string());
        psql
    }

    /// All processes that `up` named.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.processes.values().copied().collect()
    }

    /// The process of one part.
    pub(crate) fn number_of(&self, part: &str) -> u32 {
        *self.processes.get(part).expect(part)
    }

    /// HUP to `up` itself.
    pub(crate) fn hang_up(&self) {
        signal(self.child.id(), "-HUP");
    }

    /// A signal to the process of a part.
    pub(crate) fn signal(&self, part: &str, name: &str) {
        signal(self.number_of(part), name);
    }

    /// What the live page is told from now on: how all are, each look once.
    pub(crate) fn looks(&self) -> Looks {
        let words = ["--silent", "--show-error", "--no-buffer", "--noproxy", "*"];
        let mut curl = Command::new("curl");
        curl.args(words).arg(format!("{}events", self.page().0)).stdout(Stdio::piped());
        let mut child = curl.spawn().expect("curl is installed");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Looks { child, lines, at: None }
    }

    /// The live page: to read, and with its token.
    pub(crate) fn page(&self) -> (String, String) {
        let read = self.page.split('#').next().unwrap_or_default();
        (read.to_owned(), self.page.clone())
    }

    /// A part's process ends at once.
    #[cfg_attr(not(feature = "verify"), expect(dead_code, reason = "for the browser"))]
    pub(crate) fn kill(&mut self, part: &str) {
        signal(self.number_of(part), "-KILL");
    }

    /// Ctrl-C, and the end.
    pub(crate) fn interrupt(&mut self) -> Ended {
        signal(self.child.id(), "-INT");
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("readable") > 0 {
            line.clear();
        }
        Ended { status: self.child.wait().expect("ended") }
    }

    /// Ports of the stack that something still holds.
    pub(crate) fn busy_ports(&self) -> Vec<u16> {
        let busy = |port: &&u16| TcpListener::bind((self.address, **port)).is_err();
        self.ports.values().filter(busy).copied().collect()
    }

    /// Kills `up` itself, as a crash would; its folder stays.
    pub(crate) fn crash(mut self) -> TempDir {
        signal(self.child.id(), "-KILL");
        drop(self.child.wait());
        std::mem::replace(&mut self.folder, folder("gone"))
    }

    /// Where the file says that all of it listens.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Where the file has what the documented stack has on this port.
    pub(crate) fn place(&self, documented: u16) -> SocketAddr {
        let port = self.port(documented);
        let elsewhere = SocketAddr::new(ELSEWHERE.into(), port);
        match self.file_text().contains(&elsewhere.to_string()) {
            true => elsewhere,
            false => SocketAddr::new(self.address, port),
        }
    }

    pub(crate) fn port(&self, documented: u16) -> u16 {
        *self.ports.get(&documented).expect("a port of the stack")
    }

    /// The folder that `--state` names.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            signal(self.child.id(), "-TERM");
            drop(self.child.wait());
        }
    }
}

/// What the live page is told.
pub(crate) struct Looks {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Of the last one.
    at: Option<u64>,
}

impl Iterator for Looks {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            if self.lines.next()?.expect("text") != "event: look" {
                continue;
            }
            let data = self.lines.next()?.expect("text");
            let look: Value =
                serde_json::from_str(data.trim_start_matches("data: ")).expect("JSON");
            if self.at != look["at"].as_u64() {
                self.at = look["at"].as_u64();
                return Some(look);
            }
        }
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The program under test.
pub(crate) fn aqueduct() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aqueduct"))
}

/// A folder that PostgreSQL's own user may enter, too.
pub(crate) fn folder(name: &str) -> TempDir {
    let folder =
        tempfile::Builder::new().prefix(&format!("up-{name}-")).tempdir().expect("a folder");
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("opened");
    folder
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_programs() {
    let folder = Path::new(env!("CARGO_BIN_EXE_aqueduct")).parent().expect("in a folder");
    for name in ["l4-nlb", "l7-gateway", "pgpool", "demo"] {
        assert!(
            folder.join(name).is_file(),
            "{name} is not built: run `cargo build --workspace --bins` first, as `make test` does"
        );
    }
}

fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

/// The stack that `up` has built in.
const DOCUMENTED: &str = include_str!("../../../stacks/instagram-valorant.yaml");

/// No address of this machine's.
const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xace, 0, 0, 0, 0, 0, 7);

/// In 127.64.0.0/10, from the number of this process and the name of the stack.
fn own_address(name: &str) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let stack = name.bytes().fold(0_u8, u8::wrapping_add) % 64;
    Ipv4Addr::new(127, 64 + stack, high, low.max(1))
}

/// The stack with every port replaced by a free one of this address.
fn on_free_ports(stack: &str, address: IpAddr) -> (String, BTreeMap<u16, u16>) {
    // All sockets are held until every port is chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut ports = BTreeMap::new();
    let mut text = String::with_capacity(stack.len());
    for line in stack.lines() {
        let mut rest = if line.trim_start().starts_with('#') { "" } else { line };
        while let Some(at) = rest.find(':') {
            let (before, after) = rest.split_at(at + 1);
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            text.push_str(before);
            rest = after;
            if let Some(port) = digits.parse().ok().filter(|port| *port > 1024) {
                let free = *ports.entry(port).or_insert_with(|| free_port(address, &mut held));
                text.push_str(&free.to_string());
                rest = after.get(digits.len()..).unwrap_or_default();
            }
        }
        text.push_str(rest);
        text.push('\n');
    }
    (text, ports)
}

/// Free for TCP and for UDP.
fn free_port(address: IpAddr, held: &mut Vec<(TcpListener, UdpSocket)>) -> u16 {
    loop {
        let tcp = TcpListener::bind((address, 0)).expect("a port");
        let port = tcp.local_addr().expect("bound").port();
        if let Ok(udp) = UdpSocket::bind((address, port)) {
            held.push((tcp, udp));
            return port;
        }
    }
}
