//! The report of `aqueduct replay udp`. Not for measuring. Called by `udp`.
//!
//! Invariant: sent = received + lost, summed over players.

pub(super) mod page;

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::conversation::Conversation;
use super::super::series::Course;
use super::super::slo::Figures;
use super::html::Page;
use super::{LATE, Quantiles, Report, Times, generator, line, percent, printable};

/// Sums over all players.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct UdpReport {
    pub(crate) target: String,
    pub(crate) players: u64,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) loss_percent: f64,
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    /// Datagrams that answer nothing that was sent.
    pub(crate) foreign: u64,
    /// Sends that the kernel refused (no listener, no buffer).
    pub(crate) send_errors: u64,
    pub(crate) rtt_ms: Quantiles,
    /// RFC 3550 jitter, mean and greatest over players.
    pub(crate) jitter_ms: Jitter,
    /// Answers by server.
    pub(crate) servers: BTreeMap<String, u64>,
    /// Players by the number of servers that they met.
    pub(crate) players_by_servers_met: BTreeMap<usize, u64>,
    /// Players that met more than one server.
    pub(crate) affinity_violations: u64,
    /// The first of them.
    pub(crate) strayed: Vec<Strayed>,
    pub(crate) lateness_ms: Quantiles,
    pub(crate) late_percent: f64,
    /// The capture that was played.
    pub(crate) recording: Option<Recording>,
    /// Answers were only counted.
    pub(crate) raw: bool,
    /// Round trips by quantile, for the plot: quantile, milliseconds.
    pub(crate) percentiles: Vec<(f64, f64)>,
    pub(crate) course: Course,
    /// Every player; at most [`MOST_PLAYERS`].
    pub(crate) each: Vec<Player>,
}

/// What a capture held, and what of it was played.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Recording {
    pub(crate) file: String,
    /// Datagrams to this port are what players send.
    pub(crate) port: u16,
    /// UDP datagrams in the file.
    pub(crate) datagrams: u64,
    /// Packets that were to be sent.
    pub(crate) played: u64,
    pub(crate) other: u64,
    pub(crate) fragments: u64,
    pub(crate) cut: u64,
    /// Places where the file is broken.
    pub(crate) faults: Vec<String>,
    pub(crate) speed: f64,
}

/// One player.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Player {
    pub(crate) player: u64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) jitter_ms: f64,
    pub(crate) servers: Vec<String>,
    pub(crate) switches: u64,
}

impl Player {
    fn new((player, account): (usize, &Conversation)) -> Self {
        let ms = |q| account.round_trip(q).map(|ns| ns as f64 / 1e6);
        Self {
            player: player as u64,
            sent: account.sent,
            lost: account.sent.saturating_sub(account.received),
            reordered: account.reordered,
            duplicates: account.duplicates,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            jitter_ms: account.jitter() / 1e6,
            servers: account.servers.iter().map(|(name, _)| name.clone()).collect(),
            switches: account.switches,
        }
    }
}

/// More players are not listed one by one.
const MOST_PLAYERS: usize = 10_000;

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Jitter {
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

/// A player that met more than one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Strayed {
    pub(crate) player: usize,
    pub(crate) servers: Vec<(String, u64)>,
    pub(crate) switches: u64,
}

/// So many strayed players are listed; all are counted.
const LISTED: usize = 10;

impl UdpReport {
    /// Adds up the players' accounts.
    pub(crate) fn new(players: &[Conversation], rtt: &Times, lateness: &Times) -> Self {
        let sum = |column: fn(&Conversation) -> u64| players.iter().map(column).sum::<u64>();
        let (sent, received) = (sum(|p| p.sent), sum(|p| p.received));
        let strayed = || players.iter().enumerate().filter(|(_, p)| p.strayed());
        Self {
            players: players.len() as u64,
            sent,
            received,
            lost: sent.saturating_sub(received),
            loss_percent: percent(sent.saturating_sub(received), sent),
            reordered: sum(|p| p.reordered),
            duplicates: sum(|p| p.duplicates),
            foreign: sum(|p| p.foreign),
            rtt_ms: rtt.quantiles(),
            jitter_ms: jitter(players),
            servers: split(players),
            players_by_servers_met: met(players),
            affinity_violations: strayed().count() as u64,
            strayed: strayed().take(LISTED).map(stray).collect(),
            lateness_ms: lateness.quantiles(),
            late_percent: lateness.share_above(LATE),
            percentiles: rtt.curve(),
            each: players.iter().enumerate().take(MOST_PLAYERS).map(Player::new).collect(),
            ..Self::default()
        }
    }
}

fn stray((player, account): (usize, &Conversation)) -> Strayed {
    Strayed { player, servers: account.servers.clone(), switches: account.switches }
}

fn jitter(players: &[Conversation]) -> Jitter {
    let all = || players.iter().map(|p| p.jitter() / 1e6);
    Jitter {
        mean: all().sum::<f64>() / players.len().max(1) as f64,
        max: all().fold(0.0, f64::max),
    }
}

fn split(players: &[Conversation]) -> BTreeMap<String, u64> {
    let mut servers = BTreeMap::new();
    for (name, answers) in players.iter().flat_map(|p| &p.servers) {
        *servers.entry(name.clone()).or_default() += answers;
    }
    servers
}

fn met(players: &[Conversation]) -> BTreeMap<usize, u64> {
    let mut met = BTreeMap::new();
    for player in players {
        *met.entry(player.servers.len()).or_default() += 1;
    }
    met
}

impl Report for UdpReport {
    const KIND: &'static str = "udp";

    fn page(&self) -> Page {
        page::page(self)
    }

    fn text(&self) -> String {
        let mut out = String::from("\n");
        let rate = self.sent as f64 / self.seconds.max(f64::MIN_POSITIVE);
        line(
            &mut out,
            "players",
            format_args!("{} to {}, {rate:.0} packets/s", self.players, self.target),
        );
        line(&mut out, "sent", self.sent);
        line(
            &mut out,
            "received",
            format_args!("{}, lost {} ({:.3}%)", self.received, self.lost, self.loss_percent),
        );
        line(
            &mut out,
            "order",
            format_args!("{} reordered, {} duplicates", self.reordered, self.duplicates),
        );
        if self.foreign + self.send_errors > 0 {
            let text = format!("{} foreign answers, {} refused", self.foreign, self.send_errors);
            line(&mut out, "errors", text);
        }
        if self.raw {
            line(&mut out, "round trip", "not measured: with --raw answers are only counted");
        } else {
            line(&mut out, "round trip", self.rtt_ms.text(self.received));
            if self.received > 0 {
                self.servers_text(&mut out);
                self.worst_text(&mut out);
            }
        }
        self.recording_text(&mut out);
        for mark in &self.course.marks {
            line(&mut out, "", format_args!("{:.1} s: {}", mark.at_s, printable(&mark.what)));
        }
        line(&mut out, "generator", generator(&self.lateness_ms, self.late_percent));
        out
    }

    fn figures(&self) -> Figures {
        let mut figures = self.rtt_ms.figures();
        if self.received == 0 || self.raw {
            figures.clear();
        }
        figures.extend([
            ("loss", self.loss_percent),
            ("reordered", self.reordered as f64),
            ("duplicates", self.duplicates as f64),
            ("jitter", self.jitter_ms.max),
            ("affinity", self.affinity_violations as f64),
            ("late", self.late_percent),
        ]);
        figures
    }
}

impl UdpReport {
    /// Players by what they lost, then by their jitter: the worst first.
    pub(super) fn worst(&self) -> Vec<&Player> {
        let mut worst: Vec<&Player> = self.each.iter().collect();
        worst.sort_by(|a, b| (b.lost.cmp(&a.lost)).then(b.jitter_ms.total_cmp(&a.jitter_ms)));
        worst.truncate(LISTED);
        worst
    }

    fn worst_text(&self, out: &mut String) {
        let losers = self.worst().into_iter().filter(|player| player.lost > 0).take(3);
        for Player { player, sent, lost, p99_ms, .. } in losers {
            let p99 = p99_ms.map_or("no answer".to_owned(), |ms| format!("p99 {ms:.3} ms"));
            let share = percent(*lost, *sent);
            line(out, "worst", format_args!("player {player}: lost {lost} ({share:.2}%), {p99}"));
        }
    }

    fn recording_text(&self, out: &mut String) {
        let Some(from) = &self.recording else { return };
        let Recording { file, port, datagrams, played, .. } = from;
        let text = format!("{file}: {datagrams} datagrams, {played} played (to port {port})");
        line(out, "recording", printable(&text));
        let left = [(from.fragments, "fragments"), (from.other, "other frames")];
        let left: Vec<_> =
            left.iter().filter(|l| l.0 > 0).map(|l| format!("{} {}", l.0, l.1)).collect();
        if !left.is_empty() {
            line(out, "", format_args!("left out: {}", left.join(", ")));
        }
        if from.cut > 0 {
            line(out, "", format_args!("{} were cut by the capture: filled with zeros", from.cut));
        }
        for fault in from.faults.iter().take(LISTED) {
            line(out, "broken", fault);
        }
    }

    fn servers_text(&self, out: &mut String) {
        let Jitter { mean, max } = self.jitter_ms;
        line(out, "jitter", format_args!("mean {mean:.3}  worst player {max:.3} ms"));
        for (name, answers) in &self.servers {
            let share = percent(*answers, self.received);
            line(out, "server", format_args!("{} {answers} ({share:.1}%)", printable(name)));
        }
        let kept = match self.affinity_violations {
            0 => "every player met one server at most".to_owned(),
            n => format!("{n} of {} players met more than one server", self.players),
        };
        line(out, "affinity", kept);
        for Strayed { player, servers, switches } in &self.strayed {
            let names: Vec<_> =
                servers.iter().map(|(name, n)| format!("{} ×{n}", printable(name))).collect();
            let text = format!("player {player}: {} ({switches} switches)", names.join(", "));
            line(out, "", text);
        }
    }
}
