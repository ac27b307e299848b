//! `aqueduct explain`: the path that a request, a flow or a statement would take through all tiers, and
//! why no other. Reads the file; nothing is sent (with `--live` the running instances are asked how they
//! are). What decides is the tiers' own code: here it is only told. Called by `main`.
//!
//! Invariant: the same question about the same file gets the same text.

mod balancer;
pub(crate) mod gateway;
mod live;
mod question;
mod sql;
mod tree;

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Parser as _;
use topology::Topology;

use self::question::{Question, What, Words};
use self::tree::Explained;
use crate::file;

/// Tells where a request, a flow or a statement would go, and why
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack
    file: PathBuf,
    #[command(flatten)]
    words: Words,
    /// Answers the questions of this file, one per line as they would be written here; `-` is standard
    /// input
    #[arg(long, value_name = "PATH", conflicts_with = "what")]
    batch: Option<PathBuf>,
    /// Also asks the admin listeners of the running instances for their health and counters
    #[arg(long)]
    live: bool,
    /// The folder that `up` keeps for the stack: what it made there (certificates, the key of the hash)
    /// stands for what the file names [default: none; of a ready stack its own]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How the answer is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A tree for people
    Text,
    /// One JSON object per question
    Json,
}

/// A line of a batch.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    words: Words,
}

/// Prints the answer.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.state.as_deref();
    let Some(topology) = file::load_made(&args.file, state)? else { return Ok(ExitCode::from(2)) };
    let states = if args.live { Some(live::ask(&topology).await?) } else { None };
    let now = SystemTime::now();
    let mut teller = Teller { topology: &topology, gateways: gateway::Previews::default() };
    let coloured = std::io::stdout().is_terminal();
    for question in questions(&args, now)? {
        let mut explained = teller.tell(&question).await?;
        if let Some(states) = &states {
            live::add(&topology, states, &mut explained);
        }
        let mut out = std::io::stdout().lock();
        match args.format {
            Format::Text => out.write_all(explained.text(coloured).as_bytes())?,
            Format::Json => writeln!(out, "{}", explained.json())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn questions(args: &Args, now: SystemTime) -> anyhow::Result<Vec<Question>> {
    let Some(path) = &args.batch else { return Ok(vec![args.words.question(now)?]) };
    let read = |line: (usize, std::io::Result<String>)| {
        let (number, line) = (line.0 + 1, line.1?);
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let place = || format!("{}:{number}", path.display());
        let words = split(&line).with_context(place)?;
        let line = Line::try_parse_from(words).map_err(|error| anyhow::anyhow!("{error}"));
        line.and_then(|line| line.words.question(now)).with_context(place).map(Some)
    };
    let lines: Box<dyn Iterator<Item = _>> = if path.as_path() == Path::new("-") {
        Box::new(std::io::stdin().lock().lines())
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Box::new(std::io::BufReader::new(file).lines())
    };
    lines.enumerate().map(read).filter_map(Result::transpose).collect()
}

/// Words as a shell would cut them: at blanks, but for what stands in quotes.
fn split(line: &str) -> anyhow::Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    anyhow::ensure!(quote.is_none(), "a quote is not closed");
    words.extend(word);
    Ok(words)
}

/// Answers questions about one file.
struct Teller<'t> {
    topology: &'t Topology,
    /// What is built once for many questions.
    gateways: gateway::Previews,
}

impl Teller<'_> {
    async fn tell(&mut self, question: &Question) -> anyhow::Result<Explained> {
        let to = question.to.as_deref();
        match &question.what {
            What::Http(request) => {
                let line = format!("{} {} from {}", request.method, request.url, request.from);
                let mut explained = Explained::new(line);
                let asked = (request, question.wall);
                gateway::explain(self.topology, &mut self.gateways, to, asked, &mut explained)
                    .await?;
                Ok(explained)
            }
            What::Flow(flow) => {
                let protocol = balancer::protocol(flow.protocol);
                let mut explained = Explained::new(format!("{protocol} from {}", flow.from));
                balancer::flow(self.topology, to, flow, &mut explained)?;
                Ok(explained)
            }
            What::Sql(statement) => {
                let mut explained = Explained::new(format!(
                    "{} as {} on {}",
                    statement.sql, statement.user, statement.database
                ));
                sql::explain(self.topology, to, statement, &mut explained)?;
                Ok(explained)
            }
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  aqueduct explain stack.yaml --get https://api.example/api/user/42 --token \"$TOKEN\"
  aqueduct explain stack.yaml https://api.example/api/checkout/pay --method POST --from 203.0.113.9
  aqueduct explain stack.yaml --get https://api.example/ --header 'Cookie: canary=true' --on 2027-07-01
  aqueduct explain stack.yaml --udp 203.0.113.9:5555          which game server a player has
  aqueduct explain stack.yaml --state ./run --udp 203.0.113.9:5555   of a stack that `up --state ./run` runs
  aqueduct explain mesh --to mesh --principal public --method POST https://mesh/aqueduct.demo.v1.Echo/Say
  aqueduct explain stack.yaml --sql 'select 1' --user app --database app
  aqueduct explain stack.yaml --live --format json --udp 203.0.113.9:5555 | jq .facts

Exit code: 0 answered, 2 the file has problems, 1 it could not run.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_into_words() {
        let line = "--get  http://a/ --header 'Cookie: a=b' --sql \"select 'x'\" ''";
        let words = ["--get", "http://a/", "--header", "Cookie: a=b", "--sql", "select 'x'", ""];
        assert_eq!(split(line).expect("words"), words);
        assert!(split("it's").is_err());
    }
}
