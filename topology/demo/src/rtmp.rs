//! A live-stream server: nginx with its RTMP module, under a configuration of one application, `live`, where cameras
//! publish and viewers play. Not a media server of our own. Run by `main`, for stacks whose traffic are streams.
//!
//! Invariant: nginx ends with this program, also when that is killed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStderr, Command};

use crate::options::RtmpArgs;
use crate::shutdown::{asked, say};

/// Serves until TERM or INT.
pub(crate) async fn run(args: RtmpArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a folder for nginx")?;
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, configuration(args.listen, folder.path()))?;
    // The kernel ends it with this thread (prctl(2), PDEATHSIG).
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "nginx", "-e", "stderr", "-p"]).arg(folder.path());
    command.arg("-c").arg(&file).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("setpriv of util-linux")?;
    let mut lines = BufReader::new(child.stderr.take().context("its messages")?).lines();
    if let Err(cause) = begun(&mut lines).await {
        bail!("nginx cannot serve RTMP on {}: {cause}; Debian: {PACKAGES}", args.listen);
    }
    say(&format!("{} listens on {} (RTMP)", args.name, args.listen));
    let ended = tokio::select! {
        ended = told(&mut lines) => ended.context("nginx has ended"),
        asked = asked() => asked,
    };
    child.kill().await?;
    ended
}

fn configuration(listen: SocketAddr, folder: &Path) -> String {
    let pid = folder.join("pid");
    format!(
        "load_module {MODULE};\ndaemon off; master_process off; pid {}; error_log stderr notice;\n\
         events {{}}\nrtmp {{ access_log off; server {{ listen {listen}; application live {{ live on; }} }} }}\n",
        pid.display()
    )
}

/// Until it says its name, which it does when its ports are open; an error is what it said instead.
async fn begun(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<(), String> {
    let mut said = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("nginx/") {
            return Ok(());
        }
        said.push(line);
    }
    Err(said.join("; "))
}

/// Passes on what it says, until it ends.
async fn told(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<()> {
    while let Some(line) = lines.next_line().await? {
        say(&line);
    }
    bail!("see above")
}

const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
const PACKAGES: &str = "apt-get install libnginx-mod-rtmp";
