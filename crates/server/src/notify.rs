//! Tells systemd how far we are: sd_notify's datagrams. Without NOTIFY_SOCKET nothing is done.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The member serves: `READY=1`.
pub fn ready() -> io::Result<bool> {
    from_env("READY=1")
}

/// The member is on its way down: `STOPPING=1`.
pub fn stopping() -> io::Result<bool> {
    from_env("STOPPING=1")
}

fn from_env(state: &str) -> io::Result<bool> {
    match std::env::var("NOTIFY_SOCKET") {
        Ok(socket) if !socket.is_empty() => send(&socket, state).map(|()| true),
        _ => Ok(false),
    }
}

/// Sends to a socket file, or, behind an `@`, to a name in the abstract space. Never waits.
fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_abstract_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let file = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let count = file.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");

        let name = format!("mainstay-notify-{}", std::process::id());
        let named = SocketAddr::from_abstract_name(&name).unwrap();
        let hidden = UnixDatagram::bind_addr(&named).unwrap();
        send(&format!("@{name}"), "STOPPING=1").unwrap();
        let count = hidden.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"STOPPING=1");

        assert!(send("/nonexistent/socket", "READY=1").is_err());
    }
}
