//! Runs the fuzz entry functions on stable Rust: over a small corpus and over many small changes of
//! it. Not a replacement for minutes of fuzzing, which `make verify` does with the same functions.
//! Run by the test harness.
//!
//! Invariant: the changes come from a fixed seed, so a failure is found again.

use pgpool_wire::{backend, fuzz, sasl, startup};

fn corpus() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut add = |fill: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        fill(&mut out);
        all.push(out);
    };
    add(&|o| startup::put_startup(o, startup::V3_2, &[("user", "app"), ("database", "shop")]));
    add(&startup::put_ssl_request);
    add(&|o| startup::put_cancel(o, &startup::CancelKey { pid: 3, secret: vec![1; 32] }));
    add(&|o| {
        pgpool_wire::frontend::put_parse(o, b"s1", b"select $1\0\0\x01\0\0\0\x17");
        pgpool_wire::frontend::put_bind_head(o, b"", b"s1", 2);
        o.extend_from_slice(&[0, 0]);
        pgpool_wire::frontend::put_empty(o, b'S');
    });
    add(&|o| pgpool_wire::frontend::put_query(o, b"select 1"));
    add(&|o| pgpool_wire::frontend::put_sasl_initial(o, sasl::SCRAM, b"n,,n=,r=abc"));
    add(&|o| {
        let code = pgpool_wire::SqlState::new(b"26000");
        backend::put_error(o, backend::Severity::Error, code, "no such statement", None);
        backend::put_parameter(o, "TimeZone", "UTC");
        backend::put_ready(o, backend::Status::Failed);
    });
    for text in [
        &b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"[..],
        b"r=rOprNGfwEb,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"c=biws,r=rOprNGfwEb,p=dHzb",
        b"v=6rri",
    ] {
        all.push(text.to_vec());
    }
    all
}

fn all(bytes: &[u8]) {
    fuzz::fuzz_opening(bytes);
    fuzz::fuzz_frontend(bytes);
    fuzz::fuzz_backend(bytes);
    fuzz::fuzz_sasl(bytes);
}

/// O5: no bytes from either side bring the parsers down.
#[test]
fn corpus_and_changes_of_it() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for case in corpus() {
        all(&case);
        for _ in 0..4000 {
            let mut changed = case.clone();
            for _ in 0..=next() % 4 {
                let at = next() as usize % changed.len();
                match next() % 4 {
                    0 => changed[at] = next() as u8,
                    1 => changed.truncate(at.max(1)),
                    2 => changed.insert(at, next() as u8),
                    _ => changed[at] ^= 1 << (next() % 8),
                }
            }
            all(&changed);
        }
    }
}
