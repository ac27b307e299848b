//! `aqueduct canary`: the part of a split that leads to a new version grows step by step, or ends at once. Changes that one
//! value of the file and no other byte of it; whoever runs reads it by `up --watch` or a HUP. Not for dividing requests:
//! the gateway does. Called by `main`.
//!
//! Invariant: what is written passes `check`, and is in its place in one step.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use topology::effective::{ValueFrom, effective};
use topology::{Place, Topology};

use crate::{fetch, whole};

/// Moves a split's part through 5, 10, 25, 50 and 100 of a hundred, or back to none
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to do
    #[arg(value_enum)]
    verb: Verb,
    /// The topology file
    file: PathBuf,
    /// The service of the new version [default: that of the file's only split]
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,
    /// Advances though the new version fails more often than the old one, or nobody can be asked
    #[arg(long)]
    force: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Verb {
    /// Says how large the part is, and how often either side has failed
    Status,
    /// The next step, unless the new version fails more often
    Advance,
    /// Nobody is led to the new version any more
    Abort,
}

/// One part of one split, as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    group: String,
    /// The route's name in metrics.
    route: String,
    to: String,
    part: u8,
    place: Place,
    /// How many bytes it takes up.
    width: usize,
}

/// Does it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let name = args.file.display().to_string();
    let absolute = std::path::absolute(&args.file)?;
    let folder = absolute.parent().map(Path::to_owned).unwrap_or_default();
    let topology = match topology::parse(&name, &text, &folder) {
        Ok(topology) => topology,
        Err(problems) => {
            writeln!(std::io::stderr().lock(), "{problems}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let part = chosen(parts(&name, &text, &folder)?, args.to.as_deref())?;
    let counts = counts(&topology, &part).await;
    let mut out = std::io::stdout().lock();
    let next = match args.verb {
        Verb::Status => {
            writeln!(out, "{}: {}% to {}", part.route, part.part, part.to)?;
            return tell(&mut out, counts, &part).map(|()| ExitCode::SUCCESS);
        }
        Verb::Abort => 0,
        Verb::Advance => STEPS.into_iter().find(|step| *step > part.part).unwrap_or(100),
    };
    if args.verb == Verb::Advance && !args.force {
        worth(&counts?, &part)?;
    }
    let changed = changed(&text, &part, next)?;
    topology::parse(&name, &changed, &folder).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    whole::replace(&args.file, changed.as_bytes())?;
    writeln!(out, "{}: {}% → {next}% to {}", part.route, part.part, part.to)?;
    writeln!(out, "`aqueduct up --watch` applies it by itself; elsewhere: HUP to each gateway")?;
    Ok(ExitCode::SUCCESS)
}

/// All parts of all splits.
fn parts(name: &str, text: &str, folder: &Path) -> anyhow::Result<Vec<Part>> {
    let all = effective(name, text, folder).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let values: BTreeMap<&str, &str> =
        all.iter().map(|one| (one.path.as_str(), one.value.as_str())).collect();
    let mut parts = Vec::new();
    for one in &all {
        let (Some(split), ValueFrom::File(place)) = (one.path.strip_suffix(".part"), one.from)
        else {
            continue;
        };
        let Some((route, _)) = split.split_once(".split[") else { continue };
        let told = |path: String| values.get(path.as_str()).map(|value| value.trim_matches('"'));
        let written = |path: String| told(path).filter(|value| !value.contains(' '));
        let group = route.split('.').nth(1).unwrap_or_default();
        let line =
            text.lines().nth(usize::try_from(place.line)?.saturating_sub(1)).unwrap_or_default();
        let from = offset(line, usize::try_from(place.column)?);
        let width = line[from..].find([',', '}', ' ', '#']).unwrap_or(line.len() - from);
        let part = line[from..from + width].trim_matches(['"', '\'']).trim_end_matches('%');
        parts.push(Part {
            group: group.to_owned(),
            route: written(format!("{route}.name"))
                .or_else(|| told(format!("{route}.path")))
                .unwrap_or_default()
                .to_owned(),
            to: told(format!("{split}.to")).unwrap_or_default().to_owned(),
            part: part.parse().with_context(|| format!("{name}:{}: {part}", place.line))?,
            place,
            width,
        });
    }
    Ok(parts)
}

fn chosen(parts: Vec<Part>, to: Option<&str>) -> anyhow::Result<Part> {
    let all: Vec<String> =
        parts.iter().map(|part| format!("{} ({})", part.to, part.route)).collect();
    let mut fit = parts.into_iter().filter(|part| to.is_none_or(|to| part.to == to));
    match (fit.next(), fit.next()) {
        (Some(only), None) => Ok(only),
        (None, _) if all.is_empty() => bail!("no route of the file has a `split`"),
        (None, _) => bail!("no split leads there; there are {}", all.join(", ")),
        (Some(_), Some(_)) => bail!("name one with --to: {}", all.join(", ")),
    }
}

/// Requests and failures of the new side and of all others.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Counts {
    new: (u64, u64),
    old: (u64, u64),
}

/// What the group's instances have counted since they started.
async fn counts(topology: &Topology, part: &Part) -> anyhow::Result<Counts> {
    let group = topology.gateways.iter().find(|group| group.name.as_str() == part.group);
    let instances = group.map(|group| group.instances.as_slice()).unwrap_or_default();
    let admins: Vec<SocketAddr> =
        instances.iter().filter_map(|one| Some(one.admin.as_ref()?.value)).collect();
    if admins.is_empty() {
        bail!(
            "no instance of {} has an admin address to ask; --force advances all the same",
            part.group
        );
    }
    let mut sum = Counts::default();
    for at in admins {
        let asked = fetch::get(at, "/metrics").await;
        let (status, body) = asked.context("--force advances all the same")?;
        if status != 200 {
            bail!("http://{at}/metrics answered {status}; --force advances all the same");
        }
        count(&String::from_utf8_lossy(&body), part, &mut sum);
    }
    Ok(sum)
}

fn count(metrics: &str, part: &Part, sum: &mut Counts) {
    let route = format!("kind=\"route\",name=\"{}\"", part.route);
    let new = format!("variant=\"{}\"", part.to);
    for line in metrics.lines().filter(|line| line.contains(&route)) {
        let Some(value) = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok())
        else {
            continue;
        };
        let side = if line.contains(&new) { &mut sum.new } else { &mut sum.old };
        if line.starts_with("aqueduct_http_variant_requests_total{") {
            side.0 += value as u64;
        } else if line.starts_with("aqueduct_http_variant_errors_total{") {
            side.1 += value as u64;
        }
    }
}

/// Whether the new version may have more.
fn worth(counts: &Counts, part: &Part) -> anyhow::Result<()> {
    let share = |(requests, errors): (u64, u64)| errors as f64 / requests.max(1) as f64;
    let (new, old) = (share(counts.new), share(counts.old));
    if new > old + TOLERATED {
        bail!(
            "{} failed in {:.1}% of {} requests, the others in {:.1}% of {}: it stays at {}%. \
             `aqueduct canary abort` ends it, --force advances all the same",
            part.to,
            new * 100.0,
            counts.new.0,
            old * 100.0,
            counts.old.0,
            part.part
        );
    }
    Ok(())
}

fn tell(out: &mut impl Write, counts: anyhow::Result<Counts>, part: &Part) -> anyhow::Result<()> {
    match counts {
        Ok(Counts { new, old }) => {
            writeln!(out, "{}: {} requests, {} failed", part.to, new.0, new.1)?;
            writeln!(out, "others: {} requests, {} failed", old.0, old.1)?;
        }
        Err(error) => writeln!(out, "not known how it does: {error:#}")?,
    }
    Ok(())
}

/// The text with another part.
fn changed(text: &str, part: &Part, next: u8) -> anyhow::Result<String> {
    let before: usize = text
        .split_inclusive('\n')
        .take(usize::try_from(part.place.line)?.saturating_sub(1))
        .map(str::len)
        .sum();
    let line = &text[before..];
    let from = before + offset(line, usize::try_from(part.place.column)?);
    Ok(format!("{}{next}%{}", &text[..from], &text[from + part.width..]))
}

/// The byte at which a column, counted in characters from 1, begins.
fn offset(line: &str, column: usize) -> usize {
    line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at)
}

/// How a part grows.
const STEPS: [u8; 5] = [5, 10, 25, 50, 100];
/// So much more often than the old version the new one may fail.
const TOLERATED: f64 = 0.01;

const EXAMPLES: &str = "\
Examples:
  aqueduct canary status shop.yaml
  aqueduct canary advance shop.yaml                  5 → 10 → 25 → 50 → 100 %
  aqueduct canary abort shop.yaml --to payment-v2    0 %, at once

`up --watch` applies what it writes; elsewhere send HUP to the gateways.";

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../stacks/canary.yaml");

    fn part(text: &str) -> Part {
        chosen(parts("canary.yaml", text, Path::new("/")).expect("valid"), None).expect("one")
    }

    /// G12, T8: a part goes through all steps and back, and no other byte of the file changes.
    #[test]
    fn a_part_grows_in_steps() {
        let (mut text, mut seen) = (FILE.to_owned(), Vec::new());
        loop {
            let part = part(&text);
            seen.push(part.part);
            assert_eq!((part.route.as_str(), part.to.as_str()), ("/checkout", "payment-v2"));
            assert_eq!(text.replace(&format!("part: {}%", part.part), "part: 5%"), FILE);
            let Some(next) = STEPS.into_iter().find(|step| *step > part.part) else { break };
            text = changed(&text, &part, next).expect("changed");
        }
        assert_eq!(seen, STEPS);
        let ended = changed(&text, &part(&text), 0).expect("changed");
        assert_eq!(ended, FILE.replace("part: 5%", "part: 0%"));
    }

    /// G12: a version that fails more often than the other gets no more.
    #[test]
    fn errors_hold_it_up() {
        let metrics = "aqueduct_http_variant_requests_total{kind=\"route\",name=\"/checkout\",variant=\"payment\"} 1000\n\
             aqueduct_http_variant_errors_total{kind=\"route\",name=\"/checkout\",variant=\"payment\"} 2\n\
             aqueduct_http_variant_requests_total{kind=\"route\",name=\"/checkout\",variant=\"payment-v2\"} 50\n\
             aqueduct_http_variant_errors_total{kind=\"route\",name=\"/checkout\",variant=\"payment-v2\"} 1\n\
             aqueduct_http_variant_errors_total{kind=\"route\",name=\"/else\",variant=\"payment-v2\"} 9\n";
        let (part, mut sum) = (part(FILE), Counts::default());
        count(metrics, &part, &mut sum);
        assert_eq!(sum, Counts { new: (50, 1), old: (1000, 2) });
        let refusal = worth(&sum, &part).expect_err("2 % are more than 0.2").to_string();
        assert!(refusal.starts_with("payment-v2 failed in 2.0% of 50"), "{refusal}");
        worth(&Counts { new: (500, 1), ..sum }, &part).expect("no more than the other");
    }
}
