//! `up --isolate`: every part in a network namespace of its own, with a firewall that lets through what the
//! file wires and answers all else with a reset. The parts see the addresses of the file, unchanged: a
//! connection to a wired address is led to the other namespace, where it arrives at that very address.
//! Not for starting parts: that is `fleet`. Called by `up`.
//!
//! Invariant: when an [`Isolation`] is dropped nothing of it is left; what a crash left is removed before
//! the next one is laid.

mod rules;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use self::rules::{Ends, Seat, Wires};
use crate::up::plan::{Part, Plan};
use crate::up::spawn::find_program;

/// The namespaces of one stack.
#[derive(Debug)]
pub(crate) struct Isolation {
    prefix: String,
    /// Which of the networks that [`Ends`] knows.
    network: u8,
    /// Whether this kernel knows IPv6.
    six: bool,
    /// As the file has them.
    originals: Vec<Part>,
}

impl Isolation {
    /// Builds the namespaces of a plan. Blocks for a moment.
    ///
    /// # Errors
    /// Without root, `ip` or `nft`, or for addresses that cannot be led elsewhere.
    pub(crate) fn lay(stack: &str, plan: &Plan) -> anyhow::Result<Self> {
        able()?;
        ensure!(plan.parts.len() < 240, "--isolate knows at most 240 parts");
        let six = Path::new("/proc/sys/net/ipv6").exists();
        for listen in plan.parts.iter().flat_map(|part| &part.listens) {
            ensure!(
                six || listen.address.is_ipv4(),
                "this kernel has no IPv6: {} is {}",
                listen.purpose,
                listen.address
            );
        }
        let digest = stack.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let prefix = format!("aq{:08x}-", digest as u32);
        clear(&prefix)?;
        let network = free_network((digest >> 32) as u8)?;
        let isolation = Self { prefix, network, six, originals: plan.parts.clone() };
        isolation.build().context("the network namespaces cannot be made")?;
        Ok(isolation)
    }

    /// The namespace of a part.
    pub(crate) fn of(&self, part: &str) -> Option<String> {
        let index = self.originals.iter().position(|one| one.name == part)?;
        Some(self.namespace(index))
    }

    /// The namespace from which clients reach what is open to them.
    pub(crate) fn clients(&self) -> String {
        format!("{}clients", self.prefix)
    }

    /// A part with its addresses as the file has them.
    pub(crate) fn original(&self, part: &str) -> Option<&Part> {
        self.originals.iter().find(|one| one.name == part)
    }

    /// The plan with the addresses at which this process reaches the parts.
    pub(crate) fn seen(&self, plan: Plan) -> Plan {
        let mut plan = plan;
        for (index, part) in plan.parts.iter_mut().enumerate() {
            let ends = self.ends(index);
            let moved = |at: SocketAddr| SocketAddr::new(ends.like(at.ip()), at.port());
            part.listens.iter_mut().for_each(|listen| listen.address = moved(listen.address));
            part.admin = part.admin.map(moved);
        }
        plan
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}{index}", self.prefix)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// Where a part is on the switch.
    fn ends(&self, index: usize) -> Ends {
        Ends::new(self.network, u8::try_from(index + FIRST).unwrap_or(u8::MAX))
    }

    /// The addresses that this kernel can give to a link.
    fn lawful(&self, ends: Ends) -> impl Iterator<Item = IpAddr> {
        ends.both().into_iter().filter(|ip| self.six || ip.is_ipv4())
    }

    fn build(&self) -> anyhow::Result<()> {
        let hub = self.hub();
        ip(&["netns", "add", &hub])?;
        batch(&hub, "link add name switch type bridge\nlink set dev switch up\n")?;
        // `up` itself: it asks every part how it is.
        let end = format!("{}up", &self.prefix);
        let ours = Ends::new(self.network, OURS);
        ip(&["link", "add", "name", &end, "type", "veth", "peer", "name", "up", "netns", &hub])?;
        if self.six {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "0")?;
        }
        for address in self.lawful(ours) {
            let commands =
                format!("addr add {} dev {end}{}\n", on_switch(address), at_once(address));
            run("ip", &["-batch", "-"], Some(&commands))?;
        }
        ip(&["link", "set", "dev", &end, "up"])?;
        batch(&hub, "link set dev up master switch up\n")?;
        let clients = Ends::new(self.network, CLIENTS);
        let seats: Vec<Seat<'_>> = self
            .originals
            .iter()
            .enumerate()
            .map(|(index, part)| Seat { part, ends: self.ends(index) })
            .collect();
        let wires = Wires::of(&seats, ours, clients);
        for (index, seat) in seats.iter().enumerate() {
            let namespace = self.namespace(index);
            self.join(&namespace, &format!("p{index}"), seat.ends)?;
            for address in seat.foreign_addresses() {
                batch(&namespace, &format!("addr add {address} dev lo{}\n", at_once(address)))?;
            }
            firewall(&namespace, &wires.of_part(index))?;
        }
        self.join(&self.clients(), "clients", clients)?;
        firewall(&self.clients(), &wires.of_clients())
    }

    /// A namespace on the switch.
    fn join(&self, namespace: &str, port: &str, ends: Ends) -> anyhow::Result<()> {
        ip(&["netns", "add", namespace])?;
        batch(
            &self.hub(),
            &format!(
                "link add name {port} type veth peer name wire netns {namespace}\n\
                 link set dev {port} master switch up\n"
            ),
        )?;
        let (mut settings, mut commands) = (LEAD_FOUR.to_owned(), String::new());
        if self.six {
            settings.push_str(ALLOW_SIX);
        }
        for address in self.lawful(ends) {
            let (place, words) = (on_switch(address), at_once(address));
            commands.push_str(&format!("addr add {place} dev wire{words}\n"));
        }
        commands.push_str("link set dev lo up\nlink set dev wire up\nroute add default dev wire\n");
        if self.six {
            commands.push_str(LEAD_SIX);
        }
        run("ip", &["netns", "exec", namespace, "sh", "-c", &settings], None)?;
        batch(namespace, &commands)
    }
}

/// Loopback addresses are led over the wire and back.
const LEAD_FOUR: &str =
    "for one in all wire; do echo 1 > /proc/sys/net/ipv4/conf/$one/route_localnet; done; ";

/// Whatever the host says of new namespaces.
const ALLOW_SIX: &str =
    "for one in all default lo wire; do echo 0 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; done";

/// The same for `::1`, for which there is no such setting: what was led to it arrives by the wire, and is
/// taken for local only where the route says that it may. Every other address is led by the default route:
/// without one nobody could begin to connect to it.
const LEAD_SIX: &str =
    "route add ::/0 dev wire metric 4096\nroute add local ::1 dev wire table local metric 2048\n";

/// An address and the network around it.
fn on_switch(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// An IPv6 address that nobody else can have is used at once, unasked.
fn at_once(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { " nodad" }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        // What is left is removed before the next start.
        let _ = clear(&self.prefix);
    }
}

/// What `--isolate` needs of this machine.
fn able() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("--isolate makes network namespaces and needs root: sudo aqueduct up --isolate …");
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if find_program(program).is_none() {
            bail!(
                "--isolate needs `{program}`: apt-get install -y {package} (or your system's like)"
            );
        }
    }
    Ok(())
}

/// Removes all namespaces of this name, and with them their links.
fn clear(prefix: &str) -> anyhow::Result<()> {
    let Ok(all) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in all.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            ip(&["netns", "del", &name])?;
        }
    }
    // A hub's links go with it, but not at once.
    let end = format!("{prefix}up");
    if std::path::Path::new("/sys/class/net").join(&end).exists() {
        let _ = ip(&["link", "del", "dev", &end]);
    }
    Ok(())
}

/// A network that this machine has no address in.
fn free_network(first: u8) -> anyhow::Result<u8> {
    let output = Command::new("ip").args(["-4", "-o", "addr"]).output().context("ip addr")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let free = (0..=u8::MAX).map(|step| first.wrapping_add(step));
    let mut free = free.filter(|network| !text.contains(&format!(" 10.203.{network}.")));
    free.next().context("all networks of 10.203.0.0/16 are in use on this machine")
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    run("ip", words, None)
}

/// Several commands in a namespace.
fn batch(namespace: &str, commands: &str) -> anyhow::Result<()> {
    run("ip", &["-n", namespace, "-batch", "-"], Some(commands))
}

fn firewall(namespace: &str, rules: &str) -> anyhow::Result<()> {
    run("ip", &["netns", "exec", namespace, "nft", "-f", "-"], Some(rules))
}

fn run(program: &str, words: &[&str], input: Option<&str>) -> anyhow::Result<()> {
    let mut command = Command::new(find_program(program).unwrap_or_else(|| program.into()));
    command.args(words).stdout(Stdio::null()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    if let (Some(text), Some(mut to)) = (input, child.stdin.take()) {
        to.write_all(text.as_bytes()).with_context(|| format!("{program} does not listen"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", words.join(" "), said.trim());
    }
    Ok(())
}

/// Host parts of addresses: `up` itself, the clients, the first part.
const OURS: u8 = 1;
const CLIENTS: u8 = 2;
const FIRST: usize = 10;
