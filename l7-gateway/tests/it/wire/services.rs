//! What services may answer: every row of `tests/corpus/services/`, and what the next client gets.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use super::answer::{Answer, answers, find};
use super::corpus::{Row, rows};
use crate::rig::{Rig, local, one};

/// A service that answers the first request as the row says, and every other one well.
struct Hostile {
    address: SocketAddr,
    /// Requests by connection.
    asked: Rc<RefCell<Vec<usize>>>,
    later: Rc<Notify>,
    said: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const CLEAN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean";

impl Hostile {
    async fn start(row: &Row) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let act = Rc::new(Act {
            bytes: row.bytes.clone(),
            early: row.of('~').any(|text| text == "early"),
            close: row.of('~').any(|text| text == "close"),
            later: row.of('~').find_map(|text| text.strip_prefix("later ")).map(str::to_owned),
        });
        let (asked, later, said) =
            (Rc::<RefCell<Vec<usize>>>::default(), Rc::default(), Rc::default());
        let (seen, go, done) = (Rc::clone(&asked), Rc::clone(&later), Rc::clone(&said));
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = seen.borrow().len();
                seen.borrow_mut().push(0);
                let parts = (Rc::clone(&act), Rc::clone(&seen), Rc::clone(&go), Rc::clone(&done));
                spawn_local(async move {
                    let (act, seen, go, done) = parts;
                    // The gateway may end a connection in the middle of an answer.
                    let _ended = act.serve(stream, number, &seen, &go, &done).await;
                });
            }
        });
        Self { address, asked, later, said, task }
    }

    /// Says what it says later, and waits until it has been said.
    async fn say_later(&self) {
        self.later.notify_one();
        while !self.said.get() {
            tokio::task::yield_now().await;
        }
    }
}

struct Act {
    bytes: Vec<u8>,
    early: bool,
    close: bool,
    later: Option<String>,
}

impl Act {
    async fn serve(
        &self,
        mut stream: TcpStream,
        number: usize,
        seen: &RefCell<Vec<usize>>,
        later: &Notify,
        said: &Cell<bool>,
    ) -> std::io::Result<()> {
        if self.early && number == 0 {
            stream.write_all(&self.bytes).await?;
        }
        let mut bytes = Vec::new();
        loop {
            while find(&bytes, b"\r\n\r\n").is_none() {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
            }
            bytes.clear();
            let first = number == 0 && seen.borrow()[0] == 0;
            seen.borrow_mut()[number] += 1;
            if !first {
                stream.write_all(CLEAN).await?;
                continue;
            }
            if !self.early {
                stream.write_all(&self.bytes).await?;
            }
            if let Some(text) = &self.later {
                later.notified().await;
                stream.write_all(text.as_bytes()).await?;
                said.set(true);
            }
            if self.close {
                return stream.shutdown().await;
            }
        }
    }
}

/// G4, G23: what a service answers in two ways at once, or in none, is a 502 or a connection that
/// ends visibly; never a short body that looks whole, and never a byte of it for the next client.
#[tokio::test]
async fn a_hostile_service_harms_nobody() {
    local(async {
        let table = rows("services");
        assert!(table.len() > 100, "{} rows", table.len());
        let mut faults = Vec::new();
        for row in &table {
            if let Err(fault) = try_row(row).await {
                faults.push(format!("{}: {fault}", row.name));
            }
        }
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    })
    .await;
}

async fn try_row(row: &Row) -> Result<(), String> {
    let hostile = Hostile::start(row).await;
    let rig = Rig::new(&one(hostile.address));
    let line = row.of('?').next().unwrap_or("POST /v");
    let text = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let said = raw(&rig, &text).await?;
    if row.of('~').any(|text| text.starts_with("later ")) {
        hostile.say_later().await;
    }
    let next = raw(&rig, "POST /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let heard = answers(&said, &[line.starts_with("HEAD ")])?;
    judge(row, &heard)?;
    for banned in row.of('!') {
        if find(&said, banned.as_bytes()).is_some() {
            return Err(format!("{banned:?} reached the client"));
        }
    }
    let clean = answers(&next, &[])?;
    let fine = matches!(&clean[..], [a] if a.status == 200 && a.whole && a.body == b"clean");
    if !fine {
        return Err(format!("the next client got {clean:?}"));
    }
    let kept = hostile.asked.borrow().as_slice() == [2];
    if row.of('=').any(|text| text == if kept { "dropped" } else { "kept" }) {
        return Err(format!("requests by connection: {:?}", hostile.asked.borrow()));
    }
    Ok(())
}

async fn raw(rig: &Rig, text: &str) -> Result<Vec<u8>, String> {
    let (mut stream, _task) = rig.connect();
    stream.write_all(text.as_bytes()).await.expect("taken");
    let mut said = Vec::new();
    let patience = std::time::Duration::from_secs(20);
    let ended = tokio::time::timeout(patience, stream.read_to_end(&mut said)).await;
    match ended {
        Ok(_) => Ok(said),
        Err(_) => Err(format!("no end of {}", said.escape_ascii())),
    }
}

fn judge(row: &Row, heard: &[Answer]) -> Result<(), String> {
    let outcome = row.of('=').next().unwrap_or_default();
    let [answer] = heard else {
        // A head that was held back with its body is as visibly cut.
        return if heard.is_empty() && outcome == "cut" {
            Ok(())
        } else {
            Err(format!("{heard:?}"))
        };
    };
    let status = answer.status.to_string();
    match outcome {
        "cut" if !answer.whole => return Ok(()),
        _ if outcome.split('|').any(|wanted| wanted == status) && answer.whole => {}
        _ => return Err(format!("{answer:?} where {outcome} was due")),
    }
    if answer.status == 502 && !row.of('?').any(|line| line.starts_with("HEAD ")) {
        return answer.problem();
    }
    match row.of('*').find(|wish| wish.as_bytes() != answer.body) {
        Some(wish) => Err(format!("the body was {}, not {wish}", answer.body.escape_ascii())),
        None => Ok(()),
    }
}
