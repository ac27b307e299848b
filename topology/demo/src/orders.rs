//! Orders: checkout (the one write of the demo), listing, and notifications. Not for money.
//! Called by `web`.
//!
//! Invariant: an order and its payment exist both or not at all.

use bytes::Bytes;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::answer::Answer;
use crate::identity::UserId;
use crate::web::{Web, no_such, number_after, parameter};

/// What a checkout may say; all of it optional.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Checkout {
    item: String,
    /// In cents.
    amount: i32,
    method: String,
}

impl Default for Checkout {
    fn default() -> Self {
        Self { item: "aqueduct poster".into(), amount: 1999, method: "card".into() }
    }
}

/// Books an order and its payment in one transaction: 201 with their numbers.
pub(crate) async fn checkout(web: &Web, asks: UserId, body: &Bytes) -> Result<Answer, Answer> {
    let wish = wish(body)?;
    let (order, payment) = web
        .database
        .transaction(async |transaction| {
            let order: i64 = transaction
                .query_one(NEW_ORDER, &[&asks.0, &wish.item, &wish.amount])
                .await?
                .get(0);
            let row =
                transaction.query_one(NEW_PAYMENT, &[&order, &wish.amount, &wish.method]).await?;
            Ok((order, row.get::<_, i64>(0)))
        })
        .await?;
    Ok(Answer::new(
        StatusCode::CREATED,
        json!({
            "order": order, "payment": payment, "user": asks.0,
            "item": wish.item, "amount": wish.amount, "status": "paid",
        }),
    ))
}

/// `/orders?user=ID` lists, `/orders/ID` shows one.
pub(crate) async fn answer(web: &Web, asks: UserId, uri: &Uri) -> Result<Answer, Answer> {
    if let Some(number) = number_after(uri.path(), "orders") {
        let rows = web.database.rows(ONE_ORDER, &[&number]).await?;
        return match rows.first() {
            Some(row) => Ok(Answer::ok(order(row))),
            None => Err(Answer::not_found(format!("no order has the number {number}"))),
        };
    }
    if !uri.path().trim_end_matches('/').ends_with("/orders") {
        return Err(no_such(uri.path()));
    }
    let user = match parameter(uri, "user").map(|text| text.parse::<i64>()) {
        None => asks.0,
        Some(Ok(user)) => user,
        Some(Err(_)) => return Err(Answer::bad_request("user is a number")),
    };
    let rows = web.database.rows(ORDERS_OF, &[&user]).await?;
    Ok(Answer::ok(json!({ "user": user, "orders": rows.iter().map(order).collect::<Vec<_>>() })))
}

/// The newest notifications of a user.
pub(crate) async fn notifications(web: &Web, number: Option<i64>) -> Result<Answer, Answer> {
    let Some(user) = number else { return Err(Answer::bad_request("name a user by number")) };
    let rows = web.database.rows(NOTIFICATIONS, &[&user]).await?;
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.get::<_, i64>(0),
                "text": row.get::<_, String>(1),
                "seen": row.get::<_, bool>(2),
            })
        })
        .collect();
    Ok(Answer::ok(json!({ "user": user, "notifications": list })))
}

fn wish(body: &Bytes) -> Result<Checkout, Answer> {
    let wish = match body.is_empty() {
        true => Checkout::default(),
        false => serde_json::from_slice(body)
            .map_err(|error| Answer::bad_request(format!("the body: {error}")))?,
    };
    match wish.amount {
        1..=1_000_000 => Ok(wish),
        other => Err(Answer::bad_request(format!("amount {other}: write 1 to 1000000 cents"))),
    }
}

fn order(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>(0),
        "user": row.get::<_, i64>(1),
        "item": row.get::<_, String>(2),
        "amount": row.get::<_, i32>(3),
        "status": row.get::<_, String>(4),
    })
}

const NEW_ORDER: &str =
    "INSERT INTO orders (user_id, item, amount, status) VALUES ($1, $2, $3, 'paid') RETURNING id";
const NEW_PAYMENT: &str =
    "INSERT INTO payments (order_id, amount, method) VALUES ($1, $2, $3) RETURNING id";
const ONE_ORDER: &str = "SELECT id, user_id, item, amount, status FROM orders WHERE id = $1";
const ORDERS_OF: &str = "SELECT id, user_id, item, amount, status FROM orders \
     WHERE user_id = $1 ORDER BY id DESC LIMIT 50";
const NOTIFICATIONS: &str =
    "SELECT id, text, seen FROM notifications WHERE user_id = $1 ORDER BY id DESC LIMIT 50";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_checked() {
        assert_eq!(wish(&Bytes::new()).expect("default").amount, 1999);
        assert!(wish(&Bytes::from_static(b"{\"amount\": 0}")).is_err());
        assert!(wish(&Bytes::from_static(b"{\"amuont\": 5}")).is_err());
        assert!(wish(&Bytes::from_static(b"nonsense")).is_err());
    }
}
