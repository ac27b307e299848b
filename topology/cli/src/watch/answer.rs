//! What admin listeners say, read. Not for what has changed since the last time: `look`. Asked by
//! the watcher.
//!
//! Invariant: what a listener does not say, or says in another form, is missing and nothing worse.

use anyhow::bail;
use bytes::Bytes;
use common::observe::admin::Summary;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::roster::Tier;
use crate::fetch::Talk;

/// All that an instance said in one round.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) summary: Said,
    /// Empty: ready.
    pub(crate) unready: Vec<String>,
    pub(crate) services: Vec<ServiceSaid>,
    pub(crate) traffic: Traffic,
    pub(crate) requests: Vec<Value>,
    pub(crate) limited: Vec<Limited>,
    /// The series that are shown.
    pub(crate) series: Vec<Series>,
}

/// `/summary`.
#[derive(Debug, Deserialize)]
pub(crate) struct Said {
    #[serde(flatten)]
    pub(crate) numbers: Summary,
    #[serde(default)]
    pub(crate) latency_us: Vec<(u64, u64)>,
}

/// A service of `/endpoints`.
#[derive(Debug, Deserialize)]
pub(crate) struct ServiceSaid {
    pub(crate) service: String,
    /// Requests in a gateway's line before it, for any of its endpoints.
    #[serde(default)]
    pub(crate) waiting: Option<u64>,
    pub(crate) endpoints: Vec<EndpointSaid>,
}

/// One of its endpoints.
#[derive(Debug, Deserialize)]
pub(crate) struct EndpointSaid {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) weight: u16,
    pub(crate) condition: String,
    pub(crate) active: u64,
    /// Flows that balancers gave it, and those it refused, since the start.
    #[serde(default)]
    pub(crate) flows_total: Option<u64>,
    #[serde(default)]
    pub(crate) failures_total: Option<u64>,
    #[serde(default)]
    pub(crate) ejected_for_ms: Option<u64>,
    #[serde(default)]
    pub(crate) last_check: Option<Check>,
}

/// The tiers tell it at different lengths.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Check {
    Word(String),
    Whole { outcome: String, ago_ms: u64 },
}

/// `/traffic`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) routes: Vec<Part>,
    pub(crate) endpoints: Vec<Part>,
}

/// A route, or an endpoint of a service, with what is counted of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    #[serde(default)]
    pub(crate) route: String,
    #[serde(default)]
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) endpoint: String,
    pub(crate) total: u64,
    pub(crate) errors: u64,
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
}

/// A row of `/limited`.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub(crate) struct Limited {
    pub(crate) limit: Option<String>,
    pub(crate) key: String,
    pub(crate) refused: u64,
}

/// One line of `/metrics`.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Series {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// Asks all that the page shows of a tier. Only the summary has to be there.
pub(crate) async fn ask(talk: &mut Talk, tier: Tier) -> anyhow::Result<Answer> {
    let (status, body) = talk.ask(Method::GET, "/summary").await?;
    match status {
        200 => {}
        401 => bail!("it asks for a token that is not ours"),
        _ => bail!("GET /summary was answered {status}"),
    }
    let summary = serde_json::from_slice(&body)?;
    let (status, body) = talk.ask(Method::GET, "/readyz").await?;
    let reasons = String::from_utf8_lossy(&body);
    let unready = match status {
        200 => Vec::new(),
        _ => reasons.lines().map(str::to_owned).collect(),
    };
    let mut answer = Answer {
        summary,
        unready,
        services: Vec::new(),
        traffic: Traffic::default(),
        requests: said(talk, asked(tier)).await?,
        limited: Vec::new(),
        series: Vec::new(),
    };
    if tier != Tier::Pool {
        answer.services = said(talk, "/endpoints").await?;
    }
    match tier {
        Tier::Gateway => {
            answer.traffic = said(talk, "/traffic").await?;
            answer.limited = said(talk, "/limited").await?;
        }
        Tier::Balancer | Tier::Pool => {
            let (status, body) = talk.ask(Method::GET, "/metrics").await?;
            if status == 200 {
                answer.series = series(&String::from_utf8_lossy(&body));
            }
        }
    }
    Ok(answer)
}

/// The newest records. A gateway shows a sample; a pooler is asked for more, among which are the queries of the
/// gateways' few.
fn asked(tier: Tier) -> &'static str {
    match tier {
        Tier::Gateway | Tier::Balancer => "/requests?most=40",
        Tier::Pool => "/requests?most=1000",
    }
}

/// An answer, or nothing from a listener that does not know the question.
async fn said<T: Default + for<'a> Deserialize<'a>>(
    talk: &mut Talk,
    path: &str,
) -> anyhow::Result<T> {
    let (status, body): (u16, Bytes) = talk.ask(Method::GET, path).await?;
    let read = (status == 200).then(|| serde_json::from_slice(&body).ok());
    Ok(read.flatten().unwrap_or_default())
}

/// The series that the page reads; histograms are left out.
fn series(text: &str) -> Vec<Series> {
    let shown = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        SHOWN.contains(&name)
    };
    text.lines().filter(shown).filter_map(line).collect()
}

/// `name{a="b",c="d"} 7`.
fn line(line: &str) -> Option<Series> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, mut rest) = head.split_once('{').unwrap_or((head, ""));
    let mut labels = Vec::new();
    while let Some((key, after)) = rest.split_once("=\"") {
        let (mut text, mut end, mut escaped) = (String::new(), after.len(), false);
        for (at, c) in after.char_indices() {
            match c {
                'n' if escaped => text.push('\n'),
                c if escaped => text.push(c),
                '\\' => {
                    escaped = true;
                    continue;
                }
                '"' => {
                    end = at + 1;
                    break;
                }
                c => text.push(c),
            }
            escaped = false;
        }
        labels.push((key.trim_start_matches(',').to_owned(), text));
        rest = after.get(end..).unwrap_or_default();
    }
    Some(Series { name: name.to_owned(), labels, value: value.parse().ok()? })
}

const SHOWN: [&str; 11] = [
    "aqueduct_l4_bytes_total",
    "aqueduct_l4_connections_total",
    "aqueduct_l4_datagrams_total",
    "aqueduct_l4_flows",
    "aqueduct_l4_refused_total",
    "aqueduct_pg_clients",
    "aqueduct_pg_queries_total",
    "aqueduct_pg_server_failures_total",
    "aqueduct_pg_servers",
    "aqueduct_pg_transactions_total",
    "aqueduct_pg_wait_seconds_total",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// O1: a scrape is read as the text format says, and only what is shown is kept.
    #[test]
    fn series_are_read() {
        let read = series(
            "# TYPE aqueduct_l4_flows gauge\naqueduct_l4_flows{listener=\"a\\\"},b\"} 3\nother 1\n\
             aqueduct_pg_clients{database=\"app\",state=\"waiting\"} 2\n",
        );
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].label("listener"), read[0].value), ("a\"},b", 3.0));
        assert_eq!((read[1].label("state"), read[1].label("user")), ("waiting", ""));
    }

    /// O5: what a listener says in another form is missing, not an error.
    #[test]
    fn both_forms_of_a_check_are_read() {
        let text = r#"[{"name":"a","address":"1.2.3.4:5","weight":1,"condition":"up","active":0,
            "last_check":"ok"},{"name":"b","address":"1.2.3.4:6","weight":1,"condition":"down",
            "active":0,"last_check":{"outcome":"refused","took_ms":1.5,"ago_ms":20}}]"#;
        let read: Vec<EndpointSaid> = serde_json::from_str(text).expect("read");
        assert!(matches!(&read[0].last_check, Some(Check::Word(word)) if word == "ok"));
        assert!(matches!(&read[1].last_check, Some(Check::Whole { ago_ms: 20, .. })));
    }
}
