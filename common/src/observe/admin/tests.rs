//! What the admin listener answers, without a socket.

use super::*;

struct Fake(Vec<String>);

impl Inspect for Fake {
    fn config(&self) -> serde_json::Value {
        serde_json::json!({ "a": 1 })
    }
    fn unready(&self) -> Vec<String> {
        self.0.clone()
    }
    fn summary(&self) -> Summary {
        Summary {
            unit: Unit::Requests,
            connections: 1,
            work_total: 2,
            errors_total: 0,
            p50_us: None,
            p99_us: None,
        }
    }
    fn endpoints(&self) -> serde_json::Value {
        serde_json::json!([])
    }
}

fn admin(unready: &[&str], token: Option<&str>) -> Admin {
    Admin {
        lifecycle: Lifecycle::new(),
        metrics: Metrics::new(),
        inspect: Arc::new(Fake(unready.iter().map(|reason| (*reason).to_owned()).collect())),
        token: token.map(|token| Secret::new(token.as_bytes().to_vec())),
        log_level: None,
    }
}

fn ask(admin: &Admin, method: &str, path: &str, token: Option<&str>) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    admin.answer(&request.body(()).expect("request")).status()
}

/// O1: health, metrics and configuration answer; what is unknown is 404, a wrong method 405.
#[test]
fn paths_answer() {
    let admin = admin(&[], None);
    for path in ["/livez", "/readyz", "/metrics", "/config", "/summary", "/endpoints"] {
        assert_eq!(ask(&admin, "GET", path, None), StatusCode::OK, "{path}");
    }
    assert_eq!(ask(&admin, "GET", "/nothing", None), StatusCode::NOT_FOUND);
    assert_eq!(ask(&admin, "GET", "/traffic", None), StatusCode::NOT_FOUND);
    assert_eq!(ask(&admin, "POST", "/traffic", None), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(&admin, "POST", "/metrics", None), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(&admin, "POST", "/log?level=debug", None), StatusCode::BAD_REQUEST);
    for query in ["", "?", "?uri=/a", "?prefix=", "?all=1", "?none"] {
        let path = format!("/cache/purge{query}");
        assert_eq!(ask(&admin, "POST", &path, None), StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(ask(&admin, "POST", "/cache/purge?all", None), StatusCode::NOT_FOUND);
    assert_eq!(ask(&admin, "GET", "/cache/purge?all", None), StatusCode::METHOD_NOT_ALLOWED);
}

/// O1: an instance that is not ready or drains says so, and still lives.
#[test]
fn readiness_has_reasons() {
    let starting = admin(&["no key set yet"], None);
    assert_eq!(ask(&starting, "GET", "/readyz", None), StatusCode::SERVICE_UNAVAILABLE);
    let running = admin(&[], None);
    assert_eq!(ask(&running, "POST", "/drain", None), StatusCode::ACCEPTED);
    assert_eq!(ask(&running, "GET", "/readyz", None), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&running, "GET", "/livez", None), StatusCode::OK);
}

/// O1: with a token set, only health answers without it.
#[test]
fn the_token_is_asked_for() {
    let admin = admin(&[], Some("s3cret\n"));
    assert_eq!(ask(&admin, "GET", "/livez", None), StatusCode::OK);
    for token in [None, Some(""), Some("s3cre"), Some("s3cret2")] {
        assert_eq!(ask(&admin, "GET", "/config", token), StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&admin, "POST", "/drain", token), StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&admin, "POST", "/cache/purge?all", token), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(ask(&admin, "GET", "/config", Some("s3cret")), StatusCode::OK);
}
