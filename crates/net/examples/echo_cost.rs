//! What a unary call costs in the pure layer: CPU per echo of a message, in memory, without sockets.
//!
//! Run with `cargo run --release -p mainstay-net --example echo_cost`. Only the server's half is timed: receive with
//! all its calls and answers, and gathering of the output. The client's half prepares and checks the bytes outside.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_net::client::{Answers, ClientConnection};
use mainstay_net::{CallHead, Calls, Connection, ErrorCode, Limits, Methods, Outbound};

const PATH: &str = "/etcdserverpb.KV/Put";
const CALLS: usize = 400_000;

struct Echo;

impl Calls for Echo {
    fn call(&mut self, _: &mut Outbound, _: u32, _: &CallHead<'_>) {}
    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]) {
        connection.unary(stream, |out| out.extend_from_slice(message));
    }
    fn half_close(&mut self, _: &mut Outbound, _: u32) {}
    fn cancelled(&mut self, _: &mut Outbound, _: u32) {}
}

/// Answers later, as a server does whose calls go through a log.
#[derive(Default)]
struct Deferred(Vec<u32>);

impl Calls for Deferred {
    fn call(&mut self, _: &mut Outbound, _: u32, _: &CallHead<'_>) {}
    fn message(&mut self, _: &mut Outbound, stream: u32, _: &[u8]) {
        self.0.push(stream);
    }
    fn half_close(&mut self, _: &mut Outbound, _: u32) {}
    fn cancelled(&mut self, _: &mut Outbound, _: u32) {}
}

#[derive(Default)]
struct Count(usize);

impl Answers for Count {
    fn message(&mut self, _: u32, _: &[u8]) {}
    fn finished(&mut self, stream: u32, code: u8, message: &str) {
        assert_eq!(code, 0, "stream {stream}: {message}");
        self.0 += 1;
    }
    fn reset(&mut self, stream: u32, code: ErrorCode) {
        panic!("stream {stream} was reset: {code}");
    }
}

fn run(methods: &'static Methods, batch: usize, timeout: bool, deferred: bool) -> Duration {
    let mut client = ClientConnection::new();
    let mut server = Connection::new(Arc::new(Limits::default()), methods, 0);
    let message = [7u8; 250];
    let (mut spent, mut count) = (Duration::ZERO, Count::default());
    let mut later = Deferred::default();
    let mut input = Vec::new();
    let mut sent = Vec::new();
    let mut begun = 0;
    while count.0 < CALLS {
        for _ in 0..batch {
            begun += 1;
            let text = format!("{}u", 4_000_000 + begun % 900_000);
            let metadata: &[(&str, &str)] = if timeout { &[("grpc-timeout", &text)] } else { &[] };
            client.start_with(PATH, metadata, Some(&message), true);
        }
        input.clear();
        input.extend_from_slice(client.output().contiguous().expect("no shared slices"));
        let length = client.output().len();
        client.output().consumed(length);

        let start = Instant::now();
        if deferred {
            // The reads of a socket: 16 KiB each.
            for part in input.chunks(16 << 10) {
                server.receive(part, 1, &mut later).expect("a good client");
            }
            for stream in later.0.drain(..) {
                server.outbound().unary(stream, |out| out.extend_from_slice(&message));
            }
        } else {
            for part in input.chunks(16 << 10) {
                server.receive(part, 1, &mut Echo).expect("a good client");
            }
        }
        server.outbound().drain_writable(&mut Vec::new());
        let mut iov: Vec<IoSlice<'_>> = Vec::new();
        server.output().gather(&mut iov);
        spent += start.elapsed();

        sent.clear();
        iov.iter().for_each(|slice| sent.extend_from_slice(slice));
        drop(iov);
        server.output().consumed(sent.len());
        client.receive(&sent, &mut count).expect("a good server");
    }
    spent / count.0 as u32
}

fn main() {
    let methods: &'static Methods = Box::leak(Box::new(Methods::new(&["/etcdserverpb.KV/Range", PATH])));
    println!("CPU per unary echo of 250 B in the pure layer, ns");
    println!("{:>18} {:>10} {:>14} {:>10}", "calls per wake-up", "at once", "grpc-timeout", "deferred");
    for batch in [1, 16, 64, 1000] {
        run(methods, batch, false, false);
        let ns = |timeout, deferred| {
            let tries = (0..3).map(|_| run(methods, batch, timeout, deferred).as_nanos());
            tries.min().unwrap_or(0)
        };
        println!("{batch:>18} {:>10} {:>14} {:>10}", ns(false, false), ns(true, false), ns(false, true));
    }
}
