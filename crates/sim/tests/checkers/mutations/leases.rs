//! Leases that end early or late, or live twice; hashes that differ.

use base::Random;
use sim::check::Rule::{self, *};
use sim::history::*;

use super::{Mutation, answer_mut, answered, append, first_told, key, last_revision, pick};
use crate::generator::{Options, Run};

/// No id of the generator's.
const ID: i64 = 900;

fn grant(run: &mut Run, ttl_s: i64) {
    let revision = last_revision(run);
    let answer = Answer::LeaseGrant { revision, id: ID, ttl_s };
    append(run, Request::LeaseGrant { id: ID, ttl_s }, Outcome::Answered(answer));
}

fn renew(run: &mut Run, id: i64, ttl_s: i64) {
    let answer = Answer::LeaseKeepAlive { revision: last_revision(run), ttl_s };
    append(run, Request::LeaseKeepAlive { id }, Outcome::Answered(answer));
}

fn revoke(run: &mut Run) {
    let answer = Answer::LeaseRevoke { revision: last_revision(run) };
    append(run, Request::LeaseRevoke { id: ID }, Outcome::Answered(answer));
}

fn left(run: &mut Run, ttl_s: i64, granted_ttl_s: i64, keys: Option<Vec<Bytes>>) {
    let request = Request::LeaseTimeToLive { id: ID, keys: keys.is_some() };
    let (revision, keys) = (last_revision(run), keys.unwrap_or_default());
    append(run, request, Outcome::Answered(Answer::LeaseTimeToLive { revision, ttl_s, granted_ttl_s, keys }));
}

fn attach(run: &mut Run) {
    let put = Put { key: key("k01"), value: key("leased"), lease: ID, ..Put::default() };
    let answer = PutAnswer { revision: last_revision(run) + 1, prev: None };
    append(run, Request::Put(put), Outcome::Answered(Answer::Put(answer)));
}

/// Lease, revision, and the step at which it was first seen, of expiries that nothing else explains.
fn expiries(run: &Run) -> Vec<(i64, i64, u64)> {
    let owned: Vec<i64> =
        run.history.operations.iter().filter_map(|op| Some(op.answer()?.revision())).collect();
    let mut found = Vec::new();
    for revision in 2..=last_revision(run) {
        let mut events = run.log.iter().filter(|event| event.kv.modified == revision);
        let lease = events.clone().next().and_then(|event| event.prev.as_ref()).map_or(0, |kv| kv.lease);
        let all = events.all(|event| {
            event.kind == Kind::Delete && event.prev.as_ref().is_some_and(|prev| prev.lease == lease)
        });
        let writes = |op: &Operation| match op.answer() {
            Some(Answer::Put(answer)) => answer.revision == revision,
            Some(Answer::DeleteRange(answer)) => answer.deleted > 0 && answer.revision == revision,
            Some(Answer::Txn(answer)) => answer.revision == revision,
            _ => false,
        };
        let answered = owned.contains(&revision) && run.history.operations.iter().any(writes);
        if let (true, false, Some(seen)) = (all && lease != 0, answered, first_told(run, revision)) {
            found.push((lease, revision, seen));
        }
    }
    found
}

fn grants_of(run: &Run, id: i64) -> usize {
    let named = |op: &&Operation| match (&op.request, op.answer()) {
        (_, Some(Answer::LeaseGrant { id: given, .. })) => *given == id,
        (Request::LeaseGrant { id: asked, .. }, None) => *asked == id && op.is_lost(),
        _ => false,
    };
    run.history.operations.iter().filter(named).count()
}

pub fn mutations() -> Vec<Mutation> {
    let mut all = promises();
    all.extend(ghosts());
    all.extend(hashes());
    all
}

fn promises() -> Vec<Mutation> {
    let early: &[Rule] = &[LeaseEarly];
    fn unrevoked(seed: u64) -> Options {
        Options { revokes: false, ..Options::lossless(seed) }
    }
    vec![
        Mutation {
            name: "a grant answers another TTL",
            rules: &[LeaseTtl],
            of: Options::dumped,
            apply: |run, random| {
                let number = answered(run, random, |op, _| matches!(op.request, Request::LeaseGrant { .. }))?;
                if let Answer::LeaseGrant { ttl_s, .. } = answer_mut(run, number) {
                    *ttl_s -= 1;
                }
                Some(())
            },
        },
        Mutation {
            name: "a grant answers another id",
            rules: &[LeaseTtl],
            of: Options::dumped,
            apply: |run, random| {
                let number = answered(
                    run,
                    random,
                    |op, _| matches!(op.request, Request::LeaseGrant { id, .. } if id != 0),
                )?;
                if let Answer::LeaseGrant { id, .. } = answer_mut(run, number) {
                    *id += 1000;
                }
                Some(())
            },
        },
        Mutation {
            name: "a renewal answers a TTL that was never granted",
            rules: &[LeaseTtl],
            of: Options::dumped,
            apply: |run, random| {
                let renewed = |answer: &Answer| matches!(answer, Answer::LeaseKeepAlive { ttl_s: 1.., .. });
                // An expiry after it would now be early, which shows first.
                let number = answered(run, random, |op, answer| {
                    let Request::LeaseKeepAlive { id } = op.request else { return false };
                    renewed(answer) && !expiries(run).iter().any(|expiry| expiry.0 == id)
                })?;
                if let Answer::LeaseKeepAlive { ttl_s, .. } = answer_mut(run, number) {
                    *ttl_s = 1;
                }
                Some(())
            },
        },
        Mutation {
            name: "a lease expires right after a renewal",
            rules: early,
            of: unrevoked,
            apply: |run, random| {
                let once = expiries(run).into_iter().filter(|(id, ..)| grants_of(run, *id) == 1).collect();
                let (id, revision, seen) = pick(random, once)?;
                let at_us = run.now_us;
                let mut at = Moment { step: seen - 1, at_us };
                // Between the two, whatever the clock of others says.
                for op in &run.history.operations {
                    let moments = [Some(op.call), op.end];
                    for moment in moments.into_iter().flatten().filter(|moment| moment.step <= seen) {
                        at.at_us =
                            if at.at_us == run.now_us { moment.at_us } else { at.at_us.max(moment.at_us) };
                    }
                }
                at.at_us -= 1;
                let op = Operation {
                    client: 90,
                    member: 0,
                    call: at,
                    end: Some(at),
                    request: Request::LeaseKeepAlive { id },
                    outcome: Outcome::Answered(Answer::LeaseKeepAlive { revision: revision - 1, ttl_s: 60 }),
                };
                run.history.operations.push(op);
                Some(())
            },
        },
        Mutation {
            name: "a renewal in time finds no lease",
            rules: early,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                renew(run, ID, 0);
                Some(())
            },
        },
        Mutation {
            name: "a query in time finds no lease",
            rules: early,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                left(run, -1, 0, None);
                Some(())
            },
        },
        Mutation {
            name: "a put in time finds no lease",
            rules: early,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                let put = Put { key: key("k01"), lease: ID, ..Put::default() };
                append(run, Request::Put(put), Outcome::Refused(Refusal::LeaseNotFound));
                Some(())
            },
        },
        Mutation {
            name: "a revocation in time finds no lease",
            rules: early,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                append(run, Request::LeaseRevoke { id: ID }, Outcome::Refused(Refusal::LeaseNotFound));
                Some(())
            },
        },
        Mutation {
            name: "a transaction in time finds none of its leases",
            rules: early,
            of: Options::dumped,
            apply: |run, random| {
                grant(run, 100);
                let mut leases = vec![ID];
                if random.one_in(2) {
                    let (id, revision) = (ID + 1, last_revision(run));
                    let answer = Answer::LeaseGrant { revision, id, ttl_s: 100 };
                    append(run, Request::LeaseGrant { id, ttl_s: 100 }, Outcome::Answered(answer));
                    leases.push(id);
                }
                let put = |lease: &i64| TxnOp::Put(Put { key: key("k01"), lease: *lease, ..Put::default() });
                let txn = Txn { then: leases.iter().map(put).collect(), ..Txn::default() };
                append(run, Request::Txn(txn), Outcome::Refused(Refusal::LeaseNotFound));
                Some(())
            },
        },
        Mutation {
            name: "more time is left than was granted",
            rules: &[LeaseProlonged],
            of: Options::dumped,
            apply: |run, random| {
                grant(run, 100);
                left(run, 101 + random.below(100) as i64, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "more time is left than since the renewal",
            rules: &[LeaseProlonged],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                run.now_us += 20_000_000;
                renew(run, ID, 100);
                run.now_us += 50_000_000;
                left(run, 60, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "a restart gives more than another term",
            rules: &[LeaseProlonged],
            of: Options::lossless,
            apply: |run, random| {
                grant(run, 100);
                run.history.note(run.now_us, Note::LeaderLost);
                run.now_us += 1_000_000;
                run.history.note(run.now_us, Note::LeaderWon { member: 0 });
                left(run, 102 + random.below(100) as i64, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "less time is left than was promised",
            rules: &[LeaseShortened],
            of: Options::dumped,
            apply: |run, random| {
                grant(run, 100);
                left(run, random.below(99) as i64, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "a renewal does not count",
            rules: &[LeaseShortened],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                run.now_us += 50_000_000;
                renew(run, ID, 100);
                left(run, 50, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "a restart shortens",
            rules: &[LeaseShortened],
            of: Options::lossless,
            apply: |run, _| {
                grant(run, 100);
                run.now_us += 50_000_000;
                run.history.note(run.now_us, Note::LeaderLost);
                run.now_us += 1_000_000;
                run.history.note(run.now_us, Note::LeaderWon { member: 0 });
                left(run, 50, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "the time left is of another grant",
            rules: &[LeaseTtl],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                left(run, 100, 200, None);
                Some(())
            },
        },
        Mutation {
            name: "a lease outlives its time",
            rules: &[LeaseLate],
            of: Options::lossless,
            apply: |run, _| {
                for stream in 0..run.history.streams.len() {
                    if run.history.streams[stream].closed.is_none() {
                        run.history.close_stream(StreamId(stream), run.now_us);
                    }
                }
                grant(run, 2);
                attach(run);
                run.now_us += 1_000_000_000;
                run.history.note(run.now_us, Note::Settled { revision: last_revision(run) + 1 });
                Some(())
            },
        },
    ]
}

fn ghosts() -> Vec<Mutation> {
    let gone: &[Rule] = &[LeaseGone];
    vec![
        Mutation {
            name: "an id in use is granted",
            rules: &[LeaseTwice],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                grant(run, 100);
                Some(())
            },
        },
        Mutation {
            name: "a lease that nobody granted is renewed",
            rules: gone,
            of: Options::lossless,
            apply: |run, _| {
                renew(run, ID, 2);
                Some(())
            },
        },
        Mutation {
            name: "a lease that was gone is renewed",
            rules: gone,
            of: Options::lossless,
            apply: |run, random| {
                let id = 1 + random.below(6) as i64;
                renew(run, id, 0);
                renew(run, id, 2);
                Some(())
            },
        },
        Mutation {
            name: "a revoked lease is renewed",
            rules: gone,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                revoke(run);
                renew(run, ID, 100);
                Some(())
            },
        },
        Mutation {
            name: "a revoked lease has time left",
            rules: gone,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                revoke(run);
                left(run, 99, 100, None);
                Some(())
            },
        },
        Mutation {
            name: "a revoked lease is revoked again",
            rules: gone,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                revoke(run);
                revoke(run);
                Some(())
            },
        },
        Mutation {
            name: "a revoked lease takes a key",
            rules: gone,
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                revoke(run);
                attach(run);
                Some(())
            },
        },
        Mutation {
            name: "a revoked lease stands in the way of a grant",
            rules: &[WrongRefusal],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                revoke(run);
                let request = Request::LeaseGrant { id: ID, ttl_s: 5 };
                append(run, request, Outcome::Refused(Refusal::LeaseExists));
                Some(())
            },
        },
        Mutation {
            name: "a revocation leaves its key",
            rules: &[LeaseKeys],
            of: Options::lossless,
            apply: |run, _| {
                grant(run, 100);
                attach(run);
                let answer = Answer::LeaseRevoke { revision: last_revision(run) + 1 };
                append(run, Request::LeaseRevoke { id: ID }, Outcome::Answered(answer));
                Some(())
            },
        },
        Mutation {
            name: "a lease does not list its key",
            rules: &[LeaseKeys],
            of: Options::lossless,
            apply: |run, _| {
                grant(run, 100);
                attach(run);
                let request = Request::LeaseTimeToLive { id: ID, keys: true };
                let revision = last_revision(run) + 1;
                let answer =
                    Answer::LeaseTimeToLive { revision, ttl_s: 99, granted_ttl_s: 100, keys: Vec::new() };
                append(run, request, Outcome::Answered(answer));
                Some(())
            },
        },
        Mutation {
            name: "a lease lists a key that it does not hold",
            rules: &[LeaseKeys],
            of: Options::dumped,
            apply: |run, _| {
                grant(run, 100);
                left(run, 99, 100, Some(vec![key("k01")]));
                Some(())
            },
        },
        Mutation {
            name: "an expiry leaves a key",
            rules: &[LeaseKeys],
            of: Options::lossless,
            apply: |run, random| {
                let several =
                    |revision: i64| run.log.iter().filter(|event| event.kv.modified == revision).count() > 1;
                let found = expiries(run).into_iter().filter(|expiry| several(expiry.1)).collect();
                let (_, revision, _) = pick(random, found)?;
                let revoked = |op: &Operation| {
                    matches!(op.request, Request::LeaseRevoke { .. })
                        && op.answer().is_some_and(|answer| answer.revision() == revision)
                };
                if run.history.operations.iter().any(revoked) {
                    return None;
                }
                let events = &mut run.history.dumps[0].events;
                let at = events.iter().position(|event| event.kv.modified == revision)?;
                events.remove(at);
                Some(())
            },
        },
    ]
}

fn hashes() -> Vec<Mutation> {
    fn add(run: &mut Run, of: HashOf, hash: u64) {
        run.history.hash(7, run.now_us, of, hash);
    }
    vec![
        Mutation {
            name: "a hash differs from one of the same revision",
            rules: &[HashDiffers],
            of: Options::dumped,
            apply: |run, random: &mut Random| {
                let sample = pick(random, run.history.hashes.clone())?;
                add(run, sample.of, sample.hash ^ 1);
                Some(())
            },
        },
        Mutation {
            name: "the third hash of a revision differs from the first",
            rules: &[HashDiffers],
            of: Options::dumped,
            apply: |run, _| {
                let of = |revision| HashOf { revision, compact_revision: 4 };
                for (revision, hash) in [(5, 1), (6, 2), (5, 1), (5, 2)] {
                    add(run, of(revision), hash);
                }
                Some(())
            },
        },
    ]
}
