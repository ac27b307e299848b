//! The only calls into libc: batches of datagrams with their local addresses, the socket error
//! queue, a nested epoll, descriptors that are known by their number alone, and the limit on them. Not for
//! anything socket2 or tokio offers. Called by `batch`, `bind`, the UDP data plane, and whoever is passed
//! sockets by a service manager.
//!
//! Invariant: every pointer handed to the kernel points into a local or a borrowed buffer that
//! outlives the call, and every length is that buffer's.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, epoll and their socket options have no safe wrapper here"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::batch::{Batch, Outgoing};
use super::steer::Instruction;

/// Asks for the local address of each datagram (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
pub fn report_local_address(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        enable(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        enable(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    }
}

/// Asks for ICMP errors on an unconnected socket; read them by [`take_unreachable`].
pub fn report_unreachable(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        enable(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        enable(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    }
}

/// Asks the kernel to hand on datagrams of one flow in one piece, with the length of each
/// (UDP_GRO, Linux 5.0).
pub(super) fn merge_received(socket: &impl AsFd) -> io::Result<()> {
    enable(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO)
}

#[cfg(test)]
pub(super) fn without_checksums(socket: &impl AsFd) -> io::Result<()> {
    enable(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK)
}

/// Receives what waits into `slots`, at most one slot's worth each; says how many slots it filled.
pub(super) fn receive<'a>(
    socket: BorrowedFd<'_>,
    slots: impl Iterator<Item = &'a mut [u8]>,
    mut filled: impl FnMut(Filled),
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<Name>::uninit() }; Batch::CAPACITY];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; Batch::CAPACITY];
    let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; Batch::CAPACITY];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; Batch::CAPACITY];
    let mut count = 0;
    for ((((slot, name), control), part), header) in
        slots.zip(&mut names).zip(&mut controls).zip(&mut parts).zip(&mut headers)
    {
        let part =
            part.write(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
        let header = header.write(EMPTY_HEADER);
        let h = &mut header.msg_hdr;
        h.msg_name = name.as_mut_ptr().cast();
        h.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
        h.msg_iov = part;
        h.msg_iovlen = 1;
        h.msg_control = control.as_mut_ptr().cast();
        h.msg_controllen = mem::size_of::<Control>();
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: the first `count` headers were filled above with pointers to `names`, `parts`,
    // `controls` and disjoint slots, all alive and exclusively borrowed here, each with its own
    // length; a null timeout is allowed.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for header in headers.iter().take(received) {
        // SAFETY: the kernel received into at most the `count` headers that were written above.
        let header = unsafe { header.assume_init_ref() };
        // SAFETY: the kernel has filled this header's name up to `msg_namelen` bytes and its
        // control buffer up to `msg_controllen`; both buffers are still alive.
        let (peer, (local, segment)) =
            unsafe { (address(&header.msg_hdr), reported(&header.msg_hdr)) };
        filled(Filled {
            peer: peer.unwrap_or(NOWHERE),
            local,
            length: header.msg_len as usize,
            segment,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        });
    }
    Ok(received)
}

/// What the kernel says of a slot that it filled.
pub(super) struct Filled {
    pub peer: SocketAddr,
    pub local: Option<IpAddr>,
    pub length: usize,
    /// The length of each datagram but the last, when there are several in the slot.
    pub segment: Option<usize>,
    pub truncated: bool,
}

/// Sends up to [`Batch::CAPACITY`] messages; each is a run of datagrams that `runs` says the length
/// of: one, or several of equal length (the last may be shorter) from and to the same addresses,
/// which the kernel cuts (UDP_SEGMENT, Linux 4.18). Says how many datagrams were taken.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    datagrams: &[Outgoing<'_>],
    runs: impl Fn(&[Outgoing<'_>]) -> usize,
) -> io::Result<usize> {
    if let [Outgoing { bytes, to, from: None }] = datagrams {
        return send_one(socket, bytes, *to);
    }
    let mut names = [const { MaybeUninit::<Name>::uninit() }; Batch::CAPACITY];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; Batch::CAPACITY];
    let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; Batch::CAPACITY];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; Batch::CAPACITY];
    let mut lengths = [0; Batch::CAPACITY];
    let (mut rest, mut parts) = (datagrams, parts.as_mut_slice());
    let mut count = 0;
    for (((name, control), header), length) in
        names.iter_mut().zip(&mut controls).zip(&mut headers).zip(&mut lengths)
    {
        let Some(first) = rest.first() else { break };
        let run = runs(rest).max(1);
        let (Some((run, after)), Some((own, free))) =
            (rest.split_at_checked(run), std::mem::take(&mut parts).split_at_mut_checked(run))
        else {
            break;
        };
        for (part, datagram) in own.iter_mut().zip(run) {
            // The kernel only reads the bytes of a message that is sent; iovec has no const form.
            part.write(libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            });
        }
        let header = header.write(EMPTY_HEADER);
        let h = &mut header.msg_hdr;
        h.msg_namelen = Name::write(name, first.to);
        h.msg_name = name.as_mut_ptr().cast();
        h.msg_iov = own.as_mut_ptr().cast();
        h.msg_iovlen = run.len();
        let segment = (run.len() > 1).then_some(first.bytes.len() as u16);
        write_controls(h, control, first.from, segment);
        *length = run.len();
        (rest, parts) = (after, free);
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: the first `count` headers point to names, parts and control buffers filled above and
    // to the callers' bytes, all alive during the call; the kernel does not write through them.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count, libc::MSG_DONTWAIT)
    };
    let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(lengths.iter().take(sent).sum())
}

/// The cheapest call for one datagram.
fn send_one(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
    let mut name = MaybeUninit::<Name>::uninit();
    let length = Name::write(&mut name, to);
    // SAFETY: `bytes` and the first `length` bytes of `name` are alive and only read.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            name.as_ptr().cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) }
}

/// An ICMP error that one of our datagrams met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Where the datagram was sent.
    pub to: SocketAddr,
    /// The system's error number (`ECONNREFUSED`, `EHOSTUNREACH` …).
    pub errno: i32,
}

/// The next ICMP error from the queue of a socket prepared by [`report_unreachable`]; `None` when
/// there is none.
pub fn take_unreachable(socket: &impl AsFd) -> io::Result<Option<Unreachable>> {
    let mut name = MaybeUninit::<Name>::uninit();
    let mut control = MaybeUninit::<Control>::uninit();
    let mut header = EMPTY_HEADER.msg_hdr;
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of::<Control>();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: `header` points to `name` and `control`, alive and exclusively borrowed, with their
    // true sizes; no bytes are asked for (no iovec).
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    // SAFETY: as in `receive`: filled by the kernel up to the lengths that it wrote back.
    let (to, errno) = unsafe { (address(&header), extended_error(&header)) };
    Ok(to.zip(errno).map(|(to, errno)| Unreachable { to, errno }))
}

/// A socket that has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// As given to [`Poller::add`].
    pub token: u32,
    /// Its error queue is not empty: take from it, or it stays ready.
    pub error: bool,
}

/// An epoll of many sockets, waited for as one.
#[derive(Debug)]
pub struct Poller(AsyncFd<OwnedFd>);

impl Poller {
    /// An empty one, in the current runtime (it panics outside of one).
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; a result that is not negative is a descriptor that we own.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd is one open descriptor until it is dropped, and it is given away.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
    }

    /// Waits until a socket has something. Clear the guard's readiness only after a call of
    /// [`Poller::ready`] that found less than the most, with all that it named drained. Cancel safe.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Watches a socket for reading and for errors; `token` comes back from [`Poller::ready`].
    /// Closing the socket ends the watch.
    pub fn add(&self, socket: &impl AsFd, token: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(token) };
        let (own, socket) = (self.0.as_raw_fd(), socket.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open; `event` is alive and only read.
        let result = unsafe { libc::epoll_ctl(own, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The sockets with something to read or with an error to take, at most [`Batch::CAPACITY`] at
    /// a time, appended to `ready`. Never waits.
    pub fn ready(&self, ready: &mut Vec<Ready>) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; Batch::CAPACITY];
        // SAFETY: `events` is alive, exclusively borrowed and has CAPACITY entries.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                Batch::CAPACITY as libc::c_int,
                0,
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        ready.extend(events.iter().take(count).map(|event| Ready {
            token: event.u64 as u32,
            error: event.events & libc::EPOLLERR as u32 != 0,
        }));
        Ok(count)
    }
}

/// Another descriptor of what stands under a number, for this process alone: how a service manager passes sockets
/// (sd_listen_fds(3)). The number itself stays as it is.
///
/// # Errors
/// Nothing stands there, or there may be no more descriptors.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call reads and writes no memory of ours, and leaves whatever has the number as it is.
    let fresh = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if fresh < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made `fresh`, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fresh) })
}

/// Raises this process's soft limit on open descriptors to its hard limit; returns what holds now.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is alive and exclusively borrowed.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is alive and only read.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Sets an integer socket option to 1.
fn enable(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is `on`, alive, with its true size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel choose among the sockets of this one's group by a program
/// (SO_ATTACH_REUSEPORT_CBPF, socket(7)), which the group keeps as long as it has a socket.
pub(super) fn steer(socket: &impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let code =
        |i: &Instruction| libc::sock_filter { code: i.code, jt: i.yes, jf: i.no, k: i.value };
    let mut filter: Vec<libc::sock_filter> = program.iter().map(code).collect();
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the option's value is `program`, alive, with its true size; it points to `filter`,
    // which has `length` instructions and outlives the call; the kernel copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for an address of either family.
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    /// Writes the address; returns its length.
    fn write(to: &mut MaybeUninit<Self>, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(v4) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                to.write(Self { v4 });
                mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(v6) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                to.write(Self { v6 });
                mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }
}

/// Room for the control messages that we ask for: a local address, or an extended error with the
/// address of who sent it. Aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// The address in `msg_name`.
///
/// # Safety
/// `msg_name` points to a `Name` of which the first `msg_namelen` bytes are initialised.
unsafe fn address(header: &libc::msghdr) -> Option<SocketAddr> {
    let length = header.msg_namelen as usize;
    if length < mem::size_of::<libc::sockaddr_in>() {
        return None;
    }
    // SAFETY: at least the size of sockaddr_in is initialised (checked above), `Name` is aligned
    // for it, and the family is its first field in both forms.
    let v4 = unsafe { header.msg_name.cast::<libc::sockaddr_in>().read() };
    if i32::from(v4.sin_family) == libc::AF_INET {
        let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
        return Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into());
    }
    if length < mem::size_of::<libc::sockaddr_in6>() || i32::from(v4.sin_family) != libc::AF_INET6 {
        return None;
    }
    // SAFETY: the size of sockaddr_in6 is initialised (checked above); aligned by `Name`.
    let v6 = unsafe { header.msg_name.cast::<libc::sockaddr_in6>().read() };
    let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
    let port = u16::from_be(v6.sin6_port);
    Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
}

/// The first control message of this level and kind, read as `T`.
///
/// # Safety
/// `msg_control` points to `msg_controllen` bytes that the kernel has filled, aligned for
/// `cmsghdr`; `T` is plain data that the kernel writes for this kind.
unsafe fn control<T: Copy>(header: &libc::msghdr, kinds: &[(i32, i32)]) -> Option<T> {
    // SAFETY: the CMSG macros walk within `msg_controllen`, given the contract.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: not null, so a whole cmsghdr lies at `next` within the buffer.
        let message = unsafe { next.read() };
        // SAFETY: arithmetic on sizes alone.
        let wanted = unsafe { libc::CMSG_LEN(mem::size_of::<T>() as u32) } as usize;
        if kinds.contains(&(message.cmsg_level, message.cmsg_type)) && message.cmsg_len >= wanted {
            // SAFETY: the message is long enough for a `T` (checked above).
            return Some(unsafe { libc::CMSG_DATA(next).cast::<T>().read_unaligned() });
        }
        // SAFETY: `next` is a message of this header.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    None
}

/// The address that a datagram was sent to, and the length of each when there are several.
///
/// # Safety
/// As [`control`].
unsafe fn reported(header: &libc::msghdr) -> (Option<IpAddr>, Option<usize>) {
    if header.msg_controllen == 0 {
        return (None, None);
    }
    // SAFETY: UDP_GRO carries an int (udp(7)); the contract is passed on.
    let segment = unsafe { control::<i32>(header, &[(libc::SOL_UDP, libc::UDP_GRO)]) };
    let segment = segment.and_then(|length| usize::try_from(length).ok());
    let (v4, v6) = ((libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO));
    // SAFETY: IP_PKTINFO carries an in_pktinfo (ip(7)); the contract is passed on.
    if let Some(info) = unsafe { control::<libc::in_pktinfo>(header, &[v4]) } {
        return (Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()), segment);
    }
    // SAFETY: IPV6_PKTINFO carries an in6_pktinfo (RFC 3542 §6.2); the contract is passed on.
    let info = unsafe { control::<libc::in6_pktinfo>(header, &[v6]) };
    (info.map(|info| Ipv6Addr::from(info.ipi6_addr.s6_addr).into()), segment)
}

/// The error number of an ICMP error.
///
/// # Safety
/// As [`control`].
unsafe fn extended_error(header: &libc::msghdr) -> Option<i32> {
    let kinds = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
    // SAFETY: both kinds carry a sock_extended_err (ip(7)); the contract is passed on.
    let error = unsafe { control::<libc::sock_extended_err>(header, &kinds) }?;
    Some(error.ee_errno as i32)
}

/// Has the header carry the local address to send from, and the length to cut at.
fn write_controls(
    header: &mut libc::msghdr,
    control: &mut MaybeUninit<Control>,
    from: Option<IpAddr>,
    segment: Option<u16>,
) {
    if from.is_none() && segment.is_none() {
        return;
    }
    header.msg_control = control.write(Control([0; 128])).0.as_mut_ptr().cast();
    let mut used = 0;
    match from {
        Some(IpAddr::V4(v4)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used += write_control(header, used, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
        }
        Some(IpAddr::V6(v6)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: v6.octets() },
                ipi6_ifindex: 0,
            };
            used += write_control(header, used, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
        }
        None => {}
    }
    if let Some(segment) = segment {
        used += write_control(header, used, (libc::SOL_UDP, libc::UDP_SEGMENT), segment);
    }
    header.msg_controllen = used;
}

/// Writes one control message behind the first `at` bytes of the header's buffer; returns the
/// space used.
fn write_control<T: Copy>(
    header: &libc::msghdr,
    at: usize,
    (level, kind): (i32, i32),
    value: T,
) -> usize {
    let size = mem::size_of::<T>() as u32;
    // SAFETY: sizes alone.
    let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
    // SAFETY: `msg_control` points to a zeroed `Control` of 128 bytes, aligned for cmsghdr; `at` is
    // the sum of earlier CMSG_SPACEs, so aligned too, and there are at most two messages, of at
    // most 40 and 24 bytes.
    unsafe {
        let message = header.msg_control.byte_add(at).cast::<libc::cmsghdr>();
        message.write(libc::cmsghdr {
            cmsg_len: length as usize,
            cmsg_level: level,
            cmsg_type: kind,
        });
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
    }
    space as usize
}

/// What a datagram without a readable peer address is said to come from: never an endpoint's.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

const EMPTY_HEADER: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

#[cfg(test)]
mod tests;
