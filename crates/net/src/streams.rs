//! The open streams of a connection (RFC 9113 section 5.1): a slab, and an open-addressed index by stream id. Both
//! halves use it, the server's with `Stream`, the client's with its own state.
//!
//! Idle and closed streams are not here: an id above the last one seen is idle, any other that isn't found is closed.
//! A client's ids are consecutive odd numbers: a multiplicative hash spreads them evenly, so that runs in the index stay
//! short (the id itself as hash would make one run of all streams, and every removal walks its run to the end).

use base::Millis;

use crate::hpack::encoder::ContentType;
use crate::methods::MethodIndex;
use crate::output::Batch;
use crate::window::{Balance, ReceiveWindow};

/// What ends a stream after its backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// gRPC trailers.
    Status(u8, Box<str>),
    /// END_STREAM, for answers that aren't gRPC.
    Plain,
    /// A refusal that waits for the end of the request: HTTP status, gRPC status, text.
    Refusal(u16, u8, Box<str>),
}

impl Ending {
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Ending::Refusal(..))
    }
}

pub(crate) struct Stream {
    pub id: u32,
    pub method: MethodIndex,
    pub content_type: ContentType,
    /// Not gRPC.
    pub plain: bool,
    /// The client sent END_STREAM.
    pub remote_closed: bool,
    pub headers_sent: bool,
    /// The last word was given; the owner hears no more of this stream.
    pub answered: bool,
    /// In the queue of streams with a backlog that could go on.
    pub in_turn: bool,
    /// In the list of streams whose producer waits.
    pub hungry: bool,
    /// The prefix of a sized message goes with its first bytes.
    pub prefix_due: bool,
    /// Messages of the client may be compressed.
    pub gzip: bool,
    /// Nobody listens to what the client still says.
    pub deaf: bool,
    /// The owner takes no messages for now.
    pub paused: bool,
    /// The client has ended its side; that is still to be told, after `held`.
    pub held_end: bool,
    pub send: Balance,
    pub receive: ReceiveWindow,
    /// Bytes of a message begun with `open_sized` that were not handed over yet.
    pub sized_left: usize,
    pub sized_bytes: usize,
    /// Bytes of body that `content-length` still promises; u64::MAX when it promised nothing.
    pub body_left: u64,
    /// Millis::MAX: none.
    pub deadline: Millis,
    pub opened_at: Millis,
    /// The owner's word.
    pub word: u64,
    /// An unfinished message, from its prefix on.
    pub assembly: Vec<u8>,
    /// What came while the stream was paused.
    pub held: Vec<u8>,
    /// DATA that waits for a window; never empty when there.
    pub backlog: Option<Box<Batch>>,
    pub ending: Option<Ending>,
}

impl Stream {
    pub(crate) fn new(id: u32, window: u32, now: Millis) -> Stream {
        Stream {
            id,
            method: 0,
            content_type: ContentType::Grpc,
            plain: false,
            remote_closed: false,
            headers_sent: false,
            answered: false,
            in_turn: false,
            hungry: false,
            prefix_due: false,
            gzip: false,
            deaf: false,
            paused: false,
            held_end: false,
            send: Balance::default(),
            receive: ReceiveWindow::new(window),
            sized_left: 0,
            sized_bytes: 0,
            body_left: u64::MAX,
            deadline: Millis::MAX,
            opened_at: now,
            word: 0,
            assembly: Vec::new(),
            held: Vec::new(),
            backlog: None,
            ending: None,
        }
    }
}

/// Index entries at first: most connections carry a stream or two.
const LEAST: usize = 8;

pub(crate) struct Streams<T = Stream> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    /// (stream id, slot), id 0 where empty; linear probing, at most half full, a power of two long.
    index: Vec<(u32, u32)>,
    len: usize,
}

impl<T> Streams<T> {
    pub(crate) fn new() -> Streams<T> {
        Streams { slots: Vec::new(), free: Vec::new(), index: vec![(0, 0); LEAST], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn home(&self, id: u32) -> usize {
        // 2^32 over the golden ratio; the upper bits are the best mixed.
        let hash = (id >> 1).wrapping_mul(0x9e37_79b1);
        (hash >> (32 - self.index.len().trailing_zeros())) as usize
    }

    #[inline]
    fn position(&self, id: u32) -> Option<usize> {
        debug_assert!(id != 0);
        let mask = self.index.len() - 1;
        let mut at = self.home(id);
        loop {
            match self.index[at].0 {
                found if found == id => return Some(at),
                0 => return None,
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        if id == 0 {
            return None;
        }
        self.position(id).and_then(|at| self.slots[self.index[at].1 as usize].as_ref())
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        if id == 0 {
            return None;
        }
        self.position(id).and_then(|at| self.slots[self.index[at].1 as usize].as_mut())
    }

    pub(crate) fn insert(&mut self, id: u32, stream: T) {
        assert!(id != 0 && self.position(id).is_none(), "a stream id is opened once");
        if (self.len + 1) * 2 > self.index.len() {
            self.resize(self.index.len() * 2);
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.slots.push(Some(stream));
                self.slots.len() as u32 - 1
            }
        };
        self.place(id, slot);
        self.len += 1;
    }

    fn place(&mut self, id: u32, slot: u32) {
        let mask = self.index.len() - 1;
        let mut at = self.home(id);
        while self.index[at].0 != 0 {
            at = (at + 1) & mask;
        }
        self.index[at] = (id, slot);
    }

    fn resize(&mut self, entries: usize) {
        let old = std::mem::replace(&mut self.index, vec![(0, 0); entries]);
        for (id, slot) in old {
            if id != 0 {
                self.place(id, slot);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        if id == 0 {
            return None;
        }
        let mut hole = self.position(id)?;
        let slot = self.index[hole].1;
        // Close the gap: move back every follower whose home does not lie behind the hole.
        let mask = self.index.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let (other, _) = self.index[at];
            if other == 0 {
                break;
            }
            let home = self.home(other);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.index[hole] = self.index[at];
                hole = at;
            }
        }
        self.index[hole] = (0, 0);
        self.len -= 1;
        let stream = self.slots[slot as usize].take();
        if self.len == 0 && self.slots.len() > 1024 {
            // A burst is over.
            *self = Streams::new();
        } else {
            self.free.push(slot);
        }
        stream
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Ids of all open streams, ascending.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.index.iter().map(|(id, _)| *id).filter(|id| *id != 0).collect();
        ids.sort_unstable();
        ids
    }
}

/// The streams that we reset lately: what the peer sent before it heard of it is ignored. Calls that are answered before
/// the client has ended its side are among them, so there can be as many as calls are under way.
#[derive(Default)]
pub(crate) struct RecentResets {
    /// One bit for each of the last [`RecentResets::STREAMS`] ids up to `newest`; none before the first reset.
    bits: Vec<u64>,
    /// Half of the highest id that was added.
    newest: u32,
    /// The last ids that were too far below that.
    far: [u32; 8],
    next_far: usize,
}

impl RecentResets {
    const STREAMS: u32 = 16 << 10;

    fn place(half: u32) -> (usize, u64) {
        let bit = half % Self::STREAMS;
        (bit as usize / 64, 1 << (bit % 64))
    }

    pub(crate) fn add(&mut self, id: u32) {
        let half = id / 2;
        if self.bits.is_empty() {
            self.bits = vec![0; Self::STREAMS as usize / 64];
            self.newest = half;
        }
        if half.saturating_sub(self.newest) >= Self::STREAMS {
            self.bits.fill(0);
            self.newest = half;
        }
        while self.newest < half {
            self.newest += 1;
            let (word, bit) = Self::place(self.newest);
            self.bits[word] &= !bit;
        }
        if self.newest - half < Self::STREAMS {
            let (word, bit) = Self::place(half);
            self.bits[word] |= bit;
        } else {
            self.far[self.next_far] = id;
            self.next_far = (self.next_far + 1) % self.far.len();
        }
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        let half = id / 2;
        let within = half <= self.newest && self.newest - half < Self::STREAMS;
        let (word, bit) = Self::place(half);
        (within && self.bits.get(word).is_some_and(|bits| bits & bit != 0)) || self.far.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;
    use std::collections::BTreeMap;

    #[test]
    fn resets_are_known_as_long_as_their_ids_are_near() {
        let mut random = Random::new(3);
        let mut resets = RecentResets::default();
        let mut model = std::collections::BTreeSet::new();
        assert!(!resets.contains(1));
        let mut id = 1;
        for step in 0..50_000 {
            id += 2 * random.below(if step % 9000 == 0 { 30_000 } else { 4 }) as u32;
            let reset = id - 2 * random.below(u64::from(id / 2 + 1)).min(random.below(20)) as u32;
            resets.add(reset);
            model.insert(reset);
            let newest = *model.last().unwrap();
            let asked = id + 20 - 2 * random.below(u64::from(id / 2).min(20_000) + 10) as u32;
            let near = newest / 2 < asked / 2 + RecentResets::STREAMS;
            assert_eq!(resets.contains(asked), near && model.contains(&asked), "{asked} at {id}");
        }
    }

    #[test]
    fn the_table_equals_a_map_under_random_use() {
        let mut random = Random::new(9);
        let mut streams: Streams = Streams::new();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        let mut next_id = 1;
        for step in 0..60_000u64 {
            // Phases of growth and of decline; some streams live long, as watches do.
            let growing = step / 5000 % 2 == 0;
            if model.is_empty() || random.below(10) < if growing { 6 } else { 3 } {
                let mut stream = Stream::new(next_id, 65_535, 0);
                stream.word = step;
                streams.insert(next_id, stream);
                model.insert(next_id, step);
                next_id += 2 * (1 + random.below(3) as u32);
            } else {
                let pick = random.below(u64::from(next_id)) as u32;
                let id = model
                    .range(pick..)
                    .next()
                    .or_else(|| model.iter().next_back())
                    .map(|(id, _)| *id)
                    .unwrap();
                assert_eq!(streams.remove(id).map(|s| s.word), model.remove(&id));
                assert!(streams.remove(id).is_none());
            }
            assert_eq!(streams.len(), model.len());
            let probe = random.below(u64::from(next_id)) as u32 | 1;
            assert_eq!(streams.get(probe).map(|s| s.word), model.get(&probe).copied());
        }
        for (id, word) in &model {
            assert_eq!(streams.get_mut(*id).map(|s| s.word), Some(*word));
        }
        assert_eq!(streams.ids(), model.keys().copied().collect::<Vec<_>>());
    }
}
