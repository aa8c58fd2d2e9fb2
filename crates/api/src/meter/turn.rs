//! What a shard's calls cost, told without asking a clock for each: a call that is held beyond its turn took from the
//! start of the turn that held it to the start of the one that ended it; what was done within one turn shares that
//! turn's time evenly.
//!
//! Reads no clock: the server says when turns begin and when their work was done.

use base::CallToken;
use base::limits::SLOW_CALLS;

use super::Meter;
use super::operation::Operation;
use crate::calls::{Rpc, Shape};

/// A read barrier that took longer is slow, microseconds: etcd asks again after this.
const BARRIER_SLOW_US: u64 = 500_000;

/// As much of a request as the log shows when it was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    bytes: [u8; Opening::BYTES],
    /// Of the whole message.
    len: u32,
}

impl Opening {
    /// The keys of a transaction of Kubernetes, which come before its values.
    const BYTES: usize = 252;

    fn of(message: &[u8]) -> Opening {
        let mut bytes = [0; Opening::BYTES];
        let kept = message.len().min(Opening::BYTES);
        bytes[..kept].copy_from_slice(&message[..kept]);
        Opening { bytes, len: message.len() as u32 }
    }

    /// The message's size, bytes.
    pub fn message_bytes(&self) -> usize {
        self.len as usize
    }

    /// The beginning of the message, encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.message_bytes().min(Opening::BYTES)]
    }
}

/// What a call that is held keeps for its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    since_us: u64,
    pub request: Opening,
    /// Keys and values of its puts, bytes: of a Txn those of its success branch.
    pub put_bytes: u32,
    /// Waits in the log.
    pub proposed: bool,
    /// The log took what it proposed, and it goes on.
    agreed: bool,
    /// Waited for a read barrier.
    pub barrier: bool,
    /// Answered over several turns.
    pub long: bool,
}

impl Held {
    /// Keeps what the log may show.
    pub fn keep(&mut self, message: &[u8]) {
        self.request = Opening::of(message);
    }

    /// The log took what it proposed; what it waits for now is no proposal.
    pub fn agreed(&mut self, meter: &Meter) {
        if self.proposed && !self.agreed {
            self.agreed = true;
            meter.proposals_pending.add(-1);
        }
    }
}

/// A unary call that took longer than [`crate::Config::slow_request_us`].
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    pub token: CallToken,
    pub rpc: Rpc,
    pub took_us: u64,
    pub request: Opening,
    /// `None` where the call failed, or its answer was sent piece by piece.
    pub answer: Option<Answer>,
}

/// What a call was answered, as the log shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Keys found or deleted, operations of a transaction done; 0 for all else.
    pub count: u64,
    /// Of the message.
    pub bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// When this turn began, microseconds.
    pub now_us: u64,
    /// Since when the work below was done.
    from_us: u64,
    slow_us: u64,
    /// Counts calls that were held: whoever wants to know whether one was looks at it before and after.
    pub holds: u64,
    /// The call that is being ended.
    released: Option<(CallToken, Held)>,
    /// Calls that ended in the turn they came in: method, code.
    instant: Vec<(Rpc, u8)>,
    /// Ranges of calls that were held.
    ranges: u64,
    /// Watch responses, by what they tell.
    events: u64,
    control: u64,
    progress: u64,
    /// In those of `events`.
    event_count: u64,
    pub slow: Vec<Slow>,
    /// Of the call that is being ended.
    answer: Option<Answer>,
}

impl Turn {
    pub fn new(slow_us: u64) -> Turn {
        Turn { slow_us, ..Turn::default() }
    }

    pub fn begin(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.from_us = now_us;
    }

    pub fn hold(&mut self) -> Held {
        self.holds += 1;
        Held {
            since_us: self.now_us,
            request: Opening::of(&[]),
            put_bytes: 0,
            proposed: false,
            agreed: false,
            barrier: false,
            long: false,
        }
    }

    /// A held call is on its way out; [`Turn::finished`] follows.
    pub fn release(&mut self, meter: &Meter, token: CallToken, held: Held) {
        if held.proposed && !held.agreed {
            meter.proposals_pending.add(-1);
        }
        if held.long {
            meter.long_reads.add(-1);
        }
        self.released = Some((token, held));
    }

    /// The call that is being ended is answered this.
    pub fn answered(&mut self, count: u64, bytes: usize) {
        self.answer = Some(Answer { count, bytes });
    }

    /// A call ended with this code.
    pub fn finished(&mut self, meter: &Meter, rpc: Rpc, code: usize) {
        let code = if code < super::CODES { code } else { 2 };
        meter.handled[rpc as usize][code].inc();
        if rpc.shape() == Shape::Unary {
            // gRPC's interceptors count an answer of every unary call, whatever it says.
            meter.messages_sent[rpc as usize].inc();
        }
        let released = self.released.take();
        let answer = self.answer.take();
        meter.defrags.add(-i64::from(rpc == Rpc::Defragment && released.is_some()));
        match released {
            Some((token, held)) if held.proposed || held.since_us != self.now_us => {
                self.held_finished(meter, rpc, code, (token, held), answer);
            }
            // With the log core on the same thread, what it answers from memory is back within the turn.
            _ => self.instant.push((rpc, code as u8)),
        }
    }

    fn held_finished(
        &mut self,
        meter: &Meter,
        rpc: Rpc,
        code: usize,
        (token, held): (CallToken, Held),
        answer: Option<Answer>,
    ) {
        let took_us = self.now_us.saturating_sub(held.since_us);
        let took_ns = took_us.saturating_mul(1000);
        let ok = code == 0;
        if let Some(handling) = &meter.handling {
            handling[rpc as usize].observe(took_ns);
        }
        if held.proposed {
            // Refusals by the state machine are successes to the log; only what it never took or lost is not.
            let logged = held.agreed || code != UNAVAILABLE;
            meter.proposals_failed.add(u64::from(!logged));
            if let Some(operation) = Operation::proposed_by(rpc) {
                meter.requests.observe(operation, logged, took_ns);
            }
        } else if let Some(operation) = read_operation(rpc) {
            meter.requests.observe(operation, ok, took_ns);
        }
        if held.barrier {
            meter.barriers_failed.add(u64::from(code == UNAVAILABLE));
            meter.barriers_slow.add(u64::from(took_us > BARRIER_SLOW_US));
        }
        match rpc {
            Rpc::Range if !ok => meter.range_failed.observe(took_ns),
            Rpc::Range if held.long => meter.range_ok.observe(took_ns),
            Rpc::Range => self.ranges += 1,
            Rpc::Hash if ok => meter.hash.observe(took_ns),
            Rpc::HashKV if ok => meter.hash_rev.observe(took_ns),
            Rpc::Snapshot if ok => meter.snapshot_export.observe(took_ns),
            Rpc::Defragment if ok => meter.defrag.observe(took_ns),
            _ => {}
        }
        if rpc.shape() == Shape::Unary && took_us > self.slow_us && self.slow.len() < SLOW_CALLS {
            self.slow.push(Slow { token, rpc, took_us, request: held.request, answer });
        }
    }

    pub fn watch_events(&mut self, responses: u64, events: u64) {
        self.events += responses;
        self.event_count += events;
    }

    pub fn watch_control(&mut self, responses: u64) {
        self.control += responses;
    }

    pub fn watch_progress(&mut self, responses: u64) {
        self.progress += responses;
    }

    /// Whether there is something that [`Turn::share`] would give time to.
    pub fn has_work(&self) -> bool {
        !self.instant.is_empty() || self.ranges + self.events + self.control + self.progress > 0
    }

    /// The work so far was done at `now_us`: each part of it gets an equal share of the time since the last share,
    /// or since the turn began.
    pub fn share(&mut self, meter: &Meter, now_us: u64) {
        let parts = self.instant.len() as u64 + self.ranges + self.events + self.control + self.progress;
        if parts == 0 {
            return;
        }
        let took_ns = now_us.saturating_sub(self.from_us).saturating_mul(1000);
        self.from_us = now_us;
        let share_ns = took_ns / parts;
        // By outcome: failed, good.
        let mut ranges = [0, std::mem::take(&mut self.ranges)];
        let mut requests = [0; 2];
        let mut txns = [0; 2];
        for &(rpc, code) in &self.instant {
            // etcd measures from behind the validation on.
            let measured = usize::from(code) != INVALID_ARGUMENT;
            let ok = usize::from(code == 0);
            match rpc {
                Rpc::Range if measured => {
                    ranges[ok] += 1;
                    requests[ok] += 1;
                }
                // One that writes is never answered in the turn it came in, but for refusals.
                Rpc::Txn if code == 0 => txns[ok] += 1,
                Rpc::Defragment if code == 0 => meter.defrag.observe(share_ns),
                _ => {}
            }
            if let Some(handling) = &meter.handling {
                handling[rpc as usize].observe(share_ns);
            }
        }
        self.instant.clear();
        for (ok, histogram) in [(0, &meter.range_failed), (1, &meter.range_ok)] {
            if ranges[ok] > 0 {
                histogram.observe_many(share_ns, ranges[ok]);
            }
            for (operation, counts) in [(Operation::Range, requests), (Operation::ReadonlyTxn, txns)] {
                if counts[ok] > 0 {
                    meter.requests.observe_many(operation, ok == 1, share_ns, counts[ok]);
                }
            }
        }
        if self.events > 0 {
            meter.watch_send_events.observe_many(share_ns, self.events);
            let per_event_ns = share_ns * self.events / self.event_count.max(self.events);
            meter.watch_send_per_event.observe_many(per_event_ns, self.events);
        }
        for (responses, histogram) in
            [(self.control, &meter.watch_send_control), (self.progress, &meter.watch_send_progress)]
        {
            if responses > 0 {
                histogram.observe_many(share_ns, responses);
            }
        }
        (self.events, self.event_count, self.control, self.progress) = (0, 0, 0, 0);
    }
}

const INVALID_ARGUMENT: usize = proto::Code::InvalidArgument as usize;
const UNAVAILABLE: usize = proto::Code::Unavailable as usize;

fn read_operation(rpc: Rpc) -> Option<Operation> {
    match rpc {
        Rpc::Range => Some(Operation::Range),
        Rpc::Txn => Some(Operation::ReadonlyTxn),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: CallToken = CallToken { shard: 0, connection: 1, epoch: 2, stream: 3 };

    fn requests(meter: &Meter) -> Vec<(&'static str, bool, u64, u64)> {
        meter.requests.used().map(|(name, ok, cell)| (name, ok, cell.count(), cell.read().1)).collect()
    }

    #[test]
    fn what_a_turn_did_shares_its_time() {
        let meter = Meter::new(true);
        let mut turn = Turn::new(1000);
        turn.begin(5000);
        assert!(!turn.has_work());
        for code in [0, 0, 11, INVALID_ARGUMENT] {
            turn.finished(&meter, Rpc::Range, code);
        }
        turn.finished(&meter, Rpc::Txn, 0);
        turn.finished(&meter, Rpc::Status, 0);
        turn.watch_events(2, 8);
        turn.watch_control(1);
        turn.watch_progress(1);
        assert!(turn.has_work());
        turn.share(&meter, 5100);
        assert!(!turn.has_work());
        // Ten parts of 100 microseconds.
        assert_eq!(
            requests(&meter),
            [("Range", false, 1, 10_000), ("Range", true, 2, 20_000), ("ReadonlyTxn", true, 1, 10_000)]
        );
        assert_eq!((meter.range_ok.count(), meter.range_failed.count()), (2, 1));
        assert_eq!(meter.watch_send_events.read().1, 20_000);
        assert_eq!(meter.watch_send_per_event.read().1, 2 * 2500);
        assert_eq!((meter.watch_send_control.count(), meter.watch_send_progress.count()), (1, 1));
        let handling = meter.handling(Rpc::Range).expect("asked for");
        assert_eq!((handling.count(), handling.read().1), (4, 40_000));
        assert_eq!(meter.handled[Rpc::Range as usize][0].get(), 2);
        assert_eq!(meter.messages_sent[Rpc::Range as usize].get(), 4);
        turn.share(&meter, 9000);
        assert_eq!(meter.range_ok.count(), 2, "nothing is shared twice");
    }

    #[test]
    fn held_calls_take_from_turn_to_turn() {
        let meter = Meter::new(false);
        let mut turn = Turn::new(2000);
        turn.begin(1000);
        let mut put = turn.hold();
        put.proposed = true;
        meter.proposals_pending.add(1);
        put.keep(&[7; 300]);
        let mut lost = turn.hold();
        lost.proposed = true;
        meter.proposals_pending.add(1);
        let mut read = turn.hold();
        read.barrier = true;
        assert_eq!(turn.holds, 3);
        let mut compaction = turn.hold();
        compaction.proposed = true;
        meter.proposals_pending.add(1);
        compaction.agreed(&meter);
        compaction.agreed(&meter);
        assert_eq!(meter.proposals_pending.get(), 2);
        turn.begin(4000);
        turn.release(&meter, TOKEN, put);
        turn.finished(&meter, Rpc::Put, 5);
        turn.release(&meter, TOKEN, lost);
        turn.finished(&meter, Rpc::DeleteRange, UNAVAILABLE);
        turn.release(&meter, TOKEN, read);
        turn.answered(3, 40);
        turn.finished(&meter, Rpc::Range, 0);
        assert_eq!(
            requests(&meter),
            [
                ("Range", true, 1, 3_000_000),
                ("Put", true, 1, 3_000_000),
                ("DeleteRange", false, 1, 3_000_000)
            ]
        );
        assert_eq!((meter.proposals_pending.get(), meter.proposals_failed.get()), (0, 1));
        assert_eq!((meter.barriers_failed.get(), meter.barriers_slow.get()), (0, 0));
        assert_eq!(turn.slow.len(), 3);
        assert_eq!((turn.slow[0].rpc, turn.slow[0].took_us), (Rpc::Put, 3000));
        assert_eq!((turn.slow[0].answer, turn.slow[2].answer), (None, Some(Answer { count: 3, bytes: 40 })));
        assert_eq!(turn.slow[0].request.message_bytes(), 300);
        assert_eq!(turn.slow[0].request.bytes(), [7; Opening::BYTES]);
        // The range itself was done now, and only that is its share.
        turn.share(&meter, 4050);
        assert_eq!(meter.range_ok.read().1, 50_000);
        assert!(meter.handling(Rpc::Put).is_none());
    }

    #[test]
    fn what_is_back_within_its_turn_shares_it() {
        let meter = Meter::new(false);
        let mut turn = Turn::new(0);
        turn.begin(1000);
        let held = turn.hold();
        meter.defrags.add(1);
        turn.release(&meter, TOKEN, held);
        turn.finished(&meter, Rpc::Defragment, 0);
        assert!(turn.slow.is_empty());
        turn.share(&meter, 3000);
        assert_eq!((meter.defrag.read().1, meter.defrags.get()), (2_000_000, 0));
        // A call that was never held leaves the gauge alone.
        turn.finished(&meter, Rpc::Defragment, 14);
        assert_eq!(meter.defrags.get(), 0);
    }

    #[test]
    fn streams_are_never_slow_and_unknown_codes_are_unknown() {
        let meter = Meter::new(false);
        let mut turn = Turn::new(0);
        turn.begin(1);
        let held = turn.hold();
        turn.begin(1 << 40);
        turn.release(&meter, TOKEN, held);
        turn.finished(&meter, Rpc::Watch, 99);
        assert!(turn.slow.is_empty());
        assert_eq!(meter.handled[Rpc::Watch as usize][2].get(), 1);
        assert_eq!(meter.messages_sent[Rpc::Watch as usize].get(), 0);
    }
}
