//! Steps against documents that are read whole, and against texts that are none.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn member(path: &str) -> Vec<JsonName> {
    let mut names = Vec::new();
    for name in path.split('.') {
        let bare = name.trim_end_matches("[]");
        names.push(JsonName::Member(bare.to_owned()));
        names.extend((bare.len()..name.len()).step_by(2).map(|_| JsonName::Each));
    }
    names
}

fn set(path: &str, json: &str) -> JsonStep {
    JsonStep::Set(member(path), JsonValue::Json(json.to_owned()))
}

fn changed(text: &str, steps: &[JsonStep]) -> Result<String, JsonError> {
    let mut document = Document::read(text)?;
    for step in steps {
        document.apply(step, &mut std::iter::empty())?;
    }
    Ok(document.written())
}

/// G13: each kind of step, and what is not on the way stays as it was written.
#[test]
fn members_are_changed_by_path() {
    let text = r#"{"id": 12345678901234567890.10, "user": {"name":"a\u0062","n":1e400}, "items": [{"p":1,"q":2}, 7, {"p":3}]}"#;
    let cases: [(JsonStep, &str); 9] = [
        (
            set("user.age", "5"),
            r#"{"id":12345678901234567890.10,"user":{"name":"a\u0062","n":1e400,"age":5},"items":[{"p":1,"q":2}, 7, {"p":3}]}"#,
        ),
        (set("a.b.c", "[]"), r#""a":{"b":{"c":[]}}}"#),
        (JsonStep::Remove(member("user.n")), r#""user":{"name":"a\u0062"},"#),
        (JsonStep::Remove(member("nobody.here")), r#""items":[{"p":1,"q":2}, 7, {"p":3}]}"#),
        (JsonStep::Remove(member("items[].p")), r#""items":[{"q":2},7,{}]}"#),
        (JsonStep::Rename(member("user.name"), "n".to_owned()), r#""user":{"n":"a\u0062"},"#),
        (
            JsonStep::Rename(member("items[].p"), "price".to_owned()),
            r#"[{"price":1,"q":2},7,{"price":3}]"#,
        ),
        (
            JsonStep::Move(member("user.name"), member("name")),
            r#""user":{"n":1e400},"items":[{"p":1,"q":2}, 7, {"p":3}],"name":"a\u0062"}"#,
        ),
        (
            JsonStep::Move(member("user.none"), member("name")),
            r#""id":12345678901234567890.10,"user":{"name""#,
        ),
    ];
    for (step, part) in cases {
        let new = changed(text, std::slice::from_ref(&step)).expect("a change");
        assert!(new.contains(part), "{step:?}: {new}");
    }
}

/// G13: what two programs would read differently is refused, and nothing is set into what is no object.
#[test]
fn ambiguous_documents_are_refused() {
    let step = set("user.role", "1");
    for text in [r#"{"user":{},"user":{}}"#, r#"{"user":{"role":1,"r\u006fle":2}}"#] {
        assert!(
            matches!(changed(text, std::slice::from_ref(&step)), Err(JsonError::Twice(_))),
            "{text}"
        );
    }
    for text in [r#"{"user":5}"#, r#"{"user":[]}"#, "[]", "5"] {
        let error = changed(text, std::slice::from_ref(&step)).expect_err("refused");
        assert!(matches!(error, JsonError::NoObject(_)), "{text}: {error}");
    }
    for text in ["", "{", "{\"a\":}", "{} {}", "nul", "{\"a\":1,}"] {
        assert_eq!(changed(text, std::slice::from_ref(&step)), Err(JsonError::Syntax), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(changed(&deep, &[]), Err(JsonError::Syntax), "without a stack for each level");
}

/// Any JSON, small.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\é]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// The same as on a document that is read whole.
    #[test]
    fn steps_do_what_they_do_on_values(value in document(), path in "[a-d](\\.[a-d]){0,2}", kind in 0..3u8, blank in any::<bool>()) {
        let text = if blank { serde_json::to_string_pretty(&value).expect("JSON") } else { value.to_string() };
        let names: Vec<&str> = path.split('.').collect();
        let (last, parents) = names.split_last().expect("a name");
        let mut expected = value.clone();
        let step = match kind {
            0 => set(&path, "{\"new\":[1]}"),
            1 => JsonStep::Remove(member(&path)),
            _ => JsonStep::Rename(member(&path), "z".to_owned()),
        };
        let mut at = Some(&mut expected);
        for name in parents {
            at = at.and_then(|value| match value {
                Value::Object(map) => {
                    if kind == 0 {
                        map.entry(*name).or_insert(json!({}));
                    }
                    map.get_mut(*name)
                }
                _ => None,
            });
        }
        let object = at.and_then(Value::as_object_mut);
        let possible = object.is_some() || kind > 0;
        if let Some(map) = object {
            match kind {
                0 => _ = map.insert((*last).to_owned(), json!({"new": [1]})),
                1 => _ = map.remove(*last),
                _ => {
                    if let Some(value) = map.remove(*last) {
                        map.insert("z".to_owned(), value);
                    }
                }
            }
        }
        match changed(&text, &[step]) {
            Ok(new) => {
                prop_assert!(possible);
                prop_assert_eq!(serde_json::from_str::<Value>(&new).expect("JSON"), expected);
            }
            Err(error) => prop_assert!(!possible, "{}", error),
        }
    }

    /// Whatever comes is refused or stays JSON.
    #[test]
    fn no_text_breaks_it(text in "[\\[\\]{}:,\"a0-9 .e\\\\-]{0,40}") {
        if let Ok(new) = changed(&text, &[set("a", "1")]) {
            prop_assert!(serde_json::from_str::<Value>(&new).is_ok());
        }
    }
}

/// G13: a small document does not become a large one: what is put into every element counts each time.
#[test]
fn a_document_grows_by_so_much_and_no_more() {
    let text = format!("[{}{{}}]", "{},".repeat(999));
    let long = format!("\"{}\"", "x".repeat(98));
    let steps =
        [JsonStep::Set(vec![JsonName::Each, JsonName::Member("a".into())], JsonValue::Json(long))];
    // Each gets its name with 4 bytes around it, and 100 bytes.
    for (room, fits) in [(105_000, true), (104_999, false), (0, false)] {
        let mut document = Document::bounded(&text, room).expect("a document");
        let outcome = document.apply(&steps[0], &mut std::iter::empty());
        assert_eq!(outcome, if fits { Ok(()) } else { Err(JsonError::TooLarge) }, "{room}");
    }
    // What is only moved is not put in; a new name is.
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    for (step, room, fits) in [
        (JsonStep::Move(member("a"), member("b")), 5, true),
        (JsonStep::Move(member("a"), member("b.c.d")), 14, false),
        (JsonStep::Rename(member("a"), "name".to_owned()), 4, true),
        (JsonStep::Rename(member("a"), "name".to_owned()), 3, false),
        (JsonStep::Remove(member("a")), 0, true),
    ] {
        let mut document = Document::bounded(&text, room).expect("a document");
        let outcome = document.apply(&step, &mut std::iter::empty());
        assert_eq!(outcome.is_ok(), fits, "{step:?} {room}");
    }
}
