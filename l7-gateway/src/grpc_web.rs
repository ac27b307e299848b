//! Calls of browsers, which see no trailers (gRPC-Web, PROTOCOL-WEB.md): the same messages in another envelope, over
//! HTTP/1.1 or HTTP/2. Not for what calls mean: `grpc` and `halt` know. Called by stages 2, 7 and 9.
//!
//! Invariant: an answer whose service has not said how the call ended says that it broke off; nothing of ours ever
//! stands where a message of the service's goes on.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request::Parts};
use http_body::{Body, Frame};

use crate::body::{AnswerBody, BodyFault};
use crate::grpc;
use crate::halt::broken_call;
use crate::hops::{self, Internal};

/// How a client writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// As they are.
    Binary,
    /// In base64.
    Text,
}

/// A call of a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// How its client writes.
    pub envelope: Envelope,
    /// The codec's name with its mark, `+proto`; may be empty.
    codec: Box<str>,
}

impl Web {
    /// What a request says it is; `None`: something else.
    pub fn of(head: &Parts) -> Option<Self> {
        let kind = head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let rest = kind.strip_prefix("application/grpc-web")?;
        let (envelope, rest) = match rest.strip_prefix("-text") {
            Some(rest) => (Envelope::Text, rest),
            None => (Envelope::Binary, rest),
        };
        let codec = rest.split(';').next().unwrap_or_default().trim_end();
        let lawful = codec.is_empty() || codec.starts_with('+');
        (lawful && head.method == Method::POST).then(|| Self { envelope, codec: codec.into() })
    }

    /// What the service is told in place of what the client said.
    pub fn asks(&self, headers: &mut HeaderMap) {
        for name in [header::ACCEPT, header::RANGE, header::IF_RANGE, header::ACCEPT_ENCODING] {
            headers.remove(name);
        }
        headers.remove(HeaderName::from_static("x-grpc-web"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Ok(kind) = HeaderValue::try_from(format!("application/grpc{}", self.codec)) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
    }

    /// What the client is told in place of what the service, or this gateway, said.
    pub fn answers(&self, headers: &mut HeaderMap) {
        let text = if self.envelope == Envelope::Text { "-text" } else { "" };
        headers.remove(header::CONTENT_LENGTH);
        let kind = HeaderValue::try_from(format!("application/grpc-web{text}{}", self.codec));
        if let Ok(kind) = kind {
            headers.insert(header::CONTENT_TYPE, kind);
        }
    }
}

/// Messages out of text: base64, perhaps several pieces of it one after the other, each padded. `None`: it is no
/// such text.
pub fn decoded(mut text: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    while !text.is_empty() {
        let padded = text.iter().position(|byte| *byte == b'=');
        let end = padded.map_or(text.len(), |at| (at / 4 + 1) * 4);
        let (piece, rest) = text.split_at_checked(end)?;
        STANDARD.decode_vec(piece, &mut out).ok()?;
        text = rest;
    }
    Some(out.into())
}

/// The body of an answer, trailers as its last message.
#[derive(Debug)]
pub struct Enveloped {
    inner: AnswerBody,
    envelope: Envelope,
    framing: Framing,
    end: Option<End>,
    /// What clients are not told.
    internal: Rc<Internal>,
}

/// Where among its messages a service is: each is a byte of flags, four of length, and so many more.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes that are there of a message's head.
    head: u8,
    /// Its length, as far as it is there.
    length: u32,
    /// Bytes that a message still lacks.
    left: usize,
}

impl Framing {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let (_, behind) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= bytes.len() - behind.len();
                bytes = behind;
                continue;
            }
            // The flags are shifted out.
            self.length = self.length << 8 | u32::from(*first);
            self.head += 1;
            if self.head == 5 {
                self.left = usize::try_from(self.length).unwrap_or(usize::MAX);
                (self.head, self.length) = (0, 0);
            }
            bytes = rest;
        }
    }

    /// Whether a message has begun that is not whole.
    fn is_within(&self) -> bool {
        self.head > 0 || self.left > 0
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its code, if the service said one.
    pub code: Option<u8>,
    /// The service broke off.
    pub broken: bool,
}

impl Enveloped {
    /// Of a service's answer.
    pub fn new(inner: AnswerBody, envelope: Envelope, internal: Rc<Internal>) -> Self {
        Self { inner, envelope, framing: Framing::default(), end: None, internal }
    }

    /// How the call ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The end as a message of its own; inside of one of the service's its bytes would stand for those that
    /// are missing, so that nothing but a body without an end says what happened.
    fn last(&mut self, mut fields: HeaderMap, broken: bool) -> Result<Frame<Bytes>, BodyFault> {
        self.inner = AnswerBody::Empty;
        if self.framing.is_within() {
            return Err(BodyFault::Broken);
        }
        hops::trailers(&mut fields, &self.internal);
        self.end = Some(End { code: grpc::status(&fields), broken });
        Ok(Frame::data(self.written(trailer(&fields))))
    }

    fn written(&self, bytes: Bytes) -> Bytes {
        match self.envelope {
            Envelope::Binary => bytes,
            // Padded at each piece: nothing of a message waits for the next one.
            Envelope::Text => STANDARD.encode(&bytes).into(),
        }
    }
}

/// Fields as a message: the highest bit says what it is, lines as in HTTP/1.1.
fn trailer(fields: &HeaderMap) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0x80);
    out.put_u32(0);
    for (name, value) in fields {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    let length = u32::try_from(out.len().saturating_sub(5)).unwrap_or(u32::MAX).to_be_bytes();
    out.iter_mut().skip(1).zip(length).for_each(|(place, byte)| *place = byte);
    out.freeze()
}

impl Body for Enveloped {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if this.end.is_some() {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    this.framing.pass(&data);
                    Ok(Frame::data(this.written(data)))
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(fields) => {
                        let broken = grpc::status(&fields).is_none();
                        this.last(fields, broken)
                    }
                    Err(_) => return Poll::Ready(None),
                },
            },
            Some(Err(fault)) => this.last(broken_call(fault), true),
            // Without trailers nobody knows whether this was all.
            None => this.last(broken_call(BodyFault::Broken), true),
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(kind: &str) -> Parts {
        let request = http::Request::post("/a.B/C").header("content-type", kind).body(());
        request.expect("a request").into_parts().0
    }

    /// G15: what a browser's call is, and how it is told to services and back.
    #[test]
    fn calls_of_browsers_are_told_by_their_type() {
        for (kind, service, client) in [
            ("application/grpc-web", "application/grpc", "application/grpc-web"),
            ("application/grpc-web+proto", "application/grpc+proto", "application/grpc-web+proto"),
            ("application/grpc-web-text; x=1", "application/grpc", "application/grpc-web-text"),
            (
                "application/grpc-web-text+proto",
                "application/grpc+proto",
                "application/grpc-web-text+proto",
            ),
        ] {
            let head = head(kind);
            let web = Web::of(&head).expect(kind);
            let mut headers = head.headers.clone();
            headers.insert("x-grpc-web", HeaderValue::from_static("1"));
            web.asks(&mut headers);
            assert_eq!(headers[header::CONTENT_TYPE], service);
            assert!(headers[header::TE] == "trailers" && !headers.contains_key("x-grpc-web"));
            web.answers(&mut headers);
            assert_eq!(headers[header::CONTENT_TYPE], client);
        }
        for kind in ["application/grpc", "application/grpc-webx", "application/json"] {
            assert_eq!(Web::of(&head(kind)), None, "{kind}");
        }
        let mut get = head("application/grpc-web");
        get.method = Method::GET;
        assert_eq!(Web::of(&get), None);
    }

    /// G15: pieces of base64 are read whether each is padded or not, and what is none is refused.
    #[test]
    fn text_is_read_in_pieces() {
        for (text, bytes) in [
            ("", Some("")),
            ("YWJj", Some("abc")),
            ("YQ==YmM=", Some("abc")),
            ("YWJjZA==ZWY=Zw==", Some("abcdefg")),
            ("YQ=", None),
            ("YQ==Y", None),
            ("====", None),
            ("Y Q=", None),
        ] {
            assert_eq!(decoded(text.as_bytes()).as_deref(), bytes.map(str::as_bytes), "{text}");
        }
    }

    proptest! {
        /// G15: bytes of any kind come out of text as they went in, in whatever pieces, and any other text is refused
        /// or read, never more.
        #[test]
        fn pieces_come_out_as_they_went_in(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            other in "[A-Za-z0-9+/= \n-]{0,24}",
        ) {
            let text: String = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
            let (bytes, whole) = (decoded(text.as_bytes()), pieces.concat());
            prop_assert_eq!(bytes.as_deref(), Some(&*whole));
            if let Some(bytes) = decoded(other.as_bytes()) {
                prop_assert!(bytes.len() <= other.len() / 4 * 3);
            }
        }

        /// G15: it is known at each byte whether a message is whole, in whatever pieces they come.
        #[test]
        fn whole_messages_are_told_from_parts(
            sizes in proptest::collection::vec(0_u32..70, 1..5),
            cut in 0_usize..300,
            piece in 1_usize..40,
        ) {
            let (mut all, mut ends) = (Vec::new(), vec![0]);
            for size in sizes {
                all.extend([&[1][..], &size.to_be_bytes(), &vec![b'x'; size as usize]].concat());
                ends.push(all.len());
            }
            all.truncate(cut);
            let mut framing = Framing::default();
            all.chunks(piece).for_each(|piece| framing.pass(piece));
            prop_assert_eq!(framing.is_within(), !ends.contains(&all.len()));
        }

        /// G15: trailers of any kind are one message of lines, as long as it says.
        #[test]
        fn trailers_are_one_message(
            fields in proptest::collection::vec(("[a-z][a-z0-9-]{0,12}", "[ -~]{0,20}"), 0..8),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &fields {
                let name: HeaderName = name.parse().expect("a name");
                map.append(name, value.trim().parse().expect("a value"));
            }
            let message = trailer(&map);
            let (head, lines) = message.split_at(5);
            let length = u32::try_from(lines.len()).expect("short").to_be_bytes();
            prop_assert_eq!(head, [&[0x80][..], &length].concat());
            let lines = std::str::from_utf8(lines).expect("text");
            prop_assert_eq!(lines.matches("\r\n").count(), fields.len());
            for line in lines.split_terminator("\r\n") {
                let (name, value) = line.split_once(": ").expect("a field");
                prop_assert!(map.get_all(name).iter().any(|known| known == value));
            }
        }
    }
}
