//! Law 6, both sides of it: the log is given up only as far as the older of the two metas covers it, so that damage to
//! the newest checkpoint loses nothing; and what does not fit together is refused, in one line that says what to do.

mod rig;

use base::Random;
use disk::sim::KeepSet;
use disk::{AlignedBuf, BLOCK, Files, OpenMode, SimFiles};
use mainstay_replica as replica;
use replica::{CheckpointPolicy, Event, Note, OpenError, OpenReport};
use rig::{Fingerprint, Rig, Setup, compact, delete, grant, put, put_leased, revoke, txn};

/// The sequence of each meta slot of a data file.
fn sequences(files: &SimFiles) -> [u64; 2] {
    let bytes = files.bytes("data").unwrap();
    [0, 1].map(|slot| u64::from_le_bytes(bytes[slot * BLOCK + 16..][..8].try_into().unwrap()))
}

fn newest_slot(files: &SimFiles) -> usize {
    let [even, odd] = sequences(files);
    usize::from(odd > even)
}

/// Ways to lose the newest checkpoint.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// A bit of its meta.
    Meta,
    /// The whole block of its meta, as of a write that never was.
    NoMeta,
    /// A bit of the root page of a tree.
    Root(usize),
}

const DAMAGES: [Damage; 5] =
    [Damage::Meta, Damage::NoMeta, Damage::Root(0), Damage::Root(1), Damage::Root(2)];

/// False when the checkpoint has no such root, or shares it with the other one.
fn damage(files: &SimFiles, slot: usize, damage: Damage) -> bool {
    let bytes = files.bytes("data").unwrap();
    let root = |slot: usize, tree: usize| &bytes[slot * BLOCK + 192 + 48 * tree..][..4];
    let (at, len) = match damage {
        Damage::Meta => (slot * BLOCK + 200, 1),
        Damage::NoMeta => (slot * BLOCK, BLOCK),
        Damage::Root(tree) => {
            let page = u32::from_le_bytes(root(slot, tree).try_into().unwrap());
            if page == 0 || root(slot, tree) == root(1 - slot, tree) {
                return false;
            }
            (page as usize * BLOCK + 1000, 1)
        }
    };
    files.edit("data", at as u64, &mut |bytes| match len {
        1 => bytes[0] ^= 1,
        len => bytes[..len].fill(0),
    });
    true
}

fn some_request(random: &mut Random, revision: i64) -> replica::Request {
    let key = format!("key-{:02}", random.below(25));
    let lease = 1 + random.below(4) as i64;
    match random.below(20) {
        0..10 => {
            let mut value = vec![0; [30, 700, 3000][random.below(3) as usize]];
            random.fill(&mut value);
            put(&key, &value)
        }
        10..12 => put_leased(&key, lease),
        12..14 => txn(&key, random.below(3) as i64, b"from a transaction"),
        14..16 => delete(&key, ""),
        16 => grant(lease, 10_000),
        17 => revoke(lease),
        _ => compact(revision - random.below(9) as i64, false),
    }
}

fn reopened(files: SimFiles, seed: u64) -> (Fingerprint, OpenReport) {
    let (replica, report) =
        rig::open(&files, &Setup::default(), seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let mut rig = Rig::over(files, replica, Setup::default(), seed);
    rig.settle();
    (rig.fingerprint(), report)
}

/// At any time, under load, with checkpoints and recycled segments: whatever is damaged of the newest checkpoint, the
/// older one and the log are the same state, key by key; and the report says what happened.
#[test]
fn damage_to_the_newest_checkpoint_loses_nothing() {
    let (mut tried, mut released) = (0, 0);
    for seed in 0..12 {
        let mut rig = Rig::serving(SimFiles::new(), Setup::default(), seed);
        rig.setup.late = true;
        let mut random = Random::new(seed);
        for round in 0..500 {
            if rig.replica.has_credit() {
                let revision = rig.revision();
                rig.propose(some_request(&mut random, revision));
            }
            let by = random.below(20);
            rig.tick(by);
            rig.step().unwrap();
            if round % 25 != 24 {
                continue;
            }
            let image = rig.crash(&mut |count, _| KeepSet::none(count));
            let (whole, report) = reopened(image.image(), seed + 100);
            assert!(report.checkpoint_lost.is_none(), "{report:?}", report = report.checkpoint_lost);
            if report.store.sequence <= 2 {
                continue;
            }
            let first = image.list("log").unwrap().into_iter().min().unwrap();
            released += u64::from(first.as_str() > "00000001.seg");
            for kind in DAMAGES {
                let damaged = image.image();
                let slot = newest_slot(&damaged);
                if !damage(&damaged, slot, kind) {
                    continue;
                }
                let (found, fallen) = reopened(damaged.clone(), seed + 200);
                assert_eq!(found, whole, "seed {seed}, round {round}: {kind:?}");
                assert_eq!(fallen.store.sequence, report.store.sequence - 1);
                assert!(fallen.store.unreadable.is_some(), "it is said: {kind:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 300 && released > 100, "{tried} damaged, {released} times behind released segments");
}

/// The damage is told from a crash that cut a checkpoint short by the log: there it says that it was complete.
#[test]
fn a_checkpoint_that_was_complete_is_missed() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for round in 0..100 {
        rig.ask(put("key", &[round; 3000])).unwrap();
    }
    rig.handle(Event::Stop);
    rig.settle();
    let image = rig.files.image();
    let slot = newest_slot(&image);
    damage(&image, slot, Damage::Meta);
    let (_, report) = reopened(image.image(), 2);
    let said = report.checkpoint_lost.expect("the log knows better");
    assert!(said.contains("was complete") && !said.contains('\n'), "{said}");
    // It is made good by the next checkpoint, and not missed again.
    let mut again = Rig::serving(image, Setup::default(), 3);
    for round in 0..40 {
        again.ask(put("key", &[round; 3000])).unwrap();
    }
    again.handle(Event::Stop);
    again.settle();
    assert_eq!(reopened(again.files.image(), 4).1.checkpoint_lost, None);
}

#[test]
fn both_checkpoints_damaged_are_refused() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for round in 0..150 {
        rig.ask(put(&format!("key-{round}"), &[round; 3000])).unwrap();
    }
    for kind in [Damage::Meta, Damage::Root(0)] {
        let image = rig.files.image();
        assert!(damage(&image, 0, kind) && damage(&image, 1, kind));
        let error = rig::open(&image, &Setup::default(), 5).err().expect("refused");
        let line = error.to_string();
        assert!(matches!(error, OpenError::Store(_)), "{line}");
        assert!(line.contains("data") && line.contains("snapshot") && !line.contains('\n'), "{line}");
    }
}

fn contents(files: &SimFiles) -> Vec<(String, Vec<u8>)> {
    let log = files.list("log").unwrap().into_iter().map(|name| format!("log/{name}"));
    let names = log.chain(["data".to_owned()]);
    names.map(|name| (name.clone(), files.bytes(&name).unwrap())).collect()
}

/// What a lost write leaves in a page's place is sound in every byte: an older page, or another tree's. What the start
/// reads and is not what should be there is not passed over, and nothing is changed. (Seed 14 of the device faults.)
#[test]
fn records_that_are_none_are_refused() {
    use mvcc::trees::{ALARMS, LEASES, MEMBERS, META};
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    rig.ask(grant(1, 10_000)).unwrap();
    rig.handle(Event::Stop);
    rig.settle();
    const IDENTITY: &str = "identity of its member";
    const CONFIGURATION: &str = "configuration state";
    const VERSION: &str = "version of its cluster";
    // What a page has, where it should not.
    let puts: [(&str, tree::TreeId, &[u8], &[u8]); 16] = [
        (IDENTITY, META, b"mainstay.memberId", b"short"),
        (IDENTITY, META, b"mainstay.clusterId", b""),
        (CONFIGURATION, META, b"confState", b"{"),
        (CONFIGURATION, META, b"confState", b"{}"),
        (VERSION, META, b"clusterVersion", b"\xff\xfe"),
        (VERSION, META, b"clusterVersion", b"3.7"),
        (VERSION, META, b"clusterVersion", b"3.7.x"),
        ("member", MEMBERS, b"12", b"no JSON"),
        ("member", MEMBERS, b"12", br#"{"id":19,"peerURLs":[]}"#),
        ("lease", LEASES, b"short", b""),
        ("lease", LEASES, &[0; 8], b"\xff\xff"),
        // Another's.
        ("lease", LEASES, &[9; 8], &[8, 7, 16, 60]),
        ("alarm", ALARMS, b"\xff\xff", b""),
        ("alarm", ALARMS, &[8, 7, 16, 1], b"a value"),
        ("alarm", ALARMS, &[8, 7], b""),
        // With a field that alarms do not have.
        ("alarm", ALARMS, &[8, 7, 16, 1, 24, 9], b""),
    ];
    let edited = |edit: &dyn Fn(&mut tree::Store)| {
        let image = rig.files.image();
        let options = rig.setup.start(5).tree;
        let mut store = tree::Store::open(&image, "data", &mvcc::trees::SPECS, options).unwrap();
        edit(&mut store);
        store.publish();
        let done = store.cut().expect("none is running").run().unwrap();
        store.checkpoint_done(done).unwrap();
        drop(store);
        let before = contents(&image);
        let error = rig::open(&image, &Setup::default(), 5).err();
        assert!(error.is_none() || contents(&image) == before, "refused, and something changed");
        error
    };
    let refused = |what: &str, edit: &dyn Fn(&mut tree::Store)| {
        let error = edited(edit).unwrap_or_else(|| panic!("{what}: not refused"));
        let line = error.to_string();
        assert!(matches!(error, OpenError::Record(_)), "{line}");
        assert!(line.starts_with(&format!("the data file has a malformed {what}: ")), "{line}");
        assert!(line.contains("snapshot save") && !line.contains('\n'), "{line}");
    };
    assert!(edited(&|_| {}).is_none(), "nothing is wrong with it as it is");
    let sound = |store: &mut tree::Store| {
        store.insert(LEASES, &7i64.to_be_bytes(), &[8, 7, 16, 60]);
        store.insert(ALARMS, &[8, 7, 16, 1], b"");
        store.insert(MEMBERS, b"12", br#"{"id":18,"peerURLs":[]}"#);
    };
    assert!(edited(&sound).is_none(), "and these are what they should be");
    for (what, of, key, value) in puts {
        refused(what, &|store| store.insert(of, key, value));
    }
    for (what, name) in
        [(IDENTITY, "mainstay.memberId"), (IDENTITY, "mainstay.clusterId"), (CONFIGURATION, "confState")]
    {
        refused(what, &|store| assert!(store.remove(META, name.as_bytes())));
    }
    refused("list of members", &|store| {
        let mut cursor = store.view().cursor(MEMBERS);
        assert!(cursor.seek_first());
        let own = cursor.key().to_vec();
        assert!(store.remove(MEMBERS, &own));
    });
}

/// An older copy of the data file beside the log of now: one checkpoint behind the log makes up for it, two are refused,
/// though the log might still reach back: pages of that file may have been used again while it was copied.
#[test]
fn a_data_file_from_before_is_refused_when_it_is_too_old() {
    let policy = CheckpointPolicy { dirty_bytes: 1 << 30, log_bytes: 1 << 30, ..Setup::default().policy };
    let policy = CheckpointPolicy { log_segments: 100, interval_ms: 1000, ..policy };
    let setup = Setup { policy, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup, 1);
    let mut files = Vec::new();
    // A checkpoint after each stretch of time; the log never fills a segment.
    for round in 0..6u8 {
        rig.ask(put("key", &[round; 100])).unwrap();
        rig.tick(1000);
        rig.settle();
        files.push(rig.files.image());
    }
    assert_eq!(sequences(&files[5]).iter().max(), Some(&7), "six checkpoints after the founding one");
    let hash = rig.hash_kv();
    for age in 0..6 {
        let mixed = files[5].image();
        let bytes = files[5 - age].bytes("data").unwrap();
        mixed.edit("data", 0, &mut |target| target.copy_from_slice(&bytes));
        match rig::open(&mixed, &Setup::default(), 9) {
            Ok((replica, report)) => {
                assert!(age <= 1, "{age} checkpoints behind");
                assert_eq!(report.checkpoint_lost.is_some(), age == 1);
                let mut again = Rig::over(mixed, replica, Setup::default(), 9);
                again.settle();
                assert_eq!(again.hash_kv(), hash);
            }
            Err(error) => {
                assert!(age >= 2, "{error}");
                assert!(matches!(error, OpenError::Stale { .. }), "{error}");
                let line = error.to_string();
                assert!(line.contains("snapshot save") && line.contains("add it again"), "{line}");
                assert!(!line.contains('\n'), "{line}");
            }
        }
    }
}

/// Without its data file a member whose log was never given up begins again with the log; its checkpoints are counted
/// anew, also when the power goes at any point of the first one.
#[test]
fn a_lost_data_file_is_made_anew_from_a_whole_log() {
    let policy = CheckpointPolicy { dirty_bytes: 1 << 30, log_bytes: 1 << 30, ..Setup::default().policy };
    let policy = CheckpointPolicy { log_segments: 100, interval_ms: 1000, ..policy };
    let setup = Setup { policy, ..Setup::default() };
    let mut rig = Rig::serving(SimFiles::new(), setup.clone(), 1);
    for round in 0..4u8 {
        rig.ask(put(&format!("key-{round}"), &[round; 100])).unwrap();
        rig.tick(1000);
        rig.settle();
    }
    let hash = rig.hash_kv();
    let lost = rig.crash(&mut |count, _| KeepSet::none(count));
    lost.remove("data").unwrap();
    lost.sync_dir("").unwrap();
    for at in 0.. {
        let files = lost.image();
        files.halt_at(at);
        let mut rig = match Rig::open(files.clone(), setup.clone(), 2) {
            Ok(rig) => rig,
            Err(_) => {
                let files = files.crash(&mut KeepSet::all);
                assert_eq!(reopened(files, 3).0.hash_kv, hash, "operation {at} of the start");
                continue;
            }
        };
        let ended = rig.try_settle().is_ok() && {
            rig.tick(1);
            rig.tick(1000);
            rig.try_settle().is_ok()
        };
        for all in [true, false] {
            let image =
                rig.crash(&mut |count, _| if all { KeepSet::all(count) } else { KeepSet::none(count) });
            assert_eq!(reopened(image, 3).0.hash_kv, hash, "operation {at}");
        }
        if ended {
            break;
        }
    }
}

/// Copies a file a piece at a time, and lets the member go on in between. False when the file was renamed or removed before
/// the copy came to it.
fn copy(from: &SimFiles, name: &str, to: &SimFiles, go_on: &mut dyn FnMut()) -> bool {
    let mut bytes = Vec::new();
    let Some(len) = from.bytes(name).map(|bytes| bytes.len()) else { return false };
    while bytes.len() < len {
        go_on();
        let Some(now) = from.bytes(name) else { return false };
        let end = (bytes.len() + (32 << 10)).min(len).min(now.len());
        if end <= bytes.len() {
            break;
        }
        let begin = bytes.len();
        bytes.extend_from_slice(&now[begin..end]);
    }
    let file = to.open(name, OpenMode::CreateNew).unwrap();
    let mut block = AlignedBuf::zeroed(bytes.len());
    block.copy_from_slice(&bytes);
    file.write_at(0, &block).unwrap();
    file.sync().unwrap();
    true
}

/// `cp -r` of a running member's directory, as kubeadm does before an upgrade: it opens as some state between the
/// begin and the end of the copy, or is refused in one line that names what to do instead. Never anything else, as long
/// as fewer than three checkpoints end while `data` is copied. Where `cp` missed a file, and said so, the state may be one
/// from before.
#[test]
fn a_copy_of_a_running_members_directory_is_a_moment_of_it_or_refused() {
    let policy = CheckpointPolicy { dirty_bytes: 200 << 10, log_bytes: 400 << 10, ..Setup::default().policy };
    let setup = Setup { policy, ..Setup::default() };
    let (mut opened, mut refused, mut late, mut failed) = (0, 0, 0, 0);
    for seed in 0..200 {
        let mut rig = Rig::serving(SimFiles::new(), setup.clone(), seed);
        let mut random = Random::new(seed);
        let busy = seed % 6;
        let mut step = |rig: &mut Rig, load: u64| {
            for _ in 0..random.below(load + 1) {
                let key = format!("key-{:02}", random.below(25));
                let request = match random.below(4) {
                    0 => delete(&key, ""),
                    _ => put(&key, &vec![random.below(256) as u8; random.below(4000) as usize]),
                };
                rig.ask(request).unwrap();
                rig.tick(1);
            }
        };
        step(&mut rig, 300);
        let begin = rig.revision();
        let (from, to) = (rig.files.clone(), SimFiles::new());
        let ended = |rig: &Rig| {
            rig.notes.iter().filter(|note| matches!(note, Note::CheckpointFinished { .. })).count()
        };
        let (mut during_data, mut complete) = (0, true);
        to.create_dir("log").unwrap();
        let mut names = vec!["data".to_owned()];
        names.extend(from.list("log").unwrap().iter().map(|name| format!("log/{name}")));
        // Some copy in the order of names, others as the directory gives them.
        if seed % 2 == 1 {
            let at = seed as usize / 2 % names.len();
            names.rotate_left(at);
        }
        for name in &names {
            let before = ended(&rig);
            complete &= copy(&from, name, &to, &mut || step(&mut rig, busy));
            if name == "data" {
                during_data = ended(&rig) - before;
            }
        }
        for dir in ["", "log"] {
            to.sync_dir(dir).unwrap();
        }
        let end = rig.revision();
        // Without one of the log's files nothing tells how far the log went.
        let oldest = if complete { begin } else { 1 };
        failed += u32::from(!complete);
        if during_data > 2 {
            late += 1;
            continue;
        }
        match rig::open(&to, &setup, seed + 1000) {
            Ok((replica, _)) => {
                let mut copy = Rig::over(to, replica, setup.clone(), seed + 1000);
                copy.settle();
                let revision = copy.revision();
                assert!((oldest..=end).contains(&revision), "seed {seed}: {revision} of {oldest}..={end}");
                let then = mvcc::hash::hash_kv(rig.snapshot().view(), revision).unwrap();
                assert_eq!(copy.hash_kv(), then.hash, "seed {seed}: revision {revision}");
                opened += 1;
            }
            Err(error) => {
                let line = error.to_string();
                assert!(line.contains("snapshot save") && !line.contains('\n'), "seed {seed}: {line}");
                refused += 1;
            }
        }
    }
    let rest = format!("{late} took too long, {failed} missed a file");
    assert!(opened > 60 && refused > 10, "{opened} opened, {refused} refused, {rest}");
}

/// Bits that flip under a running member end it with one line that says where, though nobody asked for that page; until
/// then, pass after pass says that all is well.
#[test]
fn rot_under_a_running_member_is_found_by_the_scrub() {
    let mut rig = Rig::serving(SimFiles::new(), Setup::default(), 1);
    for number in 0..300u32 {
        rig.ask(put(&format!("key-{number:04}"), &[7; 900])).unwrap();
    }
    let passes = |rig: &Rig| {
        rig.notes.iter().filter(|note| matches!(note, Note::ScrubFinished { pages } if *pages > 60)).count()
    };
    let hours = |rig: &mut Rig| {
        for _ in 0..2 * 3600 {
            rig.tick(1000);
            rig.settle();
        }
    };
    hours(&mut rig);
    let before = passes(&rig);
    assert!((1..=3).contains(&before), "once an hour: {before}");
    assert_eq!(rig.failed, None);

    let data = rig.files.bytes("data").unwrap();
    let mark = [7; 900];
    let at = data.windows(900).position(|bytes| bytes == mark).expect("a durable leaf holds the value");
    rig.files.edit("data", at as u64 + 450, &mut |bytes| bytes[0] ^= 1);
    hours(&mut rig);
    let said = rig.failed.take().expect("it has ended");
    let place = format!("page {}, at offset {}", at / 4096, at / 4096 * 4096);
    assert!(said.contains("the file data is damaged") && said.contains("restore a snapshot"), "{said}");
    assert!(said.contains(&place) && said.contains("the checksum is not that"), "{said}; {place}");
}
