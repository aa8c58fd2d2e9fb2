//! Watch streams taken apart: which answers belong to which watcher.
//!
//! Created answers come in the order of the create requests; everything else names its watcher. What does not fit is
//! kept as the stream's first finding, for the watch rules to report; the rest is still read, because other checkers
//! learn from it.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Finding, Rule};
use crate::history::{History, Moment, Passage, WatchAnswer, WatchCreate};

/// What concerns one watcher, in order.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'h> {
    Created(&'h WatchAnswer),
    Answer(&'h WatchAnswer),
    /// Progress that was requested, of the whole stream.
    StreamProgress(i64),
    /// The client wants no more.
    CancelSent,
}

#[derive(Debug)]
pub struct Watcher<'h> {
    pub stream: usize,
    pub member: u32,
    pub create: &'h WatchCreate,
    pub sent: Moment,
    pub id: i64,
    /// Begins with the created answer, when there was one.
    pub heard: Vec<(Moment, Heard<'h>)>,
    /// Nothing ended it: no cancel, no refusal, no end of the stream.
    pub open: bool,
}

impl Watcher<'_> {
    /// It sees every change as it is.
    pub fn sees_all(&self) -> bool {
        let create = self.create;
        matches!(&*create.key, [] | [0]) && *create.range_end == [0] && !create.no_put && !create.no_delete
    }

    pub fn created(&self) -> Option<(Moment, &WatchAnswer)> {
        match self.heard.first() {
            Some((at, Heard::Created(answer))) => Some((*at, answer)),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub struct Streams<'h> {
    pub watchers: Vec<Watcher<'h>>,
    pub finding: Option<Finding>,
    /// Answers to requests for progress.
    pub stream_progress: u64,
}

impl<'h> Streams<'h> {
    pub fn of(history: &'h History) -> Streams<'h> {
        let mut streams = Streams::default();
        for number in 0..history.streams.len() {
            streams.read(history, number);
        }
        streams
    }

    fn find(&mut self, rule: Rule, at: Moment, text: String) {
        let earlier = self.finding.as_ref().is_none_or(|finding| at.step < finding.step);
        if earlier {
            self.finding = Some(Finding::new(rule, at.step, text));
        }
    }

    fn read(&mut self, history: &'h History, number: usize) {
        let stream = &history.streams[number];
        let mut asked: VecDeque<usize> = VecDeque::new();
        let mut named: HashMap<i64, usize> = HashMap::new();
        // Ids whose watchers compaction canceled, and those that the client wanted to end.
        let (mut compacted, mut cancels): (HashSet<i64>, HashSet<i64>) = Default::default();
        let (mut requested, mut told) = (0, 0);
        let first = self.watchers.len();
        for (at, passage) in &stream.passages {
            let at = *at;
            match passage {
                Passage::Create(create) => {
                    asked.push_back(self.watchers.len());
                    self.watchers.push(Watcher {
                        stream: number,
                        member: stream.member,
                        create,
                        sent: at,
                        id: -1,
                        heard: Vec::new(),
                        open: stream.closed.is_none(),
                    });
                }
                Passage::Cancel { watch_id } => {
                    cancels.insert(*watch_id);
                    if let Some(&watcher) = named.get(watch_id) {
                        self.watchers[watcher].heard.push((at, Heard::CancelSent));
                        self.watchers[watcher].open = false;
                    }
                }
                Passage::RequestProgress => requested += 1,
                Passage::Received(answer) if answer.created => {
                    let Some(watcher) = asked.pop_front() else {
                        let text = format!("stream {number}: {answer}: nobody asked to be created");
                        self.find(Rule::WatchCreated, at, text);
                        continue;
                    };
                    let seat = &mut self.watchers[watcher];
                    seat.id = answer.watch_id;
                    seat.heard.push((at, Heard::Created(answer)));
                    if answer.canceled {
                        seat.open = false;
                        continue;
                    }
                    let wanted = seat.create.watch_id;
                    let taken = named.insert(answer.watch_id, watcher).is_some();
                    if taken || (wanted != 0 && answer.watch_id != wanted) {
                        let text =
                            format!("stream {number}: {answer}: wanted was id {wanted}, taken: {taken}");
                        self.find(Rule::WatchCreated, at, text);
                    }
                }
                Passage::Received(answer) if answer.watch_id == -1 => {
                    told += 1;
                    self.stream_progress += 1;
                    if !answer.is_progress() || told > requested {
                        let text =
                            format!("stream {number}: {answer}: answer {told} to {requested} requests");
                        self.find(Rule::WatchBookmarkable, at, text);
                    }
                    for &watcher in named.values() {
                        self.watchers[watcher].heard.push((at, Heard::StreamProgress(answer.revision)));
                    }
                }
                // Canceled by compaction it keeps its id, and a cancel that crossed that is answered, as in etcd.
                Passage::Received(answer)
                    if answer.canceled
                        && !named.contains_key(&answer.watch_id)
                        && compacted.contains(&answer.watch_id)
                        && cancels.remove(&answer.watch_id) => {}
                Passage::Received(answer) => {
                    let Some(&watcher) = named.get(&answer.watch_id) else {
                        let text = format!("stream {number}: {answer}: there is no such watcher");
                        let rule = if asked.is_empty() { Rule::WatchCanceled } else { Rule::WatchCreated };
                        self.find(rule, at, text);
                        continue;
                    };
                    self.watchers[watcher].heard.push((at, Heard::Answer(answer)));
                    if answer.canceled {
                        if answer.compact_revision > 0 {
                            compacted.insert(answer.watch_id);
                        } else {
                            cancels.remove(&answer.watch_id);
                        }
                        named.remove(&answer.watch_id);
                        self.watchers[watcher].open = false;
                    }
                }
            }
        }
        for watcher in &mut self.watchers[first..] {
            watcher.open &= matches!(watcher.heard.first(), Some((_, Heard::Created(_))));
        }
    }
}
