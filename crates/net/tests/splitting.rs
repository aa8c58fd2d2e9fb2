//! The same bytes give the same result however they are split; and no bytes at all make the layer panic or grow.

mod common;

use base::Random;
use common::*;
use mainstay_net::Limits;
use mainstay_net::frame::{flag, kind};

/// A conversation with most kinds of frames, valid or nearly so.
fn script(random: &mut Random) -> Vec<u8> {
    let mut bytes = preface();
    let mut next = 1;
    let mut open: Vec<u32> = Vec::new();
    for _ in 0..10 + random.below(40) {
        let pick = |open: &Vec<u32>, random: &mut Random| match open.len() {
            0 => 1,
            n => open[random.below(n as u64) as usize],
        };
        match random.below(12) {
            0..=3 => {
                let path = ["/t.S/Echo", "/t.S/Hold", "/t.S/Stream", "/t.S/Nope"][random.below(4) as usize];
                let block = call_block(path);
                if random.one_in(4) {
                    let at = random.below(block.len() as u64) as usize;
                    bytes.extend(raw(kind::HEADERS, 0, next, &block[..at]));
                    bytes.extend(raw(kind::CONTINUATION, flag::END_HEADERS, next, &block[at..]));
                } else {
                    bytes.extend(headers(next, path, 0));
                }
                open.push(next);
                next += 2;
            }
            4..=7 if !open.is_empty() => {
                let mut data = Vec::new();
                for _ in 0..1 + random.below(3) {
                    data.extend(prefixed(&vec![random.below(256) as u8; random.below(300) as usize]));
                }
                let keep =
                    if random.one_in(3) { random.below(data.len() as u64) as usize } else { data.len() };
                data.truncate(keep);
                let mut flags = if random.one_in(2) { flag::END_STREAM } else { 0 };
                if random.one_in(3) {
                    let padding = random.below(30) as usize;
                    data.insert(0, padding as u8);
                    data.resize(data.len() + padding, 0);
                    flags |= flag::PADDED;
                }
                bytes.extend(raw(kind::DATA, flags, pick(&open, random), &data));
            }
            8 => bytes.extend(raw(kind::PING, 0, 0, &random.next_u64().to_be_bytes())),
            9 => bytes.extend(settings(&[(4, random.below(70_000) as u32)])),
            10 if !open.is_empty() => bytes.extend(reset(pick(&open, random))),
            _ => bytes.extend(window_update(0, 1 + random.below(1000) as u32)),
        }
    }
    bytes
}

/// Events, messages, output, and how it ended.
type Outcome = (Vec<String>, Vec<(u32, Vec<u8>)>, Vec<u8>, Option<String>);

fn outcome(bytes: &[u8], mut sizes: impl FnMut() -> usize) -> Outcome {
    let mut pair = Pair::raw(Limits::default());
    let mut rest = bytes;
    let mut ended = None;
    while !rest.is_empty() && ended.is_none() {
        let (now, later) = rest.split_at(sizes().clamp(1, rest.len()));
        ended = pair.feed(now).err().map(|closed| closed.to_string());
        rest = later;
    }
    let output = pair.take();
    parse(&output);
    (pair.calls.events, pair.calls.messages, output, ended)
}

#[test]
fn the_split_does_not_matter() {
    let mut random = Random::new(21);
    for round in 0..400 {
        let bytes = script(&mut random);
        let whole = outcome(&bytes, || usize::MAX);
        assert!(outcome(&bytes, || 1) == whole, "round {round}, byte by byte");
        for most in [3, 30, 300] {
            let mut sizes = Random::new(round);
            let split = outcome(&bytes, || 1 + sizes.below(most) as usize);
            assert!(split == whole, "round {round}, pieces up to {most}");
        }
    }
}

#[test]
fn damaged_conversations_do_no_harm_and_split_alike() {
    let mut random = Random::new(22);
    for round in 0..3000 {
        let mut bytes = script(&mut random);
        for _ in 0..1 + random.below(4) {
            let at = 24 + random.below(bytes.len() as u64 - 24) as usize;
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.below(256) as u8,
                2 => drop(bytes.drain(at..(at + 1 + random.below(20) as usize).min(bytes.len()))),
                _ => {
                    let copy = bytes[at..(at + random.below(60) as usize).min(bytes.len())].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
            if bytes.len() < 60 {
                break;
            }
        }
        let whole = outcome(&bytes, || usize::MAX);
        let mut sizes = Random::new(round);
        assert!(outcome(&bytes, || 1 + sizes.below(40) as usize) == whole, "round {round}");
    }
}

#[test]
fn random_bytes_after_the_preface_do_no_harm() {
    let mut random = Random::new(23);
    for _ in 0..3000 {
        let mut bytes = preface();
        for _ in 0..random.below(20) {
            let mut payload = vec![0; random.below(40) as usize];
            random.fill(&mut payload);
            let stream = random.below(8) as u32;
            bytes.extend(raw(random.below(11) as u8, random.next_u64() as u8, stream, &payload));
        }
        outcome(&bytes, || usize::MAX);
    }
}

#[test]
fn header_blocks_of_random_bytes_do_no_harm() {
    let mut random = Random::new(24);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut block = vec![0; 1 + random.below(60) as usize];
        random.fill(&mut block);
        let mut pair = Pair::new();
        match pair.feed(&raw(kind::HEADERS, flag::END_HEADERS, 1, &block)) {
            Ok(()) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1000 && read > 10, "{refused} {read}");
}
