//! Whether a request's trace goes on here or begins here (W3C Trace Context). Not for spans. Called by
//! stage 2, before what only we may say is removed.
//!
//! Invariant: nobody but the networks of the topology file is believed, and what is passed on was read.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use topology::telemetry::Telemetry;

use crate::exchange::Exchange;
use crate::ids::TraceParent;
use crate::telemetry::Notes;

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// What a trace brings that began elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continued {
    /// The caller's span.
    pub parent: TraceParent,
    /// What other systems keep in the trace; passed on as it came.
    pub state: Option<HeaderValue>,
}

impl Continued {
    /// Reads it (§4.3): none without exactly one lawful `traceparent`; an unlawful `tracestate` alone is
    /// dropped.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACE_PARENT).iter();
        let parent = TraceParent::parse(parents.next()?.as_bytes())?;
        if parents.next().is_some() {
            return None;
        }
        Some(Self { parent, state: state(headers) })
    }
}

/// Goes on with the client's trace where it is believed; what is sampled is noted where somebody
/// collects it.
pub fn follow(x: &mut Exchange, headers: &HeaderMap, telemetry: &Telemetry) {
    if !telemetry.trust_trace_from.is_empty() {
        go_on(x, headers, telemetry);
    }
    if telemetry.otlp.is_some() && x.trace.is_sampled() {
        x.notes = Some(Notes::new(x.began, x.trace));
    }
}

fn go_on(x: &mut Exchange, headers: &HeaderMap, telemetry: &Telemetry) {
    let client = x.peer.address();
    if telemetry.trust_trace_from.iter().any(|network| network.contains(&client))
        && let Some(before) = Continued::read(headers)
    {
        x.trace = x.trace.within(before.parent);
        x.continued = Some(Box::new(before));
    }
}

/// All `tracestate` fields as one (§3.3.1), if each member is lawful and no key comes twice.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut keys = Vec::new();
    let mut whole = Vec::new();
    for field in headers.get_all(TRACE_STATE) {
        for member in field.as_bytes().split(|&b| b == b',') {
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            let key = key(member)?;
            if keys.contains(&key) || keys.len() == MOST_MEMBERS {
                return None;
            }
            keys.push(key);
            if !whole.is_empty() {
                whole.push(b',');
            }
            whole.extend_from_slice(member);
        }
    }
    if whole.is_empty() || whole.len() > LONGEST_STATE {
        return None;
    }
    HeaderValue::from_bytes(&whole).ok()
}

/// §3.3.1.1: beyond it, nobody need pass a list on.
const MOST_MEMBERS: usize = 32;

/// Far more than the 512 bytes that everybody must pass on.
const LONGEST_STATE: usize = 4096;

/// The key of a lawful member (§3.3.1.3): `key=value` or `tenant@system=value`.
fn key(member: &[u8]) -> Option<&[u8]> {
    let (key, value) = member.split_at_checked(memchr::memchr(b'=', member)?)?;
    let value = value.get(1..)?;
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(b);
    let name = |text: &[u8], most: usize, digit_first: bool| {
        let first = text
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || (digit_first && b.is_ascii_digit()));
        first && text.len() <= most && text.iter().all(inner)
    };
    let lawful_key = match memchr::memchr(b'@', key) {
        None => name(key, 256, false),
        Some(at) => {
            let (tenant, system) = (key.get(..at)?, key.get(at + 1..)?);
            name(tenant, 241, true) && name(system, 14, false)
        }
    };
    let visible = |b: &u8| (0x20..=0x7e).contains(b) && *b != b'=';
    let lawful_value = (1..=256).contains(&value.len()) && value.iter().all(visible);
    (lawful_key && lawful_value).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(fields: &[(HeaderName, &str)]) -> Option<Continued> {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).expect("a value");
        Continued::read(&fields.iter().map(|(name, text)| (name.clone(), value(text))).collect())
    }

    /// G13: a trace goes on with exactly one lawful `traceparent`; `tracestate` alone is nothing.
    #[test]
    fn one_lawful_parent_is_needed() {
        assert!(read(&[(TRACE_PARENT, PARENT)]).is_some_and(|it| it.state.is_none()));
        assert_eq!(read(&[(TRACE_STATE, "a=1")]), None);
        assert_eq!(read(&[(TRACE_PARENT, PARENT), (TRACE_PARENT, PARENT)]), None);
        assert_eq!(read(&[(TRACE_PARENT, "00-x")]), None);
        assert_eq!(read(&[(TRACE_PARENT, "00-x"), (TRACE_STATE, "a=1")]), None);
    }

    /// G13: `tracestate` as W3C Trace Context §3.3 has it: several fields are one list; a list that is
    /// no such list is dropped, and the trace goes on without it.
    #[test]
    fn trace_states_are_passed_on_if_they_are_lawful() {
        let long_key = format!("{}=1", "z".repeat(256));
        let long_tenant = format!("{}@{}=1", "t".repeat(241), "v".repeat(14));
        let long_value = format!("a={}", "x".repeat(256));
        let many: Vec<String> = (0..32).map(|n| format!("k{n}=1")).collect();
        let kept: [(&[&str], &str); 13] = [
            (&["foo=1,bar=2"], "foo=1,bar=2"),
            (&["foo=1", "bar=2"], "foo=1,bar=2"),
            (&["foo=1 \t , \t bar=2, "], "foo=1,bar=2"),
            (&["foo=1,,,bar=2", ""], "foo=1,bar=2"),
            (&["foo=a b"], "foo=a b"),
            (&["foo= 1"], "foo= 1"),
            (&["a-_*/0=x"], "a-_*/0=x"),
            (&["fw529a3039@dt=FfD"], "fw529a3039@dt=FfD"),
            (&["0a@v=1"], "0a@v=1"),
            (&[&long_key], &long_key),
            (&[&long_tenant], &long_tenant),
            (&[&long_value], &long_value),
            (&[&many.join(",")], &many.join(",")),
        ];
        let state = |lines: &[&str]| {
            let mut fields = vec![(TRACE_PARENT, PARENT)];
            fields.extend(lines.iter().map(|line| (TRACE_STATE, *line)));
            let read = read(&fields).expect("the trace goes on");
            read.state.map(|value| value.to_str().expect("visible").to_owned())
        };
        for (lines, whole) in kept {
            assert_eq!(state(lines).as_deref(), Some(whole));
        }
        let (key, tenant) = (format!("{}=1", "z".repeat(257)), format!("{}@v=1", "t".repeat(242)));
        let (system, value) = (format!("t@{}=1", "v".repeat(15)), format!("a={}", "x".repeat(257)));
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=1")).collect();
        let dropped = [
            "",
            ",",
            "foo",
            "=1",
            "foo=",
            "foo=1=2",
            "Foo=1",
            "foo =1",
            "1foo=1",
            "foo@=1",
            "@v=1",
            "foo@@v=1",
            "foo@v@w=1",
            "foo@1v=1",
            "foo.bar=1",
            "foo=\u{e9}",
            "foo=1,foo=1",
            "foo=1,foo=2",
            "foo=1,bar",
            &key,
            &tenant,
            &system,
            &value,
            &many.join(","),
        ];
        for line in dropped {
            assert_eq!(state(&[line]), None, "{line}");
        }
        assert_eq!(state(&["foo=1", "foo=2"]), None);
    }
}
