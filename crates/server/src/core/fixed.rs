//! What the kernel keeps at hand for the log's writes: the segment that is written to, and the pages of the buffers. It
//! saves looking both up for every write.
//!
//! Invariants: a buffer is written by its slot only while it carries the tag that it got when that slot was registered;
//! tags are never given twice, and a buffer's tag goes with its memory, so a slot never stands for memory that is not
//! the buffer's any more. All of it is a favour: where the kernel refuses (locked memory is limited), writes go the
//! ordinary way.

use std::sync::Arc;

use disk::{AlignedBuf, File};

use super::uring::{Ring, Target};

/// The log has a buffer for each write in flight and one that it gathers in; in a burst, some that wait.
const BUFFERS: u32 = 4 * base::limits::LOG_BATCHES_IN_FLIGHT as u32;
/// So much of a buffer is registered, bytes: it stays in memory. Few batches are longer.
const REGISTERED_BYTES: usize = 64 << 10;

#[derive(Default)]
pub struct Fixed {
    state: State,
    /// In slot 0. It stays open as long as it is registered.
    file: Option<Arc<dyn File>>,
    /// Tags given so far; the last of each slot is the one that counts.
    tags: u32,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Works,
    Refused,
}

impl Fixed {
    /// How to name `file` to the ring; `None` when it has no descriptor.
    pub fn file(&mut self, ring: &mut Ring, file: &Arc<dyn File>) -> Option<Target> {
        let fd = file.raw_fd()?;
        if self.state == State::New {
            let made = ring.make_tables(1, BUFFERS).is_ok();
            self.state = if made { State::Works } else { State::Refused };
        }
        if self.state == State::Refused {
            return Some(Target::Open(fd));
        }
        if !self.file.as_ref().is_some_and(|known| Arc::ptr_eq(known, file)) {
            self.file = ring.register_file(0, fd).is_ok().then(|| file.clone());
        }
        Some(if self.file.is_some() { Target::Registered(0) } else { Target::Open(fd) })
    }

    /// The slot of a buffer of which `len` bytes are to be written.
    pub fn buffer(&mut self, ring: &mut Ring, buffer: &mut AlignedBuf, len: usize) -> Option<u16> {
        if self.state != State::Works || len > REGISTERED_BYTES {
            return None;
        }
        let slot = |tag: u32| (tag % BUFFERS) as u16;
        if buffer.tag() != 0 && buffer.tag() + BUFFERS > self.tags {
            return Some(slot(buffer.tag()));
        }
        let tag = self.tags.checked_add(1)?;
        let bytes = buffer.len().min(REGISTERED_BYTES);
        // SAFETY: the slot is named only for a buffer that has this tag, which is the same memory.
        let registered = unsafe { ring.register_buffer(slot(tag), buffer.as_ptr(), bytes) };
        if registered.is_err() {
            self.state = State::Refused;
            return None;
        }
        self.tags = tag;
        buffer.set_tag(tag);
        Some(slot(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::uring::{DurableWrite, Tag};
    use base::Random;
    use disk::probe::SyncForm;
    use disk::{Files, OpenMode, OsFiles};
    use std::time::Duration;

    /// Writes through the ring and waits for it.
    fn write(
        ring: &mut Ring,
        fixed: &mut Fixed,
        form: SyncForm,
        file: &Arc<dyn File>,
        buffer: &mut AlignedBuf,
        (offset, len): (u64, usize),
    ) -> (Target, Option<u16>) {
        let target = fixed.file(ring, file).expect("it has a descriptor");
        let slot = fixed.buffer(ring, buffer, len);
        let write =
            DurableWrite { file: target, offset, data: buffer.as_ptr(), len: len as u32, buffer: slot };
        // SAFETY: the buffer lives until the completion below.
        unsafe { ring.write_durable(form, 7, &write) };
        let mut completions = Vec::new();
        let mut durable = None;
        while durable.is_none() {
            ring.enter(Some(Duration::from_secs(5))).expect("the ring works");
            ring.completions(&mut completions);
            durable = completions.iter().find(|c| c.tag == Tag::Log { position: 7 }).map(|c| c.result);
        }
        let expected = if form == SyncForm::DsyncWrite { len as i32 } else { 0 };
        assert_eq!(durable, Some(expected));
        (target, slot)
    }

    #[test]
    fn what_is_written_is_what_the_buffer_holds_whoever_had_its_slot_and_its_address_before() {
        let dir = tempfile::tempdir_in(".").expect("there is room");
        let files = OsFiles::new(dir.path()).expect("the directory is there");
        let mut random = Random::new(3);
        for form in [SyncForm::DsyncWrite, SyncForm::WriteThenSync] {
            let mut ring = Ring::new(false).expect("this system has io_uring");
            let mut fixed = Fixed::default();
            let open = |name: &str| {
                let file = files.open(name, OpenMode::CreateNew).expect("it is new");
                file.allocate(1 << 20).expect("there is room");
                file
            };
            let names = ["a", "b"].map(|name| format!("{name}-{form:?}"));
            let segments = names.each_ref().map(|name| open(name));
            let mut buffers: Vec<AlignedBuf> = (0..40).map(|_| AlignedBuf::zeroed(1 << 20)).collect();
            let mut slots = std::collections::BTreeSet::new();
            for round in 0..400u64 {
                let file = &segments[(round / 50 % 2) as usize];
                let position = random.below(buffers.len() as u64) as usize;
                if random.one_in(5) {
                    // Most likely at the same address.
                    buffers.swap_remove(position);
                    buffers.push(AlignedBuf::zeroed(1 << 20));
                }
                let at = random.below(buffers.len() as u64) as usize;
                let buffer = &mut buffers[at];
                let blocks = 1 + if random.one_in(8) { 40 } else { random.below(8) };
                let len = blocks as usize * disk::BLOCK;
                random.fill(&mut buffer[..len]);
                let offset = random.below(64) * disk::BLOCK as u64;
                let (target, slot) = write(&mut ring, &mut fixed, form, file, buffer, (offset, len));
                assert_eq!(target, Target::Registered(0));
                assert_eq!(slot.is_some(), len <= REGISTERED_BYTES);
                slots.extend(slot);
                let mut read = AlignedBuf::zeroed(len);
                file.read_at(offset, &mut read).expect("it was written");
                assert!(read[..] == buffer[..len], "round {round}");
            }
            assert_eq!(slots.len(), BUFFERS as usize);
        }
    }

    /// More than the submission queue takes: each write keeps its sync, and all come back.
    #[test]
    fn writes_beyond_the_queue_wait_for_their_turn_with_their_syncs() {
        const WRITES: usize = 1100;
        let dir = tempfile::tempdir_in(".").expect("there is room");
        let files = OsFiles::new(dir.path()).expect("the directory is there");
        for form in [SyncForm::DsyncWrite, SyncForm::WriteThenSync] {
            let mut ring = Ring::new(false).expect("this system has io_uring");
            let mut fixed = Fixed::default();
            let file = files.open(&format!("{form:?}"), OpenMode::CreateNew).expect("it is new");
            file.allocate((WRITES * disk::BLOCK) as u64).expect("there is room");
            let target = fixed.file(&mut ring, &file).expect("it has a descriptor");
            let buffers: Vec<AlignedBuf> = (0..WRITES)
                .map(|number| {
                    let mut buffer = AlignedBuf::zeroed(disk::BLOCK);
                    buffer.fill((number % 251) as u8 + 1);
                    buffer
                })
                .collect();
            for (number, buffer) in buffers.iter().enumerate() {
                let write = DurableWrite {
                    file: target,
                    offset: (number * disk::BLOCK) as u64,
                    data: buffer.as_ptr(),
                    len: disk::BLOCK as u32,
                    buffer: None,
                };
                // SAFETY: the buffers live until all completions are there.
                unsafe { ring.write_durable(form, number as u32, &write) };
            }
            assert!(!ring.is_submitted(), "some wait");
            let mut done = std::collections::BTreeMap::new();
            let mut completions = Vec::new();
            while done.len() < WRITES {
                ring.enter(Some(Duration::from_secs(5))).expect("the ring works");
                ring.completions(&mut completions);
                for completion in completions.drain(..) {
                    if let Tag::Log { position } = completion.tag {
                        assert!(
                            done.insert(position, completion.result).is_none(),
                            "{position} is done once"
                        );
                    }
                }
            }
            let expected = if form == SyncForm::DsyncWrite { disk::BLOCK as i32 } else { 0 };
            assert!(done.values().all(|result| *result == expected), "{done:?}");
            let mut found = AlignedBuf::zeroed(WRITES * disk::BLOCK);
            file.read_at(0, &mut found).expect("it can be read");
            for (number, block) in found.chunks_exact(disk::BLOCK).enumerate() {
                assert!(block.iter().all(|byte| *byte == (number % 251) as u8 + 1), "block {number}");
            }
        }
    }

    #[test]
    fn a_ring_that_refuses_is_written_to_the_ordinary_way() {
        let dir = tempfile::tempdir_in(".").expect("there is room");
        let files = OsFiles::new(dir.path()).expect("the directory is there");
        let file = files.open("a", OpenMode::CreateNew).expect("it is new");
        file.allocate(1 << 20).expect("there is room");
        let mut ring = Ring::new(false).expect("this system has io_uring");
        // Somebody made tables already: ours are refused.
        ring.make_tables(1, 1).expect("it is a new ring");
        let mut fixed = Fixed::default();
        let mut buffer = AlignedBuf::zeroed(disk::BLOCK);
        buffer.fill(9);
        let (target, slot) =
            write(&mut ring, &mut fixed, SyncForm::DsyncWrite, &file, &mut buffer, (0, disk::BLOCK));
        assert_eq!((target, slot), (Target::Open(file.raw_fd().expect("it is open")), None));
        let mut read = AlignedBuf::zeroed(disk::BLOCK);
        file.read_at(0, &mut read).expect("it was written");
        assert!(read.iter().all(|&b| b == 9));
    }
}
