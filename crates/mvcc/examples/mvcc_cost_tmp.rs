use mainstay_mvcc as mvcc;
use mvcc::{Apply, Revisions, Work, stamp, trees};
use proto::etcdserverpb as pb;
use std::time::Instant;
use tree::{Options, Store};
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let files = disk::OsFiles::new(&dir).unwrap();
    let options = Options { chunk_bytes: 64 << 20, max_chunks: 1 << 12, reserve_bytes: 1 << 16 };
    let mut store = Store::open(&files, "data", &trees::SPECS, options).unwrap();
    stamp::initialise(&mut store);
    let mut work = Work::default();
    work.collect = false;
    let n = 200_000u64;
    let mut x = 1u64;
    for pass in 0..4 {
        work.collect = pass == 3;
        store.reserve(700 << 20).unwrap();
        let reqs: Vec<pb::PutRequest> = (0..n)
            .map(|_| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                pb::PutRequest {
                    key: format!("/registry/pods/default/pod-{:08}", (x >> 33) % 100_000).into_bytes(),
                    value: vec![7; 256],
                    ..Default::default()
                }
            })
            .collect();
        let t = Instant::now();
        for (i, r) in reqs.iter().enumerate() {
            let mut a = Apply::new(&mut store, &mut work);
            a.put(r).unwrap();
            if i % 64 == 63 {
                store.publish();
                work.events.take();
            }
        }
        println!("put pass {pass}: {:.0} ns", t.elapsed().as_nanos() as f64 / n as f64);
    }
    let gets: Vec<pb::RangeRequest> = (0..n)
        .map(|i| pb::RangeRequest {
            key: format!("/registry/pods/default/pod-{:08}", i * 7919 % 100_000).into_bytes(),
            ..Default::default()
        })
        .collect();
    let rev = Revisions::of(store.stamp());
    let mut out = Vec::new();
    let t = Instant::now();
    for g in &gets {
        out.clear();
        let a = mvcc::range(store.view(), rev, g).unwrap();
        a.encode(&pb::ResponseHeader::default(), &mut out);
    }
    println!("get: {:.0} ns {}", t.elapsed().as_nanos() as f64 / n as f64, out.len());
    let all = pb::RangeRequest { key: b"/".to_vec(), range_end: b"0".to_vec(), ..Default::default() };
    for r in [0, rev.current - 100, rev.current - 50_000, 2] {
        let q = pb::RangeRequest { revision: r, ..all.clone() };
        let t = Instant::now();
        let a = mvcc::range(store.view(), rev, &q).unwrap();
        let d = t.elapsed();
        let mut c = mvcc::RangeCursor::new(rev, &q).unwrap().unwrap();
        let t = Instant::now();
        let s = c.measure(store.view()).unwrap();
        let d2 = t.elapsed();
        let t = Instant::now();
        while !c.is_done() {
            let mut rows = mvcc::Rows::new();
            c.step(store.view(), 256 << 10, &mut rows).unwrap();
        }
        let d3 = t.elapsed();
        let t = Instant::now();
        let cnt = mvcc::range(store.view(), rev, &pb::RangeRequest { count_only: true, ..q }).unwrap().count;
        let d4 = t.elapsed();
        println!(
            "list at {r}: {} rows {d:?}, measure {d2:?} {}, produce {d3:?}, count {cnt} {d4:?}",
            a.rows.len(),
            s.bytes
        );
    }
    let t = Instant::now();
    let h = mvcc::hash::hash_kv(store.view(), 0).unwrap();
    println!("hash of {} changes: {:?} {h:?}", store.view().len(trees::CHANGES), t.elapsed());
    let mut a = Apply::new(&mut store, &mut work);
    a.compact(&pb::CompactionRequest { revision: rev.current - 1000, physical: false }).unwrap();
    let (t, mut steps, mut worst) = (Instant::now(), 0u32, std::time::Duration::ZERO);
    loop {
        let t1 = Instant::now();
        let more = Apply::new(&mut store, &mut work).compaction_step(128);
        store.publish();
        worst = worst.max(t1.elapsed());
        steps += 1;
        if !more {
            break;
        }
    }
    println!("compaction: {steps} steps of 128 in {:?}, worst {worst:?}", t.elapsed());
    let t = Instant::now();
    let h = mvcc::hash::hash_kv(store.view(), 0).unwrap();
    println!("hash of {} changes: {:?} {h:?}", store.view().len(trees::CHANGES), t.elapsed());
}
