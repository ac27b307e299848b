//! Conditions of rules as operators write them: what is read prints as a text that reads as the same, names
//! its claims, and is judged. Run by `make fuzz`.
//!
//! Invariant: without a caller nothing but what asks for nothing of one is true.
#![no_main]

use l7_gateway::stages::authz::evaluate::Asking;
use libfuzzer_sys::fuzz_target;
use topology::expression::Expression;

/// Longest text that is read.
const LONGEST: usize = 1024;

fuzz_target!(|text: &str| {
    let Ok(expression) = text.parse::<Expression>() else { return };
    assert!(text.len() <= LONGEST);
    let printed = expression.to_string();
    if printed.len() <= LONGEST {
        assert_eq!(printed.parse::<Expression>().as_ref(), Ok(&expression), "{printed}");
    }
    expression.claims(&mut Vec::new());
    let method = http::Method::GET;
    let nobody = Asking { identity: None, principal: None, method: &method };
    let opposite = Expression::Not(Box::new(expression.clone()));
    assert_ne!(nobody.fits(&expression), nobody.fits(&opposite));
});
