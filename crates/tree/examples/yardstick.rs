//! CPU per operation of the tree alone, on a real file: 1M keys of 71 bytes with 512-byte values, 100 changes a
//! batch, no sync. `cargo run --release -p mainstay-tree --example yardstick [DIRECTORY] [KEYS]`.
//!
//! Time is the thread's time on a CPU (/proc/thread-self/schedstat), page faults included.

use base::Random;
use disk::OsFiles;
use mainstay_tree::{KeyOrder, Options, Store, TreeSpec, verify};

static SPECS: &[TreeSpec] = &[
    TreeSpec { name: "live", order: KeyOrder::Bytes },
    TreeSpec { name: "changes", order: KeyOrder::Bytes },
    TreeSpec { name: "history", order: KeyOrder::Suffixed(16) },
];
const LIVE: usize = 0;
const CHANGES: usize = 1;
const HISTORY: usize = 2;

fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel with schedstat");
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds first")
}

fn measure(what: &str, operations: u64, run: impl FnOnce()) {
    let (cpu, wall) = (cpu_ns(), std::time::Instant::now());
    run();
    let (cpu, wall) = (cpu_ns() - cpu, wall.elapsed());
    println!(
        "{what:<34} {:>9.3} us CPU {:>9.3} us wall",
        cpu as f64 / operations as f64 / 1e3,
        wall.as_nanos() as f64 / operations as f64 / 1e3
    );
}

/// 71 bytes, as an object's path in a cluster.
fn key(i: u64) -> [u8; 71] {
    let mut key = [b'-'; 71];
    let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let text = format!("/registry/pods/namespace-{:04}/deployment-{:016x}-{:010}", hash % 1000, hash, i);
    key[..text.len().min(71)].copy_from_slice(&text.as_bytes()[..text.len().min(71)]);
    key
}

fn populate(store: &mut Store) {
    if let Some(job) = store.populate_job() {
        // On the server a helper thread does this.
        std::thread::scope(|scope| scope.spawn(|| job.run()).join()).expect("populating does not fail");
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let keys: u64 = arguments.next().map_or(1_000_000, |n| n.parse().expect("a number of keys"));
    let directory = std::path::Path::new(&directory).join(format!("yardstick-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory that can be written");
    let files = OsFiles::new(&directory).expect("a directory that can be read");
    let mut store = Store::open(&files, "data", SPECS, Options::default()).expect("a new data file");
    let value = [7u8; 512];
    let mut random = Random::new(1);
    let mut order: Vec<u64> = (0..keys).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let batches = |store: &mut Store, count: u64, each: &mut dyn FnMut(&mut Store, u64)| {
        for i in 0..count {
            if i % 100 == 0 {
                store.publish();
                store.reserve(16 << 20).expect("room on the device");
                populate(store);
            }
            each(store, i);
        }
        store.publish();
    };

    measure("insert, random order, 100 a batch", keys, || {
        batches(&mut store, keys, &mut |store, i| store.insert(LIVE, &key(order[i as usize]), &value));
    });
    println!("{:?}", verify(&store).expect("a sound store"));
    let updates = keys / 2;
    measure("update, random, 100 a batch", updates, || {
        batches(&mut store, updates, &mut |store, _| store.insert(LIVE, &key(random.below(keys)), &value));
    });
    println!("file {} MiB, used {} MiB", store.file_bytes() >> 20, store.used_bytes() >> 20);
    measure("checkpoint, a page of 4 KiB", (store.dirty_bytes() >> 12).max(1), || {
        let job = store.cut().expect("none is running");
        let done = job.run().expect("a device that works");
        store.checkpoint_done(done).expect("memory does not fail");
    });
    measure("update after a checkpoint", updates, || {
        batches(&mut store, updates, &mut |store, _| store.insert(LIVE, &key(random.below(keys)), &value));
    });
    println!("file {} MiB, used {} MiB", store.file_bytes() >> 20, store.used_bytes() >> 20);
    let mut revision = 0u64;
    measure("put: live, history, changes", updates, || {
        batches(&mut store, updates, &mut |store, _| {
            let user = key(random.below(keys));
            revision += 1;
            let mut versioned = [0; 87];
            versioned[..71].copy_from_slice(&user);
            versioned[71..79].copy_from_slice(&revision.to_be_bytes());
            if let Some(old) = store.replace(LIVE, &user, &value) {
                store.insert_taken(HISTORY, &versioned, old);
            }
            store.insert(CHANGES, &versioned[71..], &user);
        });
    });
    println!("file {} MiB, used {} MiB", store.file_bytes() >> 20, store.used_bytes() >> 20);
    let mut log = 1u64 << 40;
    measure("append 16 B key, 72 B value", 1_000_000, || {
        batches(&mut store, 1_000_000, &mut |store, _| {
            log += 1;
            store.insert(CHANGES, &[&log.to_be_bytes()[..], &[0; 8]].concat(), &value[..72]);
        });
    });
    let reader = store.readers().register();
    measure("pin and unpin", 1_000_000, || (0..1_000_000).for_each(|_| drop(reader.pin())));
    let snapshot = reader.pin();
    let view = snapshot.view();
    let mut sum = 0usize;
    measure("get, random", 1_000_000, || {
        for _ in 0..1_000_000 {
            let value = view.get(LIVE, &key(random.below(keys))).expect("every key is there");
            sum += usize::from(value[0]) + usize::from(value[511]);
        }
    });
    measure("range of 500, random", 20_000, || {
        for _ in 0..20_000 {
            let mut cursor = view.cursor(LIVE);
            let mut at = cursor.seek(&key(random.below(keys)));
            for _ in 0..500 {
                if !at {
                    break;
                }
                sum += cursor.key().len() + usize::from(cursor.value()[0]) + usize::from(cursor.value()[511]);
                at = cursor.next();
            }
        }
    });
    measure("rank, random", 200_000, || {
        for _ in 0..200_000 {
            sum += view.rank(LIVE, &key(random.below(keys))) as usize;
        }
    });
    drop((snapshot, reader));
    let job = store.cut().expect("none is running");
    let done = job.run().expect("a device that works");
    store.checkpoint_done(done).expect("memory does not fail");
    drop(store);
    let mut reopened = None;
    measure("open", 1, || {
        reopened = Some(Store::open(&files, "data", SPECS, Options::default()).expect("a sound data file"));
    });
    let mut store = reopened.expect("opened above");
    measure("verify, a page (cold)", store.used_bytes() >> 12, || {
        verify(&store).expect("a sound store");
    });
    measure("remove, random order", keys, || {
        batches(&mut store, keys, &mut |store, i| assert!(store.remove(LIVE, &key(order[i as usize]))));
    });
    println!("checksum {sum}");
    drop(store);
    std::fs::remove_dir_all(&directory).expect("the directory is ours");
}
