//! The command line that the three tiers share: which file, which instance, how to log, and the
//! way from there to a running instance and its exit code. Not for the tool `aqueduct`.
//!
//! Invariant: exit 0 after a clean end, 1 when it could not run, 2 when the topology file is at
//! fault, as `aqueduct check` has it.

use std::fmt::Display;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use topology::Topology;

use crate::lifecycle::Lifecycle;
use crate::observe::Observer;
use crate::observe::log::{self, LogFormat, LogLevel};

/// Options of every tier.
#[derive(Clone, Debug, clap::Args)]
pub struct TierArgs {
    /// The topology file; other tiers in it are ignored.
    #[arg(long, short, value_name = "FILE", env = "AQUEDUCT_TOPOLOGY")]
    pub topology: PathBuf,
    /// Which instance of the file this process is; may be left out where the file has one.
    #[arg(long, short, value_name = "NAME", env = "AQUEDUCT_INSTANCE")]
    pub instance: Option<String>,
    /// Threads that serve; default: one per core.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// Log level or filter.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "AQUEDUCT_LOG")]
    pub log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Auto, env = "AQUEDUCT_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// What a tier's `start` is given by its `main`, or by a test.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that serve; `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// The instance's ear.
    pub observer: Observer,
    /// The instance's phases.
    pub lifecycle: Lifecycle,
    /// What `POST /log` changes.
    pub log_level: Option<LogLevel>,
}

impl Options {
    /// For an instance of this name: one worker per core, a recorder of its own, running.
    pub fn new(instance: &str) -> Self {
        Self {
            workers: None,
            observer: Observer::new(instance),
            lifecycle: Lifecycle::new(),
            log_level: None,
        }
    }
}

/// What `main` hands to the tier.
#[derive(Debug)]
pub struct Launch {
    /// The whole file.
    pub topology: Arc<Topology>,
    /// This process's instance.
    pub instance: String,
    /// For `start`.
    pub options: Options,
}

/// Reads the file and finds the instance; `instances` lists the tier's own.
///
/// # Errors
/// The exit code, after the reason was printed to standard error.
pub fn launch(
    args: &TierArgs,
    instances: impl FnOnce(&Topology) -> Vec<String>,
) -> Result<Launch, ExitCode> {
    let log_level = log::init(&args.log, args.log_format).map_err(|fault| refuse(1, &fault))?;
    let topology = topology::load(&args.topology).map_err(|fault| refuse(2, &fault))?;
    let known = instances(&topology);
    let instance = choose(args.instance.as_deref(), &known).map_err(|text| refuse(2, &text))?;
    let mut options = Options::new(&instance);
    options.workers = args.workers;
    options.log_level = Some(log_level);
    Ok(Launch { topology: Arc::new(topology), instance, options })
}

/// Prints why the process ends and gives its code.
pub fn refuse(code: u8, why: &dyn Display) -> ExitCode {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{why}");
    ExitCode::from(code)
}

fn choose(asked: Option<&str>, known: &[String]) -> Result<String, String> {
    let list = known.join(", ");
    match (asked, known) {
        (_, []) => Err("the file has no instance of this tier: add one below its group".to_owned()),
        (Some(asked), _) if known.iter().any(|name| name == asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(format!("no instance '{asked}' of this tier: the file has {list}")),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(format!("several instances ({list}): say which with --instance NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T3: the only instance needs no name; several do, and a wrong name lists them.
    #[test]
    fn the_instance_is_found_or_asked_for() {
        let known = ["gw-1".to_owned(), "gw-2".to_owned()];
        assert_eq!(choose(None, &known[..1]).as_deref(), Ok("gw-1"));
        assert_eq!(choose(Some("gw-2"), &known).as_deref(), Ok("gw-2"));
        assert!(choose(None, &known).expect_err("two").contains("gw-1, gw-2"));
        assert!(choose(Some("gw-3"), &known).expect_err("none").contains("gw-1, gw-2"));
        assert!(choose(None, &[]).expect_err("empty").contains("no instance"));
    }
}
