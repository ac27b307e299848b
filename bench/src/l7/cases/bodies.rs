//! Large bodies: what a Gbit costs, and whether memory stays flat while one streams. Not for small
//! answers.
//!
//! Invariant: a body that did not arrive whole is an error, unless the client itself gave up.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Case, Terms, in_turns};
use crate::figures::Better;
use crate::goals::Want;
use crate::l4::clock::pause;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::load::Load;
use crate::l7::party::{Kind, SERVICE, Wanted};
use crate::l7::rig::{ECHO, Rig, Running, beside_party};

const HTTP: &str = "1 MiB bodies, http";
const HTTPS: &str = "1 MiB bodies, https";
const HTTP2: &str = "1 MiB bodies, http/2 over tls";
const PER_GBIT: &str = "cpu per Gbit";

pub(super) fn goals(case: Case) -> Vec<Goal> {
    match case {
        Case::Bodies => [HTTP, HTTPS, HTTP2]
            .map(|name| Goal::new(&format!("{name}: {PER_GBIT}"), Want::AtMostOf(Kind::Envoy, 1.0)))
            .into(),
        Case::Stream => STREAMS.map(|stream| Goal::new(&stream.figure(), Want::AtMost(4.0))).into(),
        _ => Vec::new(),
    }
}

pub(super) fn bodies(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    let load = |load: Load| Load { path: "/large/1m", ..load };
    for (name, tls, load) in [
        (HTTP, false, load(Load::http1(16))),
        (HTTPS, true, load(Load::http1(16))),
        (HTTP2, true, load(Load::http2(8, 2))),
    ] {
        let parties =
            rig.start_all(&Wanted::pinned(tls), |kind| !tls || kind != Kind::Direct, sheet);
        in_turns(name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
            let before = party.cpu();
            let run = load.run(&party.url(load.path), terms.seconds)?;
            let cpu = (party.cpu() - before).as_secs_f64();
            let gbit = |requests: f64| requests * f64::from(8 << 20) / 1e9;
            let mut note = |figure: &str, unit, better, value| {
                let name = format!("{name}: {figure}");
                sheet.note((&name, unit, better), party.kind, round, value);
            };
            if party.program.is_some() {
                note(PER_GBIT, "ms", Better::Low, cpu * 1e3 / gbit(run.requests as f64));
            }
            note("speed", "Gbit/s", Better::High, gbit(run.per_second));
            Ok(())
        });
    }
}

/// A body of 1 GiB on its way.
#[derive(Clone, Copy)]
struct Stream {
    name: &'static str,
    tls: bool,
    /// What `curl` is told.
    how: &'static [&'static str],
    /// Ended by curl's own time limit.
    gives_up: bool,
}

const STREAMS: [Stream; 4] = [
    Stream { name: "download, http", tls: false, how: &[], gives_up: false },
    Stream { name: "download, http/2 over tls", tls: true, how: &["--http2"], gives_up: false },
    Stream {
        name: "download, http/2 over tls, slow reader",
        tls: true,
        how: &["--http2", "--limit-rate", "20M", "--max-time", "3"],
        gives_up: true,
    },
    Stream { name: "upload, https", tls: true, how: &["--http1.1", "-T", "FILE"], gives_up: false },
];

impl Stream {
    fn figure(self) -> String {
        format!("memory grown by 1 GiB: {}", self.name)
    }

    fn uploads(self) -> bool {
        self.how.contains(&"-T")
    }
}

pub(super) fn streams(rig: &Rig, _: Terms, sheet: &mut Sheet) {
    let _echo = match rig.echo() {
        Ok(echo) => echo,
        Err(fault) => return sheet.notes.push(format!("{fault:#}")),
    };
    for stream in STREAMS {
        // nginx would answer before it has the body.
        let service = if stream.uploads() { ECHO } else { SERVICE };
        let wanted = Wanted { service, ..Wanted::pinned(stream.tls) };
        let parties = rig.start_all(&wanted, |it| it != Kind::Direct, sheet);
        in_turns(stream.name, &parties, 1, sheet, &mut |party, round, sheet| {
            let grown = grown(rig, party, stream)?;
            let figure = stream.figure();
            sheet.note((&figure, "MiB", Better::Low), party.kind, round, grown);
            Ok(())
        });
    }
}

/// How much more memory a party has at most while a body streams, in MiB.
fn grown(rig: &Rig, party: &Running, stream: Stream) -> Result<f64> {
    let curl = |path: &str| {
        let mut command = beside_party("curl");
        command.args(["-skf", "-o", "/dev/null", &party.url(path)]).stdin(Stdio::null());
        command
    };
    ensure!(curl("/large/1m").status()?.success(), "no answer");
    let before = party.rss_kib();
    let file = rig.large("1g");
    let how = stream.how.iter().map(|word| word.replace("FILE", &file.to_string_lossy()));
    let mut command: Command = curl(if stream.uploads() { "/api/upload" } else { "/large/1g" });
    let mut child = command.args(how).spawn()?;
    let mut most = before;
    let status = loop {
        most = most.max(party.rss_kib());
        if let Some(status) = child.try_wait()? {
            break status;
        }
        pause(Duration::from_millis(20));
    };
    // 28: curl's own time limit.
    let fine = status.success() || (stream.gives_up && status.code() == Some(28));
    ensure!(fine, "curl ended with {status}");
    Ok((most - before) as f64 / 1024.0)
}
