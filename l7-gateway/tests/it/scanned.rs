//! Bodies that external filters are told: however they grow as JSON, and however they are written.

use crate::external::{gateway, post, told};
use crate::fakes::{Act, Fake};
use crate::rig::local;

fn says(text: String) -> Act {
    Act::Answer(Box::leak(text.into_boxed_str()))
}

/// G2: no client switches off a filter by what grows as JSON: a control character is six bytes there, and filters may
/// write all but ASCII likewise.
#[tokio::test]
async fn a_body_that_grows_switches_nothing_off() {
    const MOST: usize = 64 << 10;
    local(async {
        for (letter, written) in [("\u{1}", "\\u0001"), ("\u{e9}", "\\u00e9")] {
            let count = MOST / letter.len();
            let (body, echo) = (letter.repeat(count), written.repeat(count));
            let service = Fake::new(Act::Answer("x")).await;
            let text =
                format!("{{\"headers\":{{\"set\":{{\"x-seen\":\"yes\"}}}},\"body\":\"{echo}\"}}");
            let filter = Fake::new(says(text)).await;
            let rig = gateway(&service, &filter, ", body: 64KiB, when-away: allow");
            let answer = rig.raw(&post(&body)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{written}: {answer}");
            let sent = service.seen.last();
            assert!(sent.contains("x-seen: yes\r\n"), "{written}: it was passed by");
            assert!(sent.ends_with(&format!("\r\n\r\n{body}")), "{written}");
            assert_eq!(told(&filter)["body"], body);
        }
    })
    .await;
}
