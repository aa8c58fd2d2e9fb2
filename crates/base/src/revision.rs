//! Where in the history of the store a change stands.

/// The `sub`-th change (from 0) of revision `main`. Ordered as history is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const BYTES: usize = 16;

    pub const fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }

    /// Big-endian halves, so that byte order is revision order. Neither half is ever negative.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        assert!(self.main >= 0 && self.sub >= 0, "a stored revision is not negative: {self:?}");
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The reverse of [`Revision::to_bytes`]; `None` when the length is wrong or a half is negative.
    pub fn from_bytes(bytes: &[u8]) -> Option<Revision> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[8..].try_into().ok()?);
        (main >= 0 && sub >= 0).then_some(Revision { main, sub })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_order_like_revisions_and_come_back() {
        let ordered = [(0, 0), (1, 0), (1, 1), (1, 256), (2, 0), (256, 0), (i64::MAX, i64::MAX)]
            .map(|(main, sub)| Revision::new(main, sub));
        for pair in ordered.windows(2) {
            assert!(pair[0].to_bytes() < pair[1].to_bytes());
        }
        for revision in ordered {
            assert_eq!(Revision::from_bytes(&revision.to_bytes()), Some(revision));
        }
        assert_eq!(Revision::from_bytes(&[0xff; 16]), None);
        assert_eq!(Revision::from_bytes(&[0; 15]), None);
    }
}
