//! Listening sockets that somebody else has opened: a service manager (systemd's socket units,
//! sd_listen_fds(3)), or a process before that had them from one. Not for opening any. Asked for once, by `main`
//! and by the drop-in form, at the very start.
//!
//! Invariant: whoever opened them keeps them: their files are never taken away here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::net::sys;
use socket2::{Domain, SockRef, Type};
use topology::pool::ListenAddress;

/// One such socket.
#[derive(Debug)]
pub enum Passed {
    /// TCP, and where it listens.
    Tcp(TcpListener, SocketAddr),
    /// A unix socket, and its file; `None`: it has a name in no folder (unix(7), "abstract").
    Unix(UnixListener, Option<PathBuf>),
}

/// Why sockets that were passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// The environment says something else than what is there.
    #[error("LISTEN_PID and LISTEN_FDS do not fit the sockets that were passed: {0}")]
    Environment(io::Error),
    /// It is a datagram's, a connection's, or none at all.
    #[error(
        "the socket passed from service manager (fd {0}) is not one to accept connections on: in its unit say \
         ListenStream=, and not Accept=yes"
    )]
    NoListener(i32),
}

/// All that were passed to this very process, each once: asked again, there are others of the same.
///
/// # Errors
/// With what is wrong with the first one.
pub fn inherited() -> Result<Vec<Passed>, PassedError> {
    let numbers = sd_notify::listen_fds().map_err(PassedError::Environment)?;
    numbers
        .map(|number| {
            let socket = sys::duplicate(number).map_err(PassedError::Environment)?;
            Passed::of(socket).map_err(|_| PassedError::NoListener(number))
        })
        .collect()
}

impl Passed {
    /// What a socket is.
    ///
    /// # Errors
    /// Nobody can be accepted on it.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        let look = SockRef::from(&socket);
        if look.r#type()? != Type::STREAM || !look.is_listener()? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        look.set_nonblocking(true)?;
        let domain = look.domain()?;
        if domain == Domain::UNIX {
            let listener = UnixListener::from(socket);
            let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
            return Ok(Self::Unix(listener, path));
        }
        if domain != Domain::IPV4 && domain != Domain::IPV6 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    /// How a log names it.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, Some(path)) => format!("unix:{}", path.display()),
            Self::Unix(_, None) => "unix".to_owned(),
        }
    }

    /// The port in a unix socket's name, as libpq looks for it.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, address) => Some(address.port()),
            Self::Unix(_, path) => {
                let name = path.as_ref()?.file_name()?.to_str()?;
                name.strip_prefix(".s.PGSQL.")?.parse().ok()
            }
        }
    }

    /// Whether it listens where a file says.
    pub(crate) fn is_at(&self, address: &ListenAddress) -> bool {
        match (self, address) {
            (Self::Tcp(_, own), ListenAddress::Ip(address)) => own == address,
            (Self::Unix(_, Some(path)), ListenAddress::Unix(folder, port)) => {
                *path == super::socket_path(folder, *port)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// O3, O5: what was passed is known by itself; what accepts nobody is refused.
    #[test]
    fn passed_sockets_are_known() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(".s.PGSQL.7777");
        let unix =
            Passed::of(UnixListener::bind(&path).expect("bound").into()).expect("a listener");
        assert_eq!((unix.port(), unix.name()), (Some(7777), format!("unix:{}", path.display())));
        assert!(unix.is_at(&ListenAddress::Unix(folder.path().to_owned(), 7777)));
        assert!(!unix.is_at(&ListenAddress::Unix(folder.path().to_owned(), 7778)));
        let other = folder.path().join("other");
        let other = Passed::of(UnixListener::bind(other).expect("bound").into());
        assert_eq!(other.expect("a listener").port(), None);
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = tcp.local_addr().expect("an address");
        let tcp = Passed::of(tcp.into()).expect("a listener");
        assert!(tcp.is_at(&ListenAddress::Ip(address)) && tcp.name() == address.to_string());
        let (stream, _peer) = UnixStream::pair().expect("a pair");
        Passed::of(stream.into()).expect_err("a connection");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bound");
        Passed::of(datagrams.into()).expect_err("datagrams");
    }
}
