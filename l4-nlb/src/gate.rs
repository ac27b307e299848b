//! Who may have a flow: networks let in or turned away, most flows in all and per client address.
//! Not for endpoints. Called for each new flow, by all workers.
//!
//! Invariant: the number of passes never exceeds the listener's bounds, whatever the workers do at
//! the same time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use topology::l4::Listener;

/// Why a client is turned away; the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// `deny` has its network, or `allow` has not.
    Denied,
    /// `max-flows` is reached.
    Full,
    /// `max-flows-per-source` is reached.
    Source,
    /// No socket is left for the endpoint.
    Ports,
    /// No endpoint could be reached.
    Endpoint,
    /// A trusted peer sent no valid PROXY header.
    Header,
    /// The instance takes no new flows any more.
    Draining,
    /// A datagram that cannot be answered or was cut off.
    Malformed,
    /// The client's TLS name and protocols fit no service, and there is none for everybody.
    Sni,
    /// The client began TLS and sent no valid ClientHello in time.
    Hello,
}

impl Refusal {
    /// All of them, for registering counters.
    pub const ALL: [Self; 10] = [
        Self::Denied,
        Self::Full,
        Self::Source,
        Self::Ports,
        Self::Endpoint,
        Self::Header,
        Self::Draining,
        Self::Malformed,
        Self::Sni,
        Self::Hello,
    ];

    /// The label's value.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Source => "source",
            Self::Ports => "ports",
            Self::Endpoint => "endpoint",
            Self::Header => "proxy-header",
            Self::Draining => "draining",
            Self::Malformed => "malformed",
            Self::Sni => "sni",
            Self::Hello => "tls-hello",
        }
    }
}

/// The flows of one listener, over all workers and over changes of configuration.
#[derive(Debug, Default)]
pub struct Gate {
    flows: AtomicU32,
    /// Only touched when flows begin and end, and only where a bound per source is set.
    sources: Mutex<HashMap<IpAddr, u32>>,
}

impl Gate {
    /// Flows now.
    pub fn flows(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Counts a flow whose client is not known yet.
    pub fn enter(self: &Arc<Self>, rules: &Listener) -> Result<Pass, Refusal> {
        let most = rules.max_flows.get();
        let more = |now: u32| (now < most).then_some(now + 1);
        self.flows
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| Refusal::Full)?;
        Ok(Pass { gate: self.clone(), source: None })
    }

    /// Checks the client and counts a flow of it.
    pub fn admit(self: &Arc<Self>, rules: &Listener, client: IpAddr) -> Result<Pass, Refusal> {
        // The lists first: who is denied must not make others lose their flows.
        listed(rules, client)?;
        let mut pass = self.enter(rules)?;
        pass.count_source(rules, client)?;
        Ok(pass)
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One flow's place; dropping it gives it back.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    source: Option<IpAddr>,
}

impl Pass {
    /// Checks the client of a flow that has entered already.
    pub fn admit(&mut self, rules: &Listener, client: IpAddr) -> Result<(), Refusal> {
        listed(rules, client)?;
        self.count_source(rules, client)
    }

    /// Passes the place of a flow that has ended on to another client's, so that no third one gets
    /// in between. Refused: the place is given back.
    pub fn hand_over(mut self, rules: &Listener, client: IpAddr) -> Result<Self, Refusal> {
        self.uncount_source();
        self.admit(rules, client)?;
        Ok(self)
    }

    fn count_source(&mut self, rules: &Listener, client: IpAddr) -> Result<(), Refusal> {
        let Some(most) = rules.max_flows_per_source else { return Ok(()) };
        let client = client.to_canonical();
        let mut sources = self.gate.sources();
        let count = sources.entry(client).or_insert(0);
        if *count >= most.get() {
            return Err(Refusal::Source);
        }
        *count += 1;
        drop(sources);
        self.source = Some(client);
        Ok(())
    }

    fn uncount_source(&mut self) {
        let Some(source) = self.source.take() else { return };
        let mut sources = self.gate.sources();
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.flows.fetch_sub(1, Ordering::Relaxed);
        self.uncount_source();
    }
}

/// `deny` comes before `allow` (N9); an empty `allow` lets everybody in.
fn listed(rules: &Listener, client: IpAddr) -> Result<(), Refusal> {
    let within = |list: &[IpNet]| contains(list, client);
    if within(&rules.deny) || (!rules.allow.is_empty() && !within(&rules.allow)) {
        return Err(Refusal::Denied);
    }
    Ok(())
}

/// Whether any of the networks has the address; an IPv4 address written as IPv6 is the same.
pub fn contains(list: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    list.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::testing::listener;

    /// N9: bounds in all and per source; places come back.
    #[test]
    fn flows_are_bounded_in_all_and_per_source() {
        let mut rules = listener("udp", &[1]);
        rules.max_flows = NonZeroU32::new(3).unwrap();
        rules.max_flows_per_source = NonZeroU32::new(2);
        let gate = Arc::new(Gate::default());
        let (a, b, c) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        let first = gate.admit(&rules, a).unwrap();
        let _second = gate.admit(&rules, a).unwrap();
        assert_eq!(gate.admit(&rules, a).unwrap_err(), Refusal::Source);
        assert_eq!(gate.flows(), 2, "a refused one takes no place");
        let _third = gate.admit(&rules, b).unwrap();
        assert_eq!(gate.admit(&rules, c).unwrap_err(), Refusal::Full);
        let handed = first.hand_over(&rules, c).unwrap();
        assert_eq!(gate.flows(), 3, "a place that is handed over is never free");
        drop(handed);
        assert!(gate.admit(&rules, a).is_ok());
        assert_eq!(gate.sources().len(), 2);
    }

    /// N9
    #[test]
    fn deny_comes_before_allow() {
        let mut rules = listener("tcp", &[1]);
        rules.allow = vec!["10.0.0.0/8".parse().unwrap()];
        rules.deny = vec!["10.1.0.0/16".parse().unwrap()];
        let gate = Arc::new(Gate::default());
        for (client, good) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("11.0.0.1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(gate.admit(&rules, client.parse().unwrap()).is_ok(), good, "{client}");
        }
    }
}
