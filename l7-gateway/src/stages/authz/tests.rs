//! What rules allow, and to whom.

use http::Method;
use serde_json::json;
use topology::gateway::{Allow, Auth};

use super::*;

fn policy(allow: Vec<Allow>, access: Access) -> RoutePolicy {
    RoutePolicy {
        auth: Auth::None,
        scopes: vec![],
        allow,
        access,
        authorize: None,
        limits: vec![],
        cors: None,
    }
}

fn rule(methods: &[&str], scopes: &[&str], roles: &[&str], when: &str) -> Allow {
    Allow {
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        scopes: scopes.iter().map(|scope| Scope::new(scope)).collect(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        when: (!when.is_empty()).then(|| when.parse().unwrap()),
    }
}

fn asking<'a>(identity: Option<&'a Identity>, method: &'a Method) -> Asking<'a> {
    Asking { identity, principal: None, method }
}

/// G9: scopes without anybody who could have them are refused, whatever the policy's `auth`; so are
/// rules, and routes that are closed.
#[test]
fn scopes_need_somebody() {
    let nobody = asking(None, &Method::GET);
    assert_eq!(decide(&policy(vec![], Access::Allow), &nobody), Plan::Grant);
    let needed = RoutePolicy { scopes: vec![Scope::new("pay")], ..policy(vec![], Access::Allow) };
    assert_eq!(decide(&needed, &nobody), Plan::Refuse(AuthzError::Anonymous));
    let ruled = policy(vec![rule(&["GET"], &[], &[], "")], Access::Allow);
    assert_eq!(decide(&ruled, &nobody), Plan::Refuse(AuthzError::Anonymous));
    assert_eq!(decide(&policy(vec![], Access::Deny), &nobody), Plan::Refuse(AuthzError::Closed));
}

/// G9: methods, scopes, roles and expressions of one rule together, one of several rules; what nothing
/// allows is refused, and where scopes alone are missing they are named.
#[test]
fn one_rule_allows() {
    let identity =
        Identity::made_up("7", &["read"], &["clerk"], json!({"tenant": "acme", "level": 3}));
    let closed = policy(vec![], Access::Deny);
    assert_eq!(
        decide(&closed, &asking(Some(&identity), &Method::GET)),
        Plan::Refuse(AuthzError::Closed)
    );
    let rules = policy(
        vec![
            rule(&["GET", "HEAD"], &["read"], &[], ""),
            rule(&["POST"], &["write"], &["clerk", "admin"], "tenant == 'acme'"),
            rule(&["DELETE"], &[], &["admin"], ""),
            rule(&["PUT"], &[], &[], "level > 3 or tenant in ['x', 'y']"),
            rule(&["PATCH"], &[], &["nobody", "clerk"], "level >= 3 and not (tenant == 'evil')"),
        ],
        Access::Allow,
    );
    let required = vec!["write".into()];
    for (method, expected) in [
        (Method::GET, Plan::Grant),
        (Method::HEAD, Plan::Grant),
        (Method::POST, Plan::Refuse(AuthzError::InsufficientScope { required })),
        (Method::DELETE, Plan::Refuse(AuthzError::NotAllowed)),
        (Method::PUT, Plan::Refuse(AuthzError::NotAllowed)),
        (Method::PATCH, Plan::Grant),
        (Method::OPTIONS, Plan::Refuse(AuthzError::NotAllowed)),
    ] {
        assert_eq!(decide(&rules, &asking(Some(&identity), &method)), expected, "{method}");
    }
}

/// G9: a comparison with what is absent or of another kind is false, `!=` too.
#[test]
fn what_is_missing_allows_nothing() {
    let claims = json!({
        "tenant": "acme", "level": 3, "half": 2.5, "admin": true, "none": null, "groups": ["a", 1, "b c"],
        "realm": {"roles": ["x"], "ok": true}, "https://a/b": "c",
    });
    let identity = Identity::made_up("98765", &[], &[], claims);
    for (text, expected) in [
        ("tenant == 'acme'", true),
        ("tenant == 'ACME'", false),
        ("tenant != 'other'", true),
        ("absent != 'other'", false),
        ("absent == absent", false),
        ("not (absent == 'x')", true),
        ("level == 3 and level >= 3 and level <= 3", true),
        ("level < 3 or level > 3", false),
        ("level == '3'", false),
        ("level != '3'", false),
        ("half > 2 and half < 3", true),
        ("tenant >= 'a'", false),
        ("admin", true),
        ("level", false),
        ("none", false),
        ("exists none", true),
        ("none == none", false),
        ("exists absent", false),
        ("groups has 'a' and groups has 1", true),
        ("groups has 'b'", false),
        ("'b c' in groups", true),
        ("tenant has 'acme'", false),
        ("tenant in ['x', 'acme']", true),
        ("level in [1, 3]", true),
        ("realm.roles has 'x' and realm.ok", true),
        ("realm.roles.x", false),
        ("tenant.x == 'acme'", false),
        ("claim['https://a/b'] == 'c'", true),
        ("@user == '98765' and @method == 'GET'", true),
        ("@user == 98765", false),
        ("@consumer == 'acme' or exists @plan or exists @principal", false),
    ] {
        let expression: topology::expression::Expression = text.parse().unwrap();
        assert_eq!(asking(Some(&identity), &Method::GET).fits(&expression), expected, "{text}");
    }
    let nobody: topology::expression::Expression =
        "tenant != 'x' or exists tenant".parse().unwrap();
    assert!(!asking(None, &Method::GET).fits(&nobody));
}
