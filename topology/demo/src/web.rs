//! The HTTP services on PostgreSQL: what they share, and which path belongs to which. Not for the
//! SQL and shape of an answer: those are in `user`, `feed` and `orders`. Run by `main`.
//!
//! Invariant: nothing of a service runs before [`Identity`] has named the user.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::net::TcpListener;

use crate::answer::Answer;
use crate::database::{Database, trace};
use crate::http::{Program, serve};
use crate::identity::Identity;
use crate::options::WebArgs;
use crate::register::Registered;
use crate::shutdown::{asked, say};
use crate::upstream::Upstream;
use crate::{feed, orders, user};

/// Which service this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Profiles.
    User,
    /// Posts and search.
    Feed,
    /// Checkout.
    Payment,
    /// Profiles by number alone.
    Profile,
    /// Orders.
    Orders,
    /// Notifications.
    Notifications,
}

/// One running service.
#[derive(Debug)]
pub(crate) struct Web {
    kind: Kind,
    identity: Identity,
    /// Where rows come from.
    pub(crate) database: Database,
    /// The user service, through its internal listener.
    pub(crate) users: Option<Upstream>,
}

/// Listens and serves until TERM or INT.
pub(crate) async fn run(kind: Kind, args: WebArgs) -> anyhow::Result<()> {
    let web = Web::new(kind, &args)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    let registered = Registered::new(&args).await?;
    say(&format!("{} listens on {}", args.name, listener.local_addr()?));
    serve(listener, &args.name, web, registered.until(asked())).await
}

impl Web {
    /// From the command line; connects to nothing yet.
    pub(crate) fn new(kind: Kind, args: &WebArgs) -> anyhow::Result<Self> {
        Ok(Self {
            kind,
            identity: Identity::new(args)?,
            database: Database::new(args.database())?,
            users: args.service("user").map(Upstream::new).transpose()?,
        })
    }

    async fn route(&self, request: &Request<Bytes>) -> Result<Answer, Answer> {
        let asks = self.identity.user(request.headers()).await?;
        let path = request.uri().path();
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        match self.kind {
            Kind::Payment if path.contains("/checkout") && request.method() == Method::POST => {
                orders::checkout(self, asks, request.body()).await
            }
            Kind::Payment if path.contains("/checkout") => Err(wrong_method()),
            Kind::Payment => Err(no_such(path)),
            _ if !read => Err(wrong_method()),
            Kind::User => user::answer(self, asks, path).await,
            Kind::Feed if path.ends_with("/search") => feed::search(self, request.uri()).await,
            Kind::Feed if path.contains("/feed") => feed::posts(self, asks, request).await,
            Kind::Feed => Err(no_such(path)),
            Kind::Profile => user::by_number(self, number_after(path, "profile")).await,
            Kind::Orders => orders::answer(self, asks, request.uri()).await,
            Kind::Notifications => {
                orders::notifications(self, number_after(path, "notifications")).await
            }
        }
    }
}

impl Program for Web {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let answer = trace::within(request.headers(), self.route(&request)).await;
        answer.unwrap_or_else(|refusal| refusal)
    }
}

/// The number in the path segment after `name`.
pub(crate) fn number_after(path: &str, name: &str) -> Option<i64> {
    let mut segments = path.split('/').skip_while(|segment| *segment != name);
    segments.nth(1)?.parse().ok()
}

/// The value of a query parameter, percent-decoded.
pub(crate) fn parameter(uri: &http::Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(decoded(value))
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                _ => bytes.push(b'?'),
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn no_such(path: &str) -> Answer {
    Answer::not_found(format!("this service knows nothing at {path}"))
}

fn wrong_method() -> Answer {
    Answer::refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "this path has another method")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_parameters_are_found() {
        assert_eq!(number_after("/orders/42", "orders"), Some(42));
        assert_eq!(number_after("/orders", "orders"), None);
        assert_eq!(number_after("/orders/x", "orders"), None);
        let uri: http::Uri = "/api/search?a=1&q=caf%C3%A9+au%zz".parse().expect("valid");
        assert_eq!(parameter(&uri, "q").as_deref(), Some("café au?"));
        assert_eq!(parameter(&uri, "b"), None);
    }
}
