//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::log::{Level, emit};

/// After a kill, the ring that held a listener is torn down late: the address may be taken for a moment.
const RETRY: Duration = Duration::from_secs(5);
const BACKLOG: libc::c_int = 4096;

/// Listens on `address`; `reuse_port`: with SO_REUSEPORT, which lets other processes of this user listen there too.
pub fn tcp(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + RETRY;
    let mut waits = false;
    loop {
        match try_tcp(address, reuse_port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !std::mem::replace(&mut waits, true) {
                    let (address, seconds) = (address.to_string(), RETRY.as_secs().to_string());
                    let fields = [("address", &*address), ("patience_s", &*seconds)];
                    emit(Level::Warn, "the address is in use: trying again for a while", &fields);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn try_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let (family, storage, len) = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            (libc::AF_INET, Raw { v4: raw }, size_of::<libc::sockaddr_in>())
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            (libc::AF_INET6, Raw { v6: raw }, size_of::<libc::sockaddr_in6>())
        }
    };
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&fd, libc::SO_REUSEADDR)?;
    if reuse_port {
        set(&fd, libc::SO_REUSEPORT)?;
    }
    // SAFETY: the address lives through the call and is at least `len` long.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), len as libc::socklen_t) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no pointers.
    if unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// Either kind of address, for `bind`.
union Raw {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

fn set(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: passes a pointer to an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Listens on a socket file; one that nobody listens on any more is replaced.
pub fn unix(path: &Path) -> io::Result<OwnedFd> {
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}
