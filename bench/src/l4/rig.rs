//! The rig: the network, the servers, the parties at work, and one measured run of a generator
//! through one of them. Not for which runs make a figure: `cases` and its siblings say that.
//!
//! Invariant: a run's processor time is that of the whole machine between its begin and its end.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::clock::now;
use super::namespaces::{Network, Place, command_in};
use super::party::{Kind, PORT, Party, SERVER_PORT, Wanted};
use super::server::Count;
use super::{tcp_client, udp_client};
use crate::figures::Column as _;
use crate::process::on_processor;

/// Network and servers.
#[derive(Debug)]
pub struct Rig {
    server: Peer,
    /// The namespaces.
    pub network: Network,
    folder: PathBuf,
    runs: Cell<u32>,
}

/// A process of ours in a namespace that is asked by its standard input and answers by its output.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a run cost, in seconds of a processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The whole machine.
    pub machine: f64,
    /// The processes of the party.
    pub party: f64,
    /// The processes of the party, our generators and servers, and the kernel's interrupt threads:
    /// on a quiet machine nearly all of it.
    pub run: f64,
    /// Wall time times processors.
    pub whole: f64,
}

/// Datagrams to send; what is not here is the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// A second; 0: as many as go.
    pub rate: u64,
    /// Whether they come back.
    pub echo: bool,
    /// Client addresses.
    pub clients: u32,
    /// Flows per client address.
    pub ports: u16,
    /// The first of their ports.
    pub first_port: u16,
    /// Milliseconds.
    pub millis: u64,
    /// Report every flow.
    pub track: bool,
}

/// A run of datagrams.
#[derive(Clone, Debug)]
pub struct UdpRun {
    /// What the clients saw.
    pub outcome: udp_client::Outcome,
    /// What the servers saw.
    pub count: Count,
    /// What it cost.
    pub cost: Cost,
}

impl UdpRun {
    /// Datagrams that came to their end: echoes, or those that the servers got.
    pub fn delivered(&self, echo: bool) -> u64 {
        if echo { self.outcome.received } else { self.count.received }
    }

    /// The part that did not, 0 to 1.
    pub fn loss(&self, echo: bool) -> f64 {
        let sent = self.outcome.sent.max(1);
        sent.saturating_sub(self.delivered(echo)) as f64 / sent as f64
    }
}

impl Rig {
    /// Builds the network and starts the servers.
    ///
    /// # Errors
    /// Without root or the tools that the network needs.
    pub fn build(folder: PathBuf) -> Result<Self> {
        let network = Network::build(Kind::ALL.len() as u8 - 1)?;
        let port = SERVER_PORT.to_string();
        let server = Peer::start(&network.server(), &["server", "--port", &port])?;
        Ok(Self { server, network, folder, runs: Cell::new(1) })
    }

    /// The network of a party.
    pub fn place(&self, kind: Kind) -> Place {
        self.network.place(kind as u8)
    }

    /// Starts a party.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, kind: Kind, wanted: &Wanted) -> Result<Party> {
        let folder = self.folder.join(format!("{}-{}", kind.name(), self.number()));
        let namespace = self.network.balancer(kind as u8);
        Party::start(kind, &namespace, self.place(kind), &folder, wanted)
    }

    /// A number for a run that no other run has.
    pub fn number(&self) -> u32 {
        self.runs.replace(self.runs.get() + 1)
    }

    /// Where clients of a party connect to.
    pub fn entrance(kind: Kind, place: Place) -> SocketAddr {
        let port = if kind == Kind::Direct { SERVER_PORT } else { PORT };
        (place.entrance(), port).into()
    }

    /// Starts one of our generators among the clients.
    ///
    /// # Errors
    /// When it does not start.
    pub fn client(&self, arguments: &[&str]) -> Result<Peer> {
        Peer::spawn(&self.network.client(), arguments)
    }

    /// What the servers have seen of a run; forgets it.
    ///
    /// # Errors
    /// When the servers have ended.
    pub fn count(&mut self, run: u32) -> Result<Count> {
        self.server.ask(&run.to_string())
    }

    /// Sends datagrams through a party.
    ///
    /// # Errors
    /// When the generator cannot be run.
    pub fn udp(&mut self, party: &Party, what: Datagrams) -> Result<UdpRun> {
        let run = self.number();
        let mut peer = self.begin_udp(party, what, run)?;
        let (outcome, cost) = self.measure(party, &mut peer)?;
        Ok(UdpRun { outcome, count: self.count(run)?, cost })
    }

    /// Begins to send datagrams; the outcome is the line that the peer says at its end.
    ///
    /// # Errors
    /// When the generator does not start.
    pub fn begin_udp(&self, party: &Party, what: Datagrams, run: u32) -> Result<Peer> {
        let to = SocketAddr::from((party.place.entrance(), party.kind.udp_port())).to_string();
        let numbers = [
            ("--rate", what.rate),
            ("--clients", what.clients.into()),
            ("--ports", what.ports.into()),
            ("--first-port", what.first_port.into()),
            ("--millis", what.millis),
            ("--run", run.into()),
        ];
        let from = party.place.clients().to_string();
        let mut arguments = vec!["udp-client", "--to", &to, "--from", &from];
        let numbers = numbers.map(|(key, value)| (key, value.to_string()));
        arguments.extend(numbers.iter().flat_map(|(key, value)| [*key, value.as_str()]));
        let switches = [(what.echo, "--echo"), (what.track, "--track")];
        arguments.extend(switches.iter().filter(|(on, _)| *on).map(|(_, key)| *key));
        self.client(&arguments)
    }

    /// Loads a party with connections.
    ///
    /// # Errors
    /// When the generator cannot be run.
    pub fn tcp(
        &self,
        party: &Party,
        load: &str,
        connections: u32,
        rate: u64,
        millis: u64,
    ) -> Result<(tcp_client::Outcome, Cost)> {
        let mut peer = self.begin_tcp(party, load, connections, rate, millis)?;
        self.measure(party, &mut peer)
    }

    /// Begins a load of connections; the outcome is the line that the peer says.
    ///
    /// # Errors
    /// When the generator does not start.
    pub fn begin_tcp(
        &self,
        party: &Party,
        load: &str,
        connections: u32,
        rate: u64,
        millis: u64,
    ) -> Result<Peer> {
        let to = Self::entrance(party.kind, party.place).to_string();
        let from = party.place.clients().to_string();
        let [connections, rate, millis] =
            [connections.into(), rate, millis].map(|number: u64| number.to_string());
        self.client(&[
            "tcp-client",
            "--load",
            load,
            "--to",
            &to,
            "--from",
            &from,
            "--connections",
            &connections,
            "--rate",
            &rate,
            "--millis",
            &millis,
        ])
    }

    fn measure<T: DeserializeOwned>(&self, party: &Party, peer: &mut Peer) -> Result<(T, Cost)> {
        let (machine, own) = (Busy::now()?, party.cpu());
        let shared = || on_processor(self.server.child.id()) + interrupt_threads();
        let before = shared();
        let line = peer.line()?;
        // What it has used itself, also in threads that are gone.
        let client = Duration::from_secs_f64(peer.told()?);
        let (machine, whole) = machine.until_now()?;
        // A thread that ended takes its time with it.
        let own = party.cpu().saturating_sub(own);
        let run = (own + client + shared().saturating_sub(before)).as_secs_f64();
        let cost = Cost { machine, party: own.as_secs_f64(), run, whole };
        peer.end()?;
        Ok((
            serde_json::from_str(&line).with_context(|| format!("the generator said {line}"))?,
            cost,
        ))
    }
}

impl Peer {
    /// Starts one of ours in `namespace` and waits for its first line.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(namespace: &str, arguments: &[&str]) -> Result<Self> {
        let mut peer = Self::spawn(namespace, arguments)?;
        peer.line()?;
        Ok(peer)
    }

    fn spawn(namespace: &str, arguments: &[&str]) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut child = command_in(namespace, own)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { input: child.stdin.take(), child, output })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// When it has ended.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "one of the generators or servers ended early");
        Ok(line.trim().to_owned())
    }

    /// Its next line, read as JSON.
    ///
    /// # Errors
    /// When it has ended or says something else.
    pub fn told<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("it said {line}"))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn ask<T: DeserializeOwned>(&mut self, question: &str) -> Result<T> {
        if let Some(input) = &mut self.input {
            writeln!(input, "{question}")?;
        }
        self.told()
    }

    /// Ends it by the end of its input.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(&mut self) -> Result<()> {
        drop(self.input.take());
        self.child.wait()?;
        Ok(())
    }

    /// Kills it, as a machine that loses power would.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Freezes it, as a program that hangs: its sockets stay and nothing answers.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn freeze(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGSTOP)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How busy the machine has been.
struct Busy {
    idle: f64,
    at: u64,
    cores: f64,
}

impl Busy {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let cores = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        let cells: Vec<f64> = text
            .lines()
            .next()
            .into_iter()
            .flat_map(|line| line.split_whitespace().skip(1))
            .filter_map(|cell| cell.parse().ok())
            .collect();
        // Idle, waiting for disks, and taken away by the hypervisor; in hundredths of a second.
        let idle = [3, 4, 7].iter().filter_map(|&cell| cells.get(cell)).sum::<f64>() / 100.0;
        Ok(Self { idle, at: now(), cores: cores as f64 })
    }

    /// Busy seconds, and those there were.
    fn until_now(&self) -> Result<(f64, f64)> {
        let end = Self::now()?;
        let wall = (end.at - self.at) as f64 / 1e9;
        let whole = wall * self.cores;
        Ok(((whole - (end.idle - self.idle)).max(0.0), whole))
    }
}

/// Time that the kernel's `ksoftirqd` threads took so far.
fn interrupt_threads() -> Duration {
    let is_one = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("ksoftirqd/")
    };
    // They are made at boot, among the first.
    (1..100).filter(is_one).map(on_processor).sum()
}
