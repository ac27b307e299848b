//! Clients that log in, ask and wait. Not for load.
//!
//! Invariant: every client that is counted was answered, and stays connected until it is dropped.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::party::Running;

/// So many clients of a party, each of which has been answered.
///
/// # Errors
/// When one is refused.
pub fn idle(party: &Running, count: u32) -> Result<Vec<TcpStream>> {
    let address = format!("{}:{}", party.host, party.port);
    (0..count).map(|_| client(&address)).collect()
}

/// One that has been answered.
///
/// # Errors
/// When it is refused.
pub fn client(address: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut startup = vec![0, 3, 0, 0];
    startup.extend(b"user\0bench\0database\0bench\0\0");
    let length = u32::try_from(startup.len() + 4)?.to_be_bytes();
    socket.write_all(&[&length, startup.as_slice()].concat())?;
    until_ready(&mut socket)?;
    ask(&mut socket, "select 1")?;
    Ok(socket)
}

/// Asks by a simple query and waits for the end of the answer.
///
/// # Errors
/// When it is refused, or nothing is answered within ten seconds.
pub fn ask(socket: &mut TcpStream, sql: &str) -> Result<()> {
    let length = u32::try_from(sql.len() + 5)?.to_be_bytes();
    socket.write_all(&[b"Q", length.as_slice(), sql.as_bytes(), b"\0"].concat())?;
    until_ready(socket)
}

/// Reads up to ReadyForQuery.
fn until_ready(socket: &mut TcpStream) -> Result<()> {
    loop {
        let mut head = [0; 5];
        socket.read_exact(&mut head).context("the party answers no more")?;
        let [tag, length @ ..] = head;
        let length = u32::from_be_bytes(length).saturating_sub(4) as usize;
        let mut body = vec![0; length];
        socket.read_exact(&mut body)?;
        ensure!(tag != b'E', "refused: {}", String::from_utf8_lossy(&body));
        if tag == b'Z' {
            return Ok(());
        }
    }
}
