//! What is asked, read from the words of a command line. Not for answering. Called by `mod`.
//!
//! Invariant: a wrong word is told with what it should be.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use common::tls::principal::Principal;
use http::{HeaderName, HeaderValue, Method, Uri};
use topology::units::Day;

/// The words of one question.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Words {
    /// Asks for a GET of this URL
    #[arg(long, value_name = "URL", group = "what")]
    get: Option<String>,
    /// The URL of a request with --method
    #[arg(value_name = "URL", group = "what")]
    url: Option<String>,
    /// The method of the request
    #[arg(long, value_name = "METHOD", requires = "url")]
    method: Option<String>,
    /// A header of the request, `NAME: VALUE`; may be given several times
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The request's bearer token
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The request's API key, where the gateway looks for one
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Who the client's certificate names, where the gateway asks for one
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// The client's address, with or without a port
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Asks about the datagrams of a client at this address and port
    #[arg(long, value_name = "ADDRESS:PORT", group = "what")]
    udp: Option<String>,
    /// Asks about a TCP connection of a client at this address and port
    #[arg(long, value_name = "ADDRESS:PORT", group = "what")]
    tcp: Option<String>,
    /// The server name that a TCP client's TLS asks for
    #[arg(long, value_name = "HOST", requires = "tcp")]
    sni: Option<String>,
    /// A protocol that a TCP client's TLS speaks; may be given several times
    #[arg(long, value_name = "PROTOCOL", requires = "tcp")]
    alpn: Vec<String>,
    /// Asks about this statement
    #[arg(long, value_name = "STATEMENT", group = "what", requires = "database")]
    sql: Option<String>,
    /// The role that runs the statement [default: as the database is called]
    #[arg(long, value_name = "NAME", requires = "sql")]
    user: Option<String>,
    /// The database of the statement, as clients call it
    #[arg(long, value_name = "NAME", requires = "sql")]
    database: Option<String>,
    /// A setting that comes with the login, `pgpool.role=replica`; may be given several times
    #[arg(long, value_name = "NAME=VALUE", requires = "sql")]
    set: Vec<String>,
    /// Where it comes in: GROUP/LISTENER of a balancer, or a gateway or pool group
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// As if it were noon (UTC) of this day
    #[arg(long, value_name = "YYYY-MM-DD")]
    on: Option<String>,
}

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub what: What,
    /// Where it comes in, where it is said.
    pub to: Option<String>,
    pub wall: SystemTime,
}

/// What is asked about.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Http(Request),
    Flow(Flow),
    Sql(Statement),
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub method: Method,
    pub url: Uri,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub api_key: Option<String>,
    /// Whom its certificate names.
    pub principal: Option<Principal>,
    pub from: SocketAddr,
}

/// A flow of a client.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub protocol: topology::l4::Protocol,
    pub from: SocketAddr,
    pub sni: Option<String>,
    pub alpn: Vec<String>,
}

/// A statement of a client.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub sql: String,
    pub user: String,
    pub database: String,
    pub settings: Vec<(String, String)>,
}

impl Words {
    /// Reads them.
    pub(crate) fn question(&self, now: SystemTime) -> anyhow::Result<Question> {
        let wall = self.on.as_deref().map_or(Ok(now), noon)?;
        Ok(Question { what: self.what()?, to: self.to.clone(), wall })
    }

    fn what(&self) -> anyhow::Result<What> {
        use topology::l4::Protocol;
        let only = |name: &str, wrong: bool| match wrong {
            true => Err(anyhow!("{name} is for requests: give --get URL with it")),
            false => Ok(()),
        };
        let request = self.get.as_ref().or(self.url.as_ref());
        if request.is_none() {
            only("--header", !self.header.is_empty())?;
            only("--token", self.token.is_some())?;
            only("--api-key", self.api_key.is_some())?;
            only("--principal", self.principal.is_some())?;
            only("--from", self.from.is_some())?;
        }
        if let Some(url) = request {
            return self.request(url).map(What::Http);
        }
        for (protocol, words) in [(Protocol::Udp, &self.udp), (Protocol::Tcp, &self.tcp)] {
            let Some(words) = words else { continue };
            let from = client(words)?;
            let (sni, alpn) = (self.sni.clone(), self.alpn.clone());
            let sni = sni.map(|name| name.to_ascii_lowercase());
            return Ok(What::Flow(Flow { protocol, from, sni, alpn }));
        }
        let (Some(sql), Some(database)) = (&self.sql, &self.database) else {
            bail!(
                "nothing is asked: give --get URL, --udp ADDRESS:PORT, --tcp ADDRESS:PORT or --sql STATEMENT"
            );
        };
        let settings = self.set.iter().map(|words| {
            let pair = words.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let (name, value) = pair.with_context(|| {
                format!("--set `{words}` has no `=`: write NAME=VALUE, as pgpool.role=replica")
            })?;
            Ok((name.to_ascii_lowercase(), value.to_owned()))
        });
        Ok(What::Sql(Statement {
            sql: sql.clone(),
            user: self.user.as_ref().unwrap_or(database).clone(),
            database: database.clone(),
            settings: settings.collect::<anyhow::Result<_>>()?,
        }))
    }

    fn request(&self, text: &str) -> anyhow::Result<Request> {
        let example = "write it whole, as https://api.example/api/user/42";
        let url: Uri =
            text.parse().map_err(|why| anyhow!("`{text}` is no URL ({why}): {example}"))?;
        let known = matches!(url.scheme_str(), Some("http" | "https"));
        if !known || url.host().is_none_or(str::is_empty) {
            bail!("`{text}` has no scheme or host: {example}");
        }
        let named = self.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method = Method::from_bytes(named.as_bytes())
            .map_err(|_| anyhow!("`{named}` is no method: write GET, POST, PUT, DELETE …"))?;
        let mut headers = Vec::new();
        for words in &self.header {
            headers.push(header(words)?);
        }
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| anyhow!("--token has characters that no token has"))?;
            headers.push((http::header::AUTHORIZATION, value));
        }
        let from = self.from.as_deref().map_or(Ok(SOMEBODY), address)?;
        let principal = self.principal.as_deref().map(principal).transpose()?;
        Ok(Request { method, url, headers, api_key: self.api_key.clone(), principal, from })
    }
}

fn header(words: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let pair = words.split_once(':');
    let (name, value) = pair
        .with_context(|| format!("--header `{words}` has no colon: write 'Cookie: canary=true'"))?;
    let name = HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_| anyhow!("`{}` is no header's name", name.trim()))?;
    let value = HeaderValue::from_str(value.trim())
        .map_err(|_| anyhow!("the value of header {name} has characters that no header has"))?;
    Ok((name, value))
}

fn principal(words: &str) -> anyhow::Result<Principal> {
    Principal::named(words).ok_or_else(|| {
        anyhow!(
            "--principal `{words}` is in no certificate: write a SPIFFE id, another URI, a DNS name or a mail address"
        )
    })
}

/// With a port.
fn client(words: &str) -> anyhow::Result<SocketAddr> {
    words.parse().map_err(|_| {
        anyhow!("`{words}` is no address with a port: write the client's, as 203.0.113.9:5555 or [2001:db8::9]:5555")
    })
}

/// With a port or without.
fn address(words: &str) -> anyhow::Result<SocketAddr> {
    let bare = words.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, SOMEBODY.port()));
    bare.or_else(|_| words.parse()).map_err(|_| {
        anyhow!(
            "--from `{words}` is no address: write 203.0.113.9, 2001:db8::9, or either with a port"
        )
    })
}

/// Noon of a day.
fn noon(words: &str) -> anyhow::Result<SystemTime> {
    let day = Day::from_str(words)
        .map_err(|_| anyhow!("--on `{words}` is no day: write it as 2027-06-30"))?;
    // Days since 1970-03-01 of the proleptic Gregorian calendar (Hinnant, "days_from_civil").
    let (month, of_month) = (u64::from(day.month), u64::from(day.day));
    let year = u64::from(day.year) - u64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + of_month - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year;
    let since = days.checked_sub(EPOCH).with_context(|| format!("--on {words} is before 1970"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(since * 86_400 + 43_200))
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: u64 = 719_468;

/// The client of a request that says none (RFC 5737).
const SOMEBODY: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)), 50_000);

#[cfg(test)]
mod tests {
    use super::*;

    /// T5: a day is its noon.
    #[test]
    fn days_are_read() {
        for (day, seconds) in
            [("1970-01-01", 43_200), ("2000-02-29", 951_825_600), ("2027-06-30", 1_814_356_800)]
        {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(noon(day).expect("a day"), at, "{day}");
        }
        assert!(noon("30.6.2027").is_err());
    }
}
