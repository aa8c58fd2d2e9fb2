//! Watch streams that lose, repeat, reorder or invent.

use base::Random;
use sim::check::Rule::{self, *};
use sim::history::*;

use super::{Mutation, floor, key, last_revision, member_floor, pick, place};
use crate::generator::{Options, Run};
use crate::server::inside;

/// One watcher and what it received, as positions among the passages of its stream.
#[derive(Clone)]
struct Watcher {
    stream: usize,
    id: i64,
    create: WatchCreate,
    created: usize,
    created_revision: i64,
    /// Answers that name it.
    answers: Vec<usize>,
    /// It lived until the end.
    open: bool,
    /// The only one of its stream.
    alone: bool,
}

fn watchers(run: &Run) -> Vec<Watcher> {
    let mut all: Vec<Watcher> = Vec::new();
    for (number, stream) in run.history.streams.iter().enumerate() {
        let mut asked = std::collections::VecDeque::new();
        let first = all.len();
        for (at, (_, passage)) in stream.passages.iter().enumerate() {
            match passage {
                Passage::Create(create) => asked.push_back(create.clone()),
                Passage::Received(answer) if answer.created => all.push(Watcher {
                    stream: number,
                    id: answer.watch_id,
                    create: asked.pop_front().expect("the generator answers in order"),
                    created: at,
                    created_revision: answer.revision,
                    answers: Vec::new(),
                    open: stream.closed.is_none(),
                    alone: false,
                }),
                Passage::Received(answer) => {
                    let watcher = all[first..].iter_mut().find(|watcher| watcher.id == answer.watch_id);
                    if let Some(watcher) = watcher {
                        watcher.answers.push(at);
                        watcher.open &= !answer.canceled;
                    }
                }
                Passage::Cancel { watch_id } => {
                    if let Some(watcher) = all[first..].iter_mut().find(|watcher| watcher.id == *watch_id) {
                        watcher.open = false;
                    }
                }
                Passage::RequestProgress => {}
            }
        }
        let creates = stream.passages.iter().filter(|(_, passage)| matches!(passage, Passage::Create(_)));
        if let ([watcher], 1) = (&mut all[first..], creates.count()) {
            watcher.alone = true;
        }
    }
    all
}

fn received(run: &Run, stream: usize, at: usize) -> &WatchAnswer {
    match &run.history.streams[stream].passages[at].1 {
        Passage::Received(answer) => answer,
        passage => panic!("an answer was asked for: {passage:?}"),
    }
}

fn received_mut(run: &mut Run, stream: usize, at: usize) -> &mut WatchAnswer {
    match &mut run.history.streams[stream].passages[at].1 {
        Passage::Received(answer) => answer,
        passage => panic!("an answer was asked for: {passage:?}"),
    }
}

/// What the watcher was answered, as that number.
fn answer_mut<'r>(run: &'r mut Run, watcher: &Watcher, number: usize) -> &'r mut WatchAnswer {
    received_mut(run, watcher.stream, watcher.answers[number])
}

/// A response with events: the watcher, and which of its answers it is. `wanted` is told the watcher, the answer and
/// that one's events.
fn response(
    run: &Run,
    random: &mut Random,
    wanted: impl Fn(&Watcher, usize, &WatchAnswer) -> bool,
) -> Option<(Watcher, usize)> {
    let mut found = Vec::new();
    for watcher in watchers(run) {
        for (number, &at) in watcher.answers.iter().enumerate() {
            let answer = received(run, watcher.stream, at);
            if !answer.events.is_empty() && wanted(&watcher, number, answer) {
                found.push((watcher.clone(), number));
            }
        }
    }
    pick(random, found)
}

/// Neither it nor the answer before is part of a train.
fn whole(run: &Run, watcher: &Watcher, number: usize) -> bool {
    let of = |number: usize| received(run, watcher.stream, watcher.answers[number]);
    !of(number).fragment && (number == 0 || !of(number - 1).fragment)
}

/// The next thing that the watcher hears are events, not a bookmark.
fn events_follow(run: &Run, watcher: &Watcher, number: usize) -> bool {
    let Some(&next) = watcher.answers.get(number + 1) else { return false };
    let between = watcher.answers[number] + 1..next;
    let passages = &run.history.streams[watcher.stream].passages[between];
    let bookmark =
        passages.iter().any(|(_, passage)| matches!(passage, Passage::Received(a) if a.watch_id == -1));
    !bookmark && !received(run, watcher.stream, next).events.is_empty()
}

/// One event of a response, changed.
fn event(
    run: &mut Run,
    random: &mut Random,
    wanted: impl Fn(&Watcher, &Event) -> bool,
    change: impl Fn(&mut Event),
) -> Option<()> {
    let (watcher, number) =
        response(run, random, |watcher, _, answer| answer.events.iter().any(|event| wanted(watcher, event)))?;
    let answer = answer_mut(run, &watcher, number);
    let places: Vec<usize> = answer
        .events
        .iter()
        .enumerate()
        .filter(|(_, event)| wanted(&watcher, event))
        .map(|(at, _)| at)
        .collect();
    let at = pick(random, places)?;
    change(&mut answer.events[at]);
    Some(())
}

/// A response does not come.
fn lose(run: &mut Run, watcher: &Watcher, number: usize) -> Option<()> {
    run.history.streams[watcher.stream].passages.remove(watcher.answers[number]);
    Some(())
}

/// A response and the next change places. What was only known later is not told earlier: that would be another fault.
fn trade(run: &mut Run, watcher: &Watcher, number: usize) -> Option<()> {
    let (a, b) = (watcher.answers[number], watcher.answers[number + 1]);
    let passages = &mut run.history.streams[watcher.stream].passages;
    let (first, second) = (passages[a].1.clone(), passages[b].1.clone());
    let known_at = passages[a].0.step;
    (passages[a].1, passages[b].1) = (second, first);
    (received(run, watcher.stream, a).revision <= floor(run, known_at)).then_some(())
}

/// A response begins with one more event.
fn invent(run: &mut Run, watcher: &Watcher, number: usize, event: Event) -> Option<()> {
    answer_mut(run, watcher, number).events.insert(0, Event { prev: None, ..event });
    Some(())
}

/// One of these answers (stream, place and revision) is of that revision.
fn retell(run: &mut Run, random: &mut Random, found: Vec<(usize, usize, i64)>) -> Option<()> {
    let (stream, at, revision) = pick(random, found)?;
    received_mut(run, stream, at).revision = revision;
    Some(())
}

fn is_create(event: &Event) -> bool {
    event.kind == Kind::Put && event.kv.create == event.kv.modified
}

/// Nobody had asked for a compaction of that revision.
fn uncompacted(run: &Run, revision: i64) -> bool {
    !run.history.operations.iter().any(|op| match op.request {
        Request::Compact { revision: compacted } => {
            compacted >= revision && !matches!(op.outcome, Outcome::Refused(_))
        }
        _ => false,
    })
}

/// Receives one more thing, at the end of an open stream.
fn receive(run: &mut Run, stream: usize, answer: WatchAnswer) {
    run.now_us += 1000;
    run.history.passed(StreamId(stream), run.now_us, Passage::Received(answer));
}

fn an_open(run: &Run, random: &mut Random, wanted: impl Fn(&Watcher) -> bool) -> Option<Watcher> {
    pick(random, watchers(run).into_iter().filter(|watcher| watcher.open && wanted(watcher)).collect())
}

pub fn mutations() -> Vec<Mutation> {
    let mut all = losses();
    all.extend(repeats());
    all.extend(contents());
    all.extend(bookmarks());
    all.extend(lives());
    all
}

fn losses() -> Vec<Mutation> {
    let lost: &[Rule] = &[WatchReliable, WatchResumable];
    vec![
        Mutation {
            name: "a response is dropped",
            rules: lost,
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, _| {
                    whole(run, watcher, number) && events_follow(run, watcher, number)
                })?;
                lose(run, &watcher, number)
            },
        },
        Mutation {
            name: "the last response is dropped",
            rules: &[WatchReliable, WatchResumable, WatchBookmarkable],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, _| {
                    watcher.open && whole(run, watcher, number) && number + 1 == watcher.answers.len()
                })?;
                lose(run, &watcher, number)
            },
        },
        Mutation {
            name: "the first response after a resumption is dropped",
            rules: &[WatchResumable],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, answer| {
                    let first = answer.events[0].kv.modified;
                    number == 0
                        && watcher.create.start_revision > 0
                        && first <= watcher.created_revision
                        && whole(run, watcher, number)
                        && events_follow(run, watcher, number)
                })?;
                lose(run, &watcher, number)
            },
        },
        Mutation {
            name: "an event is left out",
            rules: lost,
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, answer| answer.events.len() > 1)?;
                let events = &mut answer_mut(run, &watcher, number).events;
                events.remove(place(random, events.len() - 1)?);
                Some(())
            },
        },
        Mutation {
            name: "the last event of a revision is left out",
            rules: &[WatchReliable],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, answer| {
                    let [.., before, last] = &answer.events[..] else { return false };
                    before.kv.modified == last.kv.modified && !answer.fragment
                })?;
                answer_mut(run, &watcher, number).events.pop();
                Some(())
            },
        },
    ]
}

fn repeats() -> Vec<Mutation> {
    vec![
        Mutation {
            name: "a response comes twice",
            rules: &[WatchUnique],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) =
                    response(run, random, |watcher, number, _| whole(run, watcher, number))?;
                let at = watcher.answers[number];
                let passages = &mut run.history.streams[watcher.stream].passages;
                passages.insert(at, passages[at].clone());
                Some(())
            },
        },
        Mutation {
            name: "an event comes twice in a response",
            rules: &[WatchUnique],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, _| true)?;
                let events = &mut answer_mut(run, &watcher, number).events;
                let at = place(random, events.len())?;
                events.insert(at, events[at].clone());
                Some(())
            },
        },
        Mutation {
            name: "two responses change places",
            rules: &[WatchOrdered],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, _| {
                    events_follow(run, watcher, number)
                        && whole(run, watcher, number)
                        && whole(run, watcher, number + 1)
                })?;
                trade(run, &watcher, number)
            },
        },
        Mutation {
            name: "two events of a response change places",
            rules: &[WatchOrdered],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, answer| answer.events.len() > 1)?;
                let events = &mut answer_mut(run, &watcher, number).events;
                let at = place(random, events.len() - 1)?;
                let same = |a: &Event, b: &Event| a.kv.key == b.kv.key && a.kv.modified == b.kv.modified;
                if same(&events[at], &events[at + 1]) {
                    return None;
                }
                events.swap(at, at + 1);
                Some(())
            },
        },
        Mutation {
            name: "a revision comes in two responses",
            rules: &[WatchAtomic],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, answer| {
                    let [.., before, last] = &answer.events[..] else { return false };
                    before.kv.modified == last.kv.modified && whole(run, watcher, number)
                })?;
                let at = watcher.answers[number];
                let passages = &mut run.history.streams[watcher.stream].passages;
                passages.insert(at, passages[at].clone());
                received_mut(run, watcher.stream, at).events.pop();
                let second = &mut received_mut(run, watcher.stream, at + 1).events;
                second.drain(..second.len() - 1);
                Some(())
            },
        },
        Mutation {
            name: "a response is a fragment, which nobody wanted",
            rules: &[WatchAtomic],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, _, _| !watcher.create.fragment)?;
                answer_mut(run, &watcher, number).fragment = true;
                Some(())
            },
        },
        Mutation {
            name: "a train of fragments is coupled off in a revision",
            rules: &[WatchAtomic],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, answer| {
                    let next = watcher.answers.get(number + 1).map(|&at| received(run, watcher.stream, at));
                    let last = answer.events.last().map(|event| event.kv.modified);
                    let first = next.and_then(|next| next.events.first()).map(|event| event.kv.modified);
                    answer.fragment && last == first
                })?;
                answer_mut(run, &watcher, number).fragment = false;
                Some(())
            },
        },
    ]
}

fn contents() -> Vec<Mutation> {
    vec![
        Mutation {
            name: "an event of a key that is not watched",
            rules: &[WatchFilter],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, _, _| {
                    let create = &watcher.create;
                    !(matches!(&*create.key, [] | [0]) && *create.range_end == [0])
                })?;
                let create = watcher.create.clone();
                let first = received(run, watcher.stream, watcher.answers[number]).events[0].kv.modified;
                let outside = |event: &&Event| !inside(&event.kv.key, &create.key, &create.range_end);
                let event =
                    run.log.iter().rev().filter(outside).find(|event| event.kv.modified <= first)?.clone();
                invent(run, &watcher, number, event)
            },
        },
        Mutation {
            name: "an event of a kind that is not wanted",
            rules: &[WatchFilter],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) =
                    response(run, random, |watcher, _, _| watcher.create.no_put != watcher.create.no_delete)?;
                let kind = if watcher.create.no_put { Kind::Put } else { Kind::Delete };
                let first = received(run, watcher.stream, watcher.answers[number]).events[0].kv.modified;
                let event = run.log.iter().rev().find(|e| e.kind == kind && e.kv.modified <= first)?.clone();
                invent(run, &watcher, number, event)
            },
        },
        Mutation {
            name: "an event from before the start",
            rules: &[WatchResumable],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, number, _| number == 0)?;
                let create = watcher.create.clone();
                let start = if create.start_revision > 0 {
                    create.start_revision
                } else {
                    watcher.created_revision + 1
                };
                let wanted = |event: &&Event| {
                    let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
                    let filtered = if event.kind == Kind::Put { create.no_put } else { create.no_delete };
                    !filtered && event.kv.modified < start && inside(&event.kv.key, key, &create.range_end)
                };
                let event = run.log.iter().rev().find(wanted)?.clone();
                invent(run, &watcher, number, event)
            },
        },
        Mutation {
            name: "an event that never happened",
            rules: &[WatchContent],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, _, _| !watcher.create.no_put)?;
                let log = run.log.clone();
                let events = &mut answer_mut(run, &watcher, number).events;
                let mut event = events[0].clone();
                let changed = |key: &[u8], revision: i64| {
                    log.iter().any(|event| &*event.kv.key == key && event.kv.modified == revision)
                };
                let (key, revision) = (event.kv.key.clone(), event.kv.modified);
                let start = watcher.create.start_revision.max(1);
                let free = (start..revision).rev().find(|&revision| !changed(&key, revision))?;
                if watcher.create.start_revision == 0 && free <= watcher.created_revision {
                    return None;
                }
                event.kind = Kind::Put;
                event.kv =
                    Kv { key, create: free, modified: free, version: 1, value: super::key("no"), lease: 0 };
                event.prev = None;
                events.insert(0, event);
                Some(())
            },
        },
        Mutation {
            name: "a put is told as a delete",
            // Where its own revision deletes it again, the put is what is missing.
            rules: &[WatchContent, WatchReliable],
            of: Options::dumped,
            apply: |run, random| {
                event(
                    run,
                    random,
                    |watcher, event| event.kind == Kind::Put && !watcher.create.no_delete,
                    |event| {
                        event.kind = Kind::Delete;
                        event.kv =
                            Kv { key: event.kv.key.clone(), modified: event.kv.modified, ..Kv::default() };
                    },
                )
            },
        },
        Mutation {
            name: "an event has another value",
            rules: &[WatchContent],
            of: Options::dumped,
            apply: |run, random| {
                event(run, random, |_, e| e.kind == Kind::Put, |event| event.kv.value = key("never written"))
            },
        },
        Mutation {
            name: "an event has another lease",
            rules: &[WatchContent],
            of: Options::dumped,
            apply: |run, random| event(run, random, |_, e| e.kind == Kind::Put, |event| event.kv.lease += 1),
        },
        Mutation {
            name: "a delete carries a value",
            rules: &[WatchContent],
            of: Options::dumped,
            apply: |run, random| {
                event(run, random, |_, e| e.kind == Kind::Delete, |event| event.kv.value = key("old"))
            },
        },
        Mutation {
            name: "an event has another version",
            rules: &[WatchIsCreate],
            of: Options::dumped,
            apply: |run, random| {
                event(run, random, |_, e| e.kind == Kind::Put, |event| event.kv.version += 1)
            },
        },
        Mutation {
            name: "a change is told as a creation",
            rules: &[WatchIsCreate],
            of: Options::dumped,
            apply: |run, random| {
                event(
                    run,
                    random,
                    |_, event| event.kind == Kind::Put && !is_create(event),
                    |event| {
                        event.kv.create = event.kv.modified;
                        event.prev = None;
                    },
                )
            },
        },
        Mutation {
            name: "a creation is told as a change",
            rules: &[WatchIsCreate],
            of: Options::dumped,
            apply: |run, random| event(run, random, |_, e| is_create(e), |event| event.kv.create -= 1),
        },
        Mutation {
            name: "a previous pair is missing",
            rules: &[WatchPrevKv],
            of: Options::dumped,
            apply: |run, random| {
                let copy = run.clone();
                let wanted = |_: &Watcher, event: &Event| {
                    event.prev.is_some() && uncompacted(&copy, event.kv.modified)
                };
                event(run, random, wanted, |event| event.prev = None)
            },
        },
        Mutation {
            name: "a previous pair is older",
            rules: &[WatchPrevKv],
            of: Options::dumped,
            apply: |run, random| {
                let older = |event: &mut Event| {
                    if let Some(prev) = &mut event.prev {
                        prev.version -= 1;
                        prev.modified -= 1;
                    }
                };
                event(run, random, |_, event| event.prev.is_some(), older)
            },
        },
        Mutation {
            name: "a previous pair that nobody wanted",
            rules: &[WatchPrevKv],
            of: Options::dumped,
            apply: |run, random| {
                let add = |event: &mut Event| event.prev = Some(event.kv.clone());
                event(run, random, |watcher, _| !watcher.create.prev_kv, add)
            },
        },
        Mutation {
            name: "a creation has a previous pair",
            rules: &[WatchPrevKv],
            of: Options::dumped,
            apply: |run, random| {
                let add = |event: &mut Event| event.prev = Some(event.kv.clone());
                event(run, random, |watcher, event| watcher.create.prev_kv && is_create(event), add)
            },
        },
        Mutation {
            name: "a header is older than its events",
            rules: &[WatchContent],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, _| true)?;
                let answer = answer_mut(run, &watcher, number);
                answer.revision = answer.events.last()?.kv.modified - 1;
                Some(())
            },
        },
    ]
}

fn bookmarks() -> Vec<Mutation> {
    let wrong: &[Rule] = &[WatchBookmarkable];
    vec![
        Mutation {
            name: "progress overtakes events",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |watcher, number, _| {
                    let Some(&next) = watcher.answers.get(number + 1) else { return false };
                    received(run, watcher.stream, next).is_progress() && whole(run, watcher, number)
                })?;
                trade(run, &watcher, number)
            },
        },
        Mutation {
            name: "progress speaks of what is yet to come",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for watcher in watchers(run) {
                    for pair in watcher.answers.windows(2) {
                        let [a, b] = pair else { continue };
                        let next = received(run, watcher.stream, *b);
                        let step = run.history.streams[watcher.stream].passages[*a].0.step;
                        if received(run, watcher.stream, *a).is_progress()
                            && next.events.first().is_some_and(|e| e.kv.modified <= floor(run, step))
                        {
                            found.push((watcher.stream, *a, next.events[0].kv.modified));
                        }
                    }
                }
                retell(run, random, found)
            },
        },
        Mutation {
            name: "requested progress speaks of what is yet to come",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                // An answer to the whole stream, right before events of one of its watchers.
                let (watcher, number) = response(run, random, |watcher, number, answer| {
                    let at = watcher.answers[number];
                    let before = run.history.streams[watcher.stream].passages[..at].iter();
                    let requests = before.clone().filter(|p| p.1 == Passage::RequestProgress).count();
                    let told =
                        before.filter(|p| matches!(&p.1, Passage::Received(a) if a.watch_id == -1)).count();
                    let step = run.history.streams[watcher.stream].passages[at].0.step;
                    requests > told && answer.events[0].kv.modified <= floor(run, step)
                })?;
                let at = watcher.answers[number];
                let (moment, _) = run.history.streams[watcher.stream].passages[at];
                let revision = floor(run, moment.step);
                let progress = WatchAnswer { watch_id: -1, revision, ..WatchAnswer::default() };
                run.history.streams[watcher.stream]
                    .passages
                    .insert(at, (moment, Passage::Received(progress)));
                Some(())
            },
        },
        Mutation {
            name: "progress goes back",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for watcher in watchers(run) {
                    let mut last = 0;
                    for &at in &watcher.answers {
                        let answer = received(run, watcher.stream, at);
                        if answer.is_progress() && last > 1 {
                            found.push((watcher.stream, at, last - 1));
                        }
                        last = answer.events.last().map_or(last, |event| event.kv.modified);
                    }
                }
                retell(run, random, found)
            },
        },
        Mutation {
            name: "requested progress is older than the request",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for (number, stream) in run.history.streams.iter().enumerate() {
                    let mut requests = Vec::new();
                    let mut told = 0;
                    for (at, (moment, passage)) in stream.passages.iter().enumerate() {
                        match passage {
                            Passage::RequestProgress => requests.push(moment.step),
                            Passage::Received(answer) if answer.watch_id == -1 => {
                                let floor = member_floor(run, stream.member, requests[told]);
                                told += 1;
                                if let Some(floor) = floor.filter(|&floor| floor > 1) {
                                    found.push((number, at, floor - 1));
                                }
                            }
                            _ => {}
                        }
                    }
                }
                retell(run, random, found)
            },
        },
        Mutation {
            name: "one request for progress is answered twice",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for (number, stream) in run.history.streams.iter().enumerate() {
                    let (mut requests, mut told) = (0, 0);
                    for (at, (_, passage)) in stream.passages.iter().enumerate() {
                        requests += usize::from(*passage == Passage::RequestProgress);
                        if matches!(passage, Passage::Received(answer) if answer.watch_id == -1) {
                            told += 1;
                            found.push((number, at, requests - told));
                        }
                    }
                }
                let (stream, at, spare) = pick(random, found)?;
                let passages = &mut run.history.streams[stream].passages;
                for _ in 0..=spare {
                    passages.insert(at, passages[at].clone());
                }
                Some(())
            },
        },
        Mutation {
            name: "progress comes to who did not ask",
            rules: wrong,
            of: Options::dumped,
            apply: |run, random| {
                let watcher = an_open(run, random, |watcher| !watcher.create.progress_notify)?;
                let revision = last_revision(run);
                receive(
                    run,
                    watcher.stream,
                    WatchAnswer { watch_id: watcher.id, revision, ..WatchAnswer::default() },
                );
                Some(())
            },
        },
    ]
}

fn lives() -> Vec<Mutation> {
    let canceled: &[Rule] = &[WatchCanceled];
    let created: &[Rule] = &[WatchCreated];
    vec![
        Mutation {
            name: "a watcher is canceled without a reason",
            rules: canceled,
            of: Options::dumped,
            apply: |run, random| {
                let watcher = an_open(run, random, |_| true)?;
                // Words alone are none.
                let reason = if random.one_in(2) { "etcdserver: server stopped" } else { "" }.into();
                let answer =
                    WatchAnswer { watch_id: watcher.id, canceled: true, reason, ..WatchAnswer::default() };
                receive(run, watcher.stream, answer);
                Some(())
            },
        },
        Mutation {
            name: "a watcher is refused that nothing is wrong with",
            rules: canceled,
            of: Options::dumped,
            apply: |run, random| {
                let watcher = an_open(run, random, |watcher| {
                    watcher.answers.is_empty() && watcher.create.watch_id == 0
                })?;
                let Passage::Received(answer) =
                    &mut run.history.streams[watcher.stream].passages[watcher.created].1
                else {
                    return None;
                };
                (answer.canceled, answer.watch_id, answer.reason) = (true, -1, "refused".into());
                Some(())
            },
        },
        Mutation {
            name: "a watcher that is not behind is canceled as compacted",
            rules: canceled,
            of: Options::dumped,
            apply: |run, random| {
                let compactions = run.history.operations.iter().filter_map(|op| match op.request {
                    Request::Compact { revision } if op.answer().is_some() => Some(revision),
                    _ => None,
                });
                let compact_revision = compactions.max()?;
                let watcher = an_open(run, random, |watcher| {
                    let last =
                        watcher.answers.iter().flat_map(|&at| &received(run, watcher.stream, at).events);
                    last.map(|event| event.kv.modified).max().unwrap_or(0) >= compact_revision
                })?;
                let watch_id = watcher.id;
                let answer =
                    WatchAnswer { watch_id, canceled: true, compact_revision, ..WatchAnswer::default() };
                receive(run, watcher.stream, answer);
                Some(())
            },
        },
        Mutation {
            name: "a watcher is canceled by a compaction that nobody made",
            rules: canceled,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for watcher in watchers(run) {
                    for &at in &watcher.answers {
                        if received(run, watcher.stream, at).compact_revision > 0 {
                            found.push((watcher.stream, at));
                        }
                    }
                }
                let (stream, at) = pick(random, found)?;
                received_mut(run, stream, at).compact_revision += 10_000;
                Some(())
            },
        },
        Mutation {
            name: "a canceled watcher goes on",
            rules: &[WatchCanceled, WatchCreated],
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for watcher in watchers(run) {
                    let last = watcher.answers.last().copied();
                    if let Some(at) = last.filter(|&at| received(run, watcher.stream, at).canceled) {
                        found.push((watcher.stream, at, watcher.id));
                    }
                }
                let (stream, at, watch_id) = pick(random, found)?;
                let (moment, _) = run.history.streams[stream].passages[at];
                let event = run.log.first()?.clone();
                let answer =
                    WatchAnswer { watch_id, revision: 2, events: vec![event], ..WatchAnswer::default() };
                run.history.streams[stream].passages.insert(at + 1, (moment, Passage::Received(answer)));
                Some(())
            },
        },
        Mutation {
            name: "a response names another watcher",
            rules: &[WatchCanceled, WatchCreated],
            of: Options::dumped,
            apply: |run, random| {
                let (watcher, number) = response(run, random, |_, _, _| true)?;
                answer_mut(run, &watcher, number).watch_id += 1_000_000;
                Some(())
            },
        },
        Mutation {
            name: "events come without a created answer",
            rules: created,
            of: Options::dumped,
            apply: |run, random| {
                let all = watchers(run).into_iter().filter(|w| w.alone && !w.answers.is_empty());
                let watcher = pick(random, all.collect())?;
                run.history.streams[watcher.stream].passages.remove(watcher.created);
                Some(())
            },
        },
        Mutation {
            name: "a watcher is never answered",
            rules: created,
            of: Options::dumped,
            apply: |run, random| {
                let open = watchers(run).into_iter().filter(|watcher| watcher.alone && watcher.open);
                let watcher = pick(random, open.collect())?;
                let passages = &mut run.history.streams[watcher.stream].passages;
                passages.retain(|(_, passage)| !matches!(passage, Passage::Received(_)));
                Some(())
            },
        },
        Mutation {
            name: "a watcher is created twice",
            rules: created,
            of: Options::dumped,
            apply: |run, random| {
                let alone = watchers(run).into_iter().filter(|watcher| watcher.alone);
                let watcher = pick(random, alone.collect())?;
                let passages = &mut run.history.streams[watcher.stream].passages;
                passages.insert(watcher.created, passages[watcher.created].clone());
                Some(())
            },
        },
        Mutation {
            name: "a created answer is older than what the member had shown",
            rules: created,
            of: Options::dumped,
            apply: |run, random| {
                let mut found = Vec::new();
                for watcher in watchers(run).into_iter().filter(|watcher| watcher.create.start_revision > 0) {
                    let stream = &run.history.streams[watcher.stream];
                    let creates = stream.passages[..watcher.created].iter();
                    let sent = creates.filter(|p| matches!(&p.1, Passage::Create(c) if *c == watcher.create));
                    let sent = sent.map(|(moment, _)| moment.step).min()?;
                    if let Some(floor) = member_floor(run, stream.member, sent).filter(|&floor| floor > 1) {
                        found.push((watcher.stream, watcher.created, floor - 1));
                    }
                }
                retell(run, random, found)
            },
        },
    ]
}
