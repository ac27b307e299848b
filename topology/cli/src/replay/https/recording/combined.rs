//! The combined (or common) log format of web servers. Used by `recording`.
//!
//! Invariant: a line is one request or one fault.

use anyhow::{Context, Result};

use super::{Expected, Found, Timed, answered, lines, request, sort, time, whole};

pub(super) fn parse(text: &str) -> Found {
    sort(lines(text).map(|(place, line)| (place, whole(line).and_then(parse_line))))
}

/// `HOST IDENT USER [TIME] "METHOD TARGET VERSION" STATUS BYTES "REFERER" "AGENT"`.
fn parse_line(line: &str) -> Result<Timed> {
    let (who, rest) = line.split_once('[').context("no [time]: not a combined log")?;
    let (at, rest) = rest.split_once(']').context("the time does not end")?;
    let at = time::logged(at).with_context(|| format!("{at:?}: no time"))?;
    let mut rest = rest.trim_start();
    let asked = quoted(&mut rest).context("no \"request\"")?;
    let mut words = asked.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        anyhow::bail!("{asked:?}: no request line");
    };
    let numbers = rest.find('"').map_or(rest, |end| rest.get(..end).unwrap_or_default());
    let mut numbers = numbers.split_ascii_whitespace();
    let status = numbers.next().and_then(|text| text.parse().ok()).context("no status")?;
    let bytes = match numbers.next() {
        None | Some("-") => None,
        Some(text) => Some(text.parse().with_context(|| format!("{text:?}: no size"))?),
    };
    let agent = match rest.find('"').and_then(|at| rest.get(at..)) {
        None => None,
        Some(mut quotes) => {
            quoted(&mut quotes).context("the referer does not end")?;
            let said = quotes.trim_start().starts_with('"');
            let agent = quoted(&mut quotes);
            anyhow::ensure!(agent.is_some() || !said, "the agent does not end");
            agent.filter(|agent| *agent != "-")
        }
    };
    let fields = agent.map(|agent| ("user-agent", agent));
    let mut recorded = request(method, target, fields.into_iter(), Vec::new())?;
    let mut who = who.split_ascii_whitespace();
    recorded.session = who.next().map(str::to_owned);
    recorded.user = who.nth(1).filter(|user| *user != "-").map(str::to_owned);
    recorded.expected = Expected { status: answered(status)?, bytes, digest: None };
    Ok((Some(at), recorded))
}

/// Takes a text in quotes, in which a backslash protects a quote.
fn quoted<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let inner = rest.trim_start().strip_prefix('"')?;
    let mut protected = false;
    let end = inner.find(|c| {
        let ends = c == '"' && !protected;
        protected = c == '\\' && !protected;
        ends
    })?;
    *rest = inner.get(end + 1..)?;
    inner.get(..end)
}
