//! Scripts over the data file alone, beside plain maps. What an open finds must be one of two checkpoints: the last that
//! was reported done, or the one that was being written.

use std::collections::BTreeMap;

use base::Random;
use disk::SimFiles;
use disk::sim::{KeepSet, Moment};
use tree::{KeyOrder, Options, Store, TreeSpec, View};

use super::faults::{Floor, Verdict};
use super::interleave::{interleaved, stopping};
use super::{Met, Promises, Script, guarded};

const FILE: &str = "data";
const SUFFIX: usize = 4;
const fn empty(name: &'static str) -> TreeSpec {
    TreeSpec { name, order: KeyOrder::Bytes }
}
/// Three that are used; the others make a meta longer than a sector, so that it can be torn.
static SPECS: [TreeSpec; 9] = [
    TreeSpec { name: "plain", order: KeyOrder::Bytes },
    TreeSpec { name: "versions", order: KeyOrder::Suffixed(SUFFIX) },
    TreeSpec { name: "log", order: KeyOrder::Bytes },
    empty("empty-1"),
    empty("empty-2"),
    empty("empty-3"),
    empty("empty-4"),
    empty("empty-5"),
    empty("empty-6"),
];
const VERSIONS: usize = 1;
const LOG: usize = 2;
/// Each life makes so many checkpoints. While it grows, the first half of them is of growth, the rest of shrinking.
fn checkpoints(script: Script) -> usize {
    if script == Script::Growth { 6 } else { 4 }
}
const LIVES: usize = 2;

/// Small chunks, so that images stay small and their borders are met.
fn options() -> Options {
    Options { chunk_bytes: 64 << 10, max_chunks: 1024, reserve_bytes: 16 << 10 }
}

/// A key in the order of its tree: (what comes before the suffix, the suffix).
type Key = (Vec<u8>, Vec<u8>);

fn key_of(tree: usize, key: &[u8]) -> Key {
    let at = if tree == VERSIONS { key.len() - SUFFIX } else { key.len() };
    (key[..at].to_vec(), key[at..].to_vec())
}

fn joined(key: &Key) -> Vec<u8> {
    [&key.0[..], &key.1[..]].concat()
}

#[derive(Clone, Default)]
struct Model {
    trees: [BTreeMap<Key, Vec<u8>>; 3],
}

/// Entries and checksum of each tree.
type Picture = [(u64, u32); 3];

impl Model {
    fn picture(&self) -> Picture {
        std::array::from_fn(|tree| {
            let mut hash = 0;
            for (key, value) in &self.trees[tree] {
                hash = base::crc32c_append(hash, &key.0);
                hash = base::crc32c_append(hash, &key.1);
                hash = base::crc32c_append(hash, value);
            }
            (self.trees[tree].len() as u64, hash)
        })
    }
}

fn picture(view: View<'_>) -> Picture {
    std::array::from_fn(|tree| {
        let mut cursor = view.cursor(tree);
        let (mut hash, mut more) = (0, cursor.seek_first());
        while more {
            hash = base::crc32c_append(hash, cursor.key());
            hash = base::crc32c_append(hash, cursor.value());
            more = cursor.next();
        }
        (view.len(tree), hash)
    })
}

/// What was known at some moment: numbers of checkpoints, from 0, which is an empty store.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    durable: u64,
    /// Being written, or the same.
    in_flight: u64,
}

pub(super) struct Subject {
    script: Script,
    moments: Vec<Moment>,
    promises: Vec<Promise>,
    /// What each checkpoint holds; its number stands in the first word of its stamp.
    pictures: Vec<Picture>,
    met: Met,
}

fn open(files: &SimFiles) -> Result<Store, String> {
    Store::open(&stopping(files), FILE, &SPECS, options()).map_err(|error| error.to_string())
}

/// Flips a bit in the newest meta. False, and nothing done, where it is the only one.
pub(super) fn damage_newest(files: &SimFiles, report: &tree::OpenReport) -> bool {
    if report.unreadable.is_some() || report.sequence < 2 {
        return false;
    }
    files.edit(FILE, report.sequence % 2 * disk::BLOCK as u64 + 64, &mut |bytes| bytes[0] ^= 1);
    true
}

impl super::Subject for Subject {
    /// Number of the checkpoint by its stamp, and as the tree counts them.
    type Found = (u64, u64);

    fn play(
        script: Script,
        seed: u64,
        promises: Promises,
        files: &SimFiles,
        _like: Option<&Subject>,
        until: u64,
    ) -> (Subject, Result<(), String>) {
        let mut random = Random::new(seed);
        let mut model = Model::default();
        let mut subject = Subject {
            script,
            moments: Vec::new(),
            promises: vec![Promise::default()],
            pictures: vec![model.picture()],
            met: Met::default(),
        };
        let mut ended = Ok(());
        for life in 0..LIVES {
            ended = guarded(|| {
                let mut store = open(files)?;
                // Both ways of writing: in place while nobody looks, and copies.
                if (seed + life as u64) % 2 == 1 {
                    store.share_thread();
                }
                let (model, random) = (std::mem::take(&mut model), &mut random);
                let durable = model.clone();
                let mut writer = Writer { store, model, durable, random, script, shrinks: false };
                for round in 0..checkpoints(script) {
                    writer.shrinks = script == Script::Growth && round >= checkpoints(script) / 2;
                    subject.round(files, &mut writer, promises)?;
                }
                Ok(writer.durable)
            })
            // Killed: what was changed since is gone.
            .map(|durable| model = durable);
            if ended.is_err() || files.operations() > until {
                break;
            }
        }
        subject.moments = files.take_moments();
        (subject, ended)
    }

    fn promises(&self) -> u64 {
        self.promises.len() as u64
    }

    fn verdict(&mut self, files: &SimFiles, mark: u64, floor: Floor, _boot: u64) -> Verdict {
        let store = match Store::open(files, FILE, &SPECS, options()) {
            Ok(store) => store,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        if let Err(error) = tree::verify(&store) {
            return Verdict::Verified(error.to_string());
        }
        if let Err(text) = self.judge(&store) {
            return Verdict::Wrong(text);
        }
        let Promise { durable, in_flight } = self.promises[mark as usize];
        let number = store.stamp()[0];
        // Whose meta was lost, the log knows; here there is none.
        let floor = match floor {
            Floor::Acknowledged => durable,
            Floor::Stated => durable.saturating_sub(1),
            // How old a checkpoint may be, the log knows.
            Floor::Of(_) | Floor::Nothing => 0,
        };
        match number {
            _ if number == durable || number == in_flight => Verdict::Right,
            _ if (floor..durable).contains(&number) => Verdict::Tail,
            _ => Verdict::Wrong(format!("checkpoint {durable} was done, and {number} was found")),
        }
    }

    fn take_moments(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }

    fn met(&self) -> &Met {
        &self.met
    }

    fn reopen(&mut self, files: &SimFiles, mark: u64, _boot: u64) -> Result<(u64, u64), String> {
        let store = open(files)?;
        let Promise { durable, in_flight } = self.promises[mark as usize];
        let number = store.stamp()[0];
        if number != durable && number != in_flight {
            return Err(format!("checkpoint {durable} was done, {in_flight} under way; {number} was found"));
        }
        self.judge(&store)?;
        if let Some(rebuilt) = &store.report().bitmap_rebuilt {
            return Err(format!("a crash is taken for damage: {rebuilt}"));
        }
        self.met.add("a checkpoint nobody was told of", u64::from(number > durable));
        self.met.add("a checkpoint cut short", u64::from(number < in_flight));
        self.met.add("a torn meta", u64::from(store.report().unreadable.is_some()));
        Ok((number, store.report().sequence))
    }

    fn recover(&self, files: &SimFiles, _mark: u64, _boot: u64) -> Result<(), String> {
        open(files).map(|_| ())
    }

    fn fall_back(&mut self, files: &SimFiles, _mark: u64, _boot: u64) -> Result<bool, String> {
        let store = open(files)?;
        let (report, newest) = (store.report().clone(), store.stamp()[0]);
        drop(store);
        if !damage_newest(files, &report) {
            return Ok(false);
        }
        let store = open(files)?;
        if store.report().unreadable.is_none() || store.stamp()[0] + 1 != newest {
            let found = store.stamp()[0];
            return Err(format!("the meta of checkpoint {newest} is damaged, and {found} was opened"));
        }
        self.judge(&store).map(|()| true)
    }

    fn go_on(&mut self, files: &SimFiles, _mark: u64, boot: u64) -> Result<(), String> {
        let mut random = Random::new(boot);
        let mut store = open(files)?;
        if random.one_in(2) {
            store.share_thread();
        }
        // What it holds now, the plain way; it was judged before.
        let mut model = Model::default();
        for (tree, entries) in model.trees.iter_mut().enumerate() {
            let mut cursor = store.view().cursor(tree);
            let mut more = cursor.seek_first();
            while more {
                entries.insert(key_of(tree, cursor.key()), cursor.value().to_vec());
                more = cursor.next();
            }
        }
        let before = model.picture();
        let durable = Model::default();
        let mut writer =
            Writer { store, model, durable, random: &mut random, script: self.script, shrinks: false };
        writer.change(20)?;
        writer.store.publish();
        let job = writer.store.cut().ok_or("a checkpoint is running before the first")?;
        let after = writer.model.picture();
        job.run().map_err(|error| error.to_string())?;
        // Nobody was told that it is done, but it is.
        let Writer { store, .. } = writer;
        drop(store);
        let lost = files.crash(&mut |count| KeepSet::random(count, &mut random));
        let store = open(&lost)?;
        tree::verify(&store).map_err(|error| error.to_string())?;
        let found = picture(store.view());
        if found != after {
            return Err(format!("went on from {before:?} to {after:?}, and {found:?} was found"));
        }
        Ok(())
    }
}

impl Subject {
    /// The store is whole, and what its stamp says it is.
    fn judge(&self, store: &Store) -> Result<(), String> {
        tree::verify(store).map_err(|error| error.to_string())?;
        let number = store.stamp()[0];
        let (expected, found) = (self.pictures[number as usize], picture(store.view()));
        if expected != found {
            return Err(format!("checkpoint {number} holds {expected:?}, and {found:?} was found"));
        }
        Ok(())
    }

    fn mark(&mut self, files: &SimFiles, promise: Promise) {
        self.promises.push(promise);
        files.mark(self.promises.len() as u64 - 1);
    }

    /// A step towards a shorter file, in a batch of its own. False when there is nothing to move, or enough was.
    fn shrink(&mut self, writer: &mut Writer<'_>) -> bool {
        let moved = writer.store.shrink_step();
        writer.store.publish();
        self.met.add("a step of shrinking", u64::from(writer.store.is_shrinking()));
        moved && writer.random.below(4) > 0
    }

    /// Some batches, then a checkpoint with more of them beside it.
    fn round(&mut self, files: &SimFiles, writer: &mut Writer<'_>, promises: Promises) -> Result<(), String> {
        for _ in 0..1 + writer.random.below(2) {
            let most = if writer.script == Script::Growth && !writer.shrinks { 40 } else { 12 };
            let changes = writer.random.below(most);
            writer.change(changes)?;
            writer.store.publish();
        }
        while writer.shrinks && self.shrink(writer) {}
        if writer.random.one_in(2) {
            self.shrink(writer);
        }
        let number = self.pictures.len() as u64;
        let mut stamp = *writer.store.stamp();
        stamp[0] = number;
        writer.store.set_stamp(stamp);
        writer.store.publish();
        self.pictures.push(writer.model.picture());
        let before = *self.promises.last().expect("the first one");
        let claimed = if promises == Promises::Early { number } else { before.durable };
        let job = writer.store.cut().ok_or("a checkpoint is running between two")?;
        self.mark(files, Promise { durable: claimed, in_flight: number });
        let cut = writer.model.clone();
        let mut left = 6;
        let ran = interleaved(|| job.run(), || self.others(writer, &mut left))?;
        let done = ran.map_err(|error| error.to_string())?;
        self.mark(files, Promise { durable: number, in_flight: number });
        let file_bytes = writer.store.file_bytes();
        let stamp = writer.store.checkpoint_done(done).map_err(|error| error.to_string())?;
        self.met.add("a shorter file", u64::from(writer.store.file_bytes() < file_bytes));
        if stamp[0] != number {
            return Err(format!("checkpoint {number} is done, and {} is called durable", stamp[0]));
        }
        writer.durable = cut;
        Ok(())
    }
}

impl Subject {
    /// In the midst of a checkpoint: changes, growth, pages that move.
    fn others(&mut self, writer: &mut Writer<'_>, left: &mut u64) -> Result<(), String> {
        if *left > 0 && writer.random.one_in(2) {
            *left -= 1;
            self.met.add("a batch within a checkpoint", 1);
            let changes = 1 + writer.random.below(2);
            writer.change(changes)?;
            writer.store.publish();
            if writer.shrinks {
                self.shrink(writer);
            }
        }
        Ok(())
    }
}

/// A store, and what it should hold.
struct Writer<'r> {
    store: Store,
    model: Model,
    /// The last checkpoint's.
    durable: Model,
    random: &'r mut Random,
    script: Script,
    /// Most of what is there goes, and the file with it.
    shrinks: bool,
}

impl Writer<'_> {
    /// So many changes, and room made for them first.
    fn change(&mut self, count: u64) -> Result<(), String> {
        if self.script == Script::Growth
            && self.random.one_in(2)
            && let Some(job) = self.store.grow_job(self.random.below(200 << 10))
        {
            job.run().map_err(|error| error.to_string())?;
        }
        for _ in 0..count {
            self.store.reserve(64 << 10).map_err(|error| error.to_string())?;
            self.one();
        }
        Ok(())
    }

    fn insert(&mut self, tree: usize, key: &[u8], value: Vec<u8>) {
        self.store.insert(tree, key, &value);
        self.model.trees[tree].insert(key_of(tree, key), value);
    }

    fn remove(&mut self, tree: usize, key: &Key) {
        let there = self.store.remove(tree, &joined(key));
        assert_eq!(there, self.model.trees[tree].remove(key).is_some(), "the tree removes what it has");
    }

    fn one(&mut self) {
        let growth = self.script == Script::Growth;
        let tree = self.random.below(3) as usize;
        let kind = if self.shrinks { 7 + self.random.below(5) } else { self.random.below(12) };
        match kind {
            0..6 if tree != LOG => {
                let mut key = match self.random.below(8) {
                    0 => vec![b'x'; 900 + self.random.below(1500) as usize],
                    _ => format!("/registry/pods/pod-{}", self.random.below(200)).into_bytes(),
                };
                if tree == VERSIONS {
                    key.extend_from_slice(&(self.random.below(4) as u32).to_be_bytes());
                }
                let len = match self.random.below(8) {
                    0 if growth => self.random.below(50_000),
                    1 if growth => 4000 + self.random.below(9_000),
                    0 => self.random.below(9_000),
                    1 => 1900 + self.random.below(300),
                    _ => self.random.below(600),
                };
                let mut value = vec![self.random.below(256) as u8; len as usize];
                let end = value.len().min(16);
                self.random.fill(&mut value[..end]);
                self.insert(tree, &key, value);
            }
            // An appending run, and its front goes now and then.
            0..8 => {
                let last = self.model.trees[LOG].last_key_value();
                let next = last
                    .map_or(0, |(key, _)| u64::from_be_bytes(key.0[..8].try_into().expect("8 bytes")) + 1);
                for number in 0..self.random.below(40) {
                    self.insert(LOG, &(next + number).to_be_bytes(), b"an entry of the log".to_vec());
                }
            }
            8 if tree == LOG => {
                let half = self.model.trees[LOG].len() / 2;
                let front: Vec<Key> = self.model.trees[LOG].keys().take(half).cloned().collect();
                front.iter().for_each(|key| self.remove(LOG, key));
            }
            9 if self.shrinks => {
                // Most of it goes, so that there is something to shrink.
                let keys: Vec<Key> = self.model.trees[tree].keys().cloned().collect();
                for key in keys {
                    if !self.random.one_in(5) {
                        self.remove(tree, &key);
                    }
                }
            }
            _ => {
                let count = self.model.trees[tree].len() as u64;
                if count > 0 {
                    let at = self.random.below(count) as usize;
                    let key = self.model.trees[tree].keys().nth(at).expect("below the count").clone();
                    self.remove(tree, &key);
                }
            }
        }
    }
}
