//! What a description means, and what is refused by it.

use std::io::Write as _;

use http::header;
use proptest::prelude::*;
use topology::answers::Attached;

use super::*;

const DESCRIPTION: &str = r##"
openapi: 3.0.3
servers: [{ url: https://api.example/v1 }]
paths:
  /pets:
    get:
      parameters:
        - { name: limit, in: query, schema: { type: integer, minimum: 0, exclusiveMinimum: true, maximum: 100 } }
        - { name: tag, in: query, schema: { type: array, items: { type: string, pattern: '^[a-z]+$' } } }
        - { name: ids, in: query, explode: false, schema: { type: array, items: { type: integer }, maxItems: 3 } }
        - { name: deep, in: query, style: deepObject, schema: { type: object } }
        - { $ref: '#/components/parameters/Trace' }
        - { name: seen, in: cookie, schema: { type: boolean } }
    post:
      requestBody:
        required: true
        content:
          application/json: { schema: { $ref: '#/components/schemas/Pet' } }
          text/*: {}
  /pets/mine: { get: {} }
  /pets/{id}:
    parameters: [{ name: id, in: path, required: true, schema: { type: integer } }]
    get: {}
    delete: { parameters: [{ name: id, in: path, required: true, schema: { type: string, enum: [all] } }] }
  /files/{name}.txt: { get: {} }
components:
  parameters:
    Trace: { name: X-Trace, in: header, required: true, schema: { type: string, format: uuid } }
  schemas:
    Pet:
      type: object
      required: [id, name, kind]
      additionalProperties: false
      properties:
        id: { type: integer, readOnly: true }
        name: { type: string, minLength: 1 }
        kind: { type: string, nullable: true, enum: [cat, dog] }
        parents: { type: array, items: { $ref: '#/components/schemas/Pet' } }
"##;

fn read(text: &str, prefix: Option<&str>) -> Result<Arc<Contract>, ContractError> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let prefix = prefix.map(str::to_owned);
    let (file, place) = (file.path().to_owned(), Place::default());
    Contract::new(&Model { file, prefix, most: 1000, by: Attached::Route, place }, &[])
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value"))).collect()
}

fn asked(contract: &Contract, method: &Method, target: &str) -> Result<(), Breach> {
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let headers = headers(&[
        ("x-trace", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
        ("cookie", "a=1; seen=true"),
    ]);
    contract.find(method, path)?.head(query, &headers)
}

/// G23: paths, methods and parameters are those of the description.
#[test]
fn heads_are_held_against_a_description() {
    let contract = read(DESCRIPTION, None).expect("a description");
    for (method, target) in [
        (Method::GET, "/v1/pets"),
        (Method::HEAD, "/v1/pets?limit=1"),
        (Method::GET, "/v1/pets?limit=100&tag=a&tag=b&ids=1,2,3&deep[x]=1&other=%20"),
        (Method::GET, "/v1/pets/7"),
        (Method::GET, "/v1/pets/mine"),
        (Method::DELETE, "/v1/pets/all"),
        (Method::GET, "/v1/files/a%20b.txt"),
    ] {
        assert_eq!(asked(&contract, &method, target), Ok(()), "{method} {target}");
    }
    for (method, target, why) in [
        (Method::GET, "/pets", "the path is not described"),
        (Method::GET, "/v1/pets/7/8", "the path is not described"),
        (Method::GET, "/v1/files/.txt", "the path is not described"),
        (Method::PUT, "/v1/pets", "the method is not described"),
        (Method::GET, "/v1/pets/x", "the path parameter `id`: "),
        (Method::DELETE, "/v1/pets/7", "the path parameter `id`: "),
        (Method::GET, "/v1/pets?limit=0", "the query parameter `limit`: "),
        (Method::GET, "/v1/pets?limit=1.5", "the query parameter `limit`: "),
        (Method::GET, "/v1/pets?limit=ten", "the query parameter `limit`: "),
        (Method::GET, "/v1/pets?limit=1&limit=2", "the query parameter `limit`: stands twice"),
        (Method::GET, "/v1/pets?tag=a&tag=B", "the query parameter `tag` at /1: "),
        (Method::GET, "/v1/pets?ids=1,2,3,4", "the query parameter `ids`: "),
    ] {
        let told = asked(&contract, &method, target).expect_err(target).to_string();
        assert!(told.starts_with(why), "{method} {target}: {told}");
        assert!(!told.contains("ten"), "{told}");
    }
    let allow = contract.find(&Method::PUT, "/v1/pets").expect_err("no PUT");
    assert_eq!(allow, Breach::Method { allow: HeaderValue::from_static("GET, POST") });
    let bare = contract.find(&Method::GET, "/v1/pets").expect("a path");
    let missing = Breach::Missing("the header parameter `X-Trace`".to_owned());
    assert_eq!(bare.head(None, &HeaderMap::new()), Err(missing));
    assert!(read(DESCRIPTION, Some("")).expect("read").find(&Method::GET, "/pets").is_ok());
}

/// G23: a description that is the same as before is not read anew, whatever line names it.
#[test]
fn a_description_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("api.yaml");
    std::fs::write(&file, DESCRIPTION).expect("written");
    let model = |line, most| Model {
        file: file.clone(),
        prefix: None,
        most,
        by: Attached::Route,
        place: Place { line, column: 1 },
    };
    let first = Contract::new(&model(1, 1000), &[]).expect("a description");
    let before = [None, Some(Arc::clone(&first))];
    let again = |line, most| Contract::new(&model(line, most), &before).expect("a description");
    assert!(Arc::ptr_eq(&first, &again(7, 1000)));
    assert!(!Arc::ptr_eq(&first, &again(1, 2000)));
    std::fs::write(&file, DESCRIPTION.replace("/pets", "/cats")).expect("written");
    let other = again(1, 1000);
    assert!(!Arc::ptr_eq(&first, &other) && other.find(&Method::GET, "/v1/cats").is_ok());
}

/// G23: of two paths with a name at the same place the one that says more is meant.
#[test]
fn what_stands_around_a_name_counts() {
    let described = r#"
openapi: 3.1.0
paths:
  /files/{name}: { get: {} }
  /files/{plain}.json: { get: {} }
  /files/v-{both}.json: { get: {} }
"#;
    let contract = read(described, None).expect("a description");
    for (path, name) in [
        ("/files/a", "name"),
        ("/files/a.json", "plain"),
        ("/files/v-a.json", "both"),
        ("/files/.json", "name"),
    ] {
        let meant = contract.find(&Method::GET, path).expect("a path");
        assert_eq!(meant.captured.first().map(|(name, _)| *name), Some(name), "{path}");
    }
}

/// G23: a path that is written out is the same in all its spellings, and in no spelling a value of a name.
#[test]
fn literals_have_many_spellings() {
    let described = r#"
openapi: 3.1.0
paths:
  /users/{id}: { get: {}, patch: {} }
  /users/@me: { get: {} }
  /users/b%C3%BCro: { get: {} }
  /files/@{name}: { get: { parameters: [{ name: name, in: path, required: true, schema: { type: integer } }] } }
  /files/{name}: { get: {} }
"#;
    let contract = read(described, None).expect("a description");
    let name = |path: &str| {
        let meant = contract.find(&Method::GET, path).expect("a path");
        meant.captured.first().map(|(name, value)| format!("{name}={value}"))
    };
    for path in ["/users/@me", "/users/%40me", "/users/%40%6de", "/users/b%C3%BCro"] {
        assert_eq!(name(path), None, "{path}");
    }
    assert_eq!(name("/users/%2540me").as_deref(), Some("id=%40me"));
    for path in ["/files/@x", "/files/%40x"] {
        assert!(asked(&contract, &Method::GET, path).is_err(), "{path}");
    }
}

/// G23: bodies are what their schema says, in the words of OpenAPI 3.0 too; a document that two programs read
/// differently is refused.
#[test]
fn bodies_are_held_against_a_description() {
    let contract = read(DESCRIPTION, None).expect("a description");
    let meant = contract.find(&Method::POST, "/v1/pets").expect("an operation");
    let json = headers(&[("content-type", "application/json; charset=utf-8")]);
    let schema = meant.kind(&json, false).expect("a type").expect("a schema");
    for text in [
        r#"{"name":"a","kind":"cat"}"#,
        r#"{"name":"a","kind":null,"parents":[{"name":"b","kind":"dog","id":1}]}"#,
    ] {
        assert_eq!(body(schema, text.as_bytes(), 1 << 20), Ok(()), "{text}");
    }
    for (text, place) in [
        (r#"{"name":"secret","kind":"bird"}"#, "the body at /kind: "),
        (r#"{"name":"","kind":"cat"}"#, "the body at /name: "),
        (r#"{"kind":"cat"}"#, "the body: "),
        (r#"{"name":"a","kind":"cat","more":1}"#, "the body: "),
        (
            r#"{"name":"a","kind":"cat","parents":[{"name":7,"kind":"cat"}]}"#,
            "the body at /parents/0/name: ",
        ),
        (r#"{"name":"a","kind":"cat","kind":"dog"}"#, "the body is no JSON: a name stands twice"),
        (r#"{"name":"#, "the body is no JSON: "),
        ("[", "the body is no JSON: "),
    ] {
        let told = body(schema, text.as_bytes(), 1 << 20).expect_err(text).to_string();
        assert!(told.starts_with(place), "{text}: {told}");
        assert!(!told.contains("bird"), "{told}");
    }
    let deep = "[".repeat(100_000);
    assert!(body(schema, deep.as_bytes(), 1 << 20).is_err());
    assert_eq!(meant.kind(&HeaderMap::new(), true).err(), Some(Breach::Missing("the body".into())));
    let text = headers(&[("content-type", "text/plain")]);
    assert!(meant.kind(&text, false).expect("taken").is_none());
    let other = headers(&[("content-type", "image/png")]);
    let kinds = "application/json, text/*".to_owned();
    assert_eq!(meant.kind(&other, false).err(), Some(Breach::Kind(kinds)));
}

const CORNERS: &str = r##"
openapi: 3.1.0
paths:
  /a:
    get:
      parameters:
        - { name: flag, in: query, schema: { anyOf: [{ type: boolean }, { type: 'null' }] } }
        - { name: any, in: query, schema: { $ref: '#/components/schemas/Any' } }
        - { name: tags, in: query, schema: { type: array, items: { $ref: '#/components/schemas/Number' } } }
        - { name: deep, in: query, required: true, style: deepObject, schema: { type: object } }
        - { name: form, in: query, required: true, schema: { type: object } }
        - { name: ids, in: query, explode: false, schema: { type: array, items: { type: integer }, maxItems: 2 } }
        - { name: X-Level, in: header, schema: { type: string, maxLength: 3 } }
        - { name: X-List, in: header, schema: { type: array, items: { type: integer }, maxItems: 2 } }
        - { name: seen, in: cookie, schema: { type: boolean } }
    post:
      requestBody:
        required: true
        content:
          '*/*': { schema: { $ref: '#/components/schemas/Tree' } }
          text/plain: { schema: { type: string } }
          application/xml: { schema: { type: object } }
components:
  schemas:
    Number: { type: integer, maximum: 9 }
    Any: { oneOf: [{ type: integer }, { type: boolean }, { type: array, items: { type: integer } }] }
    Tree:
      oneOf:
        - { type: object, properties: { next: { $ref: '#/components/schemas/Tree' } }, required: [a] }
        - { type: object, properties: { next: { $ref: '#/components/schemas/Tree' } }, required: [b] }
        - { type: object, properties: { next: { $ref: '#/components/schemas/Tree' } }, required: [c] }
"##;

type Lines = &'static [(&'static str, &'static [u8])];

/// G23: no way of saying a parameter twice, or in other letters, leads around its schema, and lawful ways are taken.
#[test]
fn parameters_have_no_way_around_their_schema() {
    let contract = read(CORNERS, None).expect("a description");
    let meant = contract.find(&Method::GET, "/a").expect("an operation");
    let judged = |query: &str, lines: Lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        meant.head(Some(&format!("deep[x]=1&{query}")), &headers).map_err(|why| why.to_string())
    };
    const LAWFUL: &[(&str, Lines)] = &[
        ("", &[]),
        ("flag=true&any=7", &[]),
        ("flag=false&any=true&x=1&y=2", &[]),
        ("any=-7&other=%ff", &[("cookie", b"seen = \"true\"")]),
        ("tags=1&tags=2&ids=1,2", &[("x-list", b"1"), ("x-list", b"2")]),
        ("", &[("x-level", b"abc"), ("cookie", "other=\u{e9}; seen=true".as_bytes())]),
    ];
    const OTHERS: &[(&str, Lines, &str)] = &[
        ("flag=1", &[], "`flag`"),
        ("any=x", &[], "`any`"),
        ("any=500e-1", &[], "`any`"),
        ("any=7.0", &[], "`any`"),
        ("tags=70e-1", &[], "`tags`"),
        ("ids=1.0", &[], "`ids`"),
        ("any=%ff", &[], "`any`: is no text"),
        ("", &[("cookie", b"seen =evil")], "`seen`"),
        ("", &[("cookie", b"a=1;\tseen\t= evil")], "`seen`"),
        ("tags=1&tags=10", &[], "`tags` at /1: "),
        ("ids=1&ids=x", &[], "`ids`: stands twice"),
        ("", &[("x-list", b"1,2"), ("x-list", b"3")], "`X-List`"),
        ("", &[("x-level", b"a"), ("x-level", b"abcd")], "`X-Level`: stands twice"),
        ("", &[("x-level", b"abcd\xe9")], "`X-Level`: is no text"),
        ("", &[("cookie", b"seen=true; seen=no")], "`seen`"),
        ("", &[("cookie", b"seen=true"), ("cookie", b"seen=no")], "`seen`"),
        ("", &[("cookie", b"seen=no\xe9")], "`seen`: is no text"),
    ];
    for (query, lines) in LAWFUL {
        assert_eq!(judged(query, lines), Ok(()), "{query} {lines:?}");
    }
    for (query, lines, part) in OTHERS {
        let told = judged(query, lines).expect_err(part);
        assert!(told.contains(part), "{query} {lines:?}: {told}");
    }
    let missing = Breach::Missing("the query parameter `deep`".to_owned());
    assert_eq!(meant.head(Some("deep2[x]=1"), &HeaderMap::new()), Err(missing));
}

/// G23: a body has one type, and one that cannot be held against its schema does not pass.
#[test]
fn bodies_have_one_type() {
    let contract = read(CORNERS, None).expect("a description");
    let meant = contract.find(&Method::POST, "/a").expect("an operation");
    let kind = |lines: &[(&'static str, &'static str)]| {
        meant.kind(&headers(lines), false).map(|schema| schema.is_some())
    };
    assert_eq!(kind(&[("content-type", "application/x+json")]), Ok(true));
    assert_eq!(kind(&[("content-type", "text/plain; charset=utf-8")]), Ok(false), "any text");
    for other in ["application/xml", "application/grpc", "image/png", ""] {
        let told = kind(&[("content-type", other)]);
        assert!(matches!(told, Err(Breach::Kind(_))), "{other}: {told:?}");
    }
    assert_eq!(kind(&[("content-type", "text/plain, application/json")]), Err(Breach::Kinds));
    let mut twice = headers(&[("content-type", "text/plain")]);
    twice.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    assert_eq!(meant.kind(&twice, false).err(), Some(Breach::Kinds));
}

/// G23: what costs branches to the power of levels to explain is refused without a reason.
#[test]
fn deep_documents_are_judged_in_linear_time() {
    let contract = read(CORNERS, None).expect("a description");
    let meant = contract.find(&Method::POST, "/a").expect("an operation");
    let json = headers(&[("content-type", "application/json")]);
    let schema = meant.kind(&json, false).expect("a type").expect("a schema");
    let nested = |levels, inmost: &str| {
        let mut text = inmost.to_owned();
        for _ in 0..levels {
            text = format!(r#"{{"a":1,"next":{text}}}"#);
        }
        body(schema, text.as_bytes(), 1 << 20)
    };
    assert_eq!((nested(1, r#"{"b":1}"#), nested(100, r#"{"b":1}"#)), (Ok(()), Ok(())));
    let told = nested(100, r#"{"d":1}"#).expect_err("a breach").to_string();
    assert_eq!(told, "the body: it is not as its schema says");
    let told = nested(1, r#"{"d":1}"#).expect_err("a breach").to_string();
    assert!(
        told.starts_with("the body: ") && told != "the body: it is not as its schema says",
        "{told}"
    );
}

/// G23: a broad document whose every part is wrong in each branch is refused without a reason for each; without
/// branches the first fault is told, however broad it is.
#[test]
fn broad_documents_are_judged_in_linear_time() {
    let described = r##"
openapi: 3.1.0
paths:
  /branched: { post: { requestBody: { content: { application/json: { schema: { $ref: '#/components/schemas/Either' } } } } } }
  /plain: { post: { requestBody: { content: { application/json: { schema: { $ref: '#/components/schemas/Tags' } } } } } }
components:
  schemas:
    Tags: { type: object, properties: { tags: { type: array, items: { type: string } }, next: { $ref: '#/components/schemas/Tags' } } }
    Either:
      type: object
      properties: { any: { oneOf: [{ $ref: '#/components/schemas/Tags' }, { type: object, properties: { tags: { type: array, items: { type: boolean } } } }] } }
"##;
    let contract = read(described, None).expect("a description");
    let json = headers(&[("content-type", "application/json")]);
    let told = |path: &str, text: &str| {
        let meant = contract.find(&Method::POST, path).expect("an operation");
        let schema = meant.kind(&json, false).expect("a type").expect("a schema");
        body(schema, text.as_bytes(), 64 << 20).expect_err("a breach").to_string()
    };
    let tags = |count: usize| format!(r#"{{"tags":[{}1]}}"#, "1,".repeat(count - 1));
    let unexplained = "the body: it is not as its schema says";
    let few = told("/branched", &format!(r#"{{"any":{}}}"#, tags(60)));
    assert!(few.starts_with("the body at /any: "), "{few}");
    assert_eq!(told("/branched", &format!(r#"{{"any":{}}}"#, tags(62))), unexplained);
    assert_eq!(told("/branched", &format!(r#"{{"any":{}}}"#, tags(520_000))), unexplained);
    let first = told("/plain", &tags(520_000));
    assert!(first.starts_with("the body at /tags/0: "), "{first}");
}

/// G23: a description that leads out of itself, or nowhere, is refused in words.
#[test]
fn descriptions_that_do_not_resolve_are_refused() {
    let with = |schema: &str| {
        format!(
            "openapi: 3.1.0\npaths:\n  /a:\n    post:\n      requestBody: {{ content: {{ application/json: {{ schema: {schema} }} }} }}\n"
        )
    };
    for (text, part) in [
        (with("{ $ref: '#/components/schemas/Gone' }"), "/a: post: the body: "),
        (with("{ $ref: 'http://127.0.0.1:9/a.json' }"), "/a: post: the body: "),
        (with("{ $ref: 'other.yaml#/A' }"), "/a: post: the body: "),
        (with("{ type: strin }"), "/a: post: the body: "),
        (with("{ pattern: '(' }"), "/a: post: the body: "),
        (
            "openapi: 3.1.0\npaths: { /a: { $ref: 'b.yaml' } }\n".to_owned(),
            "`b.yaml` is not in this file",
        ),
        (
            "openapi: 3.1.0\npaths: { /a: { get: { parameters: [{ $ref: '#/x' }] } } }\n"
                .to_owned(),
            "`#/x` leads nowhere",
        ),
        ("openapi: 3.1.0\npaths: { '/{a}{b}': {} }\n".to_owned(), "only one name in a segment"),
        ("swagger: 2.0\n".to_owned(), "openapi"),
    ] {
        let fault = read(&text, None).expect_err(part).to_string();
        assert!(fault.contains(part), "{part}: {fault}");
    }
}

proptest! {
    /// G23, O5: whatever a head and a body say, they are as described or refused, and a document that is read strictly is
    /// the one that everybody reads.
    #[test]
    fn any_request_is_as_described_or_refused(
        path in "/v1/pets(/[a-z0-9%]{0,6})?|(/[ -~]{0,8}){1,4}",
        query in "((limit|tag|ids)=[a-z0-9,.%+-]{0,8}&?){0,4}|[ -~]{0,20}",
        text in "\\PC{0,24}|[{}\\[\\]\":,a-z0-9e.-]{0,40}|\\{\"name\":\"[a-z]{0,3}\",\"kind\":(null|\"cat\"|7)\\}",
    ) {
        static SHARED: std::sync::LazyLock<Arc<Contract>> =
            std::sync::LazyLock::new(|| read(DESCRIPTION, None).expect("a description"));
        if let Ok(meant) = SHARED.find(&Method::GET, &path) {
            let own = format!("{path}?{query}");
            let passes = path == "/v1/pets" && asked(&SHARED, &Method::GET, &own).is_ok();
            let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
            let limits: Vec<_> = pairs.iter().filter(|(name, _)| passes && name == "limit").collect();
            prop_assert!(limits.len() < 2, "{query}");
            for (_, limit) in limits {
                let number: f64 = limit.parse().expect("a number");
                prop_assert!(number > 0.0 && number <= 100.0 && number.fract() == 0.0, "{limit}");
            }
            // A header is missing.
            let bare = meant.head(Some(&query), &HeaderMap::new());
            prop_assert!(path != "/v1/pets" || bare.is_err());
        }
        let json = headers(&[("content-type", "application/json")]);
        let meant = SHARED.find(&Method::POST, "/v1/pets").expect("an operation");
        let schema = meant.kind(&json, false).expect("a type").expect("a schema");
        let outcome = body(schema, text.as_bytes(), 1 << 20);
        if let Ok(value) = strict::read(text.as_bytes(), usize::MAX) {
            prop_assert_eq!(Some(value), serde_json::from_str::<Value>(&text).ok());
        } else {
            prop_assert!(outcome.is_err());
        }
    }
}

const PARTS: &str = r##"
openapi: 3.1.0
info: { title: parts, version: "1" }
paths:
  /a:
    post:
      requestBody:
        content:
          application/json: { schema: { $ref: '#/components/schemas/Order' } }
          multipart/form-data: { schema: { type: object } }
          text/plain: { schema: { type: string } }
  /b/{id}:
    put:
      requestBody: { content: { application/json: { schema: { $ref: '#/components/responses/Told/content/application~1json/schema' } } } }
    get:
      parameters: [{ name: num, in: query, schema: { $ref: '#/components/parameters/Number/schema' } }]
components:
  parameters: { Number: { name: x, in: query, schema: { type: integer, maximum: 5 } } }
  responses: { Told: { description: a, content: { application/json: { schema: { type: object, required: [name] } } } } }
  schemas:
    Id: { type: integer, readOnly: true }
    Base: { type: object, properties: { made: { allOf: [{ $ref: '#/components/schemas/Id' }] } } }
    Order:
      allOf: [{ $ref: '#/components/schemas/Base' }, { type: object, required: [id, made, name], properties: { name: { type: string } } }]
      properties: { id: { $ref: '#/components/schemas/Id' } }
      required: [id]
"##;

/// G23: what answers alone have is required of no request, wherever that is said; schemas may stand in other parts.
#[test]
fn members_of_answers_and_parts_are_found_by_reference() {
    let contract = read(PARTS, None).expect("a description");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (method, path, text, fits) in [
        (Method::POST, "/a", "{\"name\":\"x\"}", true),
        (Method::POST, "/a", "{\"id\":1,\"made\":2,\"name\":\"x\"}", true),
        (Method::POST, "/a", "{\"id\":1,\"made\":2}", false),
        (Method::POST, "/a", "{\"made\":\"x\",\"name\":\"x\"}", false),
        (Method::PUT, "/b/1", "{\"name\":1}", true),
        (Method::PUT, "/b/1", "{}", false),
    ] {
        let meant = contract.find(&method, path).expect("described");
        let schema = meant.kind(&headers, false).expect("a type").expect("a schema");
        assert_eq!(body(schema, text.as_bytes(), 1 << 20).is_ok(), fits, "{path} {text}");
    }
    for (query, fits) in [("num=5", true), ("num=6", false), ("num=x", false)] {
        let meant = contract.find(&Method::GET, "/b/1").expect("described");
        assert_eq!(meant.head(Some(query), &HeaderMap::new()).is_ok(), fits, "{query}");
    }
    let warned = [
        "POST /a: a body of multipart/form-data is always 415, only JSON is held against a schema",
    ];
    assert_eq!(contract.unheld(), warned);
}
