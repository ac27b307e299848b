//! A request's body on its way into an HTTP/2 stream, beside the answer, not before it. Not for the
//! request's head (`http2`). Called by it.
//!
//! Invariant: a body that breaks off ends as a reset, never as a shorter body; nothing is read that the
//! service has no room for.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;
use tokio::task::AbortHandle;

use crate::body::RequestBody;

/// The body. Dropping it takes back what was not sent.
#[derive(Debug)]
pub(super) struct Upload {
    way: Rc<RefCell<Option<Way>>>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Way {
    body: RequestBody,
    to: Option<SendStream<Bytes>>,
    /// What was sent, as long as the service may still refuse it unseen.
    sent: Option<Vec<Bytes>>,
    size: usize,
}

/// Bytes of a body that are kept until the service has answered.
const KEPT: usize = 32 * 1024;

impl Upload {
    /// Nothing to send.
    pub(super) fn none(body: RequestBody) -> Self {
        let way = Way { body, to: None, sent: Some(Vec::new()), size: 0 };
        Self { way: Rc::new(RefCell::new(Some(way))), task: None }
    }

    /// Sends what is at hand, and the rest in a task of its own.
    pub(super) fn begin(body: RequestBody, to: SendStream<Bytes>) -> Self {
        let way = Way { body, to: Some(to), sent: Some(Vec::new()), size: 0 };
        let way = Rc::new(RefCell::new(Some(way)));
        let shared = Rc::clone(&way);
        let task = tokio::task::spawn_local(poll_fn(move |cx| match &mut *shared.borrow_mut() {
            Some(way) => way.poll(cx),
            None => Poll::Ready(()),
        }));
        Self { way, task: Some(task.abort_handle()) }
    }

    /// The service has answered: what was sent is not needed again.
    pub(super) fn answered(self) -> Self {
        if let Some(way) = &mut *self.way.borrow_mut() {
            way.sent = None;
        }
        self
    }

    /// The body as it was before, if what was sent of it is still there.
    pub(super) fn take_back(self) -> Option<RequestBody> {
        let Way { mut body, sent, .. } = self.way.borrow_mut().take()?;
        body.give_back(sent?);
        Some(body)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The body goes now; the task, which would be woken no more, a little later.
        self.way.borrow_mut().take();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Way {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { body, to: Some(to), sent, size } = self else { return Poll::Ready(()) };
        loop {
            to.reserve_capacity(1);
            if to.capacity() == 0 {
                match ready!(to.poll_capacity(cx)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            } else if to.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let end = body.is_end_stream();
                    keep(sent, size, &data);
                    if to.send_data(data, end).is_err() || end {
                        return Poll::Ready(());
                    }
                }
                Some(Err(_)) => {
                    to.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                None => {
                    // Whether that fails, the answer tells.
                    let _sent = to.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            }
        }
    }
}

fn keep(sent: &mut Option<Vec<Bytes>>, size: &mut usize, data: &Bytes) {
    *size += data.len();
    if *size > KEPT {
        *sent = None;
    } else if let Some(sent) = sent {
        // In memory of its own: a small piece may hold a large buffer.
        sent.push(Bytes::copy_from_slice(data));
    }
}
