//! `-R`: asks the process that runs, by its unix socket as PgBouncer does, to hand over. Not for what it hands
//! over: that is `upgrade`. Called by the drop-in form alone, before anything is bound.
//!
//! Invariant: not a byte is read beyond the answer: descriptors come with the next ones.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::observe::Observer;
use pgpool_wire::frontend;
use pgpool_wire::startup::{V3_0, put_startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use topology::Topology;
use topology::pool::ListenAddress;

use crate::events::Noted;
use crate::snapshot::CONSOLE;
use crate::sockets::socket_path;
use crate::upgrade::taking::{self, Estate};

/// A process that takes longer to agree, all in all, does not.
const LONGEST: Duration = Duration::from_secs(10);
/// The longest message that is read.
const MOST: usize = 64 << 10;
const ROOT: u32 = 0;

/// What the process that runs offers; `None`: nobody answers on a unix socket of the file, or somebody
/// who does not hand over in this way, as PgBouncer itself.
///
/// # Errors
/// It began to hand over, and did not go on.
pub(super) async fn ask(
    topology: &Topology,
    instance: &str,
    observer: &Observer,
) -> Result<Option<Estate>, String> {
    let Some((_, instance)) = topology.pool(instance) else { return Ok(None) };
    let paths = instance.listen.iter().filter_map(|at| match &at.value {
        ListenAddress::Unix(folder, port) => Some(socket_path(folder, *port)),
        ListenAddress::Ip(_) => None,
    });
    // The kernel tells who has opened a socket (unix(7), SO_PEERCRED). For a service manager's that is root, who
    // gives it to whom it likes; a pooler of another user that has it hands nothing over.
    let trusted = [nix::unistd::geteuid().as_raw(), ROOT];
    for path in paths {
        let stream = match timeout(LONGEST, meet(&path, &trusted)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(Missed::Stranger(uid))) => {
                let path: PathBuf = path;
                let what = format!(
                    "{}: the user {uid} listens there, not this process's: nothing is taken over from it",
                    path.display()
                );
                observer.emit(Noted { what: &what });
                continue;
            }
            Ok(Err(Missed::Nobody)) | Err(_) => continue,
        };
        let estate = stream.into_std().map_err(Into::into).and_then(taking::from);
        return estate.map(Some).map_err(|fault| {
            format!("the process that runs does not hand over: {fault}; it goes on, see its log")
        });
    }
    Ok(None)
}

/// Why there is no way by a socket.
#[derive(Debug)]
enum Missed {
    /// Nobody answers, or nobody who agrees.
    Nobody,
    /// Another user's process has the socket.
    Stranger(u32),
}

impl From<io::Error> for Missed {
    fn from(_: io::Error) -> Self {
        Self::Nobody
    }
}

/// The way to a process that agrees, behind a socket that one of the users `trusted` has opened. The folder may be everybody's: whoever had the name
/// first could otherwise hand over sessions that never logged in.
async fn meet(path: &Path, trusted: &[u32]) -> Result<UnixStream, Missed> {
    let mut stream = UnixStream::connect(path).await?;
    let uid = stream.peer_cred()?.uid();
    if !trusted.contains(&uid) {
        return Err(Missed::Stranger(uid));
    }
    let mut out = Vec::new();
    put_startup(&mut out, V3_0, &[("user", CONSOLE), ("database", CONSOLE)]);
    agrees(&mut stream, &out).await?;
    out.clear();
    frontend::put_query(&mut out, b"TAKEOVER");
    agrees(&mut stream, &out).await?;
    Ok(stream)
}

/// Says something and reads up to ReadyForQuery.
async fn agrees(stream: &mut UnixStream, said: &[u8]) -> io::Result<()> {
    stream.write_all(said).await?;
    loop {
        let (tag, body) = message(stream).await?;
        match tag {
            b'Z' => return Ok(()),
            // Who asks for a password does not take us for its owner.
            b'R' if body.get(..4) != Some(&[0; 4]) => break,
            b'E' => break,
            _ => {}
        }
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

async fn message(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let [tag, length @ ..] = head;
    let length = (u32::from_be_bytes(length) as usize).checked_sub(4);
    let length = length.filter(|length| *length <= MOST).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O3: whoever listens under the socket's name as another user hears not a byte.
    #[tokio::test]
    async fn another_users_socket_hears_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).expect("bound");
        let own = nix::unistd::geteuid().as_raw();
        let missed = meet(&path, &[own + 1, own + 2]).await.expect_err("not ours");
        assert!(matches!(missed, Missed::Stranger(uid) if uid == own), "{missed:?}");
        let (mut peer, _) = listener.accept().await.expect("accepted");
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.expect("read");
        assert!(heard.is_empty());
        let trusted = [own + 1, own];
        let meets = meet(&path, &trusted);
        let answers = async {
            let (mut peer, _) = listener.accept().await.expect("accepted");
            assert_ne!(peer.read(&mut [0; 64]).await.expect("read"), 0, "its own user is asked");
        };
        let (met, ()) = tokio::join!(meets, answers);
        assert!(matches!(met, Err(Missed::Nobody)));
    }
}
