//! The trace context that an application leaves in a comment of its SQL, as sqlcommenter writes it:
//! `/*traceparent='00-…-01'*/`. Not for what else comments say. Called by the relay for each text.
//!
//! Invariant: what is taken out of a lawful text is a whole comment, and what stays means the same at the
//! same place: errors point to where the client sees them.

use std::ops::Range;

use common::trace_parent::TraceParent;

/// A comment that carries one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// The span that sent the text.
    pub parent: TraceParent,
    at: Range<usize>,
    /// Something comes behind it.
    front: bool,
}

/// Looks at the end of a text and at its front. Costs two comparisons where no comment is.
pub fn find(sql: &[u8]) -> Option<Comment> {
    at_end(sql).or_else(|| at_front(sql))
}

fn at_end(sql: &[u8]) -> Option<Comment> {
    let end = sql.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != b';')? + 1;
    let text = sql.get(..end)?.strip_suffix(b"*/")?;
    let start = text.windows(2).rposition(|two| two == b"/*")?;
    let parent = parent(text.get(start + 2..)?)?;
    Some(Comment { parent, at: start..end, front: false })
}

fn at_front(sql: &[u8]) -> Option<Comment> {
    let start = sql.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let text = sql.get(start..)?.strip_prefix(b"/*")?;
    let length = text.windows(2).position(|two| two == b"*/")?;
    let parent = parent(text.get(..length)?)?;
    Some(Comment { parent, at: start..start + length + 4, front: true })
}

/// The inside of a comment, which has no other comment in it.
fn parent(inside: &[u8]) -> Option<TraceParent> {
    const KEY: &[u8] = b"traceparent='";
    let nested = |two: &[u8]| two == b"/*" || two == b"*/";
    if !inside.is_ascii() || inside.windows(2).any(nested) {
        return None;
    }
    let at = inside.windows(KEY.len()).position(|part| part == KEY)?;
    let begins = at.checked_sub(1).and_then(|before| inside.get(before));
    let own = begins.is_none_or(|byte| byte.is_ascii_whitespace() || *byte == b',');
    let value = inside.get(at + KEY.len()..)?;
    let value = value.get(..value.iter().position(|byte| *byte == b'\'')?)?;
    TraceParent::parse(value).filter(|_| own)
}

impl Comment {
    /// The text without it. At the front it becomes blanks: what an error points to stays where it is.
    pub fn strip(&self, text: &[u8]) -> Vec<u8> {
        let front = text.get(..self.at.start).unwrap_or_default();
        let rest = text.get(self.at.end..).unwrap_or_default();
        let blanks = vec![b' '; if self.front { self.at.len() } else { 0 }];
        [front, &blanks, rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn stripped(sql: &str) -> Option<String> {
        let found = find(sql.as_bytes())?;
        Some(String::from_utf8(found.strip(sql.as_bytes())).expect("UTF-8"))
    }

    /// P8: a comment at the end goes, one at the front becomes blanks, and what is no comment of this kind
    /// stays.
    #[test]
    fn trace_comments_are_found_and_taken_out() {
        let end = |front: &str, back: &str| {
            format!("{front}/*action='%2Fp',traceparent='{ONE}',tracestate='a%3D1'*/{back}")
        };
        assert_eq!(stripped(&end("select 1 ", "")).as_deref(), Some("select 1 "));
        assert_eq!(stripped(&end("select 'ü' ", " ; \n")).as_deref(), Some("select 'ü'  ; \n"));
        let front = format!(" /* traceparent='{ONE}' */select 1");
        let blanks = format!("{}select 1", " ".repeat(front.len() - 8));
        assert_eq!(stripped(&front).as_deref(), Some(&*blanks));
        for other in [
            "select 1".to_owned(),
            String::new(),
            "/*/".to_owned(),
            "*/".to_owned(),
            "select 1 /* traceparent */".to_owned(),
            format!("select 1 /*xtraceparent='{ONE}'*/"),
            format!("select 1 /*traceparent='{ONE}"),
            format!("select 1 /*traceparent='{}'*/", &ONE[1..]),
            format!("select 1 /* a /*traceparent='{ONE}'*/ */"),
            format!("select '/*traceparent=''{ONE}''*/'"),
            format!("select 1 /*ü traceparent='{ONE}'*/"),
            format!("select 1 /*traceparent='{ONE}'*/ + 1"),
        ] {
            assert_eq!(find(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        /// O5: whatever a client sends, nothing but the comment goes, and nothing panics.
        #[test]
        fn only_the_comment_goes(front in "[ a-z'/*;-]{0,12}", back in "[ ;\n*/]{0,6}") {
            let sql = format!("{front}/*traceparent='{ONE}'*/{back}");
            if let Some(found) = find(sql.as_bytes()) {
                let left = String::from_utf8(found.strip(sql.as_bytes())).expect("UTF-8");
                let expected = format!("{front}{back}");
                prop_assert_eq!(left.trim(), expected.trim());
            }
        }
    }
}
