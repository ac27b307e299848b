//! Whom a replay may send to, and from which address. Not for sending. Used by `udp` and `https`.
//!
//! Invariant: without the user's word no packet leaves for a public address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};

/// Resolves `host:port` and takes one address, of IPv4 where there is one: `localhost` is often
/// both, and the documented stack listens on 127.0.0.1.
///
/// # Errors
/// The name has no address.
pub(super) async fn resolve(text: &str) -> Result<SocketAddr> {
    let found = tokio::net::lookup_host(text).await.with_context(|| {
        format!("{text}: no address; write HOST:PORT, for example 127.0.0.1:7777")
    })?;
    found
        .into_iter()
        .min_by_key(SocketAddr::is_ipv6)
        .with_context(|| format!("{text}: the name has no address"))
}

/// Refuses public addresses unless the user said `--yes-i-own-it`.
///
/// # Errors
/// The address is public and `owned` is not said.
pub(super) fn permit(address: SocketAddr, owned: bool) -> Result<()> {
    ensure!(
        owned || is_private(address.ip()),
        "{address} is a public address; replay floods what it is aimed at. \
         If it is yours, say --yes-i-own-it"
    );
    Ok(())
}

/// Where client `number` sends from: to a loopback target its own address out of 127.64.0.0/10, so
/// that the target sees as many addresses as clients.
pub(super) fn client_address(target: IpAddr, number: u32) -> IpAddr {
    match target {
        IpAddr::V4(v4) if v4.is_loopback() => {
            let host = number.wrapping_add(1) & HOSTS;
            Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | host).into()
        }
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whose address this is; the other way round.
pub(super) fn client_number(address: Ipv4Addr) -> u32 {
    (address.to_bits() & HOSTS).wrapping_sub(1) & HOSTS
}

/// The part of 127.64.0.0/10 that is free.
const HOSTS: u32 = 0x003f_ffff;

/// Loopback, link-local, private and unique-local networks (RFC 1918, RFC 3927, RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(IpAddr::V4(v4)),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_addresses_without_the_word() {
        for (address, private) in [
            ("127.0.0.1:1", true),
            ("10.1.2.3:1", true),
            ("172.31.0.1:1", true),
            ("192.168.0.1:1", true),
            ("169.254.1.1:1", true),
            ("[::1]:1", true),
            ("[fd00::1]:1", true),
            ("[::ffff:10.0.0.1]:1", true),
            ("8.8.8.8:1", false),
            ("172.32.0.1:1", false),
            ("[2001:db8::1]:1", false),
            ("[::ffff:8.8.8.8]:1", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(permit(address, false).is_ok(), private, "{address}");
            assert!(permit(address, true).is_ok());
        }
    }

    #[test]
    fn clients_have_addresses_of_their_own_on_loopback() {
        let to = |text: &str| text.parse().unwrap();
        let own: std::collections::BTreeSet<_> =
            (0..5000).map(|number| client_address(to("127.0.0.1"), number)).collect();
        assert_eq!(own.len(), 5000);
        assert!(own.iter().all(IpAddr::is_loopback));
        for number in [0, 7, 70_000, HOSTS - 1] {
            let IpAddr::V4(address) = client_address(to("127.0.0.1"), number) else { panic!() };
            assert_eq!(client_number(address), number);
        }
        assert_eq!(client_address(to("10.0.0.1"), 7), to("0.0.0.0"));
        assert_eq!(client_address(to("::1"), 7), to("::"));
    }

    #[tokio::test]
    async fn localhost_is_the_documented_address() {
        assert_eq!(resolve("localhost:7777").await.unwrap(), "127.0.0.1:7777".parse().unwrap());
    }

    #[tokio::test]
    async fn a_bad_target_says_how_one_looks() {
        let error = format!("{:#}", resolve("nonsense").await.unwrap_err());
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}
