//! Wrong answers, wrong orders, lost and invented writes.

use std::sync::Arc;

use base::Random;
use proto::errors;
use sim::check::Rule::{self, *};
use sim::history::*;

use super::{
    Mutation, answer_mut, answered, append, first_told, floor, key, last_revision, member_floor, pick, place,
    range_mut,
};
use crate::generator::{Options, Run};
use crate::server::range_in;

/// A change of what a client was told changes what everybody else must not be told afterwards.
const ORDER: &[Rule] = &[WriteOrder, StaleRead, MemberBackwards, RevisionReused];

fn full(range: &Range, answer: &RangeAnswer) -> bool {
    !range.keys_only && !answer.kvs.is_empty()
}

/// Changes one pair of a range's answer.
fn pair(run: &mut Run, random: &mut Random, change: impl Fn(&mut Kv)) -> Option<()> {
    let number = answered(
        run,
        random,
        |op, answer| matches!((&op.request, answer), (Request::Range(range), Answer::Range(answer)) if full(range, answer)),
    )?;
    let answer = range_mut(run, number);
    let at = place(random, answer.kvs.len())?;
    change(&mut answer.kvs[at]);
    Some(())
}

fn a_range(run: &Run, random: &mut Random, wanted: impl Fn(&Range, &RangeAnswer) -> bool) -> Option<usize> {
    answered(run, random, |op, answer| match (&op.request, answer) {
        (Request::Range(range), Answer::Range(answer)) => wanted(range, answer),
        _ => false,
    })
}

fn a_put(
    run: &Run,
    random: &mut Random,
    wanted: impl Fn(&Put, &PutAnswer, &Operation) -> bool,
) -> Option<usize> {
    answered(run, random, |op, answer| match (&op.request, answer) {
        (Request::Put(put), Answer::Put(answer)) => wanted(put, answer, op),
        _ => false,
    })
}

fn put_mut(run: &mut Run, number: usize) -> &mut PutAnswer {
    match answer_mut(run, number) {
        Answer::Put(answer) => answer,
        answer => panic!("a put was asked for: {answer:?}"),
    }
}

fn delete_mut(run: &mut Run, number: usize) -> &mut DeleteAnswer {
    match answer_mut(run, number) {
        Answer::DeleteRange(answer) => answer,
        answer => panic!("a delete was asked for: {answer:?}"),
    }
}

fn txn_mut(run: &mut Run, number: usize) -> &mut TxnAnswer {
    match answer_mut(run, number) {
        Answer::Txn(answer) => answer,
        answer => panic!("a transaction was asked for: {answer:?}"),
    }
}

/// Answers a read as of an older state.
fn read_at(run: &mut Run, number: usize, revision: i64) {
    let Request::Range(range) = run.history.operations[number].request.clone() else { panic!("a range") };
    let state = run.states[revision as usize - 1].clone();
    *range_mut(run, number) = range_in(&state, &range, revision);
}

fn a_delete(run: &Run, random: &mut Random, wanted: impl Fn(&DeleteAnswer) -> bool) -> Option<usize> {
    answered(run, random, |_, answer| matches!(answer, Answer::DeleteRange(answer) if wanted(answer)))
}

fn a_txn(run: &Run, random: &mut Random, wanted: impl Fn(&TxnAnswer) -> bool) -> Option<usize> {
    answered(run, random, |_, answer| matches!(answer, Answer::Txn(answer) if wanted(answer)))
}

/// The events of the dump that an answered put owns, as positions.
fn owned_events(run: &Run) -> Vec<usize> {
    let mut owned: Vec<i64> = Vec::new();
    for op in &run.history.operations {
        if let Some(Answer::Put(answer)) = op.answer() {
            owned.push(answer.revision);
        }
    }
    let events = run.history.dumps[0].events.iter().enumerate();
    events.filter(|(_, event)| owned.contains(&event.kv.modified)).map(|(at, _)| at).collect()
}

pub fn mutations() -> Vec<Mutation> {
    let mut all = reads();
    all.extend(writes());
    all.extend(orders());
    all.extend(dumps());
    all.extend(refusals());
    all
}

fn reads() -> Vec<Mutation> {
    let state: &[Rule] = &[ReadState];
    vec![
        Mutation {
            name: "a read returns another value",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.value = key("never written")),
        },
        Mutation {
            name: "a read returns another version",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.version += 1),
        },
        Mutation {
            name: "a read returns another create revision",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.create -= 1),
        },
        Mutation {
            name: "a read returns another mod revision",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.modified -= 1),
        },
        Mutation {
            name: "a read returns another lease",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.lease += 1),
        },
        Mutation {
            name: "a read returns another key",
            rules: state,
            of: Options::dumped,
            apply: |run, random| pair(run, random, |kv| kv.key = key("k")),
        },
        Mutation {
            name: "a read returns the version before",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |range, answer| {
                    full(range, answer) && answer.kvs.iter().any(|kv| kv.version > 1)
                })?;
                let log = run.log.clone();
                let kv = range_mut(run, number).kvs.iter_mut().find(|kv| kv.version > 1)?;
                let older = log.iter().rev().find(|event| {
                    event.kv.key == kv.key && event.kv.version > 0 && event.kv.modified < kv.modified
                })?;
                *kv = older.kv.clone();
                Some(())
            },
        },
        Mutation {
            name: "a read misses a pair",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, answer| !answer.kvs.is_empty())?;
                let kvs = &mut range_mut(run, number).kvs;
                kvs.remove(place(random, kvs.len())?);
                Some(())
            },
        },
        Mutation {
            name: "a read returns a pair twice",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, answer| !answer.kvs.is_empty())?;
                let kvs = &mut range_mut(run, number).kvs;
                let at = place(random, kvs.len())?;
                kvs.insert(at, kvs[at].clone());
                Some(())
            },
        },
        Mutation {
            name: "a read is out of order",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, answer| answer.kvs.len() > 1)?;
                range_mut(run, number).kvs.swap(0, 1);
                Some(())
            },
        },
        Mutation {
            name: "a read counts wrongly",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, _| true)?;
                range_mut(run, number).count += 1;
                Some(())
            },
        },
        Mutation {
            name: "a read says more, or not",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, _| true)?;
                let more = &mut range_mut(run, number).more;
                *more = !*more;
                Some(())
            },
        },
        Mutation {
            name: "a read at a past revision returns the newest",
            rules: state,
            of: Options::dumped,
            apply: |run, random| {
                let states = run.states.clone();
                let now = |range: &Range, answer: &RangeAnswer| {
                    range_in(&states[answer.revision as usize - 1], range, answer.revision)
                };
                let number = a_range(run, random, |range, answer| {
                    range.revision > 0 && now(range, answer) != *answer
                })?;
                let Request::Range(range) = run.history.operations[number].request.clone() else {
                    return None;
                };
                let answer = range_mut(run, number);
                *answer = now(&range, answer);
                Some(())
            },
        },
        Mutation {
            name: "a read is stale",
            rules: &[StaleRead],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let number = answered(run, random, |op, _| match &op.request {
                    Request::Range(range) => {
                        range.revision == 0 && !range.serializable && floor(&copy, op.call.step) > 1
                    }
                    _ => false,
                })?;
                let floor = floor(run, run.history.operations[number].call.step);
                read_at(run, number, floor - 1);
                Some(())
            },
        },
        Mutation {
            name: "a read shows the last state with a revision that never was",
            rules: &[RevisionGap],
            of: Options::dumped,
            apply: |run, _| {
                let number = run.history.operations.iter().rposition(|op| op.client == 99)?;
                range_mut(run, number).revision += 1;
                Some(())
            },
        },
        Mutation {
            name: "a serializable read goes back",
            rules: &[MemberBackwards],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let number = answered(run, random, |op, _| match &op.request {
                    Request::Range(range) => {
                        let floor = member_floor(&copy, op.member, op.call.step);
                        range.revision == 0 && range.serializable && floor.is_some_and(|floor| floor > 1)
                    }
                    _ => false,
                })?;
                let op = &run.history.operations[number];
                let floor = member_floor(run, op.member, op.call.step)?;
                read_at(run, number, floor - 1);
                Some(())
            },
        },
        Mutation {
            name: "a read below the compacted revision is served",
            rules: &[Compaction],
            of: Options::dumped,
            apply: |run, random| {
                let number = answered(
                    run,
                    random,
                    |op, _| matches!(op.request, Request::Compact { revision } if revision > 1),
                )?;
                let Request::Compact { revision } = run.history.operations[number].request else {
                    return None;
                };
                let range = Range { key: key("k01"), revision: revision - 1, ..Range::default() };
                let state = run.states[revision as usize - 2].clone();
                let answer = range_in(&state, &range, last_revision(run));
                append(run, Request::Range(range), Outcome::Answered(Answer::Range(answer)));
                Some(())
            },
        },
        Mutation {
            name: "a compaction is accepted twice",
            rules: &[Compaction],
            of: Options::dumped,
            apply: |run, random| {
                let number = answered(run, random, |op, _| matches!(op.request, Request::Compact { .. }))?;
                let request = run.history.operations[number].request.clone();
                let revision = last_revision(run);
                append(run, request, Outcome::Answered(Answer::Compact { revision }));
                Some(())
            },
        },
        Mutation {
            name: "a compaction of the future is accepted",
            rules: &[Compaction],
            of: Options::dumped,
            apply: |run, _| {
                let revision = last_revision(run);
                let request = Request::Compact { revision: revision + 1 };
                append(run, request, Outcome::Answered(Answer::Compact { revision }));
                Some(())
            },
        },
    ]
}

fn writes() -> Vec<Mutation> {
    let wrong: &[Rule] = &[WriteAnswer];
    let in_txn: &[Rule] = &[WriteAnswer, ReadState];
    vec![
        Mutation {
            name: "a put answers a wrong previous version",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |_, answer, _| answer.prev.is_some())?;
                put_mut(run, number).prev.as_mut()?.version += 1;
                Some(())
            },
        },
        Mutation {
            name: "a put answers no previous pair",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |_, answer, _| answer.prev.is_some())?;
                put_mut(run, number).prev = None;
                Some(())
            },
        },
        Mutation {
            name: "a put invents a previous pair",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |_, answer, _| answer.prev.is_none())?;
                let kv = Kv { key: key("k01"), create: 1, modified: 1, version: 1, ..Kv::default() };
                put_mut(run, number).prev = Some(kv);
                Some(())
            },
        },
        Mutation {
            name: "a delete counts one too many",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_delete(run, random, |answer| answer.deleted > 0)?;
                delete_mut(run, number).deleted += 1;
                Some(())
            },
        },
        Mutation {
            name: "a delete of nothing says one",
            rules: &[WriteAnswer, WriteOrder, RevisionReused],
            of: Options::dumped,
            apply: |run, random| {
                // Its revision is somebody's already, and not that of an expiry that it could have been.
                let owned: Vec<i64> = run
                    .history
                    .operations
                    .iter()
                    .filter_map(|op| match op.answer()? {
                        Answer::Put(answer) => Some(answer.revision),
                        _ => None,
                    })
                    .collect();
                let number =
                    a_delete(run, random, |answer| answer.deleted == 0 && owned.contains(&answer.revision))?;
                delete_mut(run, number).deleted = 1;
                Some(())
            },
        },
        Mutation {
            name: "a delete says nothing was there",
            rules: &[Unexplained],
            of: Options::lossless,
            apply: |run, random| {
                let log = run.log.clone();
                let unleased = |answer: &DeleteAnswer| {
                    let mut events = log.iter().filter(|event| event.kv.modified == answer.revision);
                    events.all(|event| event.prev.as_ref().is_some_and(|prev| prev.lease == 0))
                };
                let number = a_delete(run, random, |answer| answer.deleted > 0 && unleased(answer))?;
                let answer = delete_mut(run, number);
                (answer.deleted, answer.prevs) = (0, Vec::new());
                Some(())
            },
        },
        Mutation {
            name: "a delete keeps a previous pair back",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_delete(run, random, |answer| !answer.prevs.is_empty())?;
                delete_mut(run, number).prevs.pop();
                Some(())
            },
        },
        Mutation {
            name: "a transaction takes the other branch",
            rules: in_txn,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_txn(run, random, |_| true)?;
                let answer = txn_mut(run, number);
                answer.succeeded = !answer.succeeded;
                Some(())
            },
        },
        Mutation {
            name: "a transaction answers one operation less",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_txn(run, random, |answer| !answer.answers.is_empty())?;
                txn_mut(run, number).answers.pop();
                Some(())
            },
        },
        Mutation {
            name: "a transaction's inner header is wrong",
            rules: in_txn,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_txn(run, random, |answer| !answer.answers.is_empty())?;
                match txn_mut(run, number).answers.last_mut()? {
                    OpAnswer::Put(answer) => answer.revision += 1,
                    OpAnswer::DeleteRange(answer) => answer.revision += 1,
                    OpAnswer::Range(answer) => answer.revision += 1,
                    OpAnswer::Txn(answer) => answer.revision += 1,
                }
                Some(())
            },
        },
        Mutation {
            name: "a transaction's range counts wrongly",
            rules: in_txn,
            of: Options::dumped,
            apply: |run, random| {
                let ranges = |answer: &OpAnswer| matches!(answer, OpAnswer::Range(_));
                let number = a_txn(run, random, |answer| answer.answers.iter().any(ranges))?;
                for answer in &mut txn_mut(run, number).answers {
                    if let OpAnswer::Range(answer) = answer {
                        answer.count += 1;
                    }
                }
                Some(())
            },
        },
        Mutation {
            name: "a transaction's delete misses a key",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let deletes = |answer: &OpAnswer| matches!(answer, OpAnswer::DeleteRange(d) if d.deleted > 1);
                let number = a_txn(run, random, |answer| answer.answers.iter().any(deletes))?;
                for answer in &mut txn_mut(run, number).answers {
                    if let OpAnswer::DeleteRange(answer) = answer
                        && answer.deleted > 1
                    {
                        answer.deleted -= 1;
                    }
                }
                Some(())
            },
        },
        Mutation {
            name: "what a client wrote is not what was stored",
            rules: &[ReadState, WriteAnswer, Dump, Unexplained],
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |put, _, _| !put.ignore_value)?;
                if let Request::Put(put) = &mut run.history.operations[number].request {
                    put.value = key("written, and lost");
                }
                Some(())
            },
        },
        Mutation {
            name: "a write happened that nobody asked for",
            rules: &[Unexplained],
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |put, _, _| !put.ignore_value)?;
                run.history.operations.remove(number);
                Some(())
            },
        },
        Mutation {
            name: "a write of which nothing is left to see",
            rules: &[RevisionGap, Unexplained],
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |put, _, _| !put.ignore_value)?;
                let revision = run.history.operations.remove(number).answer()?.revision();
                run.history.dumps[0].events.retain(|event| event.kv.modified != revision);
                for stream in &mut run.history.streams {
                    for (_, passage) in &mut stream.passages {
                        if let Passage::Received(answer) = passage {
                            answer.events.retain(|event| event.kv.modified != revision);
                        }
                    }
                }
                Some(())
            },
        },
        Mutation {
            name: "a lost call that was not executed is acknowledged",
            rules: &[StaleRead, WriteOrder, MemberBackwards, RevisionGap, RevisionReused, Dump],
            of: Options::dumped,
            apply: |run, random| {
                let stored = |put: &Put| run.log.iter().any(|event| event.kv.value == put.value);
                let ops = run.history.operations.iter().enumerate();
                let lost = ops.filter(|(_, op)| match &op.request {
                    Request::Put(put) => {
                        op.is_lost() && op.end.is_some() && !put.ignore_value && !stored(put)
                    }
                    _ => false,
                });
                let number = pick(random, lost.map(|(number, _)| number).collect())?;
                let revision = last_revision(run) + 1;
                run.history.operations[number].outcome =
                    Outcome::Answered(Answer::Put(PutAnswer { revision, prev: None }));
                Some(())
            },
        },
        Mutation {
            name: "a lost call is executed before it was made",
            rules: &[Unexplained],
            of: Options::dumped,
            apply: |run, random| {
                let stored = |put: &Put| {
                    let event = run.log.iter().find(|event| event.kv.value == put.value);
                    event.map(|event| event.kv.modified)
                };
                let ops = run.history.operations.iter().enumerate();
                let lost = ops.filter_map(|(number, op)| match &op.request {
                    Request::Put(put) if op.is_lost() && !put.ignore_value => Some((number, stored(put)?)),
                    _ => None,
                });
                let (number, _) = pick(random, lost.collect())?;
                let steps = run.history.steps();
                let op = &mut run.history.operations[number];
                (op.call.step, op.end) = (steps + 1, None);
                Some(())
            },
        },
    ]
}

fn orders() -> Vec<Mutation> {
    vec![
        Mutation {
            name: "two writes of one client swap revisions",
            rules: ORDER,
            of: Options::dumped,
            apply: |run, random| {
                let first = a_put(run, random, |_, answer, _| answer.prev.is_none())?;
                let op = &run.history.operations[first];
                let (client, end) = (op.client, op.end?);
                let later = a_put(run, random, |_, answer, op| {
                    answer.prev.is_none() && op.client == client && op.call.step > end.step
                })?;
                let low = run.history.operations[first].answer()?.revision();
                let high = std::mem::replace(answer_mut(run, later).revision_mut(), low);
                *answer_mut(run, first).revision_mut() = high;
                Some(())
            },
        },
        Mutation {
            name: "a write is given the revision of another",
            rules: ORDER,
            of: Options::dumped,
            apply: |run, random| {
                let first = a_put(run, random, |_, _, _| true)?;
                let mine = run.history.operations[first].answer()?.revision();
                let other = a_put(run, random, |_, answer, _| answer.revision > mine)?;
                let revision = run.history.operations[other].answer()?.revision();
                *answer_mut(run, first).revision_mut() = revision;
                Some(())
            },
        },
        Mutation {
            name: "a write is acknowledged to two clients",
            rules: &[RevisionReused],
            of: Options::dumped,
            apply: |run, random| {
                let number = a_put(run, random, |_, _, _| true)?;
                let op = run.history.operations[number].clone();
                run.history.operations.insert(number, op);
                Some(())
            },
        },
        Mutation {
            name: "a write is older than what was known before",
            rules: &[WriteOrder],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let seen = |op: &Operation, answer: &PutAnswer| {
                    first_told(&copy, answer.revision).filter(|seen| seen + 1 < op.end_step())
                };
                let number = a_put(run, random, |_, answer, op| seen(op, answer).is_some())?;
                let op = &run.history.operations[number];
                let step = first_told(run, op.answer()?.revision())? + 1;
                run.history.operations[number].call.step = step;
                Some(())
            },
        },
        Mutation {
            name: "a write is given a revision below what was known",
            rules: &[WriteOrder],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let number = a_put(run, random, |_, _, op| floor(&copy, op.call.step) > 2)?;
                let floor = floor(run, run.history.operations[number].call.step);
                *answer_mut(run, number).revision_mut() = floor;
                Some(())
            },
        },
        Mutation {
            name: "a grant is older than what was known",
            rules: &[StaleRead],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let number = answered(run, random, |op, _| {
                    matches!(op.request, Request::LeaseGrant { .. }) && floor(&copy, op.call.step) > 1
                })?;
                let floor = floor(run, run.history.operations[number].call.step);
                *answer_mut(run, number).revision_mut() = floor - 1;
                Some(())
            },
        },
    ]
}

fn dumps() -> Vec<Mutation> {
    let wrong: &[Rule] = &[Dump];
    vec![
        Mutation {
            name: "an acknowledged value is another one in the end",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let at = pick(random, owned_events(run))?;
                Arc::make_mut(&mut run.history.dumps[0].events[at]).kv.value = key("never written");
                Some(())
            },
        },
        Mutation {
            name: "an acknowledged write is lost in the end",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let at = pick(random, owned_events(run))?;
                run.history.dumps[0].events.remove(at);
                Some(())
            },
        },
        Mutation {
            name: "an acknowledged write stands twice in the end",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let at = pick(random, owned_events(run))?;
                let events = &mut run.history.dumps[0].events;
                events.insert(at, events[at].clone());
                Some(())
            },
        },
        Mutation {
            name: "two acknowledged writes changed places in the end",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let owned = owned_events(run);
                let pairs = owned.windows(2).filter(|pair| pair[0] + 1 == pair[1]);
                let at = pick(random, pairs.map(|pair| pair[0]).collect())?;
                run.history.dumps[0].events.swap(at, at + 1);
                Some(())
            },
        },
        Mutation {
            name: "the end is older than what was known",
            rules: wrong,
            of: Options::dumped,
            apply: |run, _| {
                let dump = &mut run.history.dumps[0];
                dump.last -= 1;
                let last = dump.last;
                dump.events.retain(|event| event.kv.modified <= last);
                (last > 1).then_some(())
            },
        },
    ]
}

fn refusals() -> Vec<Mutation> {
    let wrong: &[Rule] = &[WrongRefusal];
    fn a_put() -> Request {
        Request::Put(Put { key: key("k01"), value: key("refused"), ..Put::default() })
    }
    fn other(error: &errors::Error) -> Refusal {
        Refusal::Other(error.message.as_ref().into())
    }
    fn refuse(run: &mut Run, number: usize, why: Refusal) {
        run.history.operations[number].outcome = Outcome::Refused(why);
    }
    vec![
        Mutation {
            name: "the newest revision is refused as compacted",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |range, _| range.revision == 0)?;
                refuse(run, number, Refusal::Compacted);
                Some(())
            },
        },
        Mutation {
            name: "a compaction that came to nothing is what a revision is refused for as compacted",
            rules: wrong,
            of: Options::dumped,
            apply: |run, _| {
                let revision = last_revision(run) + 1_000_000;
                append(run, Request::Compact { revision }, Outcome::Lost);
                let read = Range { key: key("k01"), revision: last_revision(run), ..Range::default() };
                append(run, Request::Range(read), Outcome::Refused(Refusal::Compacted));
                Some(())
            },
        },
        Mutation {
            name: "a revision that was reached is refused as a future one",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let number = answered(run, random, |op, _| match &op.request {
                    Request::Range(range) => {
                        !range.serializable && (1..=floor(&copy, op.call.step)).contains(&range.revision)
                    }
                    _ => false,
                })?;
                refuse(run, number, Refusal::FutureRevision);
                Some(())
            },
        },
        Mutation {
            name: "a read is refused for a key that is not there",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let number = a_range(run, random, |_, _| true)?;
                refuse(run, number, Refusal::KeyNotFound);
                Some(())
            },
        },
        Mutation {
            name: "a key that is there is refused as absent",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let key = pick(random, run.states.last()?.keys().cloned().collect())?;
                let put = Put { key: Bytes::from(key), ignore_value: true, ..Put::default() };
                append(run, Request::Put(put), Outcome::Refused(Refusal::KeyNotFound));
                Some(())
            },
        },
        Mutation {
            name: "a transaction is refused for a key that is there",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let key = pick(random, run.states.last()?.keys().cloned().collect())?;
                let put = Put { key: Bytes::from(key), ignore_lease: true, ..Put::default() };
                let txn = Txn { then: vec![TxnOp::Put(put)], ..Txn::default() };
                append(run, Request::Txn(txn), Outcome::Refused(Refusal::KeyNotFound));
                Some(())
            },
        },
        Mutation {
            name: "who has time refuses for too many requests",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                if random.one_in(2) {
                    run.history.note(run.now_us, Note::Strained);
                    run.history.note(run.now_us, Note::Relieved);
                }
                append(run, a_put(), Outcome::Refused(other(&errors::REQUEST_TOO_MANY_REQUESTS)));
                Some(())
            },
        },
        Mutation {
            name: "a request is refused for what is not wrong with it",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let texts = vec![
                    errors::EMPTY_KEY,
                    errors::VALUE_PROVIDED,
                    errors::LEASE_PROVIDED,
                    errors::TOO_MANY_OPS,
                    errors::DUPLICATE_KEY,
                    errors::REQUEST_TOO_LARGE,
                    errors::LEASE_TTL_TOO_LARGE,
                    errors::INVALID_SORT_OPTION,
                    errors::PERMISSION_DENIED,
                ];
                let text = pick(random, texts)?;
                let request = if random.one_in(2) {
                    a_put()
                } else {
                    // The same key in both branches is one key, as only one is taken.
                    let branch = vec![TxnOp::Put(Put { key: key("k01"), ..Put::default() })];
                    Request::Txn(Txn { then: branch.clone(), otherwise: branch, ..Txn::default() })
                };
                append(run, request, Outcome::Refused(other(&text)));
                Some(())
            },
        },
        Mutation {
            name: "a request that is wrong in itself is answered",
            rules: &[WriteAnswer],
            of: Options::dumped,
            apply: |run, random| {
                let revision = last_revision(run);
                if random.one_in(2) {
                    let answer = RangeAnswer { revision, ..RangeAnswer::default() };
                    append(run, Request::Range(Range::default()), Outcome::Answered(Answer::Range(answer)));
                } else {
                    let answer = DeleteAnswer { revision, ..DeleteAnswer::default() };
                    let delete = Request::DeleteRange(DeleteRange::default());
                    append(run, delete, Outcome::Answered(Answer::DeleteRange(answer)));
                }
                Some(())
            },
        },
        Mutation {
            name: "a request that is wrong in itself is refused for something else",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let refusals = vec![Refusal::KeyNotFound, other(&errors::EMPTY_KEY), Refusal::Compacted];
                let put = Put { value: key("both"), ignore_value: true, ..Put::default() };
                let request = Request::Put(Put { key: key("k01"), ..put });
                append(run, request, Outcome::Refused(pick(random, refusals)?));
                Some(())
            },
        },
        Mutation {
            name: "a request that names no lease is refused for one",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let refusal = pick(random, vec![Refusal::LeaseNotFound, Refusal::LeaseExists])?;
                let request = match random.below(3) {
                    0 => a_put(),
                    1 => Request::LeaseGrant { id: 0, ttl_s: 5 },
                    _ => Request::Compact { revision: 1 },
                };
                append(run, request, Outcome::Refused(refusal));
                Some(())
            },
        },
    ]
}
