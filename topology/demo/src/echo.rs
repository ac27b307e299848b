//! A service that tells what it was asked: method, path, who asks and every header, as it saw them. Stands wherever a
//! stack's story is about the way to a service and not about what it does. Run by `main`.
//!
//! Invariant: what it tells is what came, nothing added and nothing left out.

use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::answer::Answer;
use crate::http::{Program, serve};
use crate::identity::Identity;
use crate::options::WebArgs;
use crate::register::Registered;
use crate::shutdown::{asked, say};

/// Listens and serves until TERM or INT.
pub(crate) async fn run(args: WebArgs) -> anyhow::Result<()> {
    let echo = Echo { identity: args.auth.map(|_| Identity::new(&args)).transpose()? };
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    let registered = Registered::new(&args).await?;
    say(&format!("{} listens on {}", args.name, listener.local_addr()?));
    serve(listener, &args.name, echo, registered.until(asked())).await
}

struct Echo {
    /// `None`: nobody is asked for.
    identity: Option<Identity>,
}

impl Program for Echo {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let user = match &self.identity {
            Some(identity) => match identity.user(request.headers()).await {
                Ok(user) => json!(user.0),
                Err(refusal) => return refusal,
            },
            None => Value::Null,
        };
        Answer::ok(json!({
            "method": request.method().as_str(),
            "path": request.uri().to_string(),
            "user": user,
            "headers": told(request.headers()),
        }))
    }
}

/// Several fields of one name are one, as HTTP allows.
fn told(headers: &HeaderMap) -> Map<String, Value> {
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> =
            values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        all.insert(name.to_string(), values.join(", ").into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T10: what came is told, whole.
    #[tokio::test]
    async fn what_was_asked_is_told() {
        let request = Request::post("/cart?item=7").header("x-user-id", "99").header("a", "1");
        let request = request.header("a", "2").body(Bytes::new()).expect("a request");
        let answer = Echo { identity: None }.answer(request).await;
        let expected = json!({ "method": "POST", "path": "/cart?item=7", "user": null,
            "headers": { "x-user-id": "99", "a": "1, 2" } });
        assert_eq!(Value::Object(answer.body), expected);
    }
}
