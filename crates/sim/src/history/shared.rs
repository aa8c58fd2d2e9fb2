//! Long values and the events of dumps, kept once: a history that holds the same value in hundreds of answers and events,
//! and every change again in each snapshot, would take more memory than the world that it describes.
//!
//! Must not change what an entry says.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

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
pub(super) struct Shared {
    values: HashSet<Bytes, BuildHasherDefault<Checksum>>,
    /// That some dump holds, by revision: several when a transaction made them, or when dumps differ.
    dumped: BTreeMap<i64, Vec<Arc<Event>>>,
}

impl Shared {
    fn kv(&mut self, kv: &mut Kv) {
        if kv.value.len() < LONG_BYTES {
            return;
        }
        match self.values.get(&kv.value) {
            Some(known) => kv.value = known.clone(),
            None => drop(self.values.insert(kv.value.clone())),
        }
    }

    fn event(&mut self, event: &mut Event) {
        self.kv(&mut event.kv);
        event.prev.iter_mut().for_each(|kv| self.kv(kv));
    }

    /// An event of a dump.
    pub fn dumped(&mut self, mut event: Event) -> Arc<Event> {
        let revision = event.kv.modified;
        let same = |known: &&Arc<Event>| ***known == event;
        if let Some(known) = self.dumped.get(&revision).and_then(|known| known.iter().find(same)) {
            return Arc::clone(known);
        }
        self.event(&mut event);
        let event = Arc::new(event);
        self.dumped.entry(revision).or_default().push(Arc::clone(&event));
        event
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
            answer.events.iter_mut().for_each(|event| self.event(event));
        }
    }
}
