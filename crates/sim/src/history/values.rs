//! Long values, kept once: a history that holds the same value in hundreds of answers, events and dumps would take more
//! memory than the world that it describes.
//!
//! Must not change what an entry says.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Answer, Bytes, Event, Kv, OpAnswer, Passage, TxnAnswer};

/// Shorter values are not worth looking up, bytes.
const LONG_BYTES: usize = 512;

/// Long values of a simulated world attack nobody's table: a checksum is hash enough, and many times as fast.
#[derive(Clone, Default)]
struct Checksum(u64);

impl Hasher for Checksum {
    fn write(&mut self, bytes: &[u8]) {
        // The table looks at the high bits, too.
        let mixed = self.0 ^ u64::from(base::crc32c(bytes));
        self.0 = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// See the module's documentation. Only looked into, never iterated: its order means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    known: HashSet<Bytes, BuildHasherDefault<Checksum>>,
}

impl Values {
    fn kv(&mut self, kv: &mut Kv) {
        if kv.value.len() < LONG_BYTES {
            return;
        }
        match self.known.get(&kv.value) {
            Some(known) => kv.value = known.clone(),
            None => drop(self.known.insert(kv.value.clone())),
        }
    }

    pub fn events(&mut self, events: &mut [Event]) {
        for event in events {
            self.kv(&mut event.kv);
            event.prev.iter_mut().for_each(|kv| self.kv(kv));
        }
    }

    pub fn answer(&mut self, answer: &mut Answer) {
        match answer {
            Answer::Put(answer) => answer.prev.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::DeleteRange(answer) => answer.prevs.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::Range(answer) => answer.kvs.iter_mut().for_each(|kv| self.kv(kv)),
            Answer::Txn(answer) => self.txn(answer),
            _ => {}
        }
    }

    fn txn(&mut self, answer: &mut TxnAnswer) {
        for answer in &mut answer.answers {
            match answer {
                OpAnswer::Put(answer) => answer.prev.iter_mut().for_each(|kv| self.kv(kv)),
                OpAnswer::DeleteRange(answer) => answer.prevs.iter_mut().for_each(|kv| self.kv(kv)),
                OpAnswer::Range(answer) => answer.kvs.iter_mut().for_each(|kv| self.kv(kv)),
                OpAnswer::Txn(answer) => self.txn(answer),
            }
        }
    }

    pub fn passage(&mut self, passage: &mut Passage) {
        if let Passage::Received(answer) = passage {
            self.events(&mut answer.events);
        }
    }
}
