//! The socket in a stack's folder by which other commands of the same user ask a running `up` for
//! something: `part NAME`, `kill NAME`. Not for operators of a tier: that is its admin listener.
//! Served by `up`, asked by `replay udp --kill`.
//!
//! Invariant: only processes that this `up` started are ever ended.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use crate::up::fleet::Fleet;
use crate::up::folder::Folder;

/// Its name in the folder.
const NAME: &str = "control.sock";
/// A question or an answer is no longer.
const LONGEST: u64 = 4096;
/// Nor does it take longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers until dropped.
#[derive(Debug)]
pub(crate) struct Control(JoinHandle<()>, std::path::PathBuf);

impl Drop for Control {
    fn drop(&mut self) {
        self.0.abort();
        let _ = std::fs::remove_file(&self.1);
    }
}

/// Listens in the folder, which this `up` has locked: an old socket there is nobody's.
/// Each question is about the fleet of its moment.
pub(crate) fn serve(fleets: Receiver<Fleet>) -> anyhow::Result<Control> {
    let path = fleets.borrow().workshop().folder.path(NAME);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fleet = fleets.borrow().clone();
            tokio::spawn(tokio::time::timeout(LIMIT, answer(stream, fleet)));
        }
    });
    Ok(Control(serving, path))
}

async fn answer(mut stream: UnixStream, fleet: Fleet) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LONGEST)).read_line(&mut line).await?;
    let said = match reply(line.trim_end(), &fleet).await {
        Ok(said) => format!("ok {said}\n"),
        Err(error) => format!("no {error:#}\n"),
    };
    stream.write_all(said.as_bytes()).await
}

async fn reply(question: &str, fleet: &Fleet) -> anyhow::Result<String> {
    let (verb, name) = question.split_once(' ').unwrap_or((question, ""));
    let parts = &fleet.plan().parts;
    let is_it = |part: &crate::up::plan::Part| {
        part.name == name || part.listens.iter().any(|l| l.address.to_string() == name)
    };
    let Some((index, part)) = parts.iter().enumerate().find(|(_, part)| is_it(part)) else {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        bail!("the stack has no part {name:?}; it has {}", names.join(", "));
    };
    match verb {
        "part" if fleet.is_foreign(index) => {
            bail!("{name} ran before this stack; it is left alone")
        }
        "part" => Ok(part.name.clone()),
        "kill" if fleet.kill_one(index).await => Ok(format!("{} killed", part.name)),
        "kill" => bail!("{name} does not run"),
        _ => bail!("{verb:?} is not understood"),
    }
}

/// Asks the `up` that runs in the folder.
///
/// # Errors
/// None runs, or it refuses.
pub(crate) async fn ask(folder: &Folder, question: &str) -> anyhow::Result<String> {
    let path = folder.path(NAME);
    let asking = async {
        let stream = UnixStream::connect(&path).await.with_context(|| {
            format!(
                "no `aqueduct up` runs in {}; name the folder of yours with --state",
                folder.root().display()
            )
        })?;
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        stream.take(LONGEST).read_line(&mut line).await?;
        anyhow::Ok(line)
    };
    let line = tokio::time::timeout(LIMIT, asking).await.context("no answer")??;
    match line.trim_end().split_once(' ') {
        Some(("ok", said)) => Ok(said.to_owned()),
        Some(("no", why)) => bail!("{why}"),
        _ => bail!("no answer"),
    }
}
