//! The old process's side: what it offers, and how its clients begin to move. Not for when: `control` asks
//! for it. Called on the control runtime; what blocks has a thread of its own.
//!
//! Invariant: until the new process serves, nothing here has changed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::upgrade::giving::{self, Heir};
use common::upgrade::{Fault, blocking};
use tokio::sync::oneshot;

use super::link::{Link, Said};
use super::{Offer, Site, Tongue, UpgradeError};
use crate::cancel::Side;
use crate::control::Handle;
use crate::sockets::{Claim, Spare};
use crate::worker::Message;

/// Clients that may come to the old process while the new one begins: numbers beyond.
const SLACK: u32 = 1 << 16;

/// Other descriptors of all that the process listens on, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub(crate) listeners: Vec<Spare>,
    /// The admin listener, and its own phases.
    pub(crate) admin: Option<(OwnedFd, Lifecycle)>,
    /// On unix sockets in the file system.
    pub(crate) claims: Vec<Claim>,
}

/// How long a process that has just ended may take to be seen to.
const GRACE: Duration = Duration::from_secs(1);

/// Who takes over.
#[derive(Debug)]
pub(crate) enum To {
    /// The program that this process was started as, anew.
    Program,
    /// A process that asks for it, and its number.
    Process(UnixStream, u32),
}

/// Hands over; the new process's number, and the way to it. From here on this process drains.
pub(crate) async fn give(handle: &Handle, to: To) -> Result<(u32, Option<Said>), UpgradeError> {
    if handle.has_former(GRACE).await {
        // Its clients and cancel requests have no way past this process.
        return Err(UpgradeError::Behind);
    }
    if is_held(handle).await {
        return Err(UpgradeError::Held);
    }
    let first = count(handle).await.wrapping_add(SLACK);
    let offers = handle.with_spares(|spares| offers(spares, first)).map_err(Fault::Io)?;
    let armed = blocking(move || {
        let successor = match to {
            To::Program => giving::start::<Tongue>()?,
            To::Process(stream, process) => giving::meet::<Tongue>(stream, process)?,
        };
        let offers = offers
            .iter()
            .map(|(offer, with)| (offer.clone(), with.iter().map(AsFd::as_fd).collect()));
        successor.offer(offers)
    })
    .await?;
    // Somebody may have been told so while the new process began.
    if is_held(handle).await {
        let dismissed = move || {
            armed.dismiss();
            Ok(())
        };
        blocking(dismissed).await?;
        return Err(UpgradeError::Held);
    }
    let Heir { process, peer } = blocking(move || armed.give([])).await?;
    handle.with_spares(|spares| {
        spares.claims.iter().for_each(Claim::give_up);
        if let Some((_, admin)) = spares.admin.take() {
            admin.stop();
        }
    });
    // Without threads nobody moves, and all drain.
    let Ok((link, said)) = Link::start(peer, Side::Successor, handle.clone()) else {
        return Ok((process, None));
    };
    for worker in handle.peers().iter() {
        let (to, told) = oneshot::channel();
        if worker.send(Message::Successor(link.clone(), to)).is_ok() {
            // A worker that has ended has no clients.
            let _ended = told.await;
        }
    }
    Ok((process, Some(said)))
}

/// Duplicates, so that a drain in the meantime closes no socket under the other thread.
fn offers(spares: &Spares, first: u32) -> std::io::Result<Vec<(Offer, Vec<OwnedFd>)>> {
    let mut all = vec![(Offer::Numbers(first), Vec::new())];
    for spare in &spares.listeners {
        let sockets: Result<_, _> = spare.sockets.iter().map(OwnedFd::try_clone).collect();
        let offer = spare.address.as_ref().map(|address| Offer::Listener(Site::from(address)));
        all.push((offer.unwrap_or(Offer::Passed), sockets?));
    }
    if let Some((admin, _)) = &spares.admin {
        all.push((Offer::Admin, vec![admin.try_clone()?]));
    }
    Ok(all)
}

/// Whether anything is held up that the new process would let go on.
async fn is_held(handle: &Handle) -> bool {
    !handle.report().await.held.is_empty()
}

/// How far any worker has given numbers.
async fn count(handle: &Handle) -> u32 {
    let mut most = 0;
    for worker in handle.peers().iter() {
        let (to, count) = oneshot::channel();
        if worker.send(Message::Count(to)).is_ok() {
            most = most.max(count.await.unwrap_or_default());
        }
    }
    most
}
