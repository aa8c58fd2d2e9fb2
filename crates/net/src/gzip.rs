//! gzip (RFC 1952) of requests, as Go's reader takes it: members one behind the other, checksums checked, and the words
//! in which grpc-go reports what is wrong.
//!
//! Answers are never compressed: gRPC leaves that to the server. What comes out is bounded whatever comes in.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use base::limits::GZIP_MEMBERS_MAX;

use crate::grpc::{Refusal, code};

const HEADER_BYTES: usize = 10;
const TRAILER_BYTES: usize = 8;
/// Go's reader takes names and comments up to this, bytes, their zero included.
const TEXT_BYTES: usize = 512;
/// Room for output is made in steps of this, bytes.
const STEP_BYTES: usize = 64 << 10;

mod flag {
    pub const HEADER_CRC: u8 = 2;
    pub const EXTRA: u8 = 4;
    pub const NAME: u8 = 8;
    pub const COMMENT: u8 = 16;
}

/// What Go's reader says.
const EOF: &str = "EOF";
const UNEXPECTED_EOF: &str = "unexpected EOF";
const BAD_HEADER: &str = "gzip: invalid header";
const BAD_CHECKSUM: &str = "gzip: invalid checksum";

/// Replaces what `out` holds by the message in `data`, `max_bytes` long at most.
pub(crate) fn inflate(data: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.clear();
    let first = |what| (code::INTERNAL, format!("grpc: failed to decompress the message: {what}"));
    let later = |what| (code::INTERNAL, format!("grpc: failed to read decompressed data: {what}"));
    let mut rest = header(data).map_err(first)?;
    for _ in 0..GZIP_MEMBERS_MAX {
        rest = member(rest, max_bytes, out)?;
        match header(rest) {
            Ok(next) => rest = next,
            // Nothing more: it ends where a member does.
            Err(EOF) => return Ok(()),
            Err(what) => return Err(later(what)),
        }
    }
    let text = format!("grpc: a compressed message of more than {GZIP_MEMBERS_MAX} gzip members");
    Err((code::RESOURCE_EXHAUSTED, text))
}

/// What stands behind a member's header.
fn header(data: &[u8]) -> Result<&[u8], &'static str> {
    if data.is_empty() {
        return Err(EOF);
    }
    let (fixed, mut rest) = data.split_at_checked(HEADER_BYTES).ok_or(UNEXPECTED_EOF)?;
    if fixed[..3] != [0x1f, 0x8b, 8] {
        return Err(BAD_HEADER);
    }
    let flags = fixed[3];
    if flags & flag::EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(UNEXPECTED_EOF)?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..).ok_or(UNEXPECTED_EOF)?;
    }
    for text in [flag::NAME, flag::COMMENT] {
        if flags & text != 0 {
            let head = &rest[..rest.len().min(TEXT_BYTES)];
            match head.iter().position(|&byte| byte == 0) {
                Some(end) => rest = &rest[end + 1..],
                None if head.len() == TEXT_BYTES => return Err(BAD_HEADER),
                None => return Err(UNEXPECTED_EOF),
            }
        }
    }
    if flags & flag::HEADER_CRC != 0 {
        let mut crc = Crc::new();
        crc.update(&data[..data.len() - rest.len()]);
        let (stated, after) = rest.split_first_chunk::<2>().ok_or(UNEXPECTED_EOF)?;
        if u16::from_le_bytes(*stated) != crc.sum() as u16 {
            return Err(BAD_HEADER);
        }
        rest = after;
    }
    Ok(rest)
}

/// Appends the contents of a member whose header ends where `data` begins; what stands behind it.
fn member<'d>(data: &'d [u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<&'d [u8], Refusal> {
    let failed = |what: &str| (code::INTERNAL, format!("grpc: failed to read decompressed data: {what}"));
    let begin = out.len();
    let mut inflater = Decompress::new(false);
    loop {
        // A byte more than allowed shows that there is too much.
        out.reserve(STEP_BYTES.min(max_bytes + 1 - out.len()));
        let rest = &data[inflater.total_in() as usize..];
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let status = inflater
            .decompress_vec(rest, out, FlushDecompress::None)
            .map_err(|_| failed(&format!("flate: corrupt input before offset {}", inflater.total_in())))?;
        if out.len() > max_bytes {
            let text = format!("grpc: received message after decompression larger than max {max_bytes}");
            return Err((code::RESOURCE_EXHAUSTED, text));
        }
        match status {
            Status::StreamEnd => break,
            _ if read == inflater.total_in() && written == inflater.total_out() => {
                return Err(failed(UNEXPECTED_EOF));
            }
            _ => {}
        }
    }
    let rest = &data[inflater.total_in() as usize..];
    let (trailer, rest) = rest.split_first_chunk::<TRAILER_BYTES>().ok_or(failed(UNEXPECTED_EOF))?;
    let mut crc = Crc::new();
    crc.update(&out[begin..]);
    let expected = [crc.sum().to_le_bytes(), ((out.len() - begin) as u32).to_le_bytes()].concat();
    if trailer[..] != expected { Err(failed(BAD_CHECKSUM)) } else { Ok(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compress;
    use flate2::Compression;
    use flate2::FlushCompress;

    fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = header.to_vec();
        out.reserve(data.len() + 100);
        let mut deflater = Compress::new(Compression::default(), false);
        deflater.compress_vec(data, &mut out, FlushCompress::Finish).expect("there is room");
        let mut crc = Crc::new();
        crc.update(data);
        out.extend(crc.sum().to_le_bytes());
        out.extend((data.len() as u32).to_le_bytes());
        out
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        with_header(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], data)
    }

    fn inflated(data: &[u8], max_bytes: usize) -> Result<Vec<u8>, Refusal> {
        let mut out = b"before".to_vec();
        inflate(data, max_bytes, &mut out).map(|()| out)
    }

    fn complaint(data: &[u8]) -> String {
        let (code, text) = inflated(data, 100_000).expect_err("it is wrong");
        assert_eq!(code, code::INTERNAL);
        text
    }

    #[test]
    fn members_of_all_sizes_come_out_as_they_went_in() {
        let mut random = base::Random::new(4);
        for size in [0, 1, 100, 65_535, 65_536, 70_000, 300_000] {
            let mut noise = vec![0; size];
            random.fill(&mut noise);
            for data in [noise, vec![7; size]] {
                assert_eq!(inflated(&gzip(&data), size), Ok(data.clone()));
                let (a, b) = data.split_at(size / 3);
                assert_eq!(inflated(&[gzip(a), gzip(b)].concat(), size), Ok(data));
            }
        }
    }

    #[test]
    fn headers_with_everything_are_read() {
        let mut header = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 0, 3];
        header.extend(b"\x05\0extraname\0a comment\0");
        let mut crc = Crc::new();
        crc.update(&header);
        header.extend((crc.sum() as u16).to_le_bytes());
        let whole = with_header(&header, b"data");
        assert_eq!(inflated(&whole, 4), Ok(b"data".to_vec()));
        for end in 1..header.len() {
            assert_eq!(
                complaint(&whole[..end]),
                "grpc: failed to decompress the message: unexpected EOF",
                "cut at {end}"
            );
        }
        let mut broken = whole.clone();
        broken[header.len() - 1] ^= 1;
        assert_eq!(complaint(&broken), "grpc: failed to decompress the message: gzip: invalid header");
        let long = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0][..], &[b'n'; 600]].concat();
        assert_eq!(complaint(&long), "grpc: failed to decompress the message: gzip: invalid header");
    }

    #[test]
    fn what_is_wrong_has_grpc_go_s_words() {
        let good = gzip(b"some text that goes in and comes out");
        assert_eq!(complaint(b""), "grpc: failed to decompress the message: EOF");
        assert_eq!(
            complaint(b"no gzip at all"),
            "grpc: failed to decompress the message: gzip: invalid header"
        );
        for end in 10..good.len() {
            let text = complaint(&good[..end]);
            assert_eq!(text, "grpc: failed to read decompressed data: unexpected EOF", "cut at {end}");
        }
        for at in good.len() - 8..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 1;
            assert_eq!(complaint(&broken), "grpc: failed to read decompressed data: gzip: invalid checksum");
        }
        let mut broken = good.clone();
        broken[10] = 0xff;
        assert!(
            complaint(&broken).starts_with("grpc: failed to read decompressed data: flate: corrupt input")
        );
        let behind = [&good[..], b"garbage behind"].concat();
        assert_eq!(complaint(&behind), "grpc: failed to read decompressed data: gzip: invalid header");
        let behind = [&good[..], &[0; 3]].concat();
        assert_eq!(complaint(&behind), "grpc: failed to read decompressed data: unexpected EOF");
    }

    #[test]
    fn a_bomb_is_stopped_where_the_limit_is() {
        let bomb = gzip(&vec![0; 40 << 20]);
        assert!(bomb.len() < 50_000);
        for max_bytes in [0, 1, 1000, 1 << 20, 2 << 20] {
            let mut out = Vec::new();
            let (code, text) = inflate(&bomb, max_bytes, &mut out).expect_err("it is too long");
            assert_eq!(code, code::RESOURCE_EXHAUSTED);
            assert_eq!(
                text,
                format!("grpc: received message after decompression larger than max {max_bytes}")
            );
            assert!(out.capacity() <= 2 * max_bytes + 2 * STEP_BYTES, "{} of {max_bytes}", out.capacity());
        }
        // Many members of nothing cost as much as much content.
        let many = |members: usize| gzip(b"").repeat(members);
        assert_eq!(inflated(&many(GZIP_MEMBERS_MAX), 9), Ok(Vec::new()));
        let (code, text) = inflated(&many(GZIP_MEMBERS_MAX + 1), 9).expect_err("these are too many");
        assert_eq!(code, code::RESOURCE_EXHAUSTED);
        assert_eq!(text, "grpc: a compressed message of more than 8 gzip members");
        let two = [gzip(&[1; 600]), gzip(&[2; 600])].concat();
        assert!(inflated(&two, 1200).is_ok());
        assert_eq!(inflated(&two, 1199).expect_err("it is too long").0, code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn random_bytes_do_no_harm() {
        let mut random = base::Random::new(9);
        let good = gzip(&vec![b'x'; 5000]);
        for _ in 0..20_000 {
            let mut data = good.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(data.len() as u64) as usize;
                data[at] = random.next_u64() as u8;
            }
            data.truncate(random.below(data.len() as u64 + 1) as usize);
            if let Ok(out) = inflated(&data, 6000) {
                assert!(out.len() <= 6000);
            }
        }
    }
}
