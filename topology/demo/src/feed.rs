//! The feed service: posts with their authors, and search. Authors come from the user service
//! through its internal listener, never from a join: this is the demo's service-to-service call.
//! Called by `web`.
//!
//! Invariant: one feed asks for at most [`MOST_POSTS`] authors, each of them once.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Uri};
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::answer::Answer;
use crate::identity::UserId;
use crate::web::{Web, parameter};

/// The newest posts, `?limit=N` of them (default 10, at most [`MOST_POSTS`]).
pub(crate) async fn posts(
    web: &Web,
    asks: UserId,
    request: &Request<Bytes>,
) -> Result<Answer, Answer> {
    let limit = parameter(request.uri(), "limit").and_then(|text| text.parse().ok());
    let limit: i64 = limit.unwrap_or(10).clamp(1, MOST_POSTS);
    let rows = web.database.rows(NEWEST, &[&limit]).await?;
    let authors = authors(web, asks, request.headers(), &rows).await;
    let posts: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut post = post(row);
            let author = row.get::<_, i64>(1);
            post["author"] = authors.get(&author).cloned().unwrap_or(json!({ "id": author }));
            post
        })
        .collect();
    Ok(Answer::ok(json!({ "user": asks.0, "posts": posts })))
}

/// Posts that contain the word `?q=`.
pub(crate) async fn search(web: &Web, uri: &Uri) -> Result<Answer, Answer> {
    let word = parameter(uri, "q").unwrap_or_default();
    if word.is_empty() || word.len() > 100 {
        return Err(Answer::bad_request("ask for ?q=WORD with 1 to 100 bytes"));
    }
    let rows = web.database.rows(SEARCH, &[&word, &MOST_POSTS]).await?;
    Ok(Answer::ok(json!({ "q": word, "posts": rows.iter().map(post).collect::<Vec<_>>() })))
}

fn post(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>(0),
        "author": row.get::<_, i64>(1),
        "text": row.get::<_, String>(2),
        "likes": row.get::<_, i32>(3),
    })
}

/// Each author's profile; one who cannot be had is left out, the post stays.
async fn authors(
    web: &Web,
    asks: UserId,
    headers: &HeaderMap,
    rows: &[Row],
) -> BTreeMap<i64, Value> {
    let Some(users) = &web.users else { return BTreeMap::new() };
    let mut wanted: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let headers = passed_on(headers, asks);
    let mut known = BTreeMap::new();
    for number in wanted {
        if let Ok(profile) = users.json(&format!("/api/user/{number}"), &headers).await {
            let kept = json!({
                "id": number, "name": profile["name"], "followers": profile["followers"],
                "server": profile["server"],
            });
            known.insert(number, kept);
        }
    }
    known
}

/// What a service hands on to the next one: who asks, and the ids that tie the log lines together.
fn passed_on(headers: &HeaderMap, asks: UserId) -> HeaderMap {
    const NAMES: [&str; 4] = ["authorization", "traceparent", "tracestate", "x-request-id"];
    let mut kept: HeaderMap = NAMES
        .into_iter()
        .filter_map(|name| Some((HeaderName::from_static(name), headers.get(name)?.clone())))
        .collect();
    kept.insert("x-user-id", asks.0.into());
    kept
}

const MOST_POSTS: i64 = 20;
const NEWEST: &str = "SELECT id, author, text, likes FROM posts ORDER BY id DESC LIMIT $1";
const SEARCH: &str = "SELECT id, author, text, likes FROM posts \
     WHERE position(lower($1) IN lower(text)) > 0 ORDER BY id DESC LIMIT $2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identity_and_trace_are_handed_on() {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", "a=b".parse().expect("valid"));
        headers.insert("x-user-id", "1".parse().expect("valid"));
        headers.insert("traceparent", "00-1-2-01".parse().expect("valid"));
        let kept = passed_on(&headers, UserId(98765));
        assert_eq!(kept.len(), 2);
        assert_eq!(kept["x-user-id"], "98765");
    }
}
