//! gRPC messages in DATA frames: prefixes, sizes, gzip (`net`).
//!
//! Laws: however the bytes are cut into frames, padded and split, the messages are those of a naive reading, up to the
//! first that is refused; what is refused ends the call with the code that it should, and nothing is handed on behind
//! it; an inflated message is never longer than allowed, whatever it claims.
//!
//! Input: a byte of flags, one that chooses cuts, then the bytes of one stream.

use std::io::Write as _;
use std::sync::Arc;

use base::Random;
use flate2::{Decompress, FlushDecompress, Status};
use net::frame::{flag, kind};
use net::{CallHead, Calls, Connection, End, Limits, Outbound};

use crate::choices::Choices;
use crate::meter::bounded;
use crate::wire::{self, push_frame};

const MESSAGE_BYTES_MAX: usize = 500;

#[derive(Default)]
struct Listener {
    messages: Vec<Vec<u8>>,
    end: Option<End>,
    cancelled: bool,
}

impl Calls for Listener {
    fn call(&mut self, _: &mut Outbound, _: u32, _: &CallHead<'_>) {}

    fn message(&mut self, _: &mut Outbound, _: u32, message: &[u8]) {
        assert!(message.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", message.len());
        assert!(self.end.is_none() && !self.cancelled);
        self.messages.push(message.to_vec());
    }

    fn half_close(&mut self, _: &mut Outbound, _: u32, end: End) {
        assert!(self.end.is_none() && !self.cancelled);
        self.end = Some(end);
    }

    fn cancelled(&mut self, _: &mut Outbound, _: u32) {
        assert!(!self.cancelled);
        self.cancelled = true;
    }
}

/// What a naive reading gives: the messages, and how the stream goes on behind them.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Ends(End),
    /// The codes that it may be refused with.
    Refused(&'static [u8]),
}

fn naive(mut bytes: &[u8], gzip: bool) -> (Vec<Vec<u8>>, Then) {
    let mut messages = Vec::new();
    loop {
        if bytes.is_empty() {
            return (messages, Then::Ends(End::Clean));
        }
        let Some((prefix, rest)) = bytes.split_first_chunk::<5>() else {
            return (messages, Then::Ends(End::InPrefix));
        };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > MESSAGE_BYTES_MAX {
            return (messages, Then::Refused(&[8]));
        }
        if prefix[0] > u8::from(gzip) {
            return (messages, Then::Refused(&[12, 13]));
        }
        let Some((message, behind)) = rest.split_at_checked(length) else {
            return (messages, Then::Ends(End::InMessage));
        };
        bytes = behind;
        if prefix[0] == 0 {
            messages.push(message.to_vec());
            continue;
        }
        match inflate(message) {
            Some(inflated) if inflated.len() <= MESSAGE_BYTES_MAX => messages.push(inflated),
            Some(_) => return (messages, Then::Refused(&[8, 13])),
            None => return (messages, Then::Refused(&[8, 13])),
        }
    }
}

/// All members of a gzip file with headers of the plainest form; `None` for anything else that may be wrong.
fn inflate(mut data: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let header = data.get(..10)?;
        if header[..4] != [0x1f, 0x8b, 8, 0] {
            return None;
        }
        let mut inflater = Decompress::new(false);
        let mut member = Vec::with_capacity(2 * MESSAGE_BYTES_MAX);
        let status = inflater.decompress_vec(&data[10..], &mut member, FlushDecompress::Finish).ok()?;
        if status != Status::StreamEnd {
            return None;
        }
        let behind = &data[10 + inflater.total_in() as usize..];
        let (trailer, rest) = behind.split_first_chunk::<8>()?;
        let mut crc = flate2::Crc::new();
        crc.update(&member);
        if trailer[..4] != crc.sum().to_le_bytes() || trailer[4..] != (member.len() as u32).to_le_bytes() {
            return None;
        }
        out.extend_from_slice(&member);
        data = rest;
    }
    (!out.is_empty()).then_some(out)
}

pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let (gzip, padded) = (choices.flag(), choices.flag());
    let mut random = Random::new(u64::from(choices.byte()));
    let bytes = choices.rest();

    let mut conversation = wire::preface();
    let encoding = [("grpc-encoding", "gzip")];
    let path = api::calls::Rpc::Watch.path();
    let block = wire::call_block(path, if gzip { &encoding } else { &[] });
    push_frame(&mut conversation, kind::HEADERS, flag::END_HEADERS, 1, &block);
    let mut rest = bytes;
    loop {
        let (now, later) = rest.split_at(rest.len().min(random.below(120) as usize));
        rest = later;
        let mut flags = if rest.is_empty() { flag::END_STREAM } else { 0 };
        let mut payload = now.to_vec();
        if padded && random.one_in(2) {
            flags |= flag::PADDED;
            let padding = random.below(20) as u8;
            payload.insert(0, padding);
            payload.resize(payload.len() + usize::from(padding), 0);
        }
        push_frame(&mut conversation, kind::DATA, flags, 1, &payload);
        if flags & flag::END_STREAM != 0 {
            break;
        }
    }

    let limits = Limits { max_message_bytes: MESSAGE_BYTES_MAX, ..Limits::default() };
    let mut server = Connection::new(Arc::new(limits), api::methods(), 0);
    let mut listener = Listener::default();
    // The recorder keeps the messages; an inflater has a window of 32 KiB and tables.
    bounded((256 << 10) + 16 * input.len() + bytes.len() / 20 * MESSAGE_BYTES_MAX, || {
        let mut rest = conversation.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + random.below(50) as usize));
            server.receive(now, 0, &mut listener).expect("the frames are right");
            rest = later;
        }
    });
    let (messages, then) = naive(bytes, gzip);
    let answers = wire::read_server(&wire::drain(server.output()));
    let status = answers.get(&1).and_then(|answer| answer.field("grpc-status"));
    // What gzip's header may hold beside the plainest form, the naive reading does not know.
    let odd = gzip && matches!(then, Then::Refused(&[8, 13]));
    if odd && (listener.messages.len() > messages.len() || status.is_none()) {
        assert_eq!(listener.messages[..messages.len()], messages[..]);
        return;
    }
    assert_eq!(listener.messages, messages, "the messages of a naive reading");
    match then {
        Then::Ends(end) => {
            assert_eq!((listener.end, listener.cancelled, status), (Some(end), false, None));
        }
        Then::Refused(codes) => {
            assert!(listener.cancelled && listener.end.is_none(), "a refusal ends the call");
            let code: u8 = status.expect("a refusal is told").parse().expect("a number");
            assert!(codes.contains(&code), "refused with {code} instead of {codes:?}");
        }
    }
}

fn gzipped(message: &[u8]) -> Vec<u8> {
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    let mut body = Vec::with_capacity(message.len() + 100);
    deflate.compress_vec(message, &mut body, flate2::FlushCompress::Finish).expect("there is room");
    let mut crc = flate2::Crc::new();
    crc.update(message);
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    out.write_all(&body).expect("a vector grows");
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out
}

fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let mut out = net::grpc::prefix(message.len()).to_vec();
    out[0] = compressed;
    out.extend_from_slice(message);
    out
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let plain = [framed(0, b"one"), framed(0, b""), framed(0, &[b'x'; 300])].concat();
    let zipped = gzipped(b"a message a message a message");
    let squeezed = [framed(1, &zipped), framed(0, b"plain between"), framed(1, &gzipped(b""))].concat();
    let members = framed(1, &[gzipped(b"first "), gzipped(b"second")].concat());
    let bomb = framed(1, &gzipped(&[0; 200_000]));
    let too_long = framed(0, &[b'y'; MESSAGE_BYTES_MAX + 1]);
    let with = |flags: [u8; 3], bytes: &[u8]| [&flags[..], bytes].concat();
    vec![
        ("seed-plain".into(), with([0, 1, 5], &plain)),
        ("seed-cut".into(), with([0, 0, 6], &plain[..plain.len() - 1])),
        ("seed-gzip".into(), with([1, 0, 7], &squeezed)),
        ("seed-gzip-members".into(), with([1, 1, 8], &members)),
        ("seed-gzip-bomb".into(), with([1, 0, 9], &bomb)),
        ("seed-gzip-unasked".into(), with([0, 0, 9], &framed(1, &zipped))),
        ("seed-too-long".into(), with([0, 0, 1], &too_long)),
    ]
}
