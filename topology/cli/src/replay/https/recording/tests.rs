//! Recordings: every format, hostile text, broken places, time.

use proptest::prelude::*;

use super::*;

/// There are no other files.
fn nowhere(_: &str) -> std::io::Result<Vec<u8>> {
    Err(std::io::ErrorKind::NotFound.into())
}

/// All of a text without a fault.
fn lines(text: &str) -> Vec<Recorded> {
    let (found, faults) = parse(text, &nowhere).unwrap();
    assert_eq!(faults, Vec::<String>::new());
    from_zero(found)
}

fn parse_all(text: &str) {
    let _ = parse(text, &nowhere).map(|(found, _)| from_zero(found));
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
    assert_eq!((&recorded[1].method, recorded[1].expected.status), (&Method::POST, Some(401)));
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
    let recorded = lines(&har);
    let one = &recorded[0];
    assert_eq!((one.user.as_deref(), one.body.as_ref()), (Some("7"), b"hi".as_slice()));
    assert_eq!(one.headers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["accept"]);
    assert_eq!((one.target.to_string(), one.expected.status), ("/a?b=c".to_owned(), None));
}

/// O5: what cannot be read is told with its place, in every format; the rest is read.
#[test]
fn a_broken_place_is_named() {
    for (text, place) in [
        ("{\"path\":\"/\"}\n{}", "line 2: says no url, path or endpoint"),
        ("GET /a\n\nGET /b\nno header", "line 3: \"no header\": write NAME: VALUE"),
        (
            "h - - [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.1\" 200 5\nh - - nonsense",
            "line 2: no [time]: not a combined log",
        ),
    ] {
        let (found, faults) = parse(text, &nowhere).unwrap();
        assert_eq!((found.len(), faults), (1, vec![place.to_owned()]), "{text}");
    }
    let har = r#"{"log":{"entries":[{"request":{}},{"startedDateTime":"2026-11-20T23:45:00Z",
        "request":{"method":"GET","url":"/a"},"response":{"status":200}}]}}"#;
    let (found, faults) = parse(har, &nowhere).unwrap();
    assert_eq!(found.len(), 1);
    assert!(faults[0].starts_with("entry 0: missing field"), "{faults:?}");
    let error = format!("{:#}", parse("{\n \"log\": 5,", &nowhere).unwrap_err());
    assert!(error.contains("line 2"), "{error}");
}

/// R2: a broken recording is refused with its place, or used as far as it can be.
#[test]
fn broken_recordings_are_refused_or_skipped() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"path\":\"/\"}\n{}\n").unwrap();
    let refusal = format!("{:#}", read(file.path(), false).unwrap_err());
    assert!(refusal.contains("line 2") && refusal.contains("--broken skip"), "{refusal}");
    let used = read(file.path(), true).unwrap();
    assert_eq!((used.requests.len(), used.faults.len(), used.timed), (1, 1, false));
}

/// R2: a web server's log: times, users, statuses, sizes, agents.
#[test]
fn a_combined_log_is_a_recording() {
    let recorded = lines(concat!(
        r#"10.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a/1?b HTTP/1.0" 200 2326 "http://x/" "Moz \"5\"""#,
        "\n",
        r#"10.0.0.2 - - [10/Oct/2000:13:55:38 -0700] "POST /b HTTP/1.1" 404 -"#,
    ));
    let [one, two] = recorded.as_slice() else { panic!("{recorded:?}") };
    assert_eq!((one.user.as_deref(), one.session.as_deref()), (Some("frank"), Some("10.0.0.1")));
    assert_eq!((one.target.to_string(), one.route.as_str()), ("/a/1?b".into(), "GET /a/*"));
    let expected = Expected { status: Some(200), bytes: Some(2326), digest: None };
    assert_eq!(
        (one.expected, one.headers["user-agent"].as_bytes()),
        (expected, br#"Moz \"5\""#.as_slice())
    );
    assert_eq!(
        (two.at, two.user.as_deref(), &two.method),
        (Duration::from_secs(2), None, &Method::POST)
    );
}

/// R2: a list of targets with headers and bodies out of files.
#[test]
fn targets_are_a_recording() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cart.json"), "{}").unwrap();
    let text =
        "# the shop\nGET https://shop.example/a\nAccept: */*\n\nPOST /cart\n@cart.json\nGET /c\n";
    let (found, faults) = parse(text, &|file| std::fs::read(folder.path().join(file))).unwrap();
    assert_eq!((found.len(), faults.len()), (3, 0), "{faults:?}");
    assert_eq!(found[0].1.host.as_deref(), Some("shop.example"));
    assert_eq!((found[1].1.body.as_ref(), found[1].0), (b"{}".as_slice(), None));
}

/// R2: what a recording says of answers is what a replay compares with.
#[test]
fn answers_are_remembered() {
    let line = format!(
        r#"{{"method":"GET","url":"/a","host":"api.example","headers":{{"accept":["a","b"]}},"session":"7-1","route":"/a","status":200,"bytes_out":2,"body_sha256":"{}"}}"#,
        "ab".repeat(32)
    );
    let one = &lines(&line)[0];
    let expected = Expected { status: Some(200), bytes: Some(2), digest: Some([0xab; 32]) };
    assert_eq!(
        (one.expected, one.session.as_deref(), one.route.as_str()),
        (expected, Some("7-1"), "/a")
    );
    assert_eq!(one.headers.get_all("accept").iter().count(), 2);
    let har = r#"{"log":{"entries":[{"startedDateTime":"2026-11-20T23:45:00Z","connection":"443",
        "request":{"method":"GET","url":"/a"},
        "response":{"status":200,"bodySize":2,"content":{"text":"aGk=","encoding":"base64"}}}]}}"#;
    let one = &lines(har)[0];
    assert_eq!((one.expected.bytes, one.session.as_deref()), (Some(2), Some("443")));
    assert_eq!(one.expected.digest.unwrap()[..4], [0x8f, 0x43, 0x43, 0x46]);
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
        ("9223372036854775807-01-01T00:00:00Z", None),
        ("2026-9223372036854775807-01T00:00:00Z", None),
        ("2026-01--9223372036854775808T00:00:00Z", None),
    ] {
        assert_eq!(time::instant(text), seconds, "{text}");
    }
}

/// Lines that are no request, each alone in its format.
const BROKEN_NDJSON: [&str; 12] = [
    "{",
    "nonsense",
    "[1]",
    "{}",
    r#"{"path":"/","body":"*"}"#,
    r#"{"path":"/","status":777}"#,
    r#"{"path":"/","timestamp":"soon"}"#,
    r#"{"path":"/","body_sha256":"abc"}"#,
    r#"{"path":"/","headers":{"a b":"c"}}"#,
    r#"{"path":"/","headers":{"a":"b\nc"}}"#,
    r#"{"path":"http://"}"#,
    "{\"path\":\"/\u{fffd}\"}",
];
const BROKEN_COMBINED: [&str; 9] = [
    "h - - nonsense",
    r#"h - - [yesterday] "GET / HTTP/1.1" 200 5"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "GET" 200 5"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" two 5"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5x"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5 "-" "cut"#,
    r#"h - - [10/Oct/2000:13:55:36 -0700] "G@T / HTTP/1.1" 200 5"#,
    "h - - [10/Oct/2000:13:55:36 -0700] \"GET /\u{fffd} HTTP/1.1\" 200 5",
];
const BROKEN_TARGETS: [&str; 6] = [
    "GET /a\nno header",
    "get /a",
    "GET /a\n@missing",
    "GET /a\na b: c",
    "GET http://",
    "GET /\u{fffd}",
];
const BROKEN_ENTRIES: [&str; 7] = [
    "5",
    "{}",
    r#"{"startedDateTime":"soon","request":{"method":"GET","url":"/"},"response":{"status":200}}"#,
    r#"{"startedDateTime":"2026-11-20T23:45:00Z","request":{"method":"GET","url":"http://"},"response":{"status":200}}"#,
    r#"{"startedDateTime":"2026-11-20T23:45:00Z","request":{"method":"G T","url":"/"},"response":{"status":200}}"#,
    r#"{"startedDateTime":"2026-11-20T23:45:00Z","request":{"method":"GET","url":"/"},"response":{"status":99}}"#,
    r#"{"startedDateTime":"2026-11-20T23:45:00Z","request":{"method":"GET","url":"/"},"response":{"status":200,"content":{"text":"*","encoding":"base64"}}}"#,
];

/// A file of requests with broken ones among them, and the places of these. The first is whole: by it a
/// format is told. A broken one is told by its number, blank lines before it as well.
fn recorded(format: usize, pieces: &[(Option<usize>, usize)]) -> (String, Vec<String>) {
    let (mut text, mut places, mut line) = (String::new(), Vec::new(), 1);
    let whole: &dyn Fn(usize) -> String = match format {
        0 => &|n| format!(r#"{{"method":"PUT","url":"/a/{n}?b","status":499,"at_ms":{n}}}"#),
        1 => &|n| {
            format!(r#"h - u [10/Oct/2000:13:55:36 -0700] "GET /{n} HTTP/1.1" 200 - "-" "x y""#)
        },
        2 => &|n| format!("GET https://api.example/{n}\nAccept: text/html\nX-Umlaut: ä"),
        _ => &|n| {
            format!(
                r#"{{"startedDateTime":"2026-11-20T23:45:00Z","request":{{"method":"GET","url":"/{n}","headers":[{{"name":":path","value":"/"}}]}},"response":{{"status":0}}}}"#
            )
        },
    };
    let broken: &[&str] =
        [&BROKEN_NDJSON[..], &BROKEN_COMBINED, &BROKEN_TARGETS, &BROKEN_ENTRIES][format];
    for (number, (kind, blank)) in [(None, 0)].iter().chain(pieces).enumerate() {
        let piece = match kind {
            None => whole(number),
            Some(kind) => broken[kind % broken.len()].to_owned(),
        };
        if format == 3 {
            places.extend(kind.map(|_| format!("entry {number}")));
            text += if number == 0 { "" } else { "," };
            text += &piece;
            continue;
        }
        // Targets have an empty line between them.
        let blank = blank + usize::from(format == 2 && number > 0);
        line += blank;
        places.extend(kind.map(|_| format!("line {line}")));
        line += piece.lines().count();
        text += &format!("{}{piece}\n", "\n".repeat(blank));
    }
    if format == 3 {
        text = format!(r#"{{"log":{{"entries":[{text}]}}}}"#);
    }
    (text, places)
}

proptest! {
    #[test]
    fn any_text_is_a_recording_or_an_error(text in "\\PC{0,60}") {
        parse_all(&text);
        parse_all(&format!("GET /\n{text}"));
        parse_all(&format!("h - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\"{text}"));
        let _ = time::instant(&text);
        let _ = time::logged(&text);
        let _ = subject(&format!("Bearer {text}"));
    }

    /// R2, O5: every broken piece is told with its place, no other is, and it is refused or skipped as chosen.
    #[test]
    fn every_broken_piece_is_told_with_its_place(
        format in 0usize..4,
        pieces in proptest::collection::vec((proptest::option::of(0usize..84), 0usize..3), 0..20),
    ) {
        let (text, places) = recorded(format, &pieces);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let used = read(file.path(), true).unwrap();
        let told: Vec<&str> = used.faults.iter().filter_map(|f| Some(f.split_once(": ")?.0)).collect();
        prop_assert_eq!(&told, &places, "{}", text);
        prop_assert_eq!(used.requests.len(), 1 + pieces.len() - places.len());
        match (read(file.path(), false), places.first()) {
            (Ok(whole), None) => prop_assert_eq!(whole.requests, used.requests),
            (Err(refusal), Some(first)) => {
                let refusal = refusal.to_string();
                prop_assert!(refusal.contains(&format!(": {first}: ")), "{}", refusal);
            }
            (other, first) => prop_assert!(false, "{:?} with {:?}", other.is_ok(), first),
        }
    }

    /// Whatever the bytes of a file.
    #[test]
    fn any_bytes_are_a_recording_or_an_error(format in 0usize..4, at in 0usize..400, byte: u8) {
        let (text, _) = recorded(format, &[(None, 1), (Some(at), 0), (None, 0)]);
        let mut bytes = text.into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(found) = decode(&bytes, &nowhere) {
            prop_assert!(found.requests.iter().is_sorted_by_key(|request| request.at));
        }
        let _ = decode(&bytes[at..], &nowhere);
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

/// R2: a form that is written as its fields is sent as browsers send it; what cannot be told is a fault with
/// its place, never an empty body.
#[test]
fn forms_without_text_are_encoded() {
    let entry = |media: &str, params: &str| {
        format!(
            r#"{{"log":{{"entries":[{{"startedDateTime":"2026-11-20T23:45:00Z","request":{{"method":"POST",
            "url":"https://a/login","postData":{{"mimeType":"{media}","params":{params}}}}},
            "response":{{"status":200}}}}]}}}}"#
        )
    };
    let fields = r#"[{"name":"user","value":"liv & co"},{"name":"näme","value":"a=b+c"}]"#;
    let form = entry("application/x-www-form-urlencoded; charset=utf-8", fields);
    assert_eq!(&lines(&form)[0].body[..], b"user=liv+%26+co&n%C3%A4me=a%3Db%2Bc");
    let (found, faults) = parse(&entry("multipart/form-data", fields), &nowhere).unwrap();
    assert!(found.is_empty(), "{found:?}");
    assert!(faults[0].starts_with("entry 0: postData: params without text"), "{faults:?}");
}
