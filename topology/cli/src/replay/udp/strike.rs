//! `--kill`: has a running `aqueduct up` kill one of its parts in the middle of a replay. Not for
//! ending processes: `up` does, and only its own. Used by `udp`.
//!
//! Invariant: what is to be killed exists before the first packet leaves, or the replay does not begin.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::replay::live::Live;
use crate::replay::series::Mark;
use crate::up::control;
use crate::up::folder::Folder;
use crate::up::source::BUILT_IN_NAME;

/// Whom, and when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Blow {
    part: String,
    at: Duration,
}

/// `game-2@10s`, `127.0.0.1:7101@2.5`.
pub(super) fn blow(text: &str) -> Result<Blow, String> {
    let (part, at) = text.rsplit_once('@').ok_or("write ENDPOINT@SECONDS, like game-2@10s")?;
    let at = super::seconds(at.trim_end_matches('s'))?;
    Ok(Blow { part: part.into(), at })
}

/// How long a replay lasts that nobody has given a length: what a blow does is to be seen, too.
pub(super) fn length(blows: &[Blow]) -> Duration {
    let last = blows.iter().map(|blow| blow.at).max();
    last.map_or(USUAL, |last| USUAL.max(last + AFTER))
}

const USUAL: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(5);

/// Refuses a blow that would never fall.
///
/// # Errors
/// With what to write instead.
pub(super) fn within(blows: &[Blow], span: Duration) -> Result<()> {
    let late = blows.iter().find(|blow| blow.at >= span);
    let Some(Blow { part, at }) = late else { return Ok(()) };
    let (at, span) = (at.as_secs_f64(), span.as_secs_f64());
    bail!(
        "--kill {part}@{at}s: the replay ends after {span:.1} s: strike earlier, or let it last longer \
         (--seconds; of a capture --speed)"
    )
}

/// All blows of a replay.
pub(super) struct Strike {
    blows: Vec<Blow>,
    folder: Option<Folder>,
}

impl Strike {
    /// Asks the stack whether it has these parts.
    ///
    /// # Errors
    /// No stack runs in the folder, or it has no such part.
    pub(super) async fn prepare(blows: &[Blow], state: Option<&Path>) -> Result<Self> {
        let mut blows = blows.to_vec();
        blows.sort_by_key(|blow| blow.at);
        if blows.is_empty() {
            return Ok(Self { blows, folder: None });
        }
        let folder = Folder::named(state, BUILT_IN_NAME)?;
        for Blow { part, .. } in &blows {
            control::ask(&folder, &format!("part {part}"))
                .await
                .with_context(|| format!("--kill {part}"))?;
        }
        Ok(Self { blows, folder: Some(folder) })
    }

    /// Strikes at the times; what was done, told as soon as it is.
    pub(super) async fn run(self, start: Instant, live: Arc<Live>) {
        let Some(folder) = self.folder else { return };
        for Blow { part, at } in self.blows {
            tokio::time::sleep_until(start + at).await;
            let what = match control::ask(&folder, &format!("kill {part}")).await {
                Ok(answer) => answer,
                Err(error) => format!("{part} could not be killed: {error:#}"),
            };
            live.mark(Mark { at_s: start.elapsed().as_secs_f64(), what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blow_has_a_part_and_a_time() {
        let seconds = Duration::from_secs_f64;
        let of = |part: &str, at| Ok(Blow { part: part.into(), at: seconds(at) });
        assert_eq!(blow("game-2@10s"), of("game-2", 10.0));
        assert_eq!(blow("[::1]:7101@2.5"), of("[::1]:7101", 2.5));
        assert!(blow("game-2").unwrap_err().contains("game-2@10s"));
        assert!(blow("game-2@soon").is_err());
    }

    /// R1: what is to be killed at the end, or after it, lengthens the replay or refuses it.
    #[test]
    fn a_blow_falls_or_is_refused() {
        let seconds = Duration::from_secs;
        let blows = ["game-2@10s", "game-1@2s"].map(|text| blow(text).unwrap());
        assert_eq!(
            (length(&[]), length(&blows[1..]), length(&blows)),
            (seconds(10), seconds(10), seconds(15))
        );
        assert!(within(&blows, length(&blows)).is_ok() && within(&[], seconds(0)).is_ok());
        let error = within(&blows, seconds(10)).unwrap_err().to_string();
        assert!(error.contains("game-2@10s") && error.contains("--seconds"), "{error}");
    }

    /// O5: without a stack, nothing is sent, and the user is told.
    #[tokio::test]
    async fn without_a_stack_nothing_begins() {
        let folder = tempfile::tempdir().unwrap();
        let blows = [blow("game-2@1").unwrap()];
        let error = Strike::prepare(&blows, Some(folder.path())).await.err().unwrap();
        assert!(format!("{error:#}").contains("no `aqueduct up` runs in"), "{error:#}");
    }
}
