//! What is read, what is refused, and that printing and reading agree.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Expression {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// G9: what binds how, and the two spellings of claims.
#[test]
fn expressions_are_read() {
    let claim = |path: &[&str]| Term::Claim(path.iter().map(|name| (*name).to_owned()).collect());
    let text = |text: &str| Term::Text(text.to_owned());
    let is = |one, other| Expression::Test(one, Comparison::Equal, other);
    let a = || is(claim(&["a"]), Term::Number(1));
    let b = || Expression::Holds(claim(&["b"]));
    for (written, expected) in [
        ("a == 1", a()),
        (
            "a==1 and b or not b",
            Expression::Any(vec![Expression::All(vec![a(), b()]), Expression::Not(Box::new(b()))]),
        ),
        ("b and (a == 1 or b)", Expression::All(vec![b(), Expression::Any(vec![a(), b()])])),
        (
            "realm_access.roles has 'it''s'",
            Expression::Test(claim(&["realm_access", "roles"]), Comparison::Has, text("it's")),
        ),
        (
            "claim['https://x/y'].z in [1, -2, 'c', true]",
            Expression::Test(
                claim(&["https://x/y", "z"]),
                Comparison::In,
                Term::List(vec![Term::Number(1), Term::Number(-2), text("c"), Term::Bool(true)]),
            ),
        ),
        ("exists claim['a']", Expression::Exists(claim(&["a"]))),
        (
            "@plan != 'free'",
            Expression::Test(Term::Fact(Fact::Plan), Comparison::Differs, text("free")),
        ),
        ("order_by == 1", is(claim(&["order_by"]), Term::Number(1))),
        ("claim == 1", is(claim(&["claim"]), Term::Number(1))),
    ] {
        assert_eq!(read(written), expected, "{written}");
    }
    let mut claims = Vec::new();
    let all = read("a == 1 and (b.c or exists d) and @user == 'x' and 'y' in e");
    all.claims(&mut claims);
    assert_eq!(claims, ["a", "b", "d", "e"]);
}

/// O5: what cannot be understood is refused, with what is wrong.
#[test]
fn odd_expressions_are_refused() {
    let deep = "(".repeat(20) + "a";
    let nots = "not ".repeat(200) + "a";
    for (written, what) in [
        ("", "the expression ends too early"),
        ("a ==", "the expression ends too early"),
        ("a = 1", "`= 1` is not understood here"),
        ("a == 1 b", "`b` is not understood here"),
        ("(a == 1", "`)` is missing at the end"),
        ("a == 'x", "a quote is not closed"),
        ("'x'", "`'x'` is compared with nothing"),
        ("1 == 1", "`1 == 1` asks nobody"),
        ("a == [1]", "`claim['a'] == [1]` can never be told"),
        ("a in 'x'", "`claim['a'] in 'x'` can never be told"),
        ("a == 99999999999999999999", "`99999999999999999999` is no whole number"),
        ("a == -", "`-` is no whole number"),
        ("@usr == 'x'", "`@usr` is not known"),
        ("a in [b]", "`claim['b']` stands in a list of values"),
        ("a and and b", "`and` stands where a value belongs"),
        ("a.", "a name is missing after `.`"),
        ("a && b", "`&& b` is not understood here"),
        (&deep, "this is nested too deeply"),
        (&nots, "this is nested too deeply"),
        (&"a or ".repeat(400), "the expression is longer than 1024 bytes"),
    ] {
        let error = written.parse::<Expression>().expect_err(written);
        assert_eq!(error.what, what, "{written}");
    }
}

/// O5: what is nested as deeply as may be is printed so that it can be read.
#[test]
fn the_deepest_prints_and_reads_back() {
    let nots = "not ".repeat(16);
    let lists = format!("{}a or b{}", "not (c and d or ".repeat(8), ")".repeat(8));
    for text in [format!("{nots}a or b and {nots}c"), lists] {
        let expression = read(&text);
        assert_eq!(read(&expression.to_string()), expression, "{text}");
    }
}

fn term() -> impl Strategy<Value = Term> {
    let name = || "[a-zA-Z:/_ ']{1,6}";
    let literal = prop_oneof![
        "[a-z' ]{0,6}".prop_map(Term::Text),
        any::<i64>().prop_map(Term::Number),
        any::<bool>().prop_map(Term::Bool),
    ];
    prop_oneof![
        proptest::collection::vec(name(), 1..3).prop_map(Term::Claim),
        Just(Term::Fact(Fact::User)),
        literal,
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    let claim = || "[a-z]{1,4}".prop_map(|name| Term::Claim(vec![name]));
    let leaf = prop_oneof![
        claim().prop_map(Expression::Holds),
        claim().prop_map(Expression::Exists),
        (claim(), term()).prop_map(|(one, other)| Expression::Test(
            one,
            Comparison::AtLeast,
            other
        )),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Expression::All),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Expression::Any),
            inner.prop_map(|one| Expression::Not(Box::new(one))),
        ]
    })
}

proptest! {
    /// G9: what is printed reads back as the same expression.
    #[test]
    fn printing_and_reading_agree(expression in expression()) {
        let text = expression.to_string();
        if text.len() <= 1024 {
            prop_assert_eq!(text.parse::<Expression>(), Ok(expression));
        }
    }

    /// O5: no text makes the reader panic, and what it takes prints and reads back.
    #[test]
    fn any_text_is_read_or_refused(text in "([a-z0-9 ()'@.\\[\\],=!<>-]|and |or |not |in |has |exists |claim\\[){0,24}") {
        if let Ok(expression) = text.parse::<Expression>() {
            let printed = expression.to_string();
            prop_assert_eq!(printed.parse::<Expression>(), Ok(expression));
        }
    }

    #[test]
    fn bytes_never_panic(text in ".{0,60}") {
        let _ = text.parse::<Expression>();
    }
}
