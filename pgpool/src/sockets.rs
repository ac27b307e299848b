//! The sockets that an instance listens on: TCP for every worker, unix sockets with their files' mode and
//! group; or those that somebody else has opened. Not for accepting: that is `listener`. Called once, by `start`.
//!
//! Invariant: a unix socket's file has its mode and group before anybody can connect to it, and is taken
//! away at the end only if it is still ours.

pub mod passed;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::net::bind;
use passed::Passed;
use topology::Place;
use topology::pool::{Instance, ListenAddress};

/// Whether another process may listen on the same ports already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beside {
    /// No: that is a fault.
    #[default]
    Nobody,
    /// The process that this one replaces.
    Former,
    /// Processes that share TCP ports with this one for good.
    Peers,
}

/// What one worker listens on.
#[derive(Debug, Default)]
pub struct Seat {
    /// TCP.
    pub tcp: Vec<TcpListener>,
    /// Unix sockets with the ports of their names.
    pub unix: Vec<(UnixListener, u16)>,
}

/// All that an instance listens on.
#[derive(Debug, Default)]
pub struct Bound {
    /// One per worker.
    pub seats: Vec<Seat>,
    /// TCP addresses, with the ports that the system chose.
    pub addresses: Vec<SocketAddr>,
    /// Unix sockets.
    pub files: Vec<SocketFile>,
    /// Unix sockets that somebody else has opened, by name.
    pub others: Vec<String>,
    /// Other descriptors of all of them, for a process that takes over.
    pub spares: Vec<Spare>,
}

/// Other descriptors of a listener's sockets; whoever has one keeps them open.
#[derive(Debug)]
pub struct Spare {
    /// Where it listens, as the file has it; `None`: not this process or one before has opened it.
    pub address: Option<ListenAddress>,
    /// In the order of the workers.
    pub sockets: Vec<OwnedFd>,
}

/// Whether this process takes a unix socket's file away at its end, or the one that has the socket too.
#[derive(Clone, Debug)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    fn new(ours: bool) -> Self {
        Self(Arc::new(AtomicBool::new(ours)))
    }

    /// The process before does not any more.
    pub fn take(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Another one does.
    pub fn give_up(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindFault {
    /// Where it stands.
    pub place: Place,
    /// The address.
    pub address: ListenAddress,
    /// Why not.
    pub source: io::Error,
}

/// A unix socket in the file system; removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
    claim: Claim,
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How a log names it.
    pub fn name(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Whose it is.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.claim.0.load(Ordering::Acquire) {
            return;
        }
        // A process that replaced us has put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Listens on everything that an instance has; on what `left` has by the sockets of the process before.
///
/// # Errors
/// With the first address that cannot be had; nothing is left then.
pub fn bind(
    instance: &Instance,
    count: NonZeroUsize,
    beside: Beside,
    mut left: impl FnMut(&ListenAddress) -> Option<Vec<OwnedFd>>,
) -> Result<Bound, BindFault> {
    let mut bound = Bound::with_seats(count);
    for at in &instance.listen {
        let shared = instance.peer_id.is_some();
        let done = match (&at.value, left(&at.value)) {
            (ListenAddress::Ip(address), Some(sockets)) => {
                bound.tcp_again(*address, count, sockets)
            }
            (ListenAddress::Unix(folder, port), Some(sockets)) => {
                bound.unix_again(&socket_path(folder, *port), *port, sockets)
            }
            // A port that the system chooses is nobody else's.
            (ListenAddress::Ip(address), None) if shared && address.port() > 0 => {
                bound.tcp(*address, count, Beside::Peers)
            }
            (ListenAddress::Ip(address), None) => bound.tcp(*address, count, beside),
            (ListenAddress::Unix(folder, port), None) => {
                bound.unix(instance, folder, *port, beside)
            }
        };
        let fault = |source| BindFault { place: at.place, address: at.value.clone(), source };
        done.map_err(fault)?;
    }
    Ok(bound)
}

/// Listens on what somebody else has opened, and on nothing else: each worker accepts on each socket for the network,
/// as no other can be opened beside it.
///
/// # Errors
/// There are no more descriptors.
pub fn adopt(instance: &Instance, count: NonZeroUsize, all: Vec<Passed>) -> io::Result<Bound> {
    let mut bound = Bound::with_seats(count);
    // A unix socket of another name has the port of the others, as clients are shown one.
    let said = instance.listen.iter().map(|at| match at.value {
        ListenAddress::Ip(address) => address.port(),
        ListenAddress::Unix(_, port) => port,
    });
    let said = said.chain(all.iter().filter_map(Passed::port)).next().unwrap_or_default();
    for one in all {
        let (name, port) = (one.name(), one.port().unwrap_or(said));
        let spare = match one {
            Passed::Tcp(listener, address) => {
                for seat in &mut bound.seats {
                    seat.tcp.push(listener.try_clone()?);
                }
                bound.addresses.push(address);
                OwnedFd::from(listener)
            }
            Passed::Unix(listener, _) => {
                let spare = listener.as_fd().try_clone_to_owned()?;
                if let Some(seat) = bound.seats.first_mut() {
                    seat.unix.push((listener, port));
                }
                bound.others.push(name);
                spare
            }
        };
        bound.spares.push(Spare { address: None, sockets: vec![spare] });
    }
    Ok(bound)
}

impl Bound {
    fn with_seats(count: NonZeroUsize) -> Self {
        let seats = (0..count.get()).map(|_| Seat::default()).collect();
        Self { seats, ..Self::default() }
    }

    fn tcp(&mut self, address: SocketAddr, count: NonZeroUsize, beside: Beside) -> io::Result<()> {
        let all = match beside {
            Beside::Nobody => bind::tcp_group(address, count)?,
            Beside::Former | Beside::Peers => {
                let one = |_| bind::tcp(address, bind::Reuse::Port);
                (0..count.get()).map(one).collect::<io::Result<_>>()?
            }
        };
        self.serve(address, all)
    }

    /// On the sockets of the process before: all of them, as connections wait in each, and more where it
    /// had fewer workers.
    fn tcp_again(
        &mut self,
        address: SocketAddr,
        count: NonZeroUsize,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let mut all: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
        let Some(first) = all.first() else { return Ok(()) };
        let own = first.local_addr()?;
        let more = (all.len()..count.get()).map(|_| bind::tcp(own, bind::Reuse::Port));
        let more: Vec<_> = more.collect::<io::Result<_>>()?;
        all.extend(more);
        self.serve(address, all)
    }

    fn serve(&mut self, address: SocketAddr, all: Vec<TcpListener>) -> io::Result<()> {
        self.addresses.extend(all.first().and_then(|listener| listener.local_addr().ok()));
        let spare = |listener: &TcpListener| listener.as_fd().try_clone_to_owned();
        let sockets = all.iter().map(spare).collect::<io::Result<_>>()?;
        self.spares.push(Spare { address: Some(ListenAddress::Ip(address)), sockets });
        let workers = self.seats.len().max(1);
        for (at, listener) in all.into_iter().enumerate() {
            if let Some(seat) = self.seats.get_mut(at % workers) {
                seat.tcp.push(listener);
            }
        }
        Ok(())
    }

    /// A unix socket cannot be shared out by the kernel: one worker accepts, as clients go to their home
    /// anyway.
    fn unix(
        &mut self,
        instance: &Instance,
        folder: &Path,
        port: u16,
        beside: Beside,
    ) -> io::Result<()> {
        let path = socket_path(folder, port);
        if beside != Beside::Former {
            refuse_busy(&path)?;
        }
        // Made under another name, so that it appears with its mode and group.
        let fresh = folder.join(format!(".s.PGSQL.{port}.{}", std::process::id()));
        let _stale = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        let dressed = dress(&fresh, instance).and_then(|()| fs::rename(&fresh, &path));
        if let Err(fault) = dressed {
            let _half = fs::remove_file(&fresh);
            return Err(fault);
        }
        listener.set_nonblocking(true)?;
        self.accept_on(&path, listener, port, Claim::new(true))
    }

    /// On the socket of the process before, whose file stays as it is.
    fn unix_again(&mut self, path: &Path, port: u16, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let mut sockets = sockets.into_iter();
        let Some(socket) = sockets.next() else { return Ok(()) };
        self.accept_on(path, socket.into(), port, Claim::new(false))
    }

    fn accept_on(
        &mut self,
        path: &Path,
        listener: UnixListener,
        port: u16,
        claim: Claim,
    ) -> io::Result<()> {
        let inode = fs::symlink_metadata(path)?.ino();
        let folder = path.parent().unwrap_or(path).to_owned();
        let spare = vec![listener.as_fd().try_clone_to_owned()?];
        let address = Some(ListenAddress::Unix(folder, port));
        self.spares.push(Spare { address, sockets: spare });
        self.files.push(SocketFile { path: path.to_owned(), inode, claim });
        if let Some(seat) = self.seats.first_mut() {
            seat.unix.push((listener, port));
        }
        Ok(())
    }
}

/// The file of a unix socket.
pub fn socket_path(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

/// A socket that somebody answers on, and a file that is none, stay as they are.
fn refuse_busy(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => Err(io::ErrorKind::AddrInUse.into()),
        _ => Ok(()),
    }
}

fn dress(path: &Path, instance: &Instance) -> io::Result<()> {
    if let Some(name) = &instance.socket_group {
        let number = match name.parse() {
            Ok(number) => Some(number),
            Err(_) => nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()),
        };
        let unknown = || io::Error::other(format!("there is no group {name}"));
        chown(path, None, Some(number.ok_or_else(unknown)?))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(instance.socket_mode.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::pool::SocketMode;
    use topology::{At, units::InstanceName};

    fn instance(folder: &Path, mode: u32) -> Instance {
        let value = ListenAddress::Unix(folder.to_owned(), 6432);
        Instance {
            name: InstanceName::new("pool-1"),
            listen: vec![At { value, place: Place::default() }],
            socket_mode: SocketMode(mode),
            socket_group: None,
            peer_id: None,
            admin: None,
            advertise: None,
            place: Place::default(),
        }
    }

    /// P2, O5: a busy socket is told, a stale one replaced, a strange file kept, and nothing is left.
    #[test]
    fn socket_files() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(".s.PGSQL.6432");
        let instance = instance(folder.path(), 0o640);
        let try_bind = |beside| bind(&instance, NonZeroUsize::MIN, beside, |_| None);
        let first = try_bind(Beside::Nobody).expect("free");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o640);
        let fault = try_bind(Beside::Nobody).expect_err("busy");
        assert_eq!(fault.source.kind(), io::ErrorKind::AddrInUse);
        let second = try_bind(Beside::Former).expect("taken over");
        drop(first);
        assert!(
            UnixStream::connect(&path).is_ok(),
            "the first one's end took the second one's file"
        );
        // As if its process had been killed.
        let Bound { seats, files, spares, .. } = second;
        std::mem::forget(files);
        drop((seats, spares));
        drop(try_bind(Beside::Nobody).expect("a stale socket is replaced"));
        assert!(!path.exists() && fs::read_dir(folder.path()).expect("folder").next().is_none());
        fs::write(&path, "mine").expect("written");
        try_bind(Beside::Nobody).expect_err("a file that is no socket");
        assert!(path.exists());
    }
}
