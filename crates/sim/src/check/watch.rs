//! The nine rules of watch streams, held against what happened.
//!
//! 1. *Ordered*: events come in the order of revisions and, within one, of changes.
//! 2. *Unique*: no event comes twice to one watcher.
//! 3. *Atomic*: the events of a revision come in one response; where the watcher asked for it, in one train of
//!    fragments.
//! 4. *Reliable*: between two events of a watcher none is left out, nor after the last one when the history settled; but
//!    a compaction to a revision takes the puts that the same revision took back, and leaves the deletes, as in etcd.
//! 5. *Resumable*: whoever starts at a revision gets everything from there on, whatever broke before, and nothing
//!    older.
//! 6. *Bookmarkable*: progress at R comes after all events up to R, never goes back, is no older than what the member
//!    had shown when it was requested, and comes only to those who asked.
//! 7. *PrevKv*: the pair before is given where it was asked for and exists, and is right. Only compaction excuses
//!    that it is missing.
//! 8. *IsCreate*: create revision and version tell a creation from a change.
//! 9. *Filter*: only events of the watched keys and kinds.
//!
//! Besides: what an event carries is what was written; a created answer comes once, first, and is no older than what
//! the member had shown; a watcher is canceled because the client said so, or because it was behind a compaction that
//! somebody had asked for; it is refused, in words, for an id that may be taken, or when it asks for no key at all.
//!
//! A watcher's expected events are gathered from the timeline, key by key or change by change, whichever is less; its
//! responses are then one walk along them.

use super::model::Change;
use super::streams::{Heard, Streams, Watcher};
use super::timeline::Timeline;
use super::{Finding, found};
use crate::history::{Event, History, Kind, Moment, Passage, Stream, WatchAnswer, WatchCreate};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub watchers: u64,
    pub events: u64,
    pub bookmarks: u64,
    /// Watchers that were behind a compaction.
    pub compacted: u64,
}

/// Checks every stream; the earliest finding of all.
pub fn check(history: &History, timeline: &Timeline) -> Result<Summary, Finding> {
    let streams = Streams::of(history);
    let mut summary = Summary::default();
    let mut finding = streams.finding.clone();
    let mut note = |result: Result<(), Finding>| {
        if let Err(found) = result
            && finding.as_ref().is_none_or(|finding| found.step < finding.step)
        {
            finding = Some(found);
        }
    };
    for (number, stream) in history.streams.iter().enumerate() {
        note(check_requested(number, stream, timeline));
    }
    let settled = history.settled();
    for watcher in &streams.watchers {
        summary.watchers += 1;
        let lives = history.streams[watcher.stream].closed.is_none();
        let settled = settled.filter(|(at, _)| lives && watcher.sent.step < at.step);
        note(Follow::check(watcher, timeline, settled, &mut summary));
    }
    finding.map_or(Ok(summary), Err)
}

/// The n-th answer to a request for progress answers the n-th request, or a later one.
fn check_requested(number: usize, stream: &Stream, timeline: &Timeline) -> Result<(), Finding> {
    let mut requests: Vec<Moment> = Vec::new();
    let mut answers = 0;
    for (at, passage) in &stream.passages {
        match passage {
            Passage::RequestProgress => requests.push(*at),
            Passage::Received(answer) if answer.watch_id == -1 && !answer.created => {
                let Some(request) = requests.get(answers) else { continue };
                answers += 1;
                let floor = timeline.observed.member_floor(stream.member, request.step);
                let lives_on = timeline.observed.same_life(stream.member, request.step, at.step);
                if answer.revision < floor && lives_on {
                    return found!(
                        WatchBookmarkable,
                        at.step,
                        "stream {number}: {answer}: asked at step {}, when {floor} was known",
                        request.step
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The changes that a watcher is to be told, from its start up to `to`, as positions.
fn expected(create: &WatchCreate, from: i64, to: i64, timeline: &Timeline) -> Vec<u32> {
    let model = &timeline.model;
    let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
    let span = model.keys.span(key, &create.range_end);
    let (begin, end) = (timeline.begin_of(from), timeline.begin_of(to.saturating_add(1)));
    let wanted = |change: &Change| match change.kind {
        Kind::Put => !create.no_put,
        Kind::Delete => !create.no_delete,
    };
    if begin >= end {
        return Vec::new();
    }
    if span.len() >= (end - begin) / 4 {
        let changes = (begin..end).filter(|&at| {
            let change = &model.changes[at];
            span.contains(&change.key) && wanted(change)
        });
        return changes.map(|at| at as u32).collect();
    }
    let mut changes: Vec<u32> = Vec::new();
    for rank in span {
        let of_key = model.of_key(rank);
        let first = of_key.partition_point(|&at| (at as usize) < begin);
        let inside = of_key[first..].iter().take_while(|&&at| (at as usize) < end);
        changes.extend(inside.filter(|&&at| wanted(&model.changes[at as usize])));
    }
    changes.sort_unstable();
    changes
}

/// One watcher's way along its events.
struct Follow<'w, 'h> {
    watcher: &'w Watcher<'h>,
    timeline: &'w Timeline,
    expected: Vec<u32>,
    /// Of the expected events, how many were delivered.
    delivered: usize,
    /// From which revision on it is to be served.
    from: i64,
    /// What its created answer said.
    created: i64,
    progress: i64,
    in_train: bool,
}

fn may_be_refused(create: &WatchCreate) -> bool {
    let no_key = match &*create.range_end {
        [] | [0] => false,
        end => *end <= *create.key,
    };
    create.watch_id != 0 || no_key
}

impl<'w, 'h> Follow<'w, 'h> {
    fn check(
        watcher: &'w Watcher<'h>,
        timeline: &'w Timeline,
        settled: Option<(Moment, i64)>,
        summary: &mut Summary,
    ) -> Result<(), Finding> {
        let Some((at, created)) = watcher.created() else {
            return match settled {
                None => Ok(()),
                Some(_) => {
                    found!(WatchCreated, watcher.sent.step, "{}: it was never answered", watcher.create)
                }
            };
        };
        if created.canceled {
            let said = !created.reason.is_empty() && created.watch_id == -1;
            return match said && may_be_refused(watcher.create) {
                true => Ok(()),
                false => found!(WatchCanceled, at.step, "{}: {created}: without a reason", watcher.create),
            };
        }
        let floor = timeline.observed.member_floor(watcher.member, watcher.sent.step);
        let lives_on = timeline.observed.same_life(watcher.member, watcher.sent.step, at.step);
        if (created.revision < floor && lives_on) || !created.events.is_empty() {
            return found!(
                WatchCreated,
                at.step,
                "{}: {created}: the member had shown revision {floor}",
                watcher.create
            );
        }
        let start = watcher.create.start_revision;
        let from = if start > 0 { start } else { created.revision + 1 };
        let told = watcher.heard.iter().map(|(_, heard)| match heard {
            Heard::Answer(answer) => {
                let events = answer.events.iter().map(|event| event.kv.modified);
                events.max().unwrap_or(0).max(if answer.is_progress() { answer.revision } else { 0 })
            }
            Heard::StreamProgress(revision) => *revision,
            Heard::Created(_) | Heard::CancelSent => 0,
        });
        let settled = settled.filter(|_| watcher.open);
        let (settled_step, settled) = settled.map_or((0, 0), |(at, revision)| (at.step, revision));
        let to = told.max().unwrap_or(0).max(settled);
        let expected = expected(watcher.create, from, to, timeline);
        let mut follow = Follow {
            watcher,
            timeline,
            expected,
            delivered: 0,
            from,
            created: created.revision,
            progress: 0,
            in_train: false,
        };
        for number in 1..watcher.heard.len() {
            follow.hear(number, summary)?;
        }
        follow.pass_taken_back(settled_step, settled);
        match follow.next() {
            Some(next) if next.revision <= settled => {
                let step = settled_step;
                let (revision, kv) = (next.revision, &next.kv);
                let create = watcher.create;
                if follow.delivered == 0 && revision <= follow.created {
                    found!(WatchResumable, step, "{create}: revision {revision} never came: {kv}")
                } else {
                    found!(WatchReliable, step, "{create}: revision {revision} never came: {kv}")
                }
            }
            _ => Ok(()),
        }
    }

    fn next(&self) -> Option<&'w Change> {
        self.change(self.delivered)
    }

    fn change(&self, at: usize) -> Option<&'w Change> {
        let at = *self.expected.get(at)?;
        Some(&self.timeline.model.changes[at as usize])
    }

    /// Passes over puts up to a revision that their own revision took back, when somebody has asked for a compaction
    /// to that.
    fn pass_taken_back(&mut self, step: u64, through: i64) {
        while let Some(next) = self.next()
            && next.revision <= through
            && self.is_taken_back(next, self.expected[self.delivered], step)
        {
            self.delivered += 1;
        }
    }

    fn is_taken_back(&self, change: &Change, at: u32, step: u64) -> bool {
        let revision = change.revision;
        if change.kind == Kind::Delete || !self.timeline.observed.was_compaction_asked(revision, step) {
            return false;
        }
        let rest = at as usize + 1..self.timeline.begin_of(revision + 1);
        self.timeline.model.changes[rest].iter().any(|later| later.kv.key == change.kv.key)
    }

    /// The revision of the last event; 0 before the first.
    fn last(&self) -> i64 {
        self.delivered.checked_sub(1).and_then(|at| self.change(at)).map_or(0, |change| change.revision)
    }

    fn hear(&mut self, number: usize, summary: &mut Summary) -> Result<(), Finding> {
        let (at, heard) = self.watcher.heard[number];
        match heard {
            Heard::Created(answer) => {
                found!(WatchCreated, at.step, "{}: {answer}: a second time", self.watcher.create)
            }
            Heard::CancelSent => Ok(()),
            Heard::StreamProgress(revision) => {
                summary.bookmarks += 1;
                self.bookmark(at, revision)
            }
            Heard::Answer(answer) if answer.canceled => {
                summary.compacted += u64::from(answer.compact_revision > 0);
                self.canceled(number, at, answer)
            }
            Heard::Answer(answer) if answer.is_progress() => {
                summary.bookmarks += 1;
                if !self.watcher.create.progress_notify {
                    let create = self.watcher.create;
                    return found!(WatchBookmarkable, at.step, "{create}: {answer}: nobody asked");
                }
                self.bookmark(at, answer.revision)
            }
            Heard::Answer(answer) => {
                summary.events += answer.events.len() as u64;
                self.events(number, at, answer)
            }
        }
    }

    fn bookmark(&mut self, at: Moment, revision: i64) -> Result<(), Finding> {
        let create = self.watcher.create;
        self.pass_taken_back(at.step, revision);
        if let Some(next) = self.next()
            && next.revision <= revision
        {
            let missing = next.revision;
            return found!(
                WatchBookmarkable,
                at.step,
                "{create}: progress at {revision}, but revision {missing} had not come: {}",
                next.kv
            );
        }
        let before = self.progress.max(self.last()).max(self.created);
        if revision < before {
            return found!(
                WatchBookmarkable,
                at.step,
                "{create}: progress at {revision} after revision {before} was served"
            );
        }
        self.progress = revision;
        Ok(())
    }

    fn canceled(&mut self, number: usize, at: Moment, answer: &WatchAnswer) -> Result<(), Finding> {
        let create = self.watcher.create;
        let compacted = answer.compact_revision;
        if compacted > 0 {
            let next = self.from.max(self.last() + 1).max(self.progress + 1);
            if next >= compacted {
                return found!(
                    WatchCanceled,
                    at.step,
                    "{create}: {answer}: it was not behind, {next} was its next"
                );
            }
            if !self.timeline.observed.was_compaction_asked(compacted, at.step) {
                return found!(
                    WatchCanceled,
                    at.step,
                    "{create}: {answer}: nobody compacted revision {compacted}"
                );
            }
            return Ok(());
        }
        let earlier = &self.watcher.heard[..number];
        let asked = earlier.iter().any(|(_, heard)| matches!(heard, Heard::CancelSent));
        if asked {
            return Ok(());
        }
        found!(WatchCanceled, at.step, "{create}: {answer}: without a reason")
    }

    fn events(&mut self, number: usize, at: Moment, answer: &WatchAnswer) -> Result<(), Finding> {
        let create = self.watcher.create;
        if answer.fragment && !create.fragment {
            return found!(WatchAtomic, at.step, "{create}: {answer}: fragments were not asked for");
        }
        let before = self.last();
        for (i, event) in answer.events.iter().enumerate() {
            self.event(number, i, at, event)?;
        }
        let (Some(first), Some(last)) = (answer.events.first(), answer.events.last()) else {
            return found!(WatchContent, at.step, "{create}: {answer}: a fragment of nothing");
        };
        if first.kv.modified == before && !self.in_train {
            return found!(
                WatchAtomic,
                at.step,
                "{create}: revision {before} came in two responses, the second is {answer}"
            );
        }
        let last = last.kv.modified;
        if answer.revision < last {
            return found!(WatchContent, at.step, "{create}: {answer}: the header is older than its events");
        }
        self.in_train = answer.fragment;
        self.pass_taken_back(at.step, last);
        if let Some(next) = self.next()
            && next.revision == last
            && !answer.fragment
        {
            let kv = &next.kv;
            if self.comes_later(number, usize::MAX, next) {
                return found!(
                    WatchAtomic,
                    at.step,
                    "{create}: {answer}: of revision {last}, {kv} came later"
                );
            }
            return found!(
                WatchReliable,
                at.step,
                "{create}: {answer}: of revision {last}, {kv} is left out"
            );
        }
        Ok(())
    }

    /// Whether the event of a change comes after event `i` of response `number`.
    fn comes_later(&self, number: usize, i: usize, change: &Change) -> bool {
        let later = self.watcher.heard[number..].iter().enumerate().flat_map(|(after, (_, heard))| {
            let events = match heard {
                Heard::Answer(answer) => answer.events.as_slice(),
                _ => &[],
            };
            let skip = if after == 0 { i.saturating_add(1) } else { 0 };
            events.get(skip.min(events.len())..).unwrap_or_default()
        });
        later.into_iter().any(|event| self.is_of(change, event))
    }

    fn is_of(&self, change: &Change, event: &Event) -> bool {
        change.revision == event.kv.modified && change.kind == event.kind && change.kv.key == event.kv.key
    }

    fn event(&mut self, number: usize, i: usize, at: Moment, event: &Event) -> Result<(), Finding> {
        if self.next().is_some_and(|change| !self.is_of(change, event)) {
            self.pass_taken_back(at.step, event.kv.modified);
        }
        let Some(change) = self.next().filter(|change| self.is_of(change, event)) else {
            return self.unexpected(number, i, at, event);
        };
        self.delivered += 1;
        let (create, step) = (self.watcher.create, at.step);
        let (kv, was) = (&event.kv, &change.kv);
        if (kv.create, kv.version) != (was.create, was.version) {
            return found!(WatchIsCreate, step, "{create}: {event}: written was {was}");
        }
        if kv != was {
            return found!(WatchContent, step, "{create}: {event}: written was {was}");
        }
        self.check_prev(at, event, change)
    }

    fn check_prev(&self, at: Moment, event: &Event, change: &Change) -> Result<(), Finding> {
        let (create, step) = (self.watcher.create, at.step);
        let is_create = change.kind == Kind::Put && change.kv.create == change.revision;
        let before = change.prev.filter(|_| create.prev_kv && !is_create);
        let before = before.map(|at| &self.timeline.model.changes[at as usize].kv);
        match (before, &event.prev) {
            (None, None) => Ok(()),
            (Some(before), Some(prev)) if before == prev => Ok(()),
            (Some(_), None) if self.timeline.observed.may_be_compacted(step) >= change.revision => Ok(()),
            (Some(before), _) => found!(WatchPrevKv, step, "{create}: {event}: before was {before}"),
            (None, Some(_)) => found!(WatchPrevKv, step, "{create}: {event}: there is none to give"),
        }
    }

    /// An event that is not the next one: says what is wrong with it.
    fn unexpected(&self, number: usize, i: usize, at: Moment, event: &Event) -> Result<(), Finding> {
        let (create, step) = (self.watcher.create, at.step);
        let keys = &self.timeline.model.keys;
        let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        let filtered = match event.kind {
            Kind::Put => create.no_put,
            Kind::Delete => create.no_delete,
        };
        let watched = keys.rank(&event.kv.key).is_none_or(|rank| {
            let span = keys.span(key, &create.range_end);
            span.contains(&rank)
        });
        if filtered || !watched {
            return found!(WatchFilter, step, "{create}: {event}: it does not watch that");
        }
        if event.kv.modified < self.from {
            return found!(WatchResumable, step, "{create}: {event}: older than its start {}", self.from);
        }
        let find = |range: std::ops::Range<usize>| {
            let mut changes = range.filter_map(|at| self.change(at));
            changes.any(|change| self.is_of(change, event))
        };
        if find(0..self.delivered) {
            return found!(WatchUnique, step, "{create}: {event}: it came before");
        }
        let Some(next) = self.next().filter(|_| find(self.delivered..self.expected.len())) else {
            return found!(WatchContent, step, "{create}: {event}: it never happened");
        };
        let (revision, kv) = (next.revision, &next.kv);
        if self.comes_later(number, i, next) {
            found!(WatchOrdered, step, "{create}: {event}: it came before revision {revision}, {kv}")
        } else if self.delivered == 0 && revision <= self.created {
            found!(WatchResumable, step, "{create}: {event}: revision {revision} is left out, {kv}")
        } else {
            found!(WatchReliable, step, "{create}: {event}: revision {revision} is left out, {kv}")
        }
    }
}
