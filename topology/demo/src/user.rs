//! The user service: one profile row as JSON. Not for who may see it. Called by `web`.
//!
//! Invariant: reads only.

use serde_json::json;

use crate::answer::Answer;
use crate::identity::UserId;
use crate::web::{Web, no_such, number_after};

/// `…/user/profile` is the asking user's row, `…/user/ID` any one's.
pub(crate) async fn answer(web: &Web, asks: UserId, path: &str) -> Result<Answer, Answer> {
    if !path.contains("/user/") {
        return Err(no_such(path));
    }
    let number = match number_after(path, "user") {
        Some(number) => number,
        None if path.trim_end_matches('/').ends_with("profile") => asks.0,
        None => return Err(no_such(path)),
    };
    let mut answer = by_number(web, Some(number)).await?;
    if let Some(version) = version(path) {
        answer.body.insert("version".to_owned(), version.into());
    }
    Ok(answer)
}

/// The row of this number.
pub(crate) async fn by_number(web: &Web, number: Option<i64>) -> Result<Answer, Answer> {
    let Some(number) = number else { return Err(Answer::bad_request("name a user by number")) };
    let rows = web.database.rows(PROFILE, &[&number]).await?;
    let Some(row) = rows.first() else {
        return Err(Answer::not_found(format!("no user has the number {number}")));
    };
    Ok(Answer::ok(json!({
        "id": row.get::<_, i64>(0),
        "name": row.get::<_, String>(1),
        "bio": row.get::<_, String>(2),
        "followers": row.get::<_, i32>(3),
        "following": row.get::<_, i32>(4),
        "posts": row.get::<_, i32>(5),
    })))
}

/// 2 of `/api/v2/…`.
fn version(path: &str) -> Option<u32> {
    path.split('/').find_map(|segment| segment.strip_prefix('v')?.parse().ok())
}

const PROFILE: &str = "SELECT id, name, bio, followers, following, posts FROM users WHERE id = $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_a_segment_of_its_own() {
        assert_eq!(version("/api/v2/user/profile"), Some(2));
        assert_eq!(version("/api/user/vera"), None);
    }
}
