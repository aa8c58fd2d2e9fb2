//! In steady state a call allocates nothing: counted by the allocator itself.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use mainstay_net::frame::{flag, kind};
use mainstay_net::{CallHead, Calls, Connection, End, Limits, Outbound};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's duties are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Echo;

impl Calls for Echo {
    fn call(&mut self, _: &mut Outbound, _: u32, head: &CallHead<'_>) {
        assert!(head.token.is_some() && head.timeout_ms.is_some());
    }
    fn message(&mut self, connection: &mut Outbound, stream: u32, message: &[u8]) {
        connection.unary(stream, |out| out.extend_from_slice(message));
    }
    fn half_close(&mut self, _: &mut Outbound, _: u32, _: End) {}
    fn cancelled(&mut self, _: &mut Outbound, _: u32) {}
}

/// One test in this file: the counter is the process's.
#[test]
fn unary_calls_allocate_nothing() {
    const ROUNDS: u32 = 200;
    let mut inputs = Vec::new();
    for round in 0..ROUNDS {
        let mut bytes = Vec::new();
        for i in 0..20 {
            let stream = 2 * (round * 20 + i) + 1;
            let timeout = format!("{}u", 5_000_000 + stream);
            let mut fields = call_fields("/t.S/Echo");
            fields.extend([("token", "abc.123"), ("grpc-timeout", &timeout), ("hasleader", "true")]);
            let mut block = block(&fields);
            // With indexing: the dynamic table turns over all the time.
            let mut at = 0;
            while at < block.len() {
                block[at] = 0x40;
                at += 1;
                at += 1 + usize::from(block[at]);
                at += 1 + usize::from(block[at]);
            }
            bytes.extend(raw(kind::HEADERS, flag::END_HEADERS, stream, &block));
            let message = prefixed(&vec![i as u8; 250 + 900 * i as usize % 16_000]);
            let (first, second) = message.split_at(message.len() * usize::from(i % 3 == 0) / 2);
            bytes.extend(raw(kind::DATA, 0, stream, first));
            bytes.extend(raw(kind::DATA, flag::END_STREAM, stream, second));
        }
        bytes.extend(window_update(0, 200_000));
        inputs.push(bytes);
    }
    let limits = Limits { control_frames_per_second: u32::MAX, ..Limits::default() };
    let mut server = Connection::new(limits.into(), &METHODS, 0);
    server.receive(&preface(), 0, &mut Echo).unwrap();
    let mut writable = Vec::new();
    let mut before = 0;
    let mut answered = 0;
    for (round, input) in inputs.iter().enumerate() {
        if round == ROUNDS as usize / 2 {
            before = COUNT.load(Ordering::Relaxed);
        }
        for piece in input.chunks(16 << 10) {
            server.receive(piece, round as u64, &mut Echo).unwrap();
        }
        server.outbound().drain_writable(&mut writable);
        let n = server.output().contiguous().expect("no shared slices").len();
        answered += n;
        server.output().consumed(n);
    }
    assert_eq!(COUNT.load(Ordering::Relaxed) - before, 0, "allocations in the second half");
    assert_eq!(server.open_streams(), 0);
    assert!(answered > 4000 * 250);
}
