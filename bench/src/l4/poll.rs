//! Waiting for sockets in threads of their own. Not for the product, which has an event loop.
//!
//! Invariant: no wait is longer than asked for.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use common::net::batch::{self, Outgoing};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::time::TimeSpec;

/// Waits until the socket has something to read; says whether it has.
pub(super) fn readable(socket: &impl AsFd, most: Duration) -> bool {
    wait(socket.as_fd(), PollFlags::POLLIN, most)
}

/// Waits until one of the sockets has something to read; says which have.
pub(super) fn which<S: AsFd>(sockets: &[S], most: Duration) -> Vec<usize> {
    let mut polled: Vec<_> =
        sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    if !matches!(ppoll(&mut polled, Some(TimeSpec::from_duration(most)), None), Ok(1..)) {
        return Vec::new();
    }
    let ready = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
    polled.iter().enumerate().filter(|(_, polled)| ready(polled)).map(|(n, _)| n).collect()
}

fn wait(socket: BorrowedFd<'_>, flags: PollFlags, most: Duration) -> bool {
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut [PollFd::new(socket, flags)], most), Ok(1..))
}

/// Sends all of them, waiting for room; what the kernel refuses is left out. Says how many went.
pub(super) fn send_all(socket: &impl AsFd, mut datagrams: &[Outgoing<'_>]) -> u64 {
    let mut sent = 0;
    while !datagrams.is_empty() {
        match batch::send(socket, datagrams) {
            Ok(count) => {
                sent += count as u64;
                datagrams = datagrams.get(count.max(1)..).unwrap_or_default();
            }
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => {
                wait(socket.as_fd(), PollFlags::POLLOUT, Duration::from_millis(5));
            }
            // An ICMP error of an earlier datagram is told once, in place of a send.
            Err(_) => {
                if batch::send(socket, &datagrams[..1]).is_ok() {
                    sent += 1;
                }
                datagrams = &datagrams[1..];
            }
        }
    }
    sent
}
