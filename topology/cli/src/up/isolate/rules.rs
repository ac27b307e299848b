//! Who may connect to whom, and the firewalls that say so: pure, from the parts of a plan. Not for loading
//! them. Called by `isolate`.
//!
//! Invariant: a firewall lets through what is wired, to the port that is wired, and refuses all else.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use topology::l4::Protocol;

use crate::up::plan::{Does, Listen, Part, Reach};

/// The addresses of one namespace on the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    four: Ipv4Addr,
    six: Ipv6Addr,
}

impl Ends {
    /// Of a host in 10.203.N.0/24 and fd5c:a90e:d0c7:aNN::/64 (RFC 4193).
    pub(super) fn new(network: u8, host: u8) -> Self {
        let subnet = 0x0a00 | u16::from(network);
        Self {
            four: Ipv4Addr::new(10, 203, network, host),
            six: Ipv6Addr::new(0xfd5c, 0xa90e, 0xd0c7, subnet, 0, 0, 0, host.into()),
        }
    }

    /// The one of this address's family.
    pub(super) fn like(self, ip: IpAddr) -> IpAddr {
        if ip.is_ipv4() { self.four.into() } else { self.six.into() }
    }

    pub(super) fn both(self) -> [IpAddr; 2] {
        [self.four.into(), self.six.into()]
    }
}

/// A part and where it is on the switch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'p> {
    pub(super) part: &'p Part,
    pub(super) ends: Ends,
}

impl Seat<'_> {
    /// Addresses of the file that a namespace does not have by itself.
    pub(super) fn foreign_addresses(&self) -> Vec<IpAddr> {
        let own = self.part.listens.iter().map(|listen| listen.address.ip());
        let mut own: Vec<IpAddr> =
            own.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).collect();
        own.sort_unstable();
        own.dedup();
        own
    }
}

/// Where a part connects to by itself.
pub(super) fn reaches(part: &Part) -> Vec<SocketAddr> {
    match &part.does {
        // Not the servers behind a listener, which it only waits for.
        Does::Demo { uses, .. } => {
            let used = uses.iter().map(|used| match &used.to {
                Reach::Http(address) | Reach::Sql { address, .. } => *address,
            });
            used.chain(part.asks.iter().copied()).collect()
        }
        _ => part.needs.iter().chain(&part.asks).copied().collect(),
    }
}

/// All connections that the file asks for.
#[derive(Debug)]
pub(super) struct Wires<'p> {
    seats: &'p [Seat<'p>],
    ours: Ends,
    clients: Ends,
}

impl<'p> Wires<'p> {
    pub(super) fn of(seats: &'p [Seat<'p>], ours: Ends, clients: Ends) -> Self {
        Self { seats, ours, clients }
    }

    /// Listeners that a part connects to, each with whose it is.
    fn from(&self, index: usize) -> Vec<(&'p Seat<'p>, &'p Listen)> {
        let Some(seat) = self.seats.get(index) else { return Vec::new() };
        let wanted = reaches(seat.part);
        let others = self.seats.iter().enumerate().filter(|(other, _)| *other != index);
        let listens = others.flat_map(|(_, seat)| seat.part.listens.iter().map(move |l| (seat, l)));
        listens.filter(|(_, listen)| wanted.contains(&listen.address)).collect()
    }

    /// What clients may reach: listeners of tiers that no part connects to, but for admin listeners.
    fn open(&self) -> Vec<(&'p Seat<'p>, &'p Listen)> {
        let wanted: Vec<SocketAddr> =
            self.seats.iter().flat_map(|seat| reaches(seat.part)).collect();
        let tiers = self.seats.iter().filter(|seat| matches!(seat.part.does, Does::Tier(_)));
        let listens = tiers.flat_map(|seat| seat.part.listens.iter().map(move |l| (seat, l)));
        let open = listens.filter(|(seat, listen)| {
            Some(listen.address) != seat.part.admin && !wanted.contains(&listen.address)
        });
        open.collect()
    }

    /// The firewall of a part.
    pub(super) fn of_part(&self, index: usize) -> String {
        let Some(seat) = self.seats.get(index) else { return String::new() };
        let mut arrive = String::new();
        for listen in &seat.part.listens {
            let (word, address) = (word(listen), listen.address);
            let (family, protocol) = family(address.ip());
            // On all addresses it hears what arrives at any.
            if !address.ip().is_unspecified() {
                let port = address.port();
                line(
                    &mut arrive,
                    format_args!(
                        "meta nfproto {protocol} {word} dport {port} dnat {family} to {address}"
                    ),
                );
            }
        }
        let mut input = String::new();
        for ip in self.ours.both() {
            line(&mut input, format_args!("{} saddr {ip} accept", family(ip).0));
        }
        for (other, from) in self.seats.iter().enumerate().filter(|(other, _)| *other != index) {
            for (to, listen) in self.from(other) {
                if to.ends == seat.ends {
                    accept(&mut input, "saddr", from.ends, listen);
                }
            }
        }
        for (to, listen) in self.open() {
            if to.ends == seat.ends {
                accept(&mut input, "saddr", self.clients, listen);
            }
        }
        self.table(&self.from(index), &arrive, &input)
    }

    /// The firewall of the clients' namespace.
    pub(super) fn of_clients(&self) -> String {
        self.table(&self.open(), "", "")
    }

    fn table(&self, to: &[(&Seat<'_>, &Listen)], arrive: &str, input: &str) -> String {
        let (mut lead, mut output) = (String::new(), String::new());
        for (seat, listen) in to {
            let (word, address) = (word(listen), listen.address);
            let (ip, port) = (address.ip(), address.port());
            let (family, to) = (family(ip).0, seat.ends.like(ip));
            line(
                &mut lead,
                format_args!("{family} daddr {ip} {word} dport {port} dnat {family} to {to}"),
            );
            accept(&mut output, "daddr", seat.ends, listen);
        }
        let [four, six] = self.clients.both();
        format!(
            "table inet aqueduct {{\n\
             \x20 chain lead {{\n    type nat hook output priority -100;\n{lead}  }}\n\
             \x20 chain leave {{\n    type nat hook postrouting priority 100;\n    oifname \"wire\" masquerade\n  }}\n\
             \x20 chain arrive {{\n    type nat hook prerouting priority -100;\n{arrive}  }}\n\
             \x20 chain seen {{\n    type nat hook input priority 100;\n    \
             iifname \"wire\" ip saddr != {four} snat ip to 127.0.0.1\n    \
             iifname \"wire\" ip6 saddr != {six} snat ip6 to ::1\n  }}\n\
             \x20 chain input {{\n    type filter hook input priority 0;\n    iifname \"lo\" accept\n    {FOUND}    \
             ct state established,related accept\n{input}    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n\
             \x20 chain output {{\n    type filter hook output priority 0;\n    oifname \"lo\" accept\n    {FOUND}    \
             ct state established,related accept\n{output}    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n\
             }}\n"
        )
    }
}

fn word(listen: &Listen) -> &'static str {
    match listen.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// What nftables calls it in a match, and as a protocol.
fn family(ip: IpAddr) -> (&'static str, &'static str) {
    if ip.is_ipv4() { ("ip", "ipv4") } else { ("ip6", "ipv6") }
}

fn accept(out: &mut String, side: &str, peer: Ends, listen: &Listen) {
    let (word, port) = (word(listen), listen.address.port());
    let peer = peer.like(listen.address.ip());
    line(out, format_args!("{} {side} {peer} {word} dport {port} accept", family(peer).0));
}

/// Neighbours on the switch find each other (RFC 4861); in IPv4 that is no packet of the family's.
const FOUND: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n";

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "    {text}");
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
