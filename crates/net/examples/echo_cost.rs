//! What a unary call costs in the pure layer: CPU per echo of a message, in memory, without sockets.
//!
//! Run with `cargo run --release -p mainstay-net --example echo_cost`. Only the server's half is timed: receive with
//! all its calls and answers, and one copy of the output. The client's half prepares and checks the bytes outside.

use std::sync::Arc;
use std::time::Duration;

use mainstay_net::client::{Answers, ClientConnection};
use mainstay_net::{CallHead, Calls, Connection, End, ErrorCode, Limits, Methods, Outbound};

const PATH: &str = "/etcdserverpb.KV/Put";
const CALLS: usize = 400_000;

struct Echo;

impl Calls for Echo {
    fn call(&mut self, _: &mut Outbound, _: u32, _: &CallHead<'_>) {}
    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]) {
        connection.unary(stream, |out| out.extend_from_slice(message));
    }
    fn half_close(&mut self, _: &mut Outbound, _: u32, _: End) {}
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
    fn half_close(&mut self, _: &mut Outbound, _: u32, _: End) {}
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

/// Calls whose bytes are prepared at once: their data must fit the window of the connection.
const GROUP: usize = 4000;

/// CPU time of this thread: other processes on the machine don't count.
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the one write that the call makes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(result, 0, "the thread's clock can be read");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn run(methods: &'static Methods, batch: usize, timeout: bool, deferred: bool) -> Duration {
    let mut client = ClientConnection::new();
    let mut server = Connection::new(Arc::new(Limits::default()), methods, 0);
    let message = [7u8; 250];
    let (mut spent, mut count) = (Duration::ZERO, Count::default());
    let mut later = Deferred::default();
    let mut writable = Vec::new();
    let mut begun = 0;
    while count.0 < CALLS {
        let mut inputs: Vec<Vec<u8>> = Vec::new();
        for _ in 0..GROUP / batch {
            for _ in 0..batch {
                begun += 1;
                let text = format!("{}u", 4_000_000 + begun % 900_000);
                let metadata: &[(&str, &str)] = if timeout { &[("grpc-timeout", &text)] } else { &[] };
                client.start_with(PATH, metadata, Some(&message), true);
            }
            let bytes = client.output().contiguous().expect("no shared slices").to_vec();
            client.output().consumed(bytes.len());
            inputs.push(bytes);
        }
        let mut sent = Vec::with_capacity(GROUP * 400);

        let start = cpu();
        for input in &inputs {
            // The reads of a socket: 16 KiB each.
            for part in input.chunks(16 << 10) {
                if deferred {
                    server.receive(part, 1, &mut later).expect("a good client");
                } else {
                    server.receive(part, 1, &mut Echo).expect("a good client");
                }
            }
            for stream in later.0.drain(..) {
                server.outbound().unary(stream, |out| out.extend_from_slice(&message));
            }
            // The copy stands for the socket's.
            let output = server.output().contiguous().expect("no shared slices");
            sent.extend_from_slice(output);
            let length = output.len();
            server.output().consumed(length);
            server.outbound().drain_writable(&mut writable);
        }
        spent += cpu() - start;
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
            let tries = (0..5).map(|_| run(methods, batch, timeout, deferred).as_nanos());
            tries.min().unwrap_or(0)
        };
        println!("{batch:>18} {:>10} {:>14} {:>10}", ns(false, false), ns(true, false), ns(false, true));
    }
}
