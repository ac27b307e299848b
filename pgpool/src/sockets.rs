//! The sockets that an instance listens on: TCP for every worker, unix sockets with their files' mode and
//! group. Not for accepting: that is `listener`. Called once, by `start`.
//!
//! Invariant: a unix socket's file has its mode and group before anybody can connect to it, and is taken
//! away at the end only if it is still ours.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use common::net::bind;
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
#[derive(Debug)]
pub struct Bound {
    /// One per worker.
    pub seats: Vec<Seat>,
    /// TCP addresses, with the ports that the system chose.
    pub addresses: Vec<SocketAddr>,
    /// Unix sockets.
    pub files: Vec<SocketFile>,
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
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A process that replaced us has put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Listens on everything that an instance has.
///
/// # Errors
/// With the first address that cannot be had; nothing is left then.
pub fn bind(instance: &Instance, count: NonZeroUsize, beside: Beside) -> Result<Bound, BindFault> {
    let mut bound = Bound {
        seats: (0..count.get()).map(|_| Seat::default()).collect(),
        addresses: Vec::new(),
        files: Vec::new(),
    };
    for at in &instance.listen {
        let done = match &at.value {
            // A port that the system chooses is nobody else's.
            ListenAddress::Ip(address) if instance.peer_id.is_some() && address.port() > 0 => {
                bound.tcp(*address, count, Beside::Peers)
            }
            ListenAddress::Ip(address) => bound.tcp(*address, count, beside),
            ListenAddress::Unix(folder, port) => bound.unix(instance, folder, *port, beside),
        };
        let fault = |source| BindFault { place: at.place, address: at.value.clone(), source };
        done.map_err(fault)?;
    }
    Ok(bound)
}

impl Bound {
    fn tcp(&mut self, address: SocketAddr, count: NonZeroUsize, beside: Beside) -> io::Result<()> {
        let all = match beside {
            Beside::Nobody => bind::tcp_group(address, count)?,
            Beside::Former | Beside::Peers => {
                let one = |_| bind::tcp(address, bind::Reuse::Port);
                (0..count.get()).map(one).collect::<io::Result<_>>()?
            }
        };
        self.addresses.extend(all.first().and_then(|listener| listener.local_addr().ok()));
        self.seats.iter_mut().zip(all).for_each(|(seat, listener)| seat.tcp.push(listener));
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
        let path = folder.join(format!(".s.PGSQL.{port}"));
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
        let inode = fs::symlink_metadata(&path)?.ino();
        self.files.push(SocketFile { path, inode });
        if let Some(seat) = self.seats.first_mut() {
            seat.unix.push((listener, port));
        }
        Ok(())
    }
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
            place: Place::default(),
        }
    }

    /// P2, O5: a busy socket is told, a stale one replaced, a strange file kept, and nothing is left.
    #[test]
    fn socket_files() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(".s.PGSQL.6432");
        let instance = instance(folder.path(), 0o640);
        let try_bind = |beside| bind(&instance, NonZeroUsize::MIN, beside);
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
        std::mem::forget(second.files);
        drop(second.seats);
        drop(try_bind(Beside::Nobody).expect("a stale socket is replaced"));
        assert!(!path.exists() && fs::read_dir(folder.path()).expect("folder").next().is_none());
        fs::write(&path, "mine").expect("written");
        try_bind(Beside::Nobody).expect_err("a file that is no socket");
        assert!(path.exists());
    }
}
