//! From `pgbouncer.ini` to the `pools:` section of a topology file, with a list of what could not be
//! translated. Not for reading files: that is `load`. Called by `aqueduct import`, and by `load` for
//! `pgpool pgbouncer.ini`.
//!
//! Invariant: nothing is dropped without a note, and what is written reads back without an error.

mod held;
mod ini;
mod keys;
mod known;
mod load;
mod lookup;
mod process;
mod terms;
mod tls;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::ToSocketAddrs;
use std::time::Duration;

use ini::Line;
use keys::{
    COUNTS, INSTEAD, SWITCHES, TIMES, TLS, TLS_DEFAULTS, UNTOLD, is_tls, needed, untranslated,
};
pub use known::{Change, KNOWN, Known, known};
pub use load::{Loaded, Process, Switch, Syslog, Texts, beside, load, load_again, read, with};
use lookup::Lookup;

/// What a configuration of PgBouncer becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The topology file.
    pub text: String,
    /// Secrets by user; the file names each as `file:secrets/N` in this order. Each is to be written there.
    pub secrets: Vec<(String, String)>,
    /// What could not be translated, and what to do about it.
    pub notes: Vec<Note>,
    /// What is about the process alone.
    pub process: Process,
    /// Of that, what is written: a topology file has no place for it.
    pub about_process: Vec<Note>,
    /// What the file holds only because something must stand there.
    pub stand_ins: Vec<StandIn>,
}

/// What is written where the configuration has nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// No database.
    Database,
    /// No user.
    User,
    /// Nowhere to listen.
    Listener,
}

/// Something that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line of the ini file; 0: the whole.
    pub line: u32,
    /// What.
    pub what: String,
    /// Whether it would be another pooler without it, so that it cannot run from the ini itself.
    pub stops: bool,
}

/// The path of the user list, if the configuration names one.
pub fn user_list(ini: &str) -> Option<String> {
    let (lines, _) = ini::lines(ini);
    let named = lines.into_iter().rfind(|line| line.section == MAIN && line.key == "auth_file");
    named.map(|line| line.value).filter(|path| !path.is_empty())
}

const MAIN: &str = "pgbouncer";

/// Translates; `users` is the text of the user list.
pub fn import(ini: &str, users: Option<&str>) -> Imported {
    let (lines, faults) = ini::lines(ini);
    let mut out = Out::default();
    for (line, what) in faults {
        out.stop(line, what);
    }
    for line in &lines {
        match line.section.as_str() {
            MAIN => drop(out.main.insert(line.key.to_ascii_lowercase(), line.clone())),
            "databases" => {}
            "users" => {}
            "peers" => {}
            other => out.stop(line.number, format!("[{other}] is no section of PgBouncer")),
        }
    }
    let said = out.main.iter().map(|(key, line)| (key.clone(), line.value.clone())).collect();
    let known = users.map(ini::users).unwrap_or_default();
    let mut text = String::from("aqueduct: 1\n");
    if let Some(path) = out.main.get("admin_token_file").filter(|line| !line.value.is_empty()) {
        let _ = writeln!(text, "admin-token: {}", quoted(&format!("file:{}", path.value)));
    }
    text.push_str("pools:\n  pgbouncer:\n");
    out.instance(&mut text);
    let peers: Vec<_> = lines.iter().filter(|line| line.section == "peers").collect();
    out.peers(&peers, &mut text);
    out.server_tls = out.server_tls();
    out.lookup = Lookup::of(|key| out.value(key));
    let databases = lines.iter().filter(|line| line.section == "databases");
    out.databases(databases, &mut text);
    let terms = lines.iter().filter(|line| line.section == "users");
    let terms = terms.map(|line| (line.key.clone(), out.user_terms(line))).collect();
    out.users(known, terms, &mut text);
    out.tls(&mut text);
    out.settings(&mut text);
    out.take("admin_token_file");
    let own_modes = std::mem::take(&mut out.own_modes);
    let process = Process { said, own_modes, ..out.about_process() };
    out.rest();
    out.notes.sort_by_key(|note| note.line);
    let Out { secrets, notes, about_process, stand_ins, .. } = out;
    Imported { text, secrets, notes, process, about_process, stand_ins }
}

#[derive(Default)]
struct Out {
    /// What of [pgbouncer] was not used yet.
    main: BTreeMap<String, Line>,
    notes: Vec<Note>,
    secrets: Vec<(String, String)>,
    stand_ins: Vec<StandIn>,
    about_process: Vec<Note>,
    /// What ends the section of a database that is reached by network.
    server_tls: String,
    /// Where roles are looked up, unless a database says otherwise.
    lookup: Lookup,
    /// Databases that have a mode of their own.
    own_modes: BTreeSet<String>,
    /// A database has a lookup.
    looks_up: bool,
    /// Other processes listen on its ports too.
    shares: bool,
    /// How users prove themselves where no rule says it.
    auth_type: Option<&'static str>,
}

impl Out {
    fn note(&mut self, line: u32, what: impl Into<String>) {
        self.notes.push(Note { line, what: what.into(), stops: false });
    }

    /// Notes what would make it another pooler.
    fn stop(&mut self, line: u32, what: impl Into<String>) {
        self.notes.push(Note { line, what: what.into(), stops: true });
    }

    /// Keeps a secret; how the file names it.
    fn secret(&mut self, whose: &str, secret: &str) -> String {
        self.secrets.push((whose.to_owned(), secret.to_owned()));
        format!("\"file:secrets/{}\"", self.secrets.len())
    }

    /// Uses a key of [pgbouncer].
    fn take(&mut self, key: &str) -> Option<Line> {
        self.main.remove(key)
    }

    fn value(&mut self, key: &str) -> Option<String> {
        self.take(key).map(|line| line.value).filter(|value| !value.is_empty())
    }

    fn instance(&mut self, text: &mut String) {
        let port = self.take("listen_port");
        let number = port.as_ref().map_or(0, |line| line.number);
        let port = port.map_or(Ok(6432), |line| line.value.parse::<u16>());
        let port = port.unwrap_or_else(|_| {
            self.stop(number, "listen_port is no port: 6432 is written");
            6432
        });
        let mut all = self.addresses(port);
        let folder = self.main.get("unix_socket_dir").map_or("/tmp", |line| line.value.as_str());
        let number = self.main.get("unix_socket_dir").map_or(0, |line| line.number);
        let address = format!("unix:{folder}:{port}");
        if folder.starts_with('@') {
            self.note(number, "unix_socket_dir: abstract sockets have no mode: there is none");
        } else if !folder.is_empty() {
            match address.parse::<crate::pool::ListenAddress>() {
                Ok(_) => all.push(address),
                Err(()) => self.stop(number, format!("unix_socket_dir: {address} is no address")),
            }
        }
        let sockets = all.iter().any(|address| address.starts_with("unix:"));
        if all.is_empty() {
            // A process that a service manager passes sockets to needs none.
            let what = "nothing to listen on: 127.0.0.1 is written".to_owned();
            self.about_process.push(Note { line: 0, what, stops: false });
            self.stand_ins.push(StandIn::Listener);
            all.push(format!("127.0.0.1:{port}"));
        }
        let all: Vec<_> = all.iter().map(|address| quoted(address)).collect();
        let _ = write!(text, "    instances: {{ pool-1: {{ listen: [{}]", all.join(", "));
        let (mode, group) = (self.take("unix_socket_mode"), self.value("unix_socket_group"));
        if sockets {
            // PgBouncer lets everybody knock.
            let mut octal = mode.as_ref().map_or("0777", |line| line.value.as_str());
            if octal.parse::<crate::pool::SocketMode>().is_err() {
                self.stop(
                    mode.as_ref().map_or(0, |line| line.number),
                    "unix_socket_mode is no mode",
                );
                octal = "0777";
            }
            let _ = write!(text, ", socket-mode: {}", quoted(octal));
            if let Some(group) = group {
                let _ = write!(text, ", socket-group: {}", quoted(&group));
            }
        }
        if let Some(line) = self.take("peer_id") {
            match line.value.parse::<u32>() {
                Ok(0) => {}
                Ok(id) if id <= 127 => drop(write!(text, ", peer-id: {id}")),
                _ => self.stop(line.number, "peer_id: 1 to 127 are numbers of peers"),
            }
        }
        if let Some(line) = self.take("so_reuseport")
            && line.value != "0"
        {
            self.shares = true;
            if !text.contains(", peer-id: ") {
                let what = "so_reuseport: without peer_id and [peers] a cancel request may be lost";
                self.note(line.number, what);
            }
        }
        if let Some(line) = self.take("admin_listen").filter(|line| !line.value.is_empty()) {
            match line.value.parse::<std::net::SocketAddr>() {
                Ok(at) if at.ip().is_loopback() || self.main.contains_key("admin_token_file") => {
                    let _ = write!(text, ", admin: {}", quoted(&at.to_string()));
                }
                Ok(_) => self
                    .stop(line.number, "admin_listen: beside loopback it needs admin_token_file"),
                Err(_) => self.stop(line.number, "admin_listen is no ADDRESS:PORT"),
            }
        }
        text.push_str(" } }\n");
    }

    /// The processes that share a port.
    fn peers(&mut self, lines: &[&Line], text: &mut String) {
        let mut all: BTreeMap<u8, String> = BTreeMap::new();
        for line in lines {
            let what = |what: &str| format!("peer {}: {what}", line.key);
            let id = line.key.parse::<u8>().ok().filter(|id| (1..=127).contains(id));
            let (Some(id), Some(pairs)) = (id, ini::connection(&line.value)) else {
                self.stop(line.number, what("a number from 1 to 127 and its host are needed"));
                continue;
            };
            let mut pairs: BTreeMap<String, String> = pairs.into_iter().collect();
            let host = pairs.remove("host").unwrap_or_default();
            let port = pairs.remove("port").unwrap_or_else(|| "6432".to_owned());
            let address = address(&host, &port);
            if address.parse::<crate::pool::ServerAddress>().is_err() || port == "0" {
                self.stop(line.number, what(&format!("{address} is no address")));
                continue;
            }
            let size = match pairs.remove("pool_size").map(|size| size.parse::<u32>()) {
                Some(Ok(size)) if size > 0 => format!(", pool-size: {size}"),
                None => String::new(),
                Some(_) => {
                    self.stop(line.number, what("pool_size is no number above 0"));
                    continue;
                }
            };
            for key in pairs.keys() {
                self.stop(line.number, what(&untranslated(key)));
            }
            all.insert(id, format!("      \"{id}\": {{ at: {}{size} }}\n", quoted(&address)));
        }
        if !all.is_empty() && !text.contains(", peer-id: ") {
            self.stop(0, "[peers] means nothing without peer_id");
        } else if !all.is_empty() {
            text.push_str("    peers:\n");
            all.values().for_each(|peer| text.push_str(peer));
        }
    }

    /// The addresses of `listen_addr`.
    fn addresses(&mut self, port: u16) -> Vec<String> {
        let Some(listen) = self.take("listen_addr") else { return Vec::new() };
        let mut all = Vec::new();
        for address in listen.value.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            let numbers: &[&str] = match address {
                "*" => &["0.0.0.0", "[::]"],
                "localhost" => &["127.0.0.1", "[::1]"],
                other => &[other],
            };
            for number in numbers {
                let bare = number.trim_start_matches('[').trim_end_matches(']');
                match bare.parse::<std::net::IpAddr>() {
                    Ok(ip) => {
                        // A host without IPv6 has no such address; PgBouncer does without as well.
                        if numbers.len() == 1 || ip.is_ipv4() || has_ipv6() {
                            all.push(std::net::SocketAddr::new(ip, port).to_string());
                        }
                    }
                    Err(_) => match (bare, port).to_socket_addrs() {
                        Ok(found) => all.extend(found.map(|at| at.to_string())),
                        Err(_) => self.stop(
                            listen.number,
                            format!("listen_addr: nothing is known of {number}: write its number"),
                        ),
                    },
                }
            }
        }
        all
    }

    fn databases<'l>(&mut self, lines: impl Iterator<Item = &'l Line>, text: &mut String) {
        let mode = self.take("pool_mode").map(|line| (line.number, line.value));
        let mode = mode.map_or("session", |(number, mode)| self.mode(number, &mode));
        let folder = self.value("unix_socket_dir").unwrap_or_else(|| "/tmp".to_owned());
        text.push_str("    databases:\n");
        let mut any = false;
        // The last of a name holds, as in PgBouncer.
        let mut all: Vec<&Line> = Vec::new();
        for line in lines {
            if let Some(at) = all.iter().position(|before| before.key == line.key) {
                let before = all.remove(at);
                let what = format!("database {}: line {} holds", before.key, line.number);
                self.note(before.number, what);
            }
            all.push(line);
        }
        for line in all {
            any |= self.database(line, mode, &folder, text);
        }
        if !any {
            self.note(0, "no database could be translated: `app` is written in their place");
            self.stand_ins.push(StandIn::Database);
            text.push_str("      app: { primary: \"127.0.0.1:5432\" }\n");
        }
    }

    fn mode(&mut self, number: u32, mode: &str) -> &'static str {
        match mode.to_ascii_lowercase().as_str() {
            "session" => "session",
            "transaction" => "transaction",
            "statement" => "statement",
            _ => {
                self.stop(number, format!("pool_mode {mode} is none: session is written"));
                "session"
            }
        }
    }

    fn database(
        &mut self,
        line: &Line,
        mode: &'static str,
        folder: &str,
        text: &mut String,
    ) -> bool {
        let (name, number) = (&line.key, line.number);
        let what = |what: &str| format!("database {name}: {what}");
        if name.is_empty() || name.len() > 63 || name == MAIN {
            // Not told: it may be a part of something else.
            self.stop(number, "this is no name of a database");
            return false;
        }
        let Some(pairs) = ini::connection(&line.value) else {
            self.stop(number, what("its connection string cannot be read"));
            return false;
        };
        let mut pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let port = pairs.remove("port").unwrap_or_else(|| "5432".to_owned());
        let hosts = pairs.remove("host").unwrap_or_else(|| folder.to_owned());
        let order = pairs.remove("load_balance_hosts").map(|order| order.to_ascii_lowercase());
        let Some(servers) = self.hosts(line, &hosts, &port, order.as_deref()) else { return false };
        let mode = match pairs.remove("pool_mode") {
            Some(own) => {
                self.own_modes.insert(name.clone());
                self.mode(number, &own)
            }
            None => mode,
        };
        let _ = write!(text, "      {}: {{ primary: {servers}, mode: {mode}", quoted(name));
        if let Some(server) = pairs.remove("dbname").filter(|server| server != name) {
            let _ = write!(text, ", server-name: {}", quoted(&server));
        }
        text.push_str(&self.database_terms(line, &mut pairs));
        text.push_str(&terms::prelude(&mut pairs));
        let (user, password) = (pairs.remove("user"), pairs.remove("password"));
        let has_password = password.is_some();
        if user.is_some() || password.is_some() {
            let user = user.map(|user| format!("user: {}", quoted(&user)));
            let password =
                password.map(|secret| format!("password: {}", self.secret(name, &secret)));
            let parts: Vec<_> = user.into_iter().chain(password).collect();
            let _ = write!(text, ", login: {{ {} }}", parts.join(", "));
        }
        let lookup = self.lookup.or(Lookup::of(|key| pairs.remove(key)));
        if lookup.is_some() {
            self.looks_up = true;
            text.push_str(", ");
            text.push_str(&lookup.text());
        }
        if hosts.split(',').any(|host| !host.trim().starts_with('/')) {
            text.push_str(&self.server_tls);
        }
        text.push_str(" }\n");
        for key in pairs.keys() {
            let told = if has_password { UNTOLD.to_owned() } else { untranslated(key) };
            self.stop(number, what(&told));
        }
        true
    }

    fn settings(&mut self, text: &mut String) {
        // Where PgBouncer's default is another one.
        let mut all = vec![
            ("max_client_conn", "100".to_owned()),
            ("server_login_retry", "15s".to_owned()),
            ("ready_when", "running".to_owned()),
        ];
        for key in COUNTS {
            let Some(line) = self.take(key) else { continue };
            match line.value.parse::<u32>() {
                Ok(0) if matches!(key, "max_client_conn" | "default_pool_size") => {
                    self.stop(line.number, format!("{key} 0: a number above 0 is needed"));
                }
                Ok(count) => all.push((key, count.to_string())),
                Err(_) => self.stop(line.number, format!("{key}: {} is no number", line.value)),
            }
        }
        for key in TIMES {
            let Some(line) = self.take(key) else { continue };
            match milliseconds(&line.value) {
                Some(0) if key == "tcp_keepidle" => {}
                Some(0) if needed(key) => {
                    self.note(line.number, format!("{key} 0: the default is taken"));
                }
                Some(time) => all.push((key, format!("{time}ms"))),
                None => self.stop(line.number, format!("{key}: {} is no time", line.value)),
            }
        }
        for key in SWITCHES {
            if let Some(value) = self.value(key) {
                all.push((key, if value == "0" { "false" } else { "true" }.to_owned()));
            }
        }
        if let Some(line) = self.take("server_check_query") {
            match line.value.as_str() {
                // Of PgBouncer an empty query; any answer will do.
                "<empty>" => {}
                "" => all.push(("server_check_query", quoted("-"))),
                query => all.push(("server_check_query", quoted(query))),
            }
        }
        for (key, unit) in [("tcp_keepcnt", ""), ("tcp_user_timeout", "ms")] {
            let Some(line) = self.take(key) else { continue };
            match line.value.parse::<u32>() {
                Ok(0) => {}
                Ok(value) => all.push((key, format!("{value}{unit}"))),
                Err(_) => self.stop(line.number, format!("{key}: {} is no number", line.value)),
            }
        }
        match self.take("server_reset_query") {
            Some(line) if line.value.is_empty() => all.push(("server_reset_query", quoted("-"))),
            Some(line) => all.push(("server_reset_query", quoted(&line.value))),
            None => {}
        }
        if let Some(names) = self.value("ignore_startup_parameters") {
            all.push(("ignore_startup_parameters", quoted(&names)));
        }
        if let Some(kind) = self.auth_type {
            all.push(("auth_type", kind.to_owned()));
        }
        text.push_str("    settings:\n");
        let last: BTreeMap<_, _> = all.into_iter().collect();
        for (key, value) in last {
            let _ = writeln!(text, "      {key}: {value}");
        }
    }

    /// What nobody has used.
    fn rest(&mut self) {
        for (key, line) in std::mem::take(&mut self.main) {
            let off = matches!(line.value.as_str(), "" | "0");
            if let Some((_, default, instead)) = INSTEAD.iter().find(|(known, ..)| *known == key) {
                if !line.value.is_empty() && line.value != *default {
                    self.note(line.number, format!("{key}: {instead}"));
                }
                continue;
            }
            if let Some((_, instead)) = TLS.iter().find(|(end, _)| is_tls(&key, end)) {
                if !off && !TLS_DEFAULTS.contains(&line.value.as_str()) {
                    self.note(line.number, format!("{key}: {instead}"));
                }
                continue;
            }
            let what = match key.as_str() {
                // It names itself.
                "conffile" => continue,
                "auth_ldap_options" if !off => {
                    self.note(line.number, format!("{key}: it is about auth_type ldap"));
                    continue;
                }
                key if key.starts_with("auth_") && !off => "users are those of the file",
                _ if off => continue,
                _ => "has no counterpart",
            };
            let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
            if key.bytes().all(plain) {
                self.stop(line.number, format!("{key}: {what}"));
            } else {
                self.stop(line.number, "this is no key of PgBouncer");
            }
        }
    }
}

/// Where a host and port of PgBouncer's lead.
fn address(host: &str, port: &str) -> String {
    match host {
        path if path.starts_with('/') => format!("unix:{path}:{port}"),
        v6 if v6.contains(':') => format!("[{v6}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

/// A time that is written in seconds; at most a year.
fn milliseconds(seconds: &str) -> Option<u128> {
    let time = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let year = Duration::from_secs(366 * 86_400);
    time.filter(|time| *time <= year).map(|time| time.as_millis())
}

/// Whether this host has IPv6.
fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|list| !list.trim().is_empty())
}

/// A text as YAML writes it in double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => drop(write!(out, "\\u{:04x}", letter as u32)),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
