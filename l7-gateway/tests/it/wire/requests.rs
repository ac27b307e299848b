//! What clients may send: every row of `tests/corpus/requests/`, as it stands, in pieces, and behind
//! an ordinary request, before a recording service.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::task::spawn_local;

use super::answer::{Answer, answers};
use super::corpus::{Row, rows};
use super::recorder::{Reached, Recorder};
use crate::rig::{Rig, local, one};

/// How a row is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    InPieces,
    BehindAnother,
}

const FIRST: &[u8] = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
/// Comes behind every row: it must be answered where the row was, and never where it was refused.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// G23, G4: no bytes that two programs could read differently reach a service; what is refused is a
/// problem with a code and the request's id, ends the connection and has a record; what is lawful is
/// served, and reaches the service in one form.
#[tokio::test]
async fn nothing_dangerous_reaches_a_service() {
    local(async {
        let recorder = Recorder::start().await;
        let mut rig = Rig::new(&one(recorder.address));
        let (mut faults, mut answered) = (Vec::new(), 0);
        let table = rows("requests");
        assert!(table.len() > 300, "{} rows", table.len());
        for row in &table {
            for way in [Way::Whole, Way::InPieces, Way::BehindAnother] {
                match try_row(&rig, &recorder, row, way).await {
                    Ok(count) => answered += count,
                    Err(fault) => faults.push(format!("{} ({way:?}): {fault}", row.name)),
                }
            }
        }
        let rest = faults.len();
        assert!(faults.is_empty(), "{rest} faults:\n{}", faults.join("\n"));
        assert_eq!(rig.records().len(), answered, "a record for each");
    })
    .await;
}

/// G23: who is refused in the middle of sending still reads the whole refusal, and an end that is no
/// reset: what it goes on to send is taken in for a while (RFC 9112 §9.6).
#[tokio::test]
async fn a_refusal_is_read_to_its_end() {
    local(async {
        let recorder = Recorder::start().await;
        let folder = crate::instance::folder();
        let text = crate::instance::text("127.0.0.1:0", recorder.address, "api");
        let tls = text.lines().find(|line| line.contains("tls:")).expect("a line");
        let (running, options) =
            crate::instance::run_text(folder.path(), &text.replace(tls, "")).await;
        for bad in ["GET /v\\w HTTP/1.1\r\nHost: a\r\n\r\n", "GET /v HTTP/1.1\r\nHost : a\r\n\r\n"]
        {
            let to = running.listeners[0].1;
            let mut stream = tokio::net::TcpStream::connect(to).await.expect("connected");
            stream.write_all(&[bad.as_bytes(), &[b'x'; 40_000]].concat()).await.expect("taken");
            stream.shutdown().await.expect("still connected");
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.expect("an end, no reset");
            let said = answers(&said, &[]).expect("an answer");
            assert_eq!((said.len(), said[0].status, said[0].problem()), (1, 400, Ok(())));
        }
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// How many requests were answered.
async fn try_row(rig: &Rig, recorder: &Recorder, row: &Row, way: Way) -> Result<usize, String> {
    let first = if way == Way::BehindAnother { FIRST } else { b"" };
    let bytes = [first, &row.bytes, PROBE].concat();
    let said = send(rig, bytes, way).await;
    let reached = recorder.reached().await;
    let mut said = answers(&said, &[])?;
    let mut reached = reached?;
    let count = said.len() + 1;
    if way == Way::BehindAnother {
        let first = (!said.is_empty()).then(|| said.remove(0)).map(|answer| answer.status);
        let line = (!reached.requests.is_empty()).then(|| reached.requests.remove(0).line);
        if first != Some(200) || line.as_deref() != Some("GET /first") {
            return Err(format!("the first one: {first:?}, {line:?}"));
        }
    }
    judge(row, way, &mut said, reached)?;
    let next = rig.get("/next", "").await;
    let reached = recorder.reached().await?;
    if !next.starts_with("HTTP/1.1 200 ") || reached.requests.len() != 1 {
        return Err(format!("the next client is not served: {next:?}, {reached:?}"));
    }
    Ok(count)
}

/// Everything that comes back until the connection ends.
async fn send(rig: &Rig, bytes: Vec<u8>, way: Way) -> Vec<u8> {
    let (stream, _task) = rig.connect();
    let (mut reader, mut writer) = split(stream);
    let piece = match way {
        Way::InPieces if bytes.len() > 4000 => 997,
        Way::InPieces => 1,
        _ => bytes.len(),
    };
    let sending = spawn_local(async move {
        for piece in bytes.chunks(piece) {
            // Whoever is refused may find nobody who takes the rest.
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        writer
    });
    let mut said = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut said)).await;
    sending.abort();
    if ended.is_err() {
        said.extend_from_slice(b"(the connection does not end)");
    }
    said
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

fn judge(row: &Row, way: Way, said: &mut Vec<Answer>, reached: Reached) -> Result<(), String> {
    let mut requests = reached.requests.into_iter();
    let (mut last, mut ended, mut part) = (None, false, false);
    for outcome in row.of('=') {
        let answer = (!said.is_empty()).then(|| said.remove(0));
        let answer = answer.ok_or_else(|| format!("no answer where {outcome:?} was due"))?;
        let (kind, rest) = outcome.split_once(' ').unwrap_or((outcome, ""));
        if let "pass" | "last" = kind {
            let seen = requests.next().ok_or_else(|| format!("refused: {answer:?}"))?;
            if answer.status != 200 || seen.line != rest {
                return Err(format!("{} for {:?}, not {rest:?}", answer.status, seen.line));
            }
            last = Some(seen);
            ended = kind == "last";
            continue;
        }
        if !kind.split('|').any(|status| status == answer.status.to_string()) {
            return Err(format!("{answer:?} where {kind} was due"));
        }
        answer.problem()?;
        if answer.header("connection") != Some("close") {
            return Err(format!("does not say that it ends: {answer:?}"));
        }
        (ended, part) = (true, rest == "part");
    }
    let probed = (!said.is_empty()).then(|| said.remove(0)).map(|answer| answer.status);
    let probe = requests.next().map(|seen| seen.line);
    let expected = (!ended).then(|| (200, "GET /probe".to_owned()));
    if probed.zip(probe.clone()) != expected || !said.is_empty() || requests.next().is_some() {
        return Err(format!("what follows: {probed:?}, {probe:?}"));
    }
    let refused = ended && last.is_none();
    if refused && !part && way != Way::BehindAnother && !reached.bytes.is_empty() {
        return Err(format!("reached: {}", reached.bytes.escape_ascii()));
    }
    wishes(row, last.as_ref(), &reached.bytes)
}

fn wishes(row: &Row, last: Option<&super::recorder::Seen>, bytes: &[u8]) -> Result<(), String> {
    for wish in row.of(':') {
        let fields = last.map(|seen| seen.fields.as_slice()).unwrap_or_default();
        if !fields.iter().any(|field| field == wish) {
            return Err(format!("{wish:?} is not in {fields:?}"));
        }
    }
    let all = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    for banned in row.of('!') {
        if all.contains(&banned.to_ascii_lowercase()) {
            return Err(format!("{banned:?} reached: {all:?}"));
        }
    }
    for wish in row.of('*') {
        let body = last.map(|seen| String::from_utf8_lossy(&seen.body).into_owned());
        if body.as_deref() != Some(wish) {
            return Err(format!("the body was {body:?}"));
        }
    }
    Ok(())
}
