//! Bodies against another reader of the same JSON (`prost-reflect`'s, which makes a tree), and what neither may take.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use super::*;

const KINDS: &str = r#"syntax = "proto3";
package k;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum E { NONE = 0; BIG = 1; LOW = -1; }
message M {
  int32 i32 = 1; int64 i64 = 2; uint32 u32 = 3; uint64 u64 = 4; sint32 s32 = 5; sint64 s64 = 6;
  fixed32 f32 = 7; fixed64 f64 = 8; sfixed32 g32 = 9; sfixed64 g64 = 10; float real = 11; double wide = 12;
  bool yes = 13; string text = 14; bytes raw = 15; E kind = 16; M inner = 17; optional int32 maybe = 18;
  repeated int32 numbers = 19; repeated sint64 odd = 20; repeated string texts = 21; repeated M many = 22; repeated int32 apart = 43 [packed = false];
  repeated E kinds = 23; repeated double sizes = 24;
  map<string, int32> by_name = 25; map<int32, M> by_number = 26; map<bool, string> by_truth = 27;
  oneof how { string by_hand = 28; M by_machine = 29; google.protobuf.NullValue nobody = 30; }
  google.protobuf.Any any = 31; google.protobuf.Struct notes = 32; google.protobuf.Value free = 33;
  google.protobuf.ListValue list = 34; google.protobuf.Timestamp at = 35; google.protobuf.Duration long = 36;
  google.protobuf.FieldMask mask = 37; google.protobuf.Int64Value wrapped = 38; google.protobuf.Empty empty = 39;
  repeated google.protobuf.Value frees = 40; google.protobuf.NullValue nothing = 41; repeated google.protobuf.Any anys = 42;
}
"#;

static M: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("k.proto"), KINDS).expect("written");
    let mut compiler = protox::Compiler::new([folder.path()]).expect("a folder");
    let pool: DescriptorPool = compiler
        .include_imports(true)
        .open_file("k.proto")
        .map(|compiler| compiler.descriptor_pool())
        .expect("described");
    pool.get_message_by_name("k.M").expect("it is there")
});

/// What a service takes it for, told again, or why not.
fn ours(body: &str) -> Result<Value, String> {
    let wire = whole(&M, body.as_bytes(), (Vec::new(), 1 << 20)).map_err(|fault| match fault {
        Fault::Json(fault) => fault.to_string(),
        Fault::TooLarge => "too large".to_owned(),
    })?;
    let sent = wire.sent(&DynamicMessage::new(M.clone()));
    let read = DynamicMessage::decode(M.clone(), &sent[5..]).expect("a message");
    Ok(serde_json::to_value(&read).expect("JSON"))
}

fn theirs(body: &str) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_str(body);
    let read = DynamicMessage::deserialize(M.clone(), &mut reader);
    let read = read.and_then(|read| reader.end().map(|()| read));
    let told = read.and_then(|read| serde_json::to_value(&read));
    told.map_err(|fault| fault.to_string())
}

/// G15: every kind of value, in each of its forms, is what another reader takes it for; so is what is none.
#[test]
fn every_kind_is_read_as_elsewhere() {
    let long = "x".repeat(200);
    let fields = [
        ("i32", "-5 \"-5\" 1e2 1.5 2147483648 \"\" true null -0"),
        ("i64", "9007199254740993 \"-9223372036854775808\" 9223372036854775808 \"x\" {}"),
        ("u32", "4294967295 4294967296 -1 \"7\""),
        ("u64", "18446744073709551615 \"18446744073709551615\" \"18446744073709551616\" -1"),
        ("s32", "-2147483648 7"),
        ("s64", "-9223372036854775808 1"),
        ("f32", "1 \"2\""),
        ("f64", "1 \"2\""),
        ("g32", "-1"),
        ("g64", "-1"),
        ("real", "0.1 \"NaN\" \"-Infinity\" 1e38 1e39 \"1.5\" 3 -3 true"),
        ("wide", "0.1 \"Infinity\" 1e308 1e999 [] -7"),
        ("yes", "true false \"true\" 1 null"),
        ("text", "\"a\\u0000\\n\" \"\" 5 null"),
        ("raw", "\"_-8\" \"+/8=\" \"-_\" \"%\" \"\" 5"),
        ("kind", "\"BIG\" 1 \"LOW\" -1 7 \"none\" 1.0 null 99999999999"),
        ("inner", "{} {\"i32\":1} {\"inner\":{\"inner\":{\"text\":\"x\"}}} [] null 1"),
        ("maybe", "0 1 null"),
        ("numbers", "[] [1,-1,0] [null] null {} [\"1\",1e1]"),
        ("odd", "[-1,1,-64,64]"),
        ("texts", "[\"\",\"a\"] [1]"),
        ("many", "[{},{\"i32\":0},{\"text\":\"x\"}] [1] [null]"),
        ("kinds", "[\"NONE\",1,\"LOW\"] [\"x\"]"),
        ("sizes", "[0,1.5,\"NaN\"]"),
        ("apart", "[0,1,-1] []"),
        ("byName", "{\"a\":0,\"\":1} {\"a\":null} [] null {}"),
        ("by_number", "{\"1\":{},\"-2\":{\"i32\":1}} {\"x\":{}} {\"1.5\":{}}"),
        ("byTruth", "{\"true\":\"a\",\"false\":\"\"} {\"1\":\"a\"}"),
        ("byHand", "\"\" \"x\" null"),
        ("byMachine", "{} {\"i32\":1}"),
        ("nobody", "null \"NULL_VALUE\""),
        (
            "any",
            "{\"@type\":\"t/k.M\",\"i32\":1,\"any\":{\"@type\":\"t/k.M\"}} {\"@type\":\"t/k.N\"} {} {\"@type\":\"k.M\"} \
             {\"i32\":1,\"inner\":{\"text\":\"x\"},\"@type\":\"t/k.M\",\"yes\":true} \
             {\"@type\":\"t/google.protobuf.Duration\",\"value\":\"1.5s\"} \
             {\"value\":{\"a\":[1]},\"@type\":\"t/google.protobuf.Struct\"} \
             {\"@type\":\"t/google.protobuf.Any\",\"value\":{\"@type\":\"t/k.M\",\"text\":\"x\"}} \
             {\"@type\":\"t/google.protobuf.Empty\",\"value\":{}} {\"@type\":\"t/google.protobuf.Empty\"} []",
        ),
        ("notes", "{} {\"a\":null,\"b\":[1,\"x\",true,{\"c\":{}}],\"d\":-0.5} [] null"),
        ("free", "null 1 \"x\" true [1,[2]] {\"a\":{\"b\":1}} 18446744073709551615"),
        ("list", "[] [null,[1],{}] {} null"),
        ("at", "\"2026-01-02T03:04:05.5Z\" \"2026-01-02\" 5 null"),
        ("long", "\"1.5s\" \"-3s\" \"1\" 5"),
        ("mask", "\"a,b.cD\" \"\" 5"),
        ("wrapped", "\"5\" 0 -1 null \"x\""),
        ("empty", "{} {\"a\":1} []"),
        ("frees", "[null,1,{}]"),
        ("nothing", "null \"NULL_VALUE\""),
        ("anys", "[{\"@type\":\"t/k.M\"}] [null]"),
        ("unknown", "1"),
        ("[k.none]", "1"),
    ];
    let mut bodies: Vec<String> =
        ["", "{", "[]", "5", "null", "{} {}", "{\"i32\":1,}"].map(str::to_owned).into();
    for (name, values) in fields {
        let all = values.split(' ').map(|value| format!("{{\"{name}\":{value}}}"));
        bodies.extend(all);
    }
    bodies.push(format!("{{\"many\":[{{\"text\":\"{long}\",\"inner\":{{\"text\":\"{long}\"}}}},{{\"many\":[{{}}]}}],\"notes\":{{\"a\":\"{long}\"}}}}"));
    bodies.push("{\"byHand\":\"a\",\"byMachine\":{}}".to_owned());
    bodies.push("{\"byHand\":null,\"byMachine\":{}}".to_owned());
    for body in bodies {
        let (one, other) = (ours(&body), theirs(&body));
        match (&one, &other) {
            (Ok(one), Ok(other)) => assert_eq!(one, other, "{body}"),
            (Err(_), Err(_)) => {}
            _ => panic!("{body}: {one:?}, {other:?}"),
        }
    }
    // The other one makes one value of it, which a list cannot hold.
    assert_eq!(ours("{\"frees\":null}"), Ok(json!({})));
}

/// G15: what another reader makes to fit, or takes one of two of, is refused at every level.
#[test]
fn what_is_ambiguous_is_refused() {
    for (body, why) in [
        ("{\"u64\":18446744073709551616}", "out of range"),
        ("{\"real\":\"inf\"}", "invalid float"),
        ("{\"wide\":\"1e999\"}", "invalid float"),
        (
            "{\"any\":{\"@type\":\"t/k.M\",\"inner\":{\"byHand\":\"a\",\"by_hand\":\"b\"}}}",
            "`by_hand` stands twice",
        ),
        ("{\"any\":{\"inner\":{\"i32\":1,\"i32\":2},\"@type\":\"t/k.M\"}}", "`i32` stands twice"),
        ("{\"any\":{\"i32\":1,\"@type\":\"t/k.M\",\"i32\":1}}", "`i32` stands twice"),
        ("{\"any\":{\"@type\":\"t/k.M\",\"@type\":\"t/k.M\"}}", "unrecognized field name '@type'"),
        (
            "{\"any\":{\"@type\":\"t/google.protobuf.Duration\",\"value\":\"1s\",\"value\":\"1s\"}}",
            "stands twice",
        ),
        ("{\"byNumber\":{\"1\":{},\"01\":{}}}", "a name stands twice"),
        ("{\"byTruth\":{\"true\":\"\",\"true\":\"\"}}", "a name stands twice"),
        ("{\"free\":[{\"a\":1,\"\\u0061\":2}]}", "a name stands twice"),
        ("{\"inner\":null,\"inner\":{}}", "`inner` stands twice"),
    ] {
        let found = ours(body).expect_err(body);
        assert!(found.contains(why), "{body}: {found}");
    }
    // Types that come late, one in the other: each is looked for in all that stands before it.
    let text = (0..60).fold(format!("\"{}\"", "x".repeat(1000)), |inner, level| {
        let kind = if level == 0 { "google.protobuf.Value" } else { "google.protobuf.Any" };
        format!("{{\"value\":{inner},\"@type\":\"t/{kind}\"}}")
    });
    let found = ours(&format!("{{\"any\":{text}}}")).expect_err("late");
    assert!(found.contains("too much stands before"), "{found}");
    for (open, inmost) in
        [("{\"inner\":", "{}"), ("{\"@type\":\"t/k.M\",\"any\":", "{\"@type\":\"t/k.M\"}")]
    {
        let deep = format!("{}{inmost}{}", open.repeat(500), "}".repeat(500));
        let deep = if open.contains('@') { format!("{{\"any\":{deep}}}") } else { deep };
        let found = ours(&deep).expect_err(open);
        assert!(found.contains("recursion limit"), "{found}");
    }
    let late = (0..200).fold("{\"@type\":\"t/k.M\"}".to_owned(), |inner, _| {
        format!("{{\"any\":{inner},\"@type\":\"t/k.M\"}}")
    });
    assert!(ours(&format!("{{\"any\":{late}}}")).is_err());
}

/// O3: a message is no larger than four times what a body may be, whatever digits become.
#[test]
fn messages_are_bounded() {
    let body = format!("{{\"sizes\":[{}0]}}", "0,".repeat(1000));
    let most = |most| whole(&M, body.as_bytes(), (Vec::new(), most)).map(drop);
    assert!(most(8 * 1002).is_ok());
    assert!(matches!(most(8 * 1000), Err(Fault::TooLarge)));
}

proptest! {
    /// G15, O5: of any body both readers take the same message, or ours refuses it.
    #[test]
    fn both_readers_take_the_same(choices in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut choices = choices.into_iter();
        let body = object(&mut choices, 4);
        match (ours(&body), theirs(&body)) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one, other, "{}", body),
            (Ok(one), Err(why)) => prop_assert!(false, "{}: {:?}, {}", body, one, why),
            // What is said twice in a packed message is there but once for the other, which has never seen the first.
            (Err(why), Ok(_)) => prop_assert!(
                why.contains("twice") || crate::strict::object(body.as_bytes()).is_none(),
                "{}: {}", body, why
            ),
            (Err(_), Err(_)) => {}
        }
    }
}

/// An object of fields with values that mostly fit, by these choices.
fn object(choices: &mut impl Iterator<Item = u8>, levels: usize) -> String {
    let mut members = Vec::new();
    while let Some(choice) = choices.next().filter(|choice| choice % 4 > 0) {
        let number = choices.next().unwrap_or_default();
        let name = |names: &[&'static str]| names[usize::from(number) % names.len()];
        let signed = i32::from(number) * i32::from(number) - 9000;
        members.push(match choice / 4 % 10 {
            0 => format!(
                "\"{}\":{signed}",
                name(&["i32", "i64", "s64", "wide", "maybe", "wrapped", "u64"])
            ),
            1 => format!(
                "\"{}\":\"{}\"",
                name(&["text", "byHand", "by_hand"]),
                "x".repeat(number.into())
            ),
            2 => format!("\"kind\":{}", name(&["\"BIG\"", "\"LOW\"", "0", "7", "null"])),
            3 => format!(
                "\"{}\":[{}{signed}]",
                name(&["numbers", "odd", "sizes", "apart"]),
                "1,".repeat(number.into())
            ),
            4 => format!("\"byName\":{{\"a\":{number},\"{}\":0}}", name(&["a", "b", "c"])),
            5 => format!(
                "\"{}\":{{\"a\":[{signed},\"x\",null]}}",
                name(&["free", "notes", "byMachine"])
            ),
            _ if levels == 0 => "\"yes\":true".to_owned(),
            6 => format!("\"{}\":{}", name(&["inner", "byMachine"]), object(choices, levels - 1)),
            7 => format!("\"byNumber\":{{\"{number}\":{}}}", object(choices, levels - 1)),
            8 => {
                let inner = object(choices, levels - 1);
                let inner = inner.strip_suffix('}').map(str::to_owned).unwrap_or_default();
                let comma = if inner.len() > 1 { "," } else { "" };
                format!("\"any\":{inner}{comma}\"@type\":\"t/k.M\"}}")
            }
            _ => format!(
                "\"many\":[{},{}]",
                object(choices, levels - 1),
                object(choices, levels - 1)
            ),
        });
    }
    format!("{{{}}}", members.join(","))
}
