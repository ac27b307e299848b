//! The network of a run: one namespace for the clients, one for the servers, one per party between
//! them, and a direct link as the limit. Not for what runs inside.
//!
//! A party of index `i` has the network `10.(100+i).0.0/16`: `.1.1` is its address towards clients,
//! `.16.0/20` are its clients' addresses, `.64.0/20` its endpoints' addresses; all of a range are
//! local where they belong ("any IP"), so there can be thousands. The direct path has index 0 and
//! no namespace of its own.
//!
//! Invariant: dropping a `Network` ends every process in its namespaces and removes them.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The namespaces of this run.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    parties: u8,
}

/// What addresses a party has.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    index: u8,
}

impl Place {
    fn at(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 100 + self.index, third, fourth)
    }

    /// Where clients send to: the party, or on the direct path the first endpoint.
    pub fn entrance(self) -> Ipv4Addr {
        if self.index == 0 { self.endpoint(0) } else { self.at(1, 1) }
    }

    /// The first of 4000 addresses of clients.
    pub fn clients(self) -> Ipv4Addr {
        self.at(16, 1)
    }

    /// One of 4000 addresses of endpoints.
    pub fn endpoint(self, number: u16) -> Ipv4Addr {
        let [high, low] = (number + 1).to_be_bytes();
        self.at(64 + high, low)
    }
}

impl Network {
    /// The name that all namespaces of this program begin with.
    pub const FAMILY: &'static str = "aqb-";

    /// Builds the network for `parties` balancers, which have the indices 1 to `parties`.
    ///
    /// # Errors
    /// Without root, `ip` (iproute2) or `ethtool`, or when the kernel has no namespaces.
    pub fn build(parties: u8) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this needs root, for network namespaces: sudo {}",
            std::env::args().collect::<Vec<_>>().join(" ")
        );
        let prefix = format!("{}{}-", Self::FAMILY, std::process::id());
        let network = Self { prefix, parties };
        network.lay().context("building the network namespaces")?;
        Ok(network)
    }

    /// The namespace of the clients.
    pub fn client(&self) -> String {
        format!("{}c", self.prefix)
    }

    /// The namespace of the servers.
    pub fn server(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// The namespace of a party.
    pub fn balancer(&self, index: u8) -> String {
        format!("{}b{index}", self.prefix)
    }

    /// The addresses of a party; index 0 is the direct path.
    pub fn place(&self, index: u8) -> Place {
        Place { index }
    }

    fn lay(&self) -> Result<()> {
        let (client, server) = (self.client(), self.server());
        for namespace in [&client, &server] {
            add(namespace)?;
        }
        let (c, s) = (client.as_str(), server.as_str());
        link(c, "direct", "10.100.3.2", s, "direct", "10.100.3.1")?;
        route(c, "10.100.64.0/20", "10.100.3.1")?;
        route(s, "10.100.16.0/20", "10.100.3.2")?;
        local(c, "10.100.16.0/20")?;
        local(s, "10.100.64.0/20")?;
        for index in 1..=self.parties {
            self.lay_party(index)?;
        }
        Ok(())
    }

    fn lay_party(&self, index: u8) -> Result<()> {
        let (client, server, balancer) = (self.client(), self.server(), self.balancer(index));
        let (c, s, b) = (client.as_str(), server.as_str(), balancer.as_str());
        let net = |rest: &str| format!("10.{}.{rest}", 100 + index);
        let end = format!("b{index}");
        add(b)?;
        link(c, &end, &net("1.2"), b, "clients", &net("1.1"))?;
        link(s, &end, &net("2.2"), b, "servers", &net("2.1"))?;
        // Clients' addresses are known to the servers too: a balancer may keep them.
        route(b, &net("16.0/20"), &net("1.2"))?;
        route(b, &net("64.0/20"), &net("2.2"))?;
        route(s, &net("16.0/20"), &net("2.1"))?;
        local(c, &net("16.0/20"))?;
        local(s, &net("64.0/20"))
    }

    /// Switches checksum and segmentation offload of the clients' and servers' links. Datagrams
    /// are measured without, as a packet that was never on a real wire carries a checksum that is
    /// not complete and an XDP program would pass it on like that; streams are measured with it.
    ///
    /// # Errors
    /// When ethtool is missing.
    pub fn offload(&self, on: bool) -> Result<()> {
        let value = if on { "on" } else { "off" };
        let ends = (1..=self.parties).map(|index| format!("b{index}"));
        for end in ends.chain(["direct".to_owned()]) {
            for namespace in [self.client(), self.server()] {
                let arguments = ["ethtool", "-K", &end, "tx", value];
                run_in(&namespace, &arguments).context("apt-get install -y ethtool")?;
            }
        }
        Ok(())
    }

    /// Ends what runs in the namespaces of this process and removes them.
    pub fn remove_own() {
        let _ = remove(|pid| pid == std::process::id());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Self::remove_own();
    }
}

/// Removes what earlier runs left behind that were killed; says how many namespaces.
///
/// # Errors
/// When `ip` cannot list namespaces.
pub fn remove_left_over() -> Result<usize> {
    remove(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
}

fn remove(whose: impl Fn(u32) -> bool) -> Result<usize> {
    let output = Command::new("ip").args(["netns", "list"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let chosen = names.filter(|name| {
        let rest = name.strip_prefix(Network::FAMILY);
        rest.and_then(|rest| rest.split('-').next()?.parse().ok()).is_some_and(&whose)
    });
    Ok(chosen.inspect(|name| clear(name)).count())
}

/// A command that will run `program` in `namespace`.
pub fn command_in(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Ends every process of a namespace.
pub fn kill_all_in(namespace: &str) {
    let pids = Command::new("ip").args(["netns", "pids", namespace]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for pid in pids.unwrap_or_default().split_whitespace() {
        let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
    }
}

fn clear(namespace: &str) {
    kill_all_in(namespace);
    let delete = ["netns", "delete", namespace];
    let _ = Command::new("ip").args(delete).stderr(Stdio::null()).status();
}

fn add(namespace: &str) -> Result<()> {
    ip(&["netns", "add", namespace])?;
    run_in(namespace, &["ip", "link", "set", "lo", "up"])?;
    for key in ["all", "default"] {
        run_in(namespace, &["sysctl", "-qw", &format!("net.ipv4.conf.{key}.rp_filter=0")])?;
    }
    run_in(namespace, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    run_in(namespace, &["sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 60999"])
}

fn link(
    one: &str,
    one_end: &str,
    one_address: &str,
    two: &str,
    two_end: &str,
    two_address: &str,
) -> Result<()> {
    let peer = ["type", "veth", "peer", "name", two_end, "netns", two];
    ip(&[&["link", "add", one_end, "netns", one], peer.as_slice()].concat())?;
    for (namespace, end, address) in [(one, one_end, one_address), (two, two_end, two_address)] {
        run_in(namespace, &["ip", "address", "add", &format!("{address}/24"), "dev", end])?;
        run_in(namespace, &["ip", "link", "set", end, "up"])?;
    }
    Ok(())
}

fn route(namespace: &str, network: &str, via: &str) -> Result<()> {
    run_in(namespace, &["ip", "route", "add", network, "via", via])
}

fn local(namespace: &str, network: &str) -> Result<()> {
    run_in(namespace, &["ip", "route", "add", "local", network, "dev", "lo"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run_in(namespace: &str, command: &[&str]) -> Result<()> {
    run(Command::new("ip").args(["netns", "exec", namespace]).args(command))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
