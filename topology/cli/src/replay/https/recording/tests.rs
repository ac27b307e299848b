//! Recordings: both formats, hostile text, time.

use proptest::prelude::*;

use super::*;

fn lines(text: &str) -> Vec<Recorded> {
    from_zero(ndjson(text).unwrap())
}

/// R2: the gateway's access log is a recording: its users and times come along.
#[test]
fn an_access_log_is_a_recording() {
    let recorded = lines(concat!(
        r#"{"timestamp":"2026-11-20T23:59:59.750Z","userId":98765,"endpoint":"GET /api/user/profile","latency_ms":1,"status":200,"service":"user"}"#,
        "\n\n",
        r#"{"timestamp":"2026-11-21T00:00:00.000Z","userId":null,"endpoint":"POST /api/checkout/cart?x=1","status":401}"#,
    ));
    assert_eq!(recorded.len(), 2);
    assert_eq!((recorded[0].at, recorded[1].at), (Duration::ZERO, Duration::from_millis(250)));
    assert_eq!((recorded[0].user.as_deref(), recorded[1].user.as_deref()), (Some("98765"), None));
    assert_eq!(recorded[1].target, "/api/checkout/cart?x=1");
    assert_eq!((&recorded[1].method, recorded[1].status), (&Method::POST, Some(401)));
}

/// R2: secrets of a recording never leave again; who asked is kept, to be signed anew.
#[test]
fn secrets_are_dropped_and_users_are_kept() {
    let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"userId":7}"#);
    let har = format!(
        r#"{{"log":{{"entries":[{{"startedDateTime":"2026-11-20T23:45:00.000+01:00","request":
        {{"method":"PUT","url":"https://api.example/a?b=c","headers":[
          {{"name":"Authorization","value":"Bearer e30.{claims}.sig"}},{{"name":"Cookie","value":"s=1"}},
          {{"name":":authority","value":"x"}},{{"name":"Accept","value":"*/*"}}],
        "postData":{{"text":"hi"}}}},"response":{{"status":0}}}}]}}}}"#
    );
    let recorded = from_zero(super::har(&har).unwrap());
    let one = &recorded[0];
    assert_eq!((one.user.as_deref(), one.body.as_ref()), (Some("7"), b"hi".as_slice()));
    assert_eq!(one.headers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["accept"]);
    assert_eq!((one.target.to_string(), one.status), ("/a?b=c".to_owned(), None));
}

#[test]
fn a_bad_line_is_named() {
    let error = format!("{:#}", ndjson("{\"path\":\"/\"}\n{}").unwrap_err());
    assert_eq!(error, "line 2: says no url, path or endpoint");
}

#[test]
fn known_instants() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", Some(0.0)),
        ("2000-02-29T12:00:00Z", Some(951_825_600.0)),
        ("2026-11-20T23:45:00.5+01:00", Some(1_795_214_700.5)),
        ("2026-13-01T00:00:00Z", None),
        ("yesterday", None),
        ("2026-11-20T23:45:00", None),
    ] {
        assert_eq!(instant(text), seconds, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_recording_or_an_error(text in "\\PC{0,60}") {
        let _ = ndjson(&text).map(from_zero);
        let _ = super::har(&text).map(from_zero);
        let _ = instant(&text);
        let _ = subject(&format!("Bearer {text}"));
    }

    #[test]
    fn offsets_begin_at_zero_and_never_go_back(times in proptest::collection::vec(proptest::option::of(-1e15f64..1e15), 1..20)) {
        let text: String = times.iter().map(|at| match at {
            Some(at) => format!("{{\"path\":\"/\",\"at_ms\":{at}}}\n"),
            None => "{\"path\":\"/\"}\n".to_owned(),
        }).collect();
        let recorded = lines(&text);
        prop_assert_eq!(recorded.len(), times.len());
        prop_assert_eq!(recorded[0].at, Duration::ZERO);
        prop_assert!(recorded.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
