//! From `pgbouncer.ini` to the `pools:` section of a topology file, with a list of what could not be
//! translated. Not for reading files: it is given their texts. Called by `aqueduct import`.
//!
//! Invariant: nothing is dropped without a note, and what is written reads back without an error.

mod ini;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use ini::Line;

/// What a configuration of PgBouncer becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The topology file.
    pub text: String,
    /// Secrets by user; the file names each as `file:secrets/N` in this order. Each is to be written there.
    pub secrets: Vec<(String, String)>,
    /// What could not be translated, and what to do about it.
    pub notes: Vec<Note>,
}

/// Something that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line of the ini file; 0: the whole.
    pub line: u32,
    /// What.
    pub what: String,
}

/// The file that a line of the ini includes, whose text is to stand in its place.
pub fn included(line: &str) -> Option<&str> {
    ini::included(line)
}

/// The path of the user list, if the configuration names one.
pub fn user_list(ini: &str) -> Option<String> {
    let (lines, _) = ini::lines(ini);
    let named = lines.into_iter().rfind(|line| line.section == MAIN && line.key == "auth_file");
    named.map(|line| line.value).filter(|path| !path.is_empty())
}

const MAIN: &str = "pgbouncer";

/// Numbers that mean the same here.
const COUNTS: [&str; 7] = [
    "max_client_conn",
    "default_pool_size",
    "min_pool_size",
    "reserve_pool_size",
    "max_db_connections",
    "max_user_connections",
    "max_prepared_statements",
];

/// Times in seconds that mean the same here.
const TIMES: [&str; 9] = [
    "reserve_pool_timeout",
    "query_wait_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "server_connect_timeout",
    "client_login_timeout",
    "client_idle_timeout",
    "idle_transaction_timeout",
    "query_timeout",
];

/// Keys that need no counterpart, because the default does what they ask for, or because they only
/// tune PgBouncer's inside.
const NEEDLESS: [&str; 16] = [
    "ignore_startup_parameters",
    "track_extra_parameters",
    "so_reuseport",
    "pkt_buf",
    "max_packet_size",
    "sbuf_loopcnt",
    "listen_backlog",
    "tcp_defer_accept",
    "tcp_keepalive",
    "server_reset_query_always",
    "stats_period",
    "log_stats",
    "log_connections",
    "log_disconnections",
    "log_pooler_errors",
    "disable_pqexec",
];

/// Translates; `users` is the text of the user list.
pub fn import(ini: &str, users: Option<&str>) -> Imported {
    let (lines, faults) = ini::lines(ini);
    let mut out = Out { main: BTreeMap::new(), notes: Vec::new() };
    for (line, what) in faults {
        out.note(line, what);
    }
    for line in &lines {
        match line.section.as_str() {
            MAIN => drop(out.main.insert(line.key.to_ascii_lowercase(), line.clone())),
            "databases" => {}
            "users" => out.note(line.number, format!("[users] {}: no settings per user", line.key)),
            "peers" => out.note(line.number, format!("[peers] {}: no peers", line.key)),
            other => out.note(line.number, format!("[{other}] is no section of PgBouncer")),
        }
    }
    let known = users.map(ini::users).unwrap_or_default();
    let mut text = String::from("aqueduct: 1\npools:\n  pgbouncer:\n");
    out.instance(&mut text);
    let databases = lines.iter().filter(|line| line.section == "databases");
    out.databases(databases, &mut text);
    let secrets = out.users(known, &mut text);
    out.tls(&mut text);
    out.settings(&mut text);
    out.rest();
    out.notes.sort_by_key(|note| note.line);
    Imported { text, secrets, notes: out.notes }
}

struct Out {
    /// What of [pgbouncer] was not used yet.
    main: BTreeMap<String, Line>,
    notes: Vec<Note>,
}

impl Out {
    fn note(&mut self, line: u32, what: impl Into<String>) {
        self.notes.push(Note { line, what: what.into() });
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
            self.note(number, "listen_port is no port: 6432 is written");
            6432
        });
        let listen = self.take("listen_addr");
        let number = listen.as_ref().map_or(0, |line| line.number);
        let all = listen.map(|line| line.value).unwrap_or_default();
        let mut addresses = all.split(',').map(str::trim).filter(|address| !address.is_empty());
        let first = addresses.next().unwrap_or("127.0.0.1");
        let address = match first {
            "*" => "0.0.0.0".to_owned(),
            "localhost" => "127.0.0.1".to_owned(),
            number if number.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{number}]"),
            number if number.parse::<std::net::Ipv4Addr>().is_ok() => number.to_owned(),
            other => {
                let what =
                    format!("listen_addr: write the number of {other}; 127.0.0.1 is written");
                self.note(number, what);
                "127.0.0.1".to_owned()
            }
        };
        if all.is_empty() {
            self.note(0, "no listen_addr: clients connected by unix socket; 127.0.0.1 is written");
        }
        for more in addresses {
            self.note(number, format!("listen_addr {more}: an instance listens on one address"));
        }
        let _ = writeln!(text, "    instances: {{ pool-1: {{ listen: \"{address}:{port}\" }} }}");
    }

    fn databases<'l>(&mut self, lines: impl Iterator<Item = &'l Line>, text: &mut String) {
        let mode = self.take("pool_mode").map(|line| (line.number, line.value));
        let mode = mode.map_or("session", |(number, mode)| self.mode(number, &mode));
        let folder = self.value("unix_socket_dir").unwrap_or_else(|| "/tmp".to_owned());
        text.push_str("    databases:\n");
        let mut any = false;
        for line in lines {
            any |= self.database(line, mode, &folder, text);
        }
        if !any {
            self.note(0, "no database could be translated: `app` is written in their place");
            text.push_str("      app: { primary: \"127.0.0.1:5432\" }\n");
        }
    }

    fn mode(&mut self, number: u32, mode: &str) -> &'static str {
        match mode {
            "session" => "session",
            "transaction" => "transaction",
            "statement" => "statement",
            other => {
                self.note(number, format!("pool_mode {other} is none: session is written"));
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
        if name == "*" || name.is_empty() || name.len() > 63 || name == MAIN {
            self.note(number, what("each database is written by its name"));
            return false;
        }
        let Some(pairs) = ini::connection(&line.value) else {
            self.note(number, what("its connection string cannot be read"));
            return false;
        };
        let mut pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let port = pairs.remove("port").unwrap_or_else(|| "5432".to_owned());
        let hosts = pairs.remove("host").unwrap_or_else(|| folder.to_owned());
        let mut hosts = hosts.split(',').map(str::trim);
        let host = hosts.next().unwrap_or_default();
        let address = match host {
            path if path.starts_with('/') => format!("unix:{path}:{port}"),
            v6 if v6.contains(':') => format!("[{v6}]:{port}"),
            host => format!("{host}:{port}"),
        };
        if address.parse::<crate::pool::ServerAddress>().is_err() || port == "0" {
            self.note(number, what(&format!("{address} is no address of a server")));
            return false;
        }
        for more in hosts {
            self.note(
                number,
                what(&format!("host {more}: one primary is written; replicas have an alias")),
            );
        }
        let mode = match pairs.remove("pool_mode") {
            Some(own) => self.mode(number, &own),
            None => mode,
        };
        let _ =
            write!(text, "      {}: {{ primary: {}, mode: {mode}", quoted(name), quoted(&address));
        if let Some(server) = pairs.remove("dbname").filter(|server| server != name) {
            let _ = write!(text, ", server-name: {}", quoted(&server));
        }
        if let Some(size) = pairs.remove("pool_size") {
            match size.parse::<u32>() {
                Ok(size) if size > 0 => drop(write!(text, ", pool-size: {size}")),
                _ => self.note(number, what("pool_size is no number above 0")),
            }
        }
        text.push_str(" }\n");
        for key in pairs.keys() {
            // A password is never quoted.
            self.note(number, what(&format!("{key} is not translated")));
        }
        true
    }

    /// The users, and the secrets that their entries name.
    fn users(&mut self, known: Vec<(String, String)>, text: &mut String) -> Vec<(String, String)> {
        let list = |line: Option<String>| -> Vec<String> {
            let text = line.unwrap_or_default();
            text.split(',').map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect()
        };
        let admins = list(self.value("admin_users"));
        let viewers = list(self.value("stats_users"));
        let kind = self.take("auth_type");
        let number = kind.as_ref().map_or(0, |line| line.number);
        let kind = kind.map_or_else(|| "md5".to_owned(), |line| line.value);
        let trust = matches!(kind.as_str(), "trust" | "any");
        match kind.as_str() {
            "trust" | "md5" | "scram-sha-256" | "plain" => {}
            "any" => self.note(number, "auth_type any: each role is written by its name"),
            other => {
                let what = format!("auth_type {other}: users prove who they are by secret");
                self.note(number, what);
            }
        }
        self.take("auth_file");
        let mut all: BTreeMap<String, Option<String>> =
            admins.iter().chain(&viewers).map(|name| (name.clone(), None)).collect();
        all.extend(known.into_iter().map(|(name, secret)| (name, Some(secret))));
        let (mut secrets, mut any) = (Vec::new(), false);
        text.push_str("    users:\n");
        for (name, secret) in &all {
            if name.is_empty() || name.len() > 63 {
                self.note(0, "a user of the user list has no name that a role may have");
                continue;
            }
            let secret = secret.as_ref().filter(|secret| !secret.is_empty());
            if secret.is_none() && !trust {
                self.note(0, format!("user {name} has no secret in the user list: it is left out"));
                continue;
            }
            any = true;
            let _ = write!(text, "      {}: {{", quoted(name));
            if let Some(secret) = secret.filter(|_| !trust) {
                secrets.push((name.clone(), secret.clone()));
                let _ = write!(text, " secret: \"file:secrets/{}\",", secrets.len());
            }
            if admins.contains(name) {
                text.push_str(" console: admin");
            } else if viewers.contains(name) {
                text.push_str(" console: stats");
            }
            text.push_str(" }\n");
        }
        if !any {
            self.note(0, "no user has a secret: `app` is written; put its secret into secrets/app");
            text.push_str("      app: { secret: \"file:secrets/app\" }\n");
        }
        secrets
    }

    fn tls(&mut self, text: &mut String) {
        let mode = self.value("client_tls_sslmode").unwrap_or_else(|| "disable".to_owned());
        let (key, chain) = (self.value("client_tls_key_file"), self.value("client_tls_cert_file"));
        if mode == "disable" {
            return;
        }
        match (key, chain) {
            (Some(key), Some(chain)) => {
                let (chain, key) =
                    (quoted(&format!("file:{chain}")), quoted(&format!("file:{key}")));
                let _ = writeln!(
                    text,
                    "    tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }}"
                );
            }
            _ => self
                .note(0, "client_tls_sslmode needs client_tls_key_file and client_tls_cert_file"),
        }
        if mode != "allow" && mode != "prefer" {
            let what = format!("client_tls_sslmode {mode}: clients without TLS are not refused");
            self.note(0, what);
        }
    }

    fn settings(&mut self, text: &mut String) {
        // Where PgBouncer's default is another one.
        let mut all = vec![("max_client_conn", "100".to_owned())];
        for key in COUNTS {
            let Some(line) = self.take(key) else { continue };
            match line.value.parse::<u32>() {
                Ok(0) if matches!(key, "max_client_conn" | "default_pool_size") => {
                    self.note(line.number, format!("{key} 0: a number above 0 is needed"));
                }
                Ok(count) => all.push((key, count.to_string())),
                Err(_) => self.note(line.number, format!("{key}: {} is no number", line.value)),
            }
        }
        for key in TIMES {
            let Some(line) = self.take(key) else { continue };
            let seconds = line.value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let day = Duration::from_secs(86_400);
            match seconds.filter(|time| *time <= day * 366) {
                Some(time) if time.is_zero() && needed(key) => {
                    self.note(line.number, format!("{key} 0: the default is taken"));
                }
                Some(time) => all.push((key, format!("{}ms", time.as_millis()))),
                None => self.note(line.number, format!("{key}: {} is no time", line.value)),
            }
        }
        if let Some(reset) = self.value("server_reset_query") {
            all.push(("server_reset_query", quoted(&reset)));
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
            let what = match key.as_str() {
                key if NEEDLESS.contains(&key) => continue,
                "logfile" | "syslog" | "verbose" => "the log goes to standard error; see --log",
                "pidfile" => "systemd knows the process; see deploy/",
                "user" => "the process runs as who starts it",
                key if key.starts_with("server_tls") => "servers are reached without TLS",
                key if key.starts_with("auth_") => "users are those of the file",
                _ => "has no counterpart",
            };
            self.note(line.number, format!("{key}: {what}"));
        }
    }
}

/// Times that cannot be switched off.
fn needed(key: &str) -> bool {
    matches!(key, "server_connect_timeout" | "client_login_timeout")
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
