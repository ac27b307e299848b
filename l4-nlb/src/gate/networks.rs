//! Lists of networks that are asked for every new flow. Not for what being listed means. Built once
//! per snapshot from the file's networks.
//!
//! Invariant: ranges are sorted, apart from each other, and together hold exactly the addresses of
//! the list; so a look-up is one binary search however long the list is.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of addresses. IPv4 addresses and IPv4 written as IPv6 are the same.
#[derive(Clone, Debug, Default)]
pub struct Networks(Box<[(u128, u128)]>);

impl Networks {
    /// The addresses of all these networks.
    pub fn new(list: &[IpNet]) -> Self {
        let range = |net: &IpNet| (number(net.network()), number(net.broadcast()));
        let mut ranges: Vec<(u128, u128)> = list.iter().map(range).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into_boxed_slice())
    }

    /// No network at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of the networks has the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let behind = self.0.partition_point(|&(first, _)| first <= address);
        let before = behind.checked_sub(1).and_then(|at| self.0.get(at));
        before.is_some_and(|&(_, last)| address <= last)
    }
}

/// The address as an IPv6 number, IPv4 mapped (RFC 4291 §2.5.5.2).
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn network() -> impl Strategy<Value = IpNet> {
        // Few first bits, so that networks meet each other and the addresses asked for.
        let v4 = (0_u32..64, 0_u8..=32)
            .prop_map(|(bits, length)| Ipv4Net::new((bits << 26).into(), length).unwrap().into());
        let v6 = (0_u128..64, 0_u8..=128)
            .prop_map(|(bits, length)| Ipv6Net::new((bits << 122).into(), length).unwrap().into());
        prop_oneof![v4, v6]
    }

    proptest! {
        /// N9: the ranges say what asking every network says.
        #[test]
        fn as_asking_each(list in prop::collection::vec(network(), 0..12), v4: u32, v6: u128) {
            let networks = Networks::new(&list);
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let each = list.iter().any(|net| net.contains(&address));
                // `::/0` has the mapped addresses too, which a comparison by family does not see.
                let mapped = IpAddr::V6(number(address).into());
                let each = each || list.iter().any(|net| net.contains(&mapped));
                prop_assert_eq!(networks.contains(address), each);
            }
        }
    }

    /// N9: IPv4 clients of an IPv6 socket are listed as what they are.
    #[test]
    fn mapped_addresses_are_the_same() {
        let networks = Networks::new(&["10.0.0.0/8".parse().unwrap()]);
        assert!(networks.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!networks.contains("::10.1.2.3".parse().unwrap()));
    }
}
