//! Requests against the documented cases of `google.api.http`, and descriptions that cannot work.

use std::path::PathBuf;

use bytes::Bytes;
use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::message::{MessageError, message};
use super::*;

const SHOP: &str = r#"syntax = "proto3";
package shop.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
service Cart {
  rpc Get(GetRequest) returns (Item) {
    option (google.api.http) = {
      get: "/v1/{name=shelves/*/items/*}"
      additional_bindings { get: "/v1/items/{id}" }
      additional_bindings { get: "/v1/files/{name=**}" }
    };
  }
  rpc Put(PutRequest) returns (Item) {
    option (google.api.http) = { put: "/v1/items/{item.id}" body: "item" response_body: "name" };
  }
  rpc Add(Item) returns (Item) { option (google.api.http) = { post: "/v1/items" body: "*" }; }
  rpc Replace(GetRequest) returns (Item) { option (google.api.http) = { post: "/v1/items/{name}" body: "*" }; }
  rpc Undelete(GetRequest) returns (Item) { option (google.api.http) = { post: "/v1/items/{id}:undelete" body: "*" }; }
  rpc Purge(GetRequest) returns (Item) { option (google.api.http) = { custom: { kind: "PURGE" path: "/v1/items" } }; }
  rpc Watch(GetRequest) returns (stream Item) { option (google.api.http) = { get: "/v1/items:watch" }; }
  rpc Mine(GetRequest) returns (Item) { option (google.api.http) = { get: "/v1/users/@me" }; }
  rpc Any(GetRequest) returns (Item) { option (google.api.http) = { custom: { kind: "*" path: "/v1/any/{id}" } }; }
  rpc Upload(File) returns (google.api.HttpBody) { option (google.api.http) = { post: "/v1/uploads/{name}" body: "body" }; }
  rpc Talk(stream Item) returns (stream Item);
  rpc Plain(GetRequest) returns (Item);
}
enum Kind { KIND_NONE = 0; KIND_BIG = 1; }
message GetRequest {
  string name = 1;
  int64 id = 2;
  repeated string tags = 3;
  google.protobuf.Timestamp since = 4;
  Kind kind = 5;
  google.protobuf.BoolValue really = 6;
  Item inner = 7;
  bytes raw = 8;
  oneof how { string by_hand = 9; int32 by_machine = 10; }
  double size = 11;
  google.protobuf.Struct notes = 12;
  google.protobuf.Any more = 13;
  map<int32, string> ranks = 14;
}
message File { string name = 1; google.api.HttpBody body = 2; }
message PutRequest { Item item = 1; bool dry = 2; }
message Item { string name = 1; int64 id = 2; map<string, string> labels = 3; }
"#;

fn model(files: Vec<PathBuf>) -> Transcode {
    let from = Descriptions::Sources { files, include: Vec::new() };
    Transcode { from, services: Vec::new(), most: 4 << 20, place: Place::default() }
}

fn shop() -> Arc<Interface> {
    of(SHOP).expect("descriptions")
}

fn of(text: &str) -> Result<Arc<Interface>, DescriptionError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.proto");
    std::fs::write(&file, text).expect("written");
    Interface::new(&model(vec![file]))
}

/// The message that a service is sent.
fn sent(
    meant: &Meant<'_>,
    query: Option<&str>,
    body: &[u8],
) -> Result<prost_reflect::DynamicMessage, MessageError> {
    let framed = message(meant, query, (body, 1 << 20))?;
    Ok(unframed(meant, &framed))
}

fn unframed(meant: &Meant<'_>, framed: &[u8]) -> prost_reflect::DynamicMessage {
    let (head, rest) = framed.split_at(5);
    let length = u32::try_from(rest.len()).expect("short").to_be_bytes();
    assert_eq!(head, [&[0][..], &length].concat());
    let input = meant.binding.call.input.clone();
    prost_reflect::DynamicMessage::decode(input, rest).expect("a message")
}

/// What a request means: the method and its message as JSON, or why it means nothing.
fn told(
    shop: &Interface,
    method: &Method,
    target: &str,
    body: &str,
) -> Result<(String, Value), String> {
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let meant = shop.find(method, path).map_err(|why| match why {
        NoCall::Path => "no call".to_owned(),
        NoCall::Method(others) => format!("for {others:?}"),
    })?;
    let message = sent(&meant, query, body.as_bytes()).map_err(|why| why.to_string())?;
    let name = meant.binding.call.path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok((name, serde_json::to_value(&message).expect("JSON")))
}

/// G15: the documented cases of `google.api.http`: paths, bodies, queries, verbs, additional bindings.
#[test]
fn requests_mean_calls() {
    let shop = shop();
    let get = Method::GET;
    let purge = Method::from_bytes(b"PURGE").expect("a method");
    let cases: [(&Method, &str, &str, &str, Value); 20] = [
        (
            &get,
            "/v1/shelves/7/items/a%3Fb%20c",
            "",
            "Get",
            json!({"name": "shelves/7/items/a?b c"}),
        ),
        (&get, "/v1/items/42", "", "Get", json!({"id": "42"})),
        (
            &get,
            "/v1/items/-7?tags=a&tags=b%26c",
            "",
            "Get",
            json!({"id": "-7", "tags": ["a", "b&c"]}),
        ),
        (&get, "/v1/files/a/b/c.txt", "", "Get", json!({"name": "a/b/c.txt"})),
        (&get, "/v1/files/", "", "Get", json!({})),
        (
            &get,
            "/v1/items/1?since=2026-01-02T03:04:05Z&kind=KIND_BIG&really=true",
            "",
            "Get",
            json!({"id": "1", "since": "2026-01-02T03:04:05Z", "kind": "KIND_BIG", "really": true}),
        ),
        (
            &get,
            "/v1/items/1?kind=1&inner.name=x&inner.id=3&raw=_-8",
            "",
            "Get",
            json!({"id": "1", "kind": "KIND_BIG", "inner": {"name": "x", "id": "3"}, "raw": "/+8="}),
        ),
        (
            &Method::PUT,
            "/v1/items/5?dry=true",
            "{\"name\":\"n\"}",
            "Put",
            json!({"item": {"name": "n", "id": "5"}, "dry": true}),
        ),
        (&Method::PUT, "/v1/items/5", "", "Put", json!({"item": {"id": "5"}})),
        (
            &Method::POST,
            "/v1/items",
            "{\"labels\":{\"a\":\"b\"},\"id\":\"9007199254740993\"}",
            "Add",
            json!({"labels": {"a": "b"}, "id": "9007199254740993"}),
        ),
        (
            &Method::POST,
            "/v1/items/3:undelete",
            "{\"name\":\"x\"}",
            "Undelete",
            json!({"id": "3", "name": "x"}),
        ),
        (&Method::POST, "/v1/items/x:y", "", "Replace", json!({"name": "x:y"})),
        (&Method::HEAD, "/v1/items/42", "", "Get", json!({"id": "42"})),
        (&get, "/v1/users/%40me", "", "Mine", json!({})),
        (&purge, "/v1/any/7", "", "Any", json!({"id": "7"})),
        (
            &get,
            "/v1/items/1?byHand=x&size=-1.5e3",
            "",
            "Get",
            json!({"id": "1", "byHand": "x", "size": -1500.0}),
        ),
        (&purge, "/v1/items?id=4", "", "Purge", json!({"id": "4"})),
        (&get, "/v1/items:watch", "", "Watch", json!({})),
        (&Method::POST, "/shop.v1.Cart/Plain", "{\"id\": 5}", "Plain", json!({"id": "5"})),
        (&Method::POST, "/shop.v1.Cart/Plain", "", "Plain", json!({})),
    ];
    for (method, target, body, call, message) in cases {
        let found = told(&shop, method, target, body);
        assert_eq!(found, Ok((call.to_owned(), message)), "{method} {target} {body}");
    }
}

/// G15: what fits no field is refused with its name; other paths and methods mean nothing.
#[test]
fn what_fits_nowhere_is_refused() {
    let shop = shop();
    let deep = format!("{}{}", "{\"inner\":".repeat(200), "{}".to_owned() + &"}".repeat(200));
    for (method, target, body, part) in [
        ("GET", "/v1/items/x", "", "`x` is no value of `id`"),
        ("GET", "/v1/items/99999999999999999999", "", "is no value of `id`"),
        ("GET", "/v1/items/1?nobody=1", "", "there is no field `nobody`"),
        ("GET", "/v1/items/1?id=2", "", "there is no field `id`"),
        ("GET", "/v1/items/1?inner=2", "", "is no value of `inner`"),
        ("GET", "/v1/items/1?since=yesterday", "", "is no value of `since`"),
        ("GET", "/v1/items/1?inner.labels=2", "", "`2` is no value of"),
        ("GET", "/v1/items/1?inner.name.x=2", "", "there is no field `inner.name.x`"),
        ("GET", "/v1/items/1", "{}", "takes no body"),
        ("POST", "/v1/items", "{\"nobody\":1}", "the body is no Item"),
        ("POST", "/v1/items", "{} {}", "the body is no Item"),
        ("POST", "/v1/items", "[]", "the body is no Item"),
        ("POST", "/v1/items?name=x", "{}", "there is no field `name`"),
        ("PUT", "/v1/items/1", "},\"dry\":{", "the body is no PutRequest"),
        ("PUT", "/v1/items/1", "{\"name\":\"x\"},\"dry\":true", "the body is no PutRequest"),
        ("POST", "/shop.v1.Cart/Plain", deep.as_str(), "the body is no GetRequest"),
        ("DELETE", "/v1/items/1", "", "for [GET, HEAD, POST, PUT]"),
        ("GET", "/v1/items", "", "for [POST, PURGE]"),
        ("GET", "/shop.v1.Cart/Plain", "", "for [POST]"),
        ("DELETE", "/v1/items:watch", "", "for [GET, HEAD]"),
        ("GET", "/v1/items/1?inner.name=%FF", "", "the query is no text"),
        ("GET", "/v1/items/1?%FF=1", "", "the query is no text"),
        ("GET", "/v1/items/1?really=true;x", "", "is no value of `really`"),
        ("GET", "/v1/items/1?inner.id=5abc", "", "is no value of `inner.id`"),
        ("GET", "/v1/items/1?inner={\"name\":\"x\"}junk", "", "is no value of `inner`"),
        ("GET", "/v1/items/1?inner={\"name\":\"x\"}", "", "is no value of `inner`"),
        ("GET", "/v1/items/1?notes={}", "", "is no value of `notes`"),
        ("GET", "/v1/items/1?since=2026-01-02T03:04:05Z%22", "", "is no value of `since`"),
        ("GET", "/v1/items/1?size=inf", "", "is no value of `size`"),
        ("GET", "/v1/items/1?size=1e999", "", "is no value of `size`"),
        ("GET", "/v1/items/1?name=a&name=a", "", "`name` cannot be said again"),
        ("GET", "/v1/items/1?inner.id=1&inner.id=2", "", "`inner.id` cannot be said again"),
        ("GET", "/v1/items/1?really=true&really.value=false", "", "cannot be said again"),
        ("GET", "/v1/items/1?by_hand=x&byMachine=1", "", "`byMachine` cannot be said again"),
        ("PUT", "/v1/items/1?item.name=x", "", "there is no field `item.name`"),
        ("GET", "/v1/items/1/2", "", "no call"),
        ("GET", "/v1/shelves//items/1", "", "no call"),
        ("POST", "/shop.v1.Cart/Talk", "", "no call"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let found = told(&shop, &method, target, body).expect_err(target);
        assert!(found.contains(part), "{method} {target}: {found}");
    }
}

/// G15: descriptions that cannot work are refused where they are named.
#[test]
fn descriptions_are_refused_in_words() {
    let service = |rule: &str| {
        format!(
            "syntax = \"proto3\";\nimport \"google/api/annotations.proto\";\nmessage M {{ string a = 1; repeated M b = 2; }}\nservice S {{ rpc C(M) returns (M) {{ option (google.api.http) = {{ {rule} }}; }} }}"
        )
    };
    for (text, part) in [
        ("syntax = \"proto3\"; message {".to_owned(), "shop.proto"),
        ("syntax = \"proto3\"; import \"none.proto\";".to_owned(), "none.proto"),
        ("syntax = \"proto3\";".to_owned(), "no method"),
        (service("get: \"/a/{c}\""), "`c` of `/a/{c}` is no field of M"),
        (service("get: \"/a/{b.a}\""), "is no field of M"),
        (service("get: \"/a/{b}\""), "`b` of `/a/{b}` is no single value of M"),
        (service("get: \"a\""), "does not begin with /"),
        (service("get: \"/a/{a\""), "a brace is open"),
        (service("get: \"/**/a\""), "something follows **"),
        (service("post: \"/a\" body: \"c\""), "the body `c` is no field"),
        (service("post: \"/a\" response_body: \"c\""), "the answer `c` is no field"),
        (service("body: \"*\""), "its rule has no path"),
        (
            service("get: \"/a/{a}\" additional_bindings { get: \"/a/*\" }"),
            "/S/C: its path is that of /S/C",
        ),
    ] {
        let fault = of(&text).expect_err(&text).to_string();
        assert!(fault.contains(part), "{text}: {fault}");
    }
    let missing = Interface::new(&model(vec![PathBuf::from("/nowhere/x.proto")]));
    assert!(missing.expect_err("missing").to_string().contains("/nowhere/x.proto"));
}

/// G15: of a body that says something twice, under whichever name, two programs might take different messages.
#[test]
fn nothing_is_said_twice() {
    let shop = shop();
    for (body, part) in [
        ("{\"name\":\"ok\",\"name\":\"evil\"}", Some("`name` stands twice")),
        ("{\"byHand\":\"a\",\"by_hand\":\"b\"}", Some("`by_hand` stands twice")),
        ("{\"name\":null,\"name\":\"x\"}", Some("`name` stands twice")),
        ("{\"inner\":{\"id\":1,\"id\":2}}", Some("`id` stands twice")),
        ("{\"inner\":{\"labels\":{\"a\":\"b\",\"a\":\"c\"}}}", Some("a name stands twice")),
        ("{\"ranks\":{\"1\":\"a\",\"01\":\"b\"}}", Some("a name stands twice")),
        ("{\"notes\":{\"a\":[{\"b\":1,\"b\":2}]}}", Some("a name stands twice")),
        (
            "{\"more\":{\"@type\":\"type/shop.v1.GetRequest\",\"by_hand\":\"a\",\"byHand\":\"b\"}}",
            Some("`by_hand` stands twice"),
        ),
        ("{\"byHand\":\"a\",\"byMachine\":1}", Some("oneof")),
        ("{\"notes\":{\"by_hand\":1,\"byHand\":2},\"tags\":[\"a\",\"a\"],\"name\":\"x\"}", None),
    ] {
        let found = told(&shop, &Method::POST, "/shop.v1.Cart/Plain", body);
        match (found, part) {
            (Ok(_), None) => {}
            (Err(why), Some(part)) => assert!(why.contains(part), "{body}: {why}"),
            (found, _) => panic!("{body}: {found:?}"),
        }
    }
}

/// G15: what a path gives counts, whatever the body says of it: of the body is what the path does not give.
#[test]
fn paths_win_over_bodies() {
    let shop = shop();
    for (method, target, body, message) in [
        ("POST", "/v1/items/a", r#"{"name":"b","id":"5"}"#, json!({"name": "a", "id": "5"})),
        // What is nothing on the wire, too.
        ("POST", "/v1/items/0:undelete", r#"{"id":"5","name":"x"}"#, json!({"name": "x"})),
        ("PUT", "/v1/items/0", r#"{"name":"n","id":7}"#, json!({"item": {"name": "n"}})),
        (
            "PUT",
            "/v1/items/3",
            r#"{"id":7,"labels":{"a":"b"}}"#,
            json!({"item": {"id": "3", "labels": {"a": "b"}}}),
        ),
    ] {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let found = told(&shop, &method, target, body).map(|(_, message)| message);
        assert_eq!(found, Ok(message), "{target} {body}");
    }
    // It must be sound all the same, and said once.
    for (body, part) in [(r#"{"name":5}"#, "a string"), (r#"{"name":"b","name":"b"}"#, "twice")] {
        let found = told(&shop, &Method::POST, "/v1/items/a", body).expect_err(body);
        assert!(found.contains(part), "{body}: {found}");
    }
}

/// G15: a service that nobody can call is told of; one that was asked for is refused.
#[test]
fn silent_services_are_told() {
    let text = "syntax = \"proto3\"; message M {} service Up { rpc C(stream M) returns (M); } service Both { rpc C(M) returns (M); }";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.proto");
    std::fs::write(&file, text).expect("written");
    let mut model = model(vec![file]);
    let unheard = Interface::new(&model).expect("one can be called").unheard();
    let [told] = unheard.as_slice() else { panic!("{unheard:?}") };
    assert!(told.contains("`Up` has no method that HTTP can call"), "{told}");
    model.services = vec!["Up".to_owned(), "Both".to_owned()];
    let fault = Interface::new(&model).expect_err("it was asked for").to_string();
    assert!(fault.contains("`Up` has no method"), "{fault}");
}

/// G15: a number is the one that was written, to its last bit.
#[test]
fn numbers_stay_what_they_are() {
    let shop = shop();
    for text in ["0.1", "1.7976931348623157e308", "67.87896060219837", "2.638344616030823e-256"] {
        let body = format!("{{\"size\":{text}}}");
        let meant = shop.find(&Method::POST, "/shop.v1.Cart/Plain").expect("a call");
        let message = sent(&meant, None, body.as_bytes()).expect("a message");
        let size = message.get_field_by_name("size").and_then(|size| size.as_f64());
        assert_eq!(size.map(f64::to_bits), text.parse().ok().map(f64::to_bits), "{text}");
    }
}

/// G15: services of named files can be called, those of files that they import where they are named.
#[test]
fn imported_services_are_not_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    write(
        "inner.proto",
        "syntax = \"proto3\"; message M { string a = 1; } service Inner { rpc C(M) returns (M); }",
    );
    let outer = write(
        "outer.proto",
        "syntax = \"proto3\"; import \"inner.proto\"; service Outer { rpc C(M) returns (M); }",
    );
    let mut compiler = protox::Compiler::new([folder.path()]).expect("a folder");
    compiler.include_imports(true).open_file("outer.proto").expect("described");
    let set = folder.path().join("set.pb");
    std::fs::write(&set, compiler.encode_file_descriptor_set()).expect("written");
    for mut model in
        [model(vec![outer]), Transcode { from: Descriptions::Set(set), ..model(Vec::new()) }]
    {
        let called = |shop: &Interface| {
            ["/Outer/C", "/Inner/C"].map(|path| shop.find(&Method::POST, path).is_ok())
        };
        assert_eq!(called(&Interface::new(&model).expect("described")), [true, false]);
        model.services = vec!["Inner".to_owned()];
        assert_eq!(called(&Interface::new(&model).expect("described")), [false, true]);
    }
}

/// G15: a body of a type of its own is passed as it is, both ways.
#[test]
fn raw_bodies_stay_as_they_are() {
    let shop = shop();
    let meant = shop.find(&Method::POST, "/v1/uploads/a.png").expect("a call");
    assert!(meant.binding.takes_any());
    let body = Bytes::from_static(b"\x89PNG\0\xff");
    let sent = super::message::raw(&meant, None, ("image/png", body)).expect("a message");
    let json = serde_json::to_value(unframed(&meant, &sent)).expect("JSON");
    let data = json!({"contentType": "image/png", "data": "iVBORwD/"});
    assert_eq!(json, json!({"name": "a.png", "body": data}));
    let calling = super::answer::Calling::new(meant.binding, false, 1 << 20);
    let told = calling.told(b"\x0a\x08text/css\x12\x03a{}").expect("an answer");
    assert_eq!((told.kind.as_bytes(), &*told.body), (&b"text/css"[..], &b"a{}"[..]));
}

/// G15: what a client says of messages and of its body is not said of the call; what bounds it is.
#[test]
fn a_call_has_a_head_of_its_own() {
    let mut headers = HeaderMap::new();
    for name in ["grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "accept", "x-kept"] {
        headers.insert(name, "gzip".parse().expect("a value"));
    }
    head(&mut headers, None);
    assert_eq!(headers.get("grpc-timeout"), None);
    assert_eq!(headers.get("grpc-encoding"), None);
    assert_eq!(headers["grpc-accept-encoding"], "identity");
    assert_eq!(headers["x-kept"], "gzip");
    head(&mut headers, Some(Duration::from_secs(3)));
    assert_eq!(headers["grpc-timeout"], "3000m");
}

/// G15: details of the kinds that services commonly send are told as JSON, also where descriptions do not name them.
#[test]
fn common_details_are_told() {
    use base64::Engine as _;
    let shop = shop();
    let meant = shop.find(&Method::GET, "/v1/items/42").expect("a call");
    let calling = super::answer::Calling::new(meant.binding, false, 1 << 20);
    for (name, bytes, told) in [
        ("google.rpc.ErrorInfo", &b"\x0a\x04GONE"[..], json!({"reason": "GONE"})),
        // Its members are not the detail's.
        (
            "google.protobuf.Struct",
            b"\x0a\x07\x0a\x01a\x12\x02\x08\0",
            json!({"value": {"a": null}}),
        ),
        ("google.protobuf.Duration", b"\x08\x01", json!({"value": "1s"})),
    ] {
        let name = format!("type.googleapis.com/{name}");
        let short = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
        let any =
            [&[0x0a, short(name.as_bytes())][..], name.as_bytes(), &[0x12, short(bytes)], bytes];
        let any = any.concat();
        let status = [&[0x08, 5, 0x1a, short(&any)][..], &any].concat();
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static("5"));
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status);
        fields.insert("grpc-status-details-bin", text.parse().expect("a value"));
        let ending = calling.ending(&fields).expect("an end");
        let mut detail = told;
        detail["@type"] = name.into();
        assert_eq!(ending.status["details"], json!([detail]));
    }
}

/// G15: a message has its length before it.
#[test]
fn messages_are_framed() {
    let shop = shop();
    let meant = shop.find(&Method::GET, "/v1/items/42").expect("a call");
    let framed = message(&meant, None, (b"", 1 << 20)).expect("a message");
    assert_eq!(&framed[..], [0, 0, 0, 0, 2, 0x10, 42]);
}

proptest! {
    /// G15, O5: whatever a request says, it means a call whose message is whole, or it is refused.
    #[test]
    fn any_request_is_a_message_or_refused(
        method in "GET|POST|PUT|PURGE",
        path in "/v1/(items|files|shelves)(/[a-z0-9%:.*{}-]{0,8}){0,4}(:[a-z]{0,8})?|(/[ -~]{0,8}){1,4}",
        query in "([a-z.]{0,8}=[a-z0-9%+-]{0,8}&?){0,4}",
        body in "\\PC{0,24}|[{}\\[\\]\":,a-z0-9e.-]{0,40}|\\{\"(id|name|labels|dry)\":[\"{}a-z0-9:,-]{0,12}\\}",
    ) {
        static SHARED: std::sync::LazyLock<Arc<Interface>> = std::sync::LazyLock::new(shop);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let Ok(meant) = SHARED.find(&method, &path) else { return Ok(()) };
        let _ = sent(&meant, Some(&query), body.as_bytes());
    }
}
