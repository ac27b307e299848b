//! Requests that pass, as lines that `aqueduct replay https` reads. Not the access record, which is
//! for people and counts everything; not for the files' number and size (`common::spool`). Begun by
//! stage 2, ended with the exchange.
//!
//! Invariant: no credential, cookie or secret of a query reaches a line, nor does a body: of an answer's at
//! most the digest.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use common::calendar::timestamp;
use common::observe::Metrics;
use common::spool::{Room, Spool};
use common::trace_parent::hex;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use topology::gateway::Group;
use topology::telemetry::Sample;
use topology::units::InstanceName;

use crate::access_log::End;
use crate::access_log::line::{number, quoted, text, user};
use crate::exchange::Exchange;

/// The recorder of one instance.
#[derive(Debug)]
pub struct Recorder {
    sample: Sample,
    /// Headers and parameters that hold API keys, lower case.
    keys: Vec<String>,
    /// Whether answers' bodies are digested.
    digests: bool,
    spool: Spool,
}

/// A line that was begun.
pub struct Tape {
    recorder: Arc<Recorder>,
    line: Vec<u8>,
    /// Of the answer's body as far as it has left, where that is wanted.
    digest: Option<Digest>,
}

impl Recorder {
    /// As the group says; the former one goes on when it says the same.
    pub fn of(
        group: &Group,
        (instance, metrics): (&InstanceName, &Metrics),
        former: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        let model = group.record.as_ref()?;
        let path = model.folder.join(format!("{}.ndjson", instance.as_str()));
        let room = Room { path, size: model.size, files: model.files.get() };
        let named = group.api_keys.iter().flat_map(|keys| [&keys.header, &keys.query]);
        let keys: Vec<String> = named.flatten().map(|name| name.to_ascii_lowercase()).collect();
        let same = |it: &&Arc<Self>| {
            (it.sample, it.digests) == (model.sample, model.digests)
                && *it.spool.room() == room
                && it.keys == keys
        };
        if let Some(former) = former.filter(same) {
            return Some(Arc::clone(former));
        }
        let help = "Requests that were to be recorded and were lost: the writer was behind, or its disk refused";
        let lost = metrics.counter("aqueduct_http_record_dropped_total", help, &[]);
        // Without a thread nothing is recorded; the data path goes on.
        let spool = Spool::start(room, Vec::new(), lost).ok()?;
        Some(Arc::new(Self { sample: model.sample, keys, digests: model.digests, spool }))
    }

    /// Begins the line of a request; `None`: its connection is not in the sample.
    pub fn begin(self: &Arc<Self>, x: &Exchange, head: &Parts) -> Option<Box<Tape>> {
        let session = match &x.peer.connection_id {
            Some(id) => id.to_string(),
            None => x.peer.client.to_string(),
        };
        let mut hash = DefaultHasher::new();
        session.hash(&mut hash);
        if !self.sample.takes(u128::from(hash.finish())) {
            return None;
        }
        let mut line = Vec::with_capacity(512);
        line.extend_from_slice(b"{\"timestamp\":\"");
        timestamp(x.wall, &mut line);
        text(b"\",\"method\":", Some(head.method.as_str()), &mut line);
        text(b",\"url\":", Some(&self.url(head)), &mut line);
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = head.uri.authority().map(http::uri::Authority::as_str).or(host);
        text(b",\"host\":", host, &mut line);
        text(b",\"session\":", Some(&session), &mut line);
        line.extend_from_slice(b",\"headers\":{");
        self.headers(&head.headers, &mut line);
        line.push(b'}');
        let digest = self.digests.then(|| Digest::new(&SHA256));
        Some(Box::new(Tape { recorder: Arc::clone(self), line, digest }))
    }

    /// Path and query; the value of a parameter that is secret is left out.
    fn url(&self, head: &Parts) -> String {
        let Some(query) = head.uri.query() else { return head.uri.path().to_owned() };
        let shown = |part: &str| match part.split_once('=') {
            Some((name, _)) if self.is_secret(name) => format!("{name}=redacted"),
            _ => part.to_owned(),
        };
        let query: Vec<String> = query.split('&').map(shown).collect();
        format!("{}?{}", head.uri.path(), query.join("&"))
    }

    fn headers(&self, headers: &HeaderMap, out: &mut Vec<u8>) {
        let mut first = true;
        for name in headers.keys().filter(|name| !self.is_left_out(name)) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            quoted(name.as_str(), out);
            out.extend_from_slice(b":[");
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            for (i, value) in values.enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                quoted(value, out);
            }
            out.push(b']');
        }
    }

    /// Secret, or the old connection's own.
    fn is_left_out(&self, name: &HeaderName) -> bool {
        const OWN: [HeaderName; 9] = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::EXPECT,
            header::HOST,
            header::REFERER,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ];
        OWN.contains(name) || self.is_secret(name.as_str())
    }

    /// Whether a header or parameter of this name may hold what nobody else is to have.
    fn is_secret(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        // An escaped name may be any.
        name.contains('%')
            || name == "code"
            || SECRETS.iter().any(|word| name.contains(word))
            || self.keys.contains(&name)
    }
}

/// Words in names of what is secret; of a harmless one that has such a word the replay knows less.
const SECRETS: [&str; 14] = [
    "auth",
    "cookie",
    "cred",
    "csrf",
    "jwt",
    "key",
    "otp",
    "pass",
    "pwd",
    "secret",
    "session",
    "sig",
    "token",
    "assertion",
];

impl Tape {
    /// A piece of the answer's body leaves.
    pub fn answer(&mut self, piece: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(piece);
        }
    }

    /// Ends the line with how the request was answered, and hands it over.
    pub fn end(&self, x: &Exchange, elapsed: Duration) {
        let record = &x.record;
        let mut line = self.line.clone();
        line.extend_from_slice(b",\"userId\":");
        user(record.user.as_ref().and_then(|user| user.to_str().ok()), &mut line);
        let route = Some(record.route.name.as_str()).filter(|name| !name.is_empty());
        text(b",\"route\":", route, &mut line);
        text(
            b",\"service\":",
            record.service.as_ref().map(topology::ServiceName::as_str),
            &mut line,
        );
        if let Some(status) = record.status {
            number(b",\"status\":", u64::from(status.as_u16()), &mut line);
        }
        if record.end == End::Complete {
            number(b",\"bytes_out\":", record.bytes_out, &mut line);
            let digest = self.digest.clone().map(Digest::finish);
            if let Some(Ok(bytes)) = digest.map(|digest| <[u8; 32]>::try_from(digest.as_ref())) {
                let digits: [u8; 64] = hex(bytes);
                text(b",\"body_sha256\":", Some(&String::from_utf8_lossy(&digits)), &mut line);
            }
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        number(b",\"latency_us\":", micros, &mut line);
        line.extend_from_slice(b"}\n");
        self.recorder.spool.push(&line);
    }
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(folder: &std::path::Path) -> Recorder {
        let room = Room { path: folder.join("gw.ndjson"), size: 8 << 20, files: 1 };
        let lost = Metrics::new().counter("lost", "lost", &[]);
        let spool = Spool::start(room, Vec::new(), lost).expect("a thread");
        let keys = vec!["x-shop".into(), "shop".into()];
        Recorder { sample: Sample::EVERY, keys, digests: false, spool }
    }

    /// R4: whatever holds a credential is left out by its name, in headers and in queries, the file's own
    /// names of API keys included; all else is there.
    #[test]
    fn secrets_are_left_out_of_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = recorder(folder.path());
        let secret = [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "X-Shop",
            "x-amz-signature",
            "x-csrf-token",
            "x-session-id",
            "referer",
        ];
        let query = "/a?q=tea&api_key=s3cret&Shop=s3cret&code=s3cret&%74oken=s3cret&flag";
        let mut request = http::Request::get(query).header("accept", "*/*").header("x-a", "1");
        for name in secret {
            request = request.header(name, "s3cret");
        }
        let (head, ()) = request.header("x-a", "\"2").body(()).expect("a request").into_parts();
        let mut text = Vec::new();
        own.headers(&head.headers, &mut text);
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text, r#""accept":["*/*"],"x-a":["1","\"2"]"#);
        let url = "/a?q=tea&api_key=redacted&Shop=redacted&code=redacted&%74oken=redacted&flag";
        assert_eq!(own.url(&head), url);
    }
}
