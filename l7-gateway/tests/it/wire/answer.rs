//! Answers as a strict client reads them: what is not whole and well framed is an error.

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether its end was seen: its last chunk, or all bytes of its length.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A refusal as everybody may expect it: RFC 9457 with a code, and the id of the request.
    pub(crate) fn problem(&self) -> Result<(), String> {
        if self.header("content-type") != Some("application/problem+json") {
            return Err(format!("is no problem: {:?}", self.headers));
        }
        let body: serde_json::Value =
            serde_json::from_slice(&self.body).map_err(|fault| fault.to_string())?;
        let id = body["request_id"].as_str();
        let known = id.is_some_and(|id| id.len() > 8) && id == self.header("x-request-id");
        let code = body["code"].as_str().is_some_and(|code| !code.is_empty());
        if known && code && body["status"] == self.status {
            Ok(())
        } else {
            Err(format!("is a poor problem: {body}"))
        }
    }
}

/// All answers that came until the connection ended; `heads`: which of them answer HEAD.
pub(crate) fn answers(mut bytes: &[u8], heads: &[bool]) -> Result<Vec<Answer>, String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let answer = answer(&mut bytes, heads.get(found.len()) == Some(&true))?;
        // An interim answer announces the one that counts (RFC 9110 §15.2).
        if !(100..200).contains(&answer.status) || answer.status == 101 {
            found.push(answer);
        }
    }
    Ok(found)
}

fn answer(bytes: &mut &[u8], head_only: bool) -> Result<Answer, String> {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(200)].escape_ascii().to_string();
    let end = find(bytes, b"\r\n\r\n").ok_or_else(|| format!("no head: {}", shown(bytes)))?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| shown(bytes))?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let rest = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
    let status = rest.and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("a status line: {first:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("a field: {line:?}"))?;
        if line.contains(['\r', '\n', '\0']) || name.contains(char::is_whitespace) {
            return Err(format!("a field: {line:?}"));
        }
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    *bytes = &bytes[end + 4..];
    let mut answer = Answer { status, headers, body: Vec::new(), whole: true };
    if head_only || status < 200 || matches!(status, 204 | 304) {
        return Ok(answer);
    }
    body(&mut answer, bytes)?;
    Ok(answer)
}

fn body(answer: &mut Answer, bytes: &mut &[u8]) -> Result<(), String> {
    let values = |name: &str| answer.headers.iter().filter(|(n, _)| n == name).count();
    match (values("content-length"), values("transfer-encoding")) {
        (1, 0) => {
            let length: usize = answer
                .header("content-length")
                .and_then(|text| text.parse().ok())
                .ok_or("a length")?;
            answer.whole = bytes.len() >= length;
            let (body, rest) = bytes.split_at(length.min(bytes.len()));
            answer.body = body.to_vec();
            *bytes = rest;
        }
        (0, 1) if answer.header("transfer-encoding") == Some("chunked") => {
            answer.whole = chunks(bytes, &mut answer.body)?;
        }
        // RFC 9112 §6.3: to the connection's end; nobody can see whether it is whole.
        (0, 0) => answer.body = std::mem::take(bytes).to_vec(),
        other => return Err(format!("framed {other:?} times")),
    }
    Ok(())
}

/// Whether the last chunk came.
fn chunks(bytes: &mut &[u8], body: &mut Vec<u8>) -> Result<bool, String> {
    while let Some(line) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..line]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or_else(|| format!("a chunk: {}", bytes.escape_ascii()))?;
        let Some(rest) = bytes.get(line + 2..) else { break };
        if size == 0 {
            let end = if rest.starts_with(b"\r\n") {
                Some(2)
            } else {
                find(rest, b"\r\n\r\n").map(|n| n + 4)
            };
            let Some(end) = end else { break };
            *bytes = &rest[end..];
            return Ok(true);
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        let Some(rest) = rest.get(size..) else { break };
        if rest.len() >= 2 && !rest.starts_with(b"\r\n") {
            return Err("a chunk's end".to_owned());
        }
        let Some(rest) = rest.get(2..) else { break };
        *bytes = rest;
    }
    *bytes = &[];
    Ok(false)
}

pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
