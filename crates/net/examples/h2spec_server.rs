//! A blocking TCP server around the pure layer, for conformance suites such as h2spec. Not a server to use.
//!
//! `cargo run -p mainstay-net --example h2spec_server 127.0.0.1:8000`, then `h2spec -p 8000`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use mainstay_net::{CallHead, Calls, Connection, End, Limits, Methods, Outbound, PlainHead};

static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&["/test.Echo/Echo"]));

/// Answers everything: calls with their own message, other requests with a page long enough for flow control.
struct Site;

impl Calls for Site {
    fn call(&mut self, _: &mut Outbound, _: u32, _: &CallHead<'_>) {}
    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]) {
        connection.unary(stream, |out| out.extend_from_slice(message));
    }
    fn half_close(&mut self, connection: &mut Outbound, stream: u32, _: End) {
        match connection.method(stream) {
            Some(_) => connection.fail(stream, 13, "no message"),
            None => connection.respond(stream, 200, "text/plain", &[b'x'; 1000]),
        }
    }
    fn cancelled(&mut self, _: &mut Outbound, _: u32) {}
    fn plain(&mut self, _: &mut Outbound, _: u32, _: &PlainHead<'_>) -> bool {
        true
    }
}

fn flush(server: &mut Connection, socket: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut iov = Vec::new();
        server.output().gather(&mut iov);
        if iov.is_empty() {
            return Ok(());
        }
        let n = socket.write_vectored(&iov)?;
        server.output().consumed(n);
        server.outbound().drain_writable(&mut Vec::new());
    }
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let start = Instant::now();
    let mut server = Connection::new(Arc::new(Limits::default()), &METHODS, 0);
    let mut buffer = vec![0; 16 << 10];
    loop {
        flush(&mut server, &mut socket)?;
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            server.disconnected(&mut Site);
            return Ok(());
        }
        let now = start.elapsed().as_millis() as u64;
        if let Err(closed) = server.receive(&buffer[..n], now, &mut Site) {
            eprintln!("{closed}");
            flush(&mut server, &mut socket)?;
            socket.shutdown(std::net::Shutdown::Write)?;
            // Unread input would turn our last words into a reset of the socket.
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            while socket.read(&mut buffer).is_ok_and(|n| n > 0) {}
            return Ok(());
        }
    }
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    for socket in TcpListener::bind(address)?.incoming() {
        let socket = socket?;
        std::thread::spawn(move || serve(socket));
    }
    Ok(())
}
