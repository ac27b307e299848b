//! `aqueduct check`: every problem of a topology file at once, and whether the certificates that it
//! names fit their keys. Starts nothing. Called by `main`.
//!
//! Invariant: exit code 0 fine, 2 problems, 1 could not run.

mod live;
mod order;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::tls::server;
use common::tls::store::{self, Loaded};
use l7_gateway::contract::Contract;
use l7_gateway::transcode::Interface;
use topology::effective::ValueFrom;
use topology::gateway::{Group, Route};
use topology::problem::{LoadError, Problem, Severity, Shown};
use topology::units::HostPattern;
use topology::{At, Place, SecretRef, SourceFile, Tls, Topology};

use self::report::{Report, effective};
use crate::file;

/// Checks a topology file without starting anything
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack
    file: PathBuf,
    /// Warnings count as problems
    #[arg(long)]
    strict: bool,
    /// Also tries what the file names: certificates, keys and other files, addresses to listen on, services,
    /// DNS, Redis, PostgreSQL, issuers
    #[arg(long)]
    live: bool,
    /// How problems are written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    also: Also,
}

/// What is printed beside problems.
#[derive(Debug, clap::Args)]
struct Also {
    /// Also prints every value that holds, with its place in the file or `default` (text and JSON)
    #[arg(long)]
    print_effective: bool,
    /// Also prints the filters of every route in the order in which requests and answers pass them (text and JSON)
    #[arg(long)]
    print_order: bool,
}

/// How problems are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: with the line that is meant, and a remedy
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, as code hosts show beside the lines of a change
    Sarif,
}

/// Prints what is wrong.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for (asked, what) in
        [(args.also.print_effective, "--print-effective"), (args.also.print_order, "--print-order")]
    {
        if asked && args.format == Format::Sarif {
            anyhow::bail!("{what}: SARIF has no place for it; write --format text or json");
        }
    }
    let mut orders = Vec::new();
    let (found, source, unlisted) = match file::read(&args.file)? {
        Ok(topology) => {
            let mut found = topology.warnings.clone();
            found.extend(certificates(&topology, SystemTime::now()));
            found.extend(descriptions(&topology));
            if args.live {
                let live = live::problems(&topology).await;
                // What is here and wrong was told already.
                let known =
                    |one: &Problem| found.iter().any(|p| p.at == one.at && p.what == one.what);
                let live: Vec<Problem> = live.into_iter().filter(|one| !known(one)).collect();
                found.extend(live);
            }
            found.sort_by_key(|problem| problem.at);
            if args.also.print_order {
                orders = order::of(&topology);
            }
            topology::meant::complete(&topology.source.text, &mut found);
            (found, topology.source, 0)
        }
        Err(LoadError::Problems(problems)) => {
            (problems.list().to_vec(), Arc::clone(problems.source()), problems.unlisted())
        }
        Err(error @ (LoadError::Io { .. } | LoadError::Foreign(_))) => anyhow::bail!("{error}"),
    };
    let errors = found.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = found.len() - errors;
    let mut out = std::io::stdout().lock();
    let report = Report { found: &found, source: &source, unlisted };
    match args.format {
        Format::Text => {
            for problem in &found {
                writeln!(out, "{}", Shown { problem, source: &source })?;
            }
            if args.also.print_effective && errors == 0 {
                print_effective(&mut out, &source)?;
            }
            if !orders.is_empty() {
                writeln!(out, "{}", order::text(&orders))?;
            }
            let more = match unlisted {
                0 => String::new(),
                n => format!(", and {n} more that are not shown"),
            };
            writeln!(out, "{}: {}{more}", source.name, verdict(errors, warnings))?;
        }
        Format::Json => {
            let mut json = report.json(args.also.print_effective && errors == 0);
            if args.also.print_order {
                json["order"] = order::json(&orders);
            }
            writeln!(out, "{json:#}")?;
        }
        Format::Sarif => writeln!(out, "{:#}", report.sarif())?,
    }
    let bad = errors > 0 || (args.strict && warnings > 0);
    Ok(if bad { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn print_effective(out: &mut impl Write, source: &SourceFile) -> anyhow::Result<()> {
    for one in effective(source) {
        let from = match one.from {
            ValueFrom::File(at) => format!("{}:{}:{}", source.name, at.line, at.column),
            ValueFrom::Default => "default".to_owned(),
        };
        writeln!(out, "{} = {}  # {from}", one.path, one.value)?;
    }
    writeln!(out)?;
    Ok(())
}

fn verdict(errors: usize, warnings: usize) -> String {
    let count = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    match (errors, warnings) {
        (0, 0) => "fine".to_owned(),
        (0, _) => format!("fine, {}", count(warnings, "warning")),
        (_, 0) => count(errors, "problem"),
        _ => format!("{}, {}", count(errors, "problem"), count(warnings, "warning")),
    }
}

/// What is wrong with certificates that can be looked at here; one that is not there yet is no
/// fault of the file, since it may be meant for another host.
fn certificates(topology: &Topology, now: SystemTime) -> Vec<Problem> {
    let mut problems = Vec::new();
    for group in &topology.gateways {
        let Some(tls) = &group.tls else { continue };
        if let Some(loaded) = usable(tls, now, &mut problems) {
            problems.extend(group.routes.iter().flat_map(|route| uncovered(route, &loaded)));
        }
    }
    for tls in topology.pools.iter().filter_map(|group| group.tls.as_ref()) {
        usable(tls, now, &mut problems);
    }
    problems
}

/// What is wrong with descriptions of calls and requests that can be read here.
fn descriptions(topology: &Topology) -> Vec<Problem> {
    let mut problems = Vec::new();
    for route in topology.gateways.iter().flat_map(|group| &group.routes) {
        let calls = route.transcode.as_ref().filter(|model| model.from.is_here());
        match calls.map(|model| (model.place, Interface::new(model))) {
            Some((_, Err(fault))) => {
                problems.push(problem(fault.place(), Severity::Error, fault.to_string()));
            }
            Some((place, Ok(calls))) => {
                let unheard = calls.unheard().into_iter();
                problems.extend(unheard.map(|what| problem(place, Severity::Warning, what)));
            }
            None => {}
        }
    }
    for (place, model) in topology.gateways.iter().flat_map(Group::contracts) {
        if !model.file.exists() {
            continue;
        }
        match Contract::new(model, &[]) {
            Err(fault) => {
                problems.push(problem(fault.place(), Severity::Error, fault.to_string()));
            }
            Ok(contract) => {
                let unheld = contract.unheld().into_iter();
                problems.extend(unheld.map(|what| problem(place, Severity::Warning, what)));
            }
        }
    }
    problems
}

/// A list of revoked certificates that is none, or is out of date: then no client gets in.
fn revocations(reference: &At<SecretRef>, now: SystemTime) -> Vec<Problem> {
    if !here(&reference.value) {
        return Vec::new();
    }
    let at = reference.place;
    match server::revocations(reference) {
        Err(error) => vec![problem(at, Severity::Error, error.to_string())],
        Ok(lists) => {
            let old = lists.iter().filter(|list| server::due(list).is_some_and(|due| due < now));
            let what = "the list of revoked certificates is out of date: no client gets in by it";
            old.map(|_| problem(at, Severity::Error, what.to_owned())).collect()
        }
    }
}

/// Whether there is something behind a reference on this host.
fn here(reference: &SecretRef) -> bool {
    match reference {
        SecretRef::File(path) => path.exists(),
        SecretRef::Env(name) => std::env::var_os(name).is_some(),
        SecretRef::Given(_) => true,
    }
}

/// Loads those that are here; `None` when one is missing or wrong.
fn usable(tls: &Tls, now: SystemTime, problems: &mut Vec<Problem>) -> Option<Vec<Loaded>> {
    problems.extend(tls.client_crl.iter().flat_map(|list| revocations(list, now)));
    let mut all = Some(Vec::new());
    for certificate in &tls.certificates {
        if !here(&certificate.chain.value) || !here(&certificate.key.value) {
            all = None;
            continue;
        }
        match store::load(certificate) {
            Ok(loaded) => {
                problems.extend(lifetime(&loaded, certificate.chain.place, now));
                if let Some(all) = &mut all {
                    all.push(loaded);
                }
            }
            Err(error) => {
                problems.push(problem(error.place(), Severity::Error, error.to_string()));
                all = None;
            }
        }
    }
    all
}

fn lifetime(loaded: &Loaded, at: Place, now: SystemTime) -> Option<Problem> {
    let days = |duration: Duration| duration.as_secs() / DAY.as_secs();
    match loaded.not_after.duration_since(now) {
        Err(over) => {
            let what = format!("the certificate expired {} days ago", days(over.duration()));
            Some(problem(at, Severity::Error, what))
        }
        Ok(left) if left < SOON => {
            let what = format!("the certificate expires in {} days", days(left));
            Some(problem(at, Severity::Warning, what))
        }
        Ok(_) if loaded.not_before > now => {
            Some(problem(at, Severity::Error, "the certificate is not valid yet".to_owned()))
        }
        Ok(_) => None,
    }
}

/// Hosts of a route that no certificate of its group covers.
fn uncovered(route: &Route, loaded: &[Loaded]) -> Vec<Problem> {
    let covered = |host: &HostPattern| match host {
        HostPattern::Exact(host) => loaded.iter().any(|one| one.covers(host)),
        HostPattern::Suffix(suffix) => {
            let wildcard = format!("*{suffix}");
            loaded.iter().any(|one| one.names.contains(&wildcard))
        }
    };
    let lacking = route.hosts.iter().filter(|host| !covered(host)).map(|host| {
        let host = match host {
            HostPattern::Exact(host) => host.clone(),
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        };
        let what = format!("no certificate of the group is for {host}, which this route serves");
        problem(route.place, Severity::Error, what)
    });
    lacking.collect()
}

fn problem(at: Place, severity: Severity, what: String) -> Problem {
    Problem { at, width: 1, path: String::new(), what, allowed: None, hint: None, severity }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const EXAMPLES: &str = "\
Examples:
  aqueduct check topology.yaml
  aqueduct check --strict topology.yaml      in CI: warnings count too
  aqueduct check --live topology.yaml        on the host: files, ports, names, Redis, PostgreSQL, issuers
  aqueduct check --format sarif topology.yaml > check.sarif
  aqueduct check --print-effective topology.yaml | grep timeout

Exit code: 0 fine, 2 problems, 1 it could not run.";

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway whose route is for `host`, with a certificate for `a.example` beside it.
    fn found(host: &str, now: SystemTime) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("made");
        std::fs::write(folder.path().join("a.pem"), made.cert.pem()).expect("written");
        let key = made.signing_key.serialize_pem();
        std::fs::write(folder.path().join("a.key"), key).expect("written");
        let text = format!(
            "aqueduct: 1\nservices: {{ user: {{ endpoints: [127.0.0.1:7011] }} }}\ngateways:\n  app:\n    \
             instances: {{ gw-1: {{ listen: 127.0.0.1:9441 }} }}\n    \
             tls: {{ certificates: [{{ chain: file:a.pem, key: file:a.key }}] }}\n    \
             routes: [{{ host: {host}, path: /*, to: user }}]\n"
        );
        let topology = topology::parse("a.yaml", &text, folder.path()).expect("valid");
        certificates(&topology, now).iter().map(Problem::to_string).collect()
    }

    /// T4: a certificate that has expired, or is for another host, is told at its place.
    #[test]
    fn certificates_are_held_against_hosts_and_time() {
        let now = SystemTime::now();
        assert_eq!(found("a.example", now), Vec::<String>::new());
        let other = found("b.example", now);
        assert!(other.len() == 1 && other[0].contains("is for b.example"), "{other:?}");
        let late = found("a.example", now + Duration::from_secs(1 << 38));
        assert!(late.len() == 1 && late[0].starts_with("6:36 the certificate expired"), "{late:?}");
    }

    /// T4: a list of revoked certificates that is out of date, or is none, is told at its place.
    #[test]
    fn lists_of_the_revoked_are_held_against_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.crl");
        let at = At { value: SecretRef::File(path.clone()), place: Place { line: 7, column: 9 } };
        let now = SystemTime::now();
        assert!(revocations(&at, now).is_empty(), "it may be meant for another host");
        std::fs::write(&path, "nothing").expect("written");
        let wrong = revocations(&at, now);
        assert!(
            wrong.len() == 1 && wrong[0].to_string().starts_with("7:9 client-crl"),
            "{wrong:?}"
        );
        let mut authority = rcgen::CertificateParams::default();
        authority.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = rcgen::Issuer::new(authority, key);
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2021, 1, 1),
            crl_number: rcgen::SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&authority).expect("signed");
        std::fs::write(&path, list.pem().expect("text")).expect("written");
        let year = |year: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(year * 31_557_600);
        assert!(revocations(&at, year(50)).is_empty());
        let old = revocations(&at, year(52));
        assert!(old.len() == 1 && old[0].to_string().contains("out of date"), "{old:?}");
    }

    #[test]
    fn the_verdict_counts() {
        assert_eq!(verdict(0, 0), "fine");
        assert_eq!(verdict(0, 2), "fine, 2 warnings");
        assert_eq!(verdict(1, 0), "1 problem");
        assert_eq!(verdict(2, 1), "2 problems, 1 warning");
    }
}
