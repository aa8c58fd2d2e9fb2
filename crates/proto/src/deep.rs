//! Transactions within transactions, deeper than prost decodes them: etcd takes as many levels as `--max-txn-ops` has
//! operations, prost stops after fifty to keep its stack.
//!
//! Here only the nesting itself is taken apart, and its depth is limited; requests, compares and unknown fields are
//! still prost's, with its limit.

use base::limits::TXN_LEVELS;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

use crate::etcdserverpb::request_op::Request;
use crate::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest};

/// Field `txn` of InternalRaftRequest.
const RAFT_TXN: u32 = 6;

/// A transaction of any depth; `None` when it has more than [`TXN_LEVELS`] levels. Errors: malformed.
pub fn txn(bytes: &[u8]) -> Result<Option<TxnRequest>, DecodeError> {
    match TxnRequest::decode(bytes) {
        Ok(txn) => Ok(Some(txn)),
        // It may have been the depth; then this is without error.
        Err(error) => by_hand(bytes).map_err(|_| error),
    }
}

/// What [`txn`] does where prost gives up.
fn by_hand(bytes: &[u8]) -> Result<Option<TxnRequest>, DecodeError> {
    let mut txn = TxnRequest::default();
    Ok(merge_txn(&mut txn, bytes, 1)?.then_some(txn))
}

/// An entry of the log, as [`txn`] decodes what it may hold. Errors: malformed, or of more levels than any server takes.
pub fn internal_raft_request(bytes: &[u8]) -> Result<InternalRaftRequest, DecodeError> {
    let error = match InternalRaftRequest::decode(bytes) {
        Ok(request) => return Ok(request),
        Err(error) => error,
    };
    let mut others = Vec::new();
    let mut txn = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let before = rest;
        let (tag, wire_type) = decode_key(&mut rest)?;
        if tag == RAFT_TXN {
            let part = delimited(&mut rest, wire_type)?;
            if !merge_txn(txn.get_or_insert_default(), part, 1)? {
                return Err(error);
            }
        } else {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
            others.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    let mut request = InternalRaftRequest::decode(&others[..])?;
    request.txn = txn;
    Ok(request)
}

/// The bytes of a field of the message kind, which must be one.
fn delimited<'b>(rest: &mut &'b [u8], wire_type: WireType) -> Result<&'b [u8], DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let len = decode_varint(rest)?;
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let Some((bytes, after)) = split else {
        // As for any other field that ends early.
        skip_field(WireType::SixtyFourBit, 1, &mut &[][..], DecodeContext::default())?;
        unreachable!("eight bytes are not in none");
    };
    *rest = after;
    Ok(bytes)
}

/// Adds what stands in `rest` to `txn`, as protobuf merges; false when it is too deep.
fn merge_txn(txn: &mut TxnRequest, mut rest: &[u8], level: usize) -> Result<bool, DecodeError> {
    if level > TXN_LEVELS {
        return Ok(false);
    }
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        match tag {
            1 => txn.compare.push(Message::decode(delimited(&mut rest, wire_type)?)?),
            2 | 3 => {
                let mut op = RequestOp::default();
                if !merge_op(&mut op, delimited(&mut rest, wire_type)?, level)? {
                    return Ok(false);
                }
                if tag == 2 { txn.success.push(op) } else { txn.failure.push(op) }
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(true)
}

/// The same for an operation: of requests of several kinds the last counts, those of one kind are one request.
fn merge_op(op: &mut RequestOp, mut rest: &[u8], level: usize) -> Result<bool, DecodeError> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        if !(1..=4).contains(&tag) {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
            continue;
        }
        let bytes = delimited(&mut rest, wire_type)?;
        let kind = match &op.request {
            Some(Request::RequestRange(_)) => 1,
            Some(Request::RequestPut(_)) => 2,
            Some(Request::RequestDeleteRange(_)) => 3,
            Some(Request::RequestTxn(_)) => 4,
            None => 0,
        };
        if kind != tag {
            op.request = Some(match tag {
                1 => Request::RequestRange(Default::default()),
                2 => Request::RequestPut(Default::default()),
                3 => Request::RequestDeleteRange(Default::default()),
                _ => Request::RequestTxn(Default::default()),
            });
        }
        match op.request.as_mut().expect("it is of this kind") {
            Request::RequestRange(range) => range.merge(bytes)?,
            Request::RequestPut(put) => put.merge(bytes)?,
            Request::RequestDeleteRange(delete) => delete.merge(bytes)?,
            Request::RequestTxn(txn) => {
                if !merge_txn(txn, bytes, level + 1)? {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::{Compare, PutRequest, RequestHeader};

    fn nested(levels: usize) -> TxnRequest {
        let put = PutRequest { key: b"k".to_vec(), value: b"v".to_vec(), ..Default::default() };
        let op = |request| RequestOp { request: Some(request) };
        let mut txn = TxnRequest { success: vec![op(Request::RequestPut(put))], ..Default::default() };
        for level in 1..levels {
            let compare = vec![Compare { key: vec![level as u8], ..Default::default() }];
            let inner = vec![op(Request::RequestTxn(txn))];
            txn = if level % 2 == 0 {
                TxnRequest { compare, success: inner, failure: Vec::new() }
            } else {
                TxnRequest { compare, success: Vec::new(), failure: inner }
            };
        }
        txn
    }

    #[test]
    fn any_depth_up_to_the_limit_is_what_was_encoded() {
        for levels in [1, 2, 49, 50, 51, 52, 128, TXN_LEVELS] {
            let whole = nested(levels);
            let bytes = whole.encode_to_vec();
            assert_eq!(txn(&bytes), Ok(Some(whole.clone())), "{levels} levels");
            let header = Some(RequestHeader { id: 7, ..Default::default() });
            let entry = InternalRaftRequest { txn: Some(whole), header, ..Default::default() };
            assert_eq!(internal_raft_request(&entry.encode_to_vec()), Ok(entry), "{levels} levels");
        }
        assert_eq!(txn(&nested(TXN_LEVELS + 1).encode_to_vec()), Ok(None));
        let entry = InternalRaftRequest { txn: Some(nested(TXN_LEVELS + 1)), ..Default::default() };
        assert!(internal_raft_request(&entry.encode_to_vec()).is_err());
    }

    fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
        let mut field = Vec::new();
        prost::encoding::bytes::encode(tag, &bytes.to_vec(), &mut field);
        field
    }

    /// Two halves of an operation are one, as prost merges them, and Go's protobuf does since etcd 3.7: at every depth.
    #[test]
    fn parts_of_one_request_are_merged() {
        let put = |put: PutRequest| field(2, &put.encode_to_vec());
        let key = put(PutRequest { key: b"k".to_vec(), ..Default::default() });
        let value = put(PutRequest { value: b"v".to_vec(), lease: 3, ..Default::default() });
        let (range, delete) = (field(1, &[0x0a, 1, b'a', 0x18, 5]), field(3, &[0x0a, 1, b'd']));
        let inner = |op: &[u8]| field(4, &field(2, op));
        let ops = [
            [&key[..], &value].concat(),
            [&range[..], &field(1, &[0x18, 9])].concat(),
            [&delete[..], &field(3, &[0x18, 1])].concat(),
            [inner(&key), inner(&range), field(4, &field(3, &delete))].concat(),
            // The kind changes in between: what was there before is gone.
            [&key[..], &range, &value].concat(),
            [inner(&key), delete.clone(), inner(&value)].concat(),
        ];
        for op in ops {
            let bytes = [field(2, &op), field(3, &op), field(9, b"unknown")].concat();
            let prosts = TxnRequest::decode(&bytes[..]).expect("a message");
            assert_eq!(by_hand(&bytes), Ok(Some(prosts.clone())));
            // The same sixty levels further down.
            let wrap = |mut txn: Vec<u8>| {
                for _ in 0..60 {
                    txn = field(2, &field(4, &txn));
                }
                txn
            };
            let wrapped = txn(&wrap(bytes)).expect("a message").expect("not too deep");
            assert_eq!(txn(&wrap(prosts.encode_to_vec())), Ok(Some(wrapped)));
        }
    }

    /// Each part is a message by itself: what is cut is not made whole by what follows.
    #[test]
    fn parts_of_an_entrys_transaction_are_merged_one_by_one() {
        let (one, two) = (nested(60), nested(70));
        let entry = |parts: [&[u8]; 2]| parts.map(|part| field(RAFT_TXN, part)).concat();
        let (first, second) = (one.encode_to_vec(), two.encode_to_vec());
        let merged = internal_raft_request(&entry([&first, &second])).expect("two parts").txn.expect("one");
        let all = |of: fn(&TxnRequest) -> &Vec<RequestOp>| [of(&one).clone(), of(&two).clone()].concat();
        assert_eq!(merged.success, all(|txn| &txn.success));
        assert_eq!(merged.failure, all(|txn| &txn.failure));
        let (cut, rest) = second.split_at(2);
        assert!(internal_raft_request(&entry([cut, rest])).is_err());
        let without = InternalRaftRequest { id: 3, ..Default::default() };
        assert_eq!(internal_raft_request(&without.encode_to_vec()), Ok(without));
    }

    #[test]
    fn what_is_cut_or_no_message_is_malformed() {
        let bytes = nested(90).encode_to_vec();
        // The first field is a compare, and whole by itself; the second reaches to the end.
        let compare = 2 + usize::from(bytes[1]);
        for cut in (1..bytes.len()).filter(|cut| *cut != compare) {
            assert!(txn(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        // Success (field 2) as a number, and with a length beyond the end.
        assert!(txn(&[0x10, 1]).is_err());
        assert!(txn(&[0x12, 5, 0]).is_err());
        assert!(internal_raft_request(&[0x32, 5, 0]).is_err());
        assert!(internal_raft_request(&[0x30, 5]).is_err());
    }
}
