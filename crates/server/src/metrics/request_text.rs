//! The beginning of an encoded request as protobuf's text, the way etcd's log shows requests: one line, fields that are
//! not set left out, values by their size.
//!
//! Works on what was kept of a message, which may end anywhere: what is missing is "...". Never fails: bytes that are no
//! message show as far as they can be read.

pub struct Field {
    number: u64,
    name: &'static str,
    form: Form,
}

enum Form {
    Bytes,
    /// Bytes that are not shown; the name says that this is their length.
    Size,
    Int,
    Bool,
    Enum(&'static [&'static str]),
    Message(&'static [Field]),
}

const fn field(number: u64, name: &'static str, form: Form) -> Field {
    Field { number, name, form }
}

pub const PUT: &[Field] = &[
    field(1, "key", Form::Bytes),
    field(2, "value_size", Form::Size),
    field(3, "lease", Form::Int),
    field(4, "prev_kv", Form::Bool),
    field(5, "ignore_value", Form::Bool),
    field(6, "ignore_lease", Form::Bool),
];
pub const RANGE: &[Field] = &[
    field(1, "key", Form::Bytes),
    field(2, "range_end", Form::Bytes),
    field(3, "limit", Form::Int),
    field(4, "revision", Form::Int),
    field(5, "sort_order", Form::Enum(&["NONE", "ASCEND", "DESCEND"])),
    field(6, "sort_target", Form::Enum(&["KEY", "VERSION", "CREATE", "MOD", "VALUE"])),
    field(7, "serializable", Form::Bool),
    field(8, "keys_only", Form::Bool),
    field(9, "count_only", Form::Bool),
    field(10, "min_mod_revision", Form::Int),
    field(11, "max_mod_revision", Form::Int),
    field(12, "min_create_revision", Form::Int),
    field(13, "max_create_revision", Form::Int),
];
pub const DELETE_RANGE: &[Field] =
    &[field(1, "key", Form::Bytes), field(2, "range_end", Form::Bytes), field(3, "prev_kv", Form::Bool)];
pub const TXN: &[Field] = &[
    field(1, "compare", Form::Message(COMPARE)),
    field(2, "success", Form::Message(OPERATION)),
    field(3, "failure", Form::Message(OPERATION)),
];
const COMPARE: &[Field] = &[
    field(1, "result", Form::Enum(&["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])),
    field(2, "target", Form::Enum(&["VERSION", "CREATE", "MOD", "VALUE", "LEASE"])),
    field(3, "key", Form::Bytes),
    field(4, "version", Form::Int),
    field(5, "create_revision", Form::Int),
    field(6, "mod_revision", Form::Int),
    field(7, "value_size", Form::Size),
    field(8, "lease", Form::Int),
    field(64, "range_end", Form::Bytes),
];
const OPERATION: &[Field] = &[
    field(1, "request_range", Form::Message(RANGE)),
    field(2, "request_put", Form::Message(PUT)),
    field(3, "request_delete_range", Form::Message(DELETE_RANGE)),
    // Transactions within transactions are not taken apart.
    field(4, "request_txn_size", Form::Size),
];

/// `kept` are the first of `total` bytes.
pub fn text(kept: &[u8], total: usize, fields: &[Field]) -> String {
    let mut out = String::new();
    let mut reader = Reader { rest: kept, missing: total.saturating_sub(kept.len()) };
    if !reader.message(fields, &mut out) {
        out.push_str("...");
    }
    out
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes of the message behind `rest`.
    missing: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Some(value);
            }
        }
        None
    }

    /// The next `length` bytes as far as they are there, and how many are not.
    fn bytes(&mut self, length: u64) -> Option<(&'a [u8], usize)> {
        let length =
            usize::try_from(length).ok().filter(|length| *length <= self.rest.len() + self.missing)?;
        let (here, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        self.missing -= length - here.len();
        Some((here, length - here.len()))
    }

    /// False when the end of what there is was not that of a message.
    fn message(&mut self, fields: &[Field], out: &mut String) -> bool {
        let begin = out.len();
        while !self.rest.is_empty() {
            if out.len() > begin {
                out.push(' ');
            }
            if self.one(fields, out).is_none() {
                return false;
            }
        }
        self.missing == 0
    }

    fn one(&mut self, fields: &[Field], out: &mut String) -> Option<()> {
        use std::fmt::Write;
        let tag = self.varint()?;
        let field = fields.iter().find(|field| field.number == tag >> 3);
        match tag & 7 {
            0 => {
                let value = self.varint()?;
                let Some(Field { name, form, .. }) = field else { return Some(()) };
                let _ = match form {
                    Form::Bool => write!(out, "{name}:{}", value != 0),
                    Form::Enum(names) => match usize::try_from(value).ok().and_then(|at| names.get(at)) {
                        Some(text) => write!(out, "{name}:{text}"),
                        None => write!(out, "{name}:{value}"),
                    },
                    _ => write!(out, "{name}:{}", value as i64),
                };
            }
            2 => {
                let length = self.varint()?;
                let (bytes, missing) = self.bytes(length)?;
                let Some(Field { name, form, .. }) = field else { return (missing == 0).then_some(()) };
                match form {
                    Form::Size => {
                        let _ = write!(out, "{name}:{length}");
                        if missing > 0 {
                            out.push(' ');
                            return None;
                        }
                    }
                    Form::Message(fields) => {
                        let _ = write!(out, "{name}:<");
                        if !(Reader { rest: bytes, missing }).message(fields, out) {
                            return None;
                        }
                        out.push('>');
                    }
                    _ => {
                        let _ = write!(out, "{name}:\"{}", bytes.escape_ascii());
                        if missing > 0 {
                            return None;
                        }
                        out.push('"');
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::etcdserverpb as pb;

    fn put() -> pb::PutRequest {
        pb::PutRequest { key: b"/a\"\x01".into(), value: vec![7; 200], lease: 9, ..Default::default() }
    }

    #[test]
    fn requests_read_as_in_etcds_log() {
        let bytes = put().encode_to_vec();
        assert_eq!(text(&bytes, bytes.len(), PUT), r#"key:"/a\"\x01" value_size:200 lease:9"#);
        let range = pb::RangeRequest {
            key: b"a".into(),
            range_end: b"b".into(),
            limit: 5,
            sort_order: 2,
            serializable: true,
            ..Default::default()
        };
        let bytes = range.encode_to_vec();
        let shown = r#"key:"a" range_end:"b" limit:5 sort_order:DESCEND serializable:true"#;
        assert_eq!(text(&bytes, bytes.len(), RANGE), shown);
        let compare = pb::Compare {
            target: 2,
            key: b"k".into(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(4)),
            ..Default::default()
        };
        let op = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(pb::request_op::Request::RequestPut(put()))],
            failure: vec![op(pb::request_op::Request::RequestRange(range))],
        };
        let bytes = txn.encode_to_vec();
        let shown = text(&bytes, bytes.len(), TXN);
        let begin = r#"compare:<target:MOD key:"k" mod_revision:4> success:<request_put:<key:"/a\"\x01" value_size:200"#;
        assert!(shown.starts_with(begin), "{shown}");
        assert!(shown.ends_with(r#"serializable:true>>"#), "{shown}");
    }

    #[test]
    fn what_was_not_kept_is_not_shown_and_no_bytes_break_it() {
        let bytes = put().encode_to_vec();
        assert_eq!(text(&bytes[..30], bytes.len(), PUT), r#"key:"/a\"\x01" value_size:200 ..."#);
        assert_eq!(text(&bytes[..4], bytes.len(), PUT), r#"key:"/a..."#);
        assert_eq!(text(&[], 0, PUT), "");
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put())) }],
            ..Default::default()
        };
        let bytes = txn.encode_to_vec();
        for kept in 0..bytes.len() {
            assert!(text(&bytes[..kept], bytes.len(), TXN).ends_with("..."), "{kept}");
        }
        let mut random = base::Random::new(1);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
            text(&bytes, bytes.len() + random.below(5) as usize, TXN);
        }
    }
}
