//! Whether every port of a plan is free, asked before anything starts. Not a reservation: the
//! parts take their ports themselves. Called by `up`.
//!
//! Invariant: all ports that are not free are named at once.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use topology::l4::Protocol;

use crate::up::plan::{Does, Listen, Part, Plan};

/// One line per port that cannot be used; empty when all can. `shown` names the file; parts in
/// `running` are there already and use their ports rightly.
pub(crate) fn faults(plan: &Plan, shown: &str, running: &[usize]) -> Vec<String> {
    let mut seen: HashMap<(Protocol, SocketAddr), String> = HashMap::new();
    let mut faults = Vec::new();
    let parts = plan.parts.iter().enumerate().filter(|(index, _)| !running.contains(index));
    for (part, listen) in parts.flat_map(|(_, part)| part.listens.iter().map(move |l| (part, l))) {
        let line =
            |what: String| format!("{shown}:{}:{} {what}", listen.place.line, listen.place.column);
        if let Some(other) = seen.insert((listen.protocol, listen.address), listen.purpose.clone())
        {
            faults.push(line(format!(
                "{listen} is wanted twice: by {other} and by {}",
                listen.purpose
            )));
            continue;
        }
        if let Some(fault) = fault(part, listen) {
            faults.push(line(fault));
        }
    }
    faults
}

fn fault(part: &Part, listen: &Listen) -> Option<String> {
    let Listen { address, purpose, .. } = listen;
    if address.port() == 0 {
        return Some(format!("{purpose} has port 0: `up` needs to know the port"));
    }
    let tried = match listen.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let error = tried.err()?;
    let kind = if listen.protocol == Protocol::Udp { "UDP" } else { "TCP" };
    Some(match error.kind() {
        ErrorKind::AddrInUse => format!(
            "{address} ({kind}), wanted by {purpose}, is busy: stop what listens there \
             (`ss -lnp{} 'sport = :{}'` names it), or write another port here{}",
            if listen.protocol == Protocol::Udp { "u" } else { "t" },
            address.port(),
            match part.does {
                Does::Redis => "; what answers there is no Redis",
                _ => "",
            }
        ),
        ErrorKind::AddrNotAvailable => format!(
            "{address}, wanted by {purpose}, is no address of this machine: `up` runs every \
             instance here; start single ones with l4-nlb, l7-gateway or pgpool --instance NAME"
        ),
        ErrorKind::PermissionDenied => format!(
            "{address} ({kind}), wanted by {purpose}, needs root or CAP_NET_BIND_SERVICE: use a \
             port from 1024 on"
        ),
        _ => format!("{address} ({kind}), wanted by {purpose}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::units::Place;

    fn plan(listens: &[(SocketAddr, u32)]) -> Plan {
        let mut parts = Vec::new();
        for (n, (address, line)) in listens.iter().enumerate() {
            parts.push(Part {
                name: format!("part-{n}"),
                does: Does::Replica { primary: *address },
                listens: vec![Listen {
                    protocol: Protocol::Tcp,
                    address: *address,
                    purpose: format!("part {n}"),
                    place: Place { line: *line, column: 5 },
                }],
                admin: None,
                needs: Vec::new(),
                asks: Vec::new(),
                after: Vec::new(),
            });
        }
        Plan { parts }
    }

    /// O5: a busy port is told with its place, before anything starts.
    #[test]
    fn a_busy_port_is_told_with_its_place() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let busy = held.local_addr().expect("bound");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let free_at = free.local_addr().expect("bound");
        drop(free);
        let plan = plan(&[(busy, 7), (free_at, 8), (free_at, 9)]);
        let faults = faults(&plan, "stack.yaml", &[]);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("stack.yaml:7:5 ") && faults[0].contains("is busy"));
        assert!(faults[1].starts_with("stack.yaml:9:5 ") && faults[1].contains("wanted twice"));
        assert_eq!(super::faults(&plan, "stack.yaml", &[0, 2]), Vec::<String>::new());
    }
}
