//! Who may connect to whom, and the firewalls that say so: pure, from the parts of a plan. Not for loading
//! them. Called by `isolate`.
//!
//! Invariant: a firewall lets through what is wired, to the port that is wired, and refuses all else.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use topology::l4::Protocol;

use crate::up::plan::{Does, Listen, Part, Reach};

/// A part and its address on the switch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'p> {
    pub(super) part: &'p Part,
    pub(super) address: Ipv4Addr,
}

impl Seat<'_> {
    /// Addresses of the file that a namespace does not have by itself.
    pub(super) fn foreign_addresses(&self) -> Vec<IpAddr> {
        let own = self.part.listens.iter().map(|listen| listen.address.ip());
        let mut own: Vec<IpAddr> = own.filter(|ip| !ip.is_loopback()).collect();
        own.sort_unstable();
        own.dedup();
        own
    }
}

/// Where a part connects to by itself.
pub(super) fn reaches(part: &Part) -> Vec<SocketAddr> {
    match &part.does {
        // Not the servers behind a listener, which it only waits for.
        Does::Demo { uses, .. } => uses
            .iter()
            .map(|used| match &used.to {
                Reach::Http(address) | Reach::Sql { address, .. } => *address,
            })
            .collect(),
        _ => part.needs.clone(),
    }
}

/// All connections that the file asks for.
#[derive(Debug)]
pub(super) struct Wires<'p> {
    seats: &'p [Seat<'p>],
    ours: Ipv4Addr,
    clients: Ipv4Addr,
}

impl<'p> Wires<'p> {
    pub(super) fn of(seats: &'p [Seat<'p>], ours: Ipv4Addr, clients: Ipv4Addr) -> Self {
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
            line(&mut arrive, format_args!("{word} dport {} dnat to {address}", address.port()));
        }
        let mut input = String::new();
        line(&mut input, format_args!("ip saddr {} accept", self.ours));
        for (other, from) in self.seats.iter().enumerate().filter(|(other, _)| *other != index) {
            for (to, listen) in self.from(other) {
                if to.address == seat.address {
                    accept(&mut input, "saddr", from.address, listen);
                }
            }
        }
        for (to, listen) in self.open() {
            if to.address == seat.address {
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
            line(
                &mut lead,
                format_args!("ip daddr {ip} {word} dport {port} dnat to {}", seat.address),
            );
            accept(&mut output, "daddr", seat.address, listen);
        }
        let clients = self.clients;
        format!(
            "table ip aqueduct {{\n\
             \x20 chain lead {{\n    type nat hook output priority -100;\n{lead}  }}\n\
             \x20 chain leave {{\n    type nat hook postrouting priority 100;\n    oifname \"wire\" masquerade\n  }}\n\
             \x20 chain arrive {{\n    type nat hook prerouting priority -100;\n{arrive}  }}\n\
             \x20 chain seen {{\n    type nat hook input priority 100;\n    iifname \"wire\" ip saddr != {clients} snat to 127.0.0.1\n  }}\n\
             \x20 chain input {{\n    type filter hook input priority 0;\n    iifname \"lo\" accept\n    \
             ct state established,related accept\n{input}    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n\
             \x20 chain output {{\n    type filter hook output priority 0;\n    oifname \"lo\" accept\n    \
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

fn accept(out: &mut String, side: &str, peer: Ipv4Addr, listen: &Listen) {
    let (word, port) = (word(listen), listen.address.port());
    line(out, format_args!("ip {side} {peer} {word} dport {port} accept"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "    {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::Plan;
    use crate::up::source;

    /// T7: the documented stack's wires are those of its picture, and clients reach the edge alone.
    #[test]
    fn wires_are_those_of_the_file() {
        let topology =
            topology::parse("a.yaml", source::BUILT_IN, std::path::Path::new("/nowhere"));
        let plan = Plan::new(&topology.expect("valid")).expect("a plan");
        let seats: Vec<Seat<'_>> = (10u8..)
            .zip(&plan.parts)
            .map(|(last, part)| Seat { part, address: Ipv4Addr::new(10, 203, 0, last) })
            .collect();
        let (ours, clients) = (Ipv4Addr::new(10, 203, 0, 1), Ipv4Addr::new(10, 203, 0, 2));
        let wires = Wires::of(&seats, ours, clients);
        let names = |all: Vec<(&Seat<'_>, &Listen)>| {
            let mut all: Vec<String> = all
                .into_iter()
                .map(|(seat, listen)| format!("{}:{}", seat.part.name, listen.address.port()))
                .collect();
            all.sort();
            all
        };
        assert_eq!(names(wires.open()), ["nlb-1:7777", "nlb-1:8443"]);
        let at = |name: &str| plan.parts.iter().position(|part| part.name == name).expect("there");
        assert_eq!(names(wires.from(at("feed-1"))), ["ilb-1:7010", "pool-1:6432"]);
        assert_eq!(names(wires.from(at("user-1"))), ["pool-1:6432"]);
        assert_eq!(names(wires.from(at("redis"))), Vec::<String>::new());
        let gateway = names(wires.from(at("gw-1")));
        assert!(gateway.contains(&"redis:6379".to_owned()), "{gateway:?}");
        assert!(!gateway.iter().any(|one| one.starts_with("user-")), "{gateway:?}");
        let rules = wires.of_part(at("user-1"));
        let ilb = seats[at("ilb-1")].address;
        assert!(rules.contains(&format!("ip saddr {ilb} tcp dport 7011 accept")), "{rules}");
        assert!(!rules.contains(&format!("{clients} tcp")), "{rules}");
    }
}
