//! Whom a replay may send to. Not for sending. Used by `udp` and `https`.
//!
//! Invariant: without the user's word no packet leaves for a public address.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

/// Resolves `host:port` and takes the first address.
///
/// # Errors
/// The name has no address.
pub(super) async fn resolve(text: &str) -> Result<SocketAddr> {
    let found = tokio::net::lookup_host(text).await.with_context(|| {
        format!("{text}: no address; write HOST:PORT, for example 127.0.0.1:7777")
    })?;
    found.into_iter().next().with_context(|| format!("{text}: the name has no address"))
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

    #[tokio::test]
    async fn a_bad_target_says_how_one_looks() {
        let error = format!("{:#}", resolve("nonsense").await.unwrap_err());
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}
