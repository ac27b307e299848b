//! Passes descriptors with a message over a unix socket (unix(7), SCM_RIGHTS), as a binary that hands
//! its sockets over to the next one does. Not for what the message means. Blocking: for a thread of
//! its own, with the time limits that the socket has.
//!
//! Invariant: a message arrives whole with all its descriptors, or with word that some are missing; the next
//! one is heard either way.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The longest message, 64 MiB.
const LONGEST: usize = 64 << 20;

/// Descriptors in one call; the kernel's limit is 253 (SCM_MAX_FD).
const AT_ONCE: usize = 250;

/// Most descriptors with one message.
const MOST: usize = 65_536;

/// Sends one message with descriptors; the peer has duplicates of them.
pub fn send(mut to: &UnixStream, message: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let lengths = [message.len(), with.len()].map(|length| u32::try_from(length).ok());
    let [Some(length), Some(count)] = lengths else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&count.to_be_bytes())?;
    for some in with.chunks(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Descriptors travel with at least one byte.
        retry_on_intr(|| sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()))?;
    }
    to.write_all(message)
}

/// Descriptors of a message did not come, as this process may have no more. The rest are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing;

/// A message, and the descriptors that came with it.
pub type Received = (Vec<u8>, Result<Vec<OwnedFd>, Missing>);

/// Receives what [`send`] sent. `InvalidData` when it is too long.
pub fn receive(mut from: &UnixStream) -> io::Result<Received> {
    let (length, count) = (number(from)?, number(from)?);
    if length > LONGEST || count > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut descriptors = Vec::with_capacity(count);
    // As many calls as `send` made: without descriptors, too, each has its byte.
    for _ in 0..count.div_ceil(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let parts = &mut [IoSliceMut::new(&mut byte)];
        let got = retry_on_intr(|| recvmsg(from, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    let whole = descriptors.len() == count;
    Ok((message, if whole { Ok(descriptors) } else { Err(Missing) }))
}

/// Reads what is still there and closes the descriptors in it, until the other side has ended. Only after
/// the way was shut.
pub fn discard(mut from: &UnixStream) {
    let mut nowhere = [0; 4096];
    // Descriptors for which a call has no room are closed (unix(7)).
    while matches!(from.read(&mut nowhere), Ok(1..)) {}
}

fn number(mut from: &UnixStream) -> io::Result<usize> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    /// N11: sockets pass with their message, more of them than one call takes; both sides then have
    /// the same socket.
    #[test]
    fn descriptors_pass_with_their_message() {
        let (one, two) = UnixStream::pair().unwrap();
        let sockets: Vec<UdpSocket> =
            (0..600).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let with: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        send(&one, b"first", &with).unwrap();
        send(&one, b"", &[]).unwrap();
        let (message, passed) = receive(&two).unwrap();
        let passed = passed.unwrap();
        assert_eq!((message.as_slice(), passed.len()), (b"first".as_slice(), 600));
        for (socket, passed) in sockets.iter().zip(passed) {
            let passed = UdpSocket::from(passed);
            assert_eq!(passed.local_addr().unwrap(), socket.local_addr().unwrap());
        }
        assert!(receive(&two).unwrap().0.is_empty());
        drop(one);
        assert!(receive(&two).is_err());
    }

    /// N11, P7: a message whose descriptors did not come costs nothing but itself: the next one is heard.
    #[test]
    fn a_message_without_its_descriptors_is_passed_over() {
        let (one, two) = UnixStream::pair().unwrap();
        let mut said = Vec::new();
        said.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 1, 0]);
        said.extend_from_slice(b"lost");
        (&one).write_all(&said).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        send(&one, b"whole", &[socket.as_fd()]).unwrap();
        let (message, passed) = receive(&two).unwrap();
        assert_eq!((message.as_slice(), passed.unwrap_err()), (b"lost".as_slice(), Missing));
        let (message, passed) = receive(&two).unwrap();
        assert_eq!((message.as_slice(), passed.unwrap().len()), (b"whole".as_slice(), 1));
    }

    /// P7: what nobody hears any more is closed, and whoever goes on speaking learns it at once.
    #[test]
    fn what_is_discarded_is_closed() {
        let (one, two) = UnixStream::pair().unwrap();
        let (client, passed) = UnixStream::pair().unwrap();
        send(&one, b"a client", &[passed.as_fd()]).unwrap();
        drop(passed);
        two.shutdown(std::net::Shutdown::Both).unwrap();
        discard(&two);
        assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0, "its socket is closed");
        send(&one, b"more", &[]).unwrap_err();
    }

    /// O5: a peer that announces too much is refused before anything is kept for it.
    #[test]
    fn too_much_is_refused() {
        let (one, two) = UnixStream::pair().unwrap();
        (&one).write_all(&[255; 8]).unwrap();
        assert_eq!(receive(&two).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
