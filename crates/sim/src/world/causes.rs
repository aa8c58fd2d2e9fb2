//! What has happened so far that can be the cause of an error or of an alarm. Faults and members are noted as they
//! come; [`client`](super::client) asks.
//!
//! Must not be kinder than it has to be: what is noted here is what an error is excused by.

use base::limits::{HISTORY_HOLD_MS, SNAPSHOT_SPOOLS};
use proto::etcdserverpb as pb;

/// Times are the world's, microseconds; 0 where it never was so, the highest while it is.
#[derive(Default)]
pub(super) struct Causes {
    /// A disk has had no room, for once at least.
    pub short_of_room: bool,
    /// A member had an alarm for want of room, until then.
    alarm_until_us: u64,
    /// The most that a member had in use, and the most that a request was to cost, bytes: what quotas are held against.
    used_bytes_max: u64,
    cost_bytes_max: u64,
    /// The highest compacted revision that a member has published.
    compacted: i64,
    /// When it last rose.
    compacted_at_us: u64,
    /// That were asked for: how many a member still holds nobody here can see.
    snapshots: usize,
    /// A member that was told to stop was still there, until then.
    stopping_until_us: u64,
    /// A clock, a core or a disk was not to be relied on, and what had waited for it had to be done, until then.
    held_up_until_us: u64,
    /// Helpers that were slow had, or have, something to do that a member waits for, until then.
    awaited_until_us: u64,
}

impl Causes {
    /// A member shows this.
    pub fn published(&mut self, now_us: u64, published: &replica::Published) {
        self.used_bytes_max = self.used_bytes_max.max(published.used_bytes());
        self.alarm(now_us, published.alarm(pb::AlarmType::Nospace));
    }

    fn alarm(&mut self, now_us: u64, is_up: bool) {
        if is_up {
            self.alarm_until_us = u64::MAX;
        } else {
            self.alarm_until_us = self.alarm_until_us.min(now_us);
        }
    }

    /// Says so also when it is lowered in the same turn.
    pub fn alarm_raised(&mut self, now_us: u64, quota_bytes: i64) {
        let full = self.used_bytes_max + self.cost_bytes_max;
        let over_quota = u64::try_from(quota_bytes).is_ok_and(|quota| full >= quota);
        assert!(self.short_of_room || over_quota, "an alarm is raised, and there is room");
        self.alarm(now_us, true);
    }

    pub fn alarm_lowered(&mut self, now_us: u64) {
        self.alarm(now_us, false);
    }

    pub fn compacted(&mut self, now_us: u64, revision: i64) {
        if revision > self.compacted {
            (self.compacted, self.compacted_at_us) = (revision, now_us);
        }
    }

    pub fn snapshot_asked(&mut self) {
        self.snapshots += 1;
    }

    pub fn cost_asked(&mut self, cost_bytes: u64) {
        self.cost_bytes_max = self.cost_bytes_max.max(cost_bytes);
    }

    pub fn stop_told(&mut self) {
        self.stopping_until_us = u64::MAX;
    }

    pub fn stopped(&mut self, now_us: u64) {
        self.stopping_until_us = self.stopping_until_us.min(now_us);
        // Its jobs are gone with it.
        self.awaited_until_us = self.awaited_until_us.min(now_us);
    }

    pub fn hold_up(&mut self, until_us: u64) {
        self.held_up_until_us = self.held_up_until_us.max(until_us);
    }

    pub fn await_helpers(&mut self, until_us: u64) {
        self.awaited_until_us = self.awaited_until_us.max(until_us);
    }

    /// Of "no space", to a call that began then: an alarm.
    pub fn of_alarm(&self, since_us: u64) -> bool {
        self.alarm_until_us >= since_us
    }

    /// Of a refusal to hash an earlier revision.
    pub fn of_compacted(&self, revision: i64) -> bool {
        revision > 0 && revision < self.compacted
    }

    /// Of a long answer that is not completed, to a call that began then, `aged_us` ago by its member's clock, and reads
    /// this revision, or the newest: what it reads is kept for so long, and has been compacted since.
    pub fn of_long_read(&self, since_us: u64, aged_us: u64, revision: i64) -> bool {
        let is_compacted = self.compacted_at_us >= since_us && self.compacted > revision;
        aged_us >= 1000 * HISTORY_HOLD_MS && is_compacted
    }

    /// Of a refusal to keep one more snapshot.
    pub fn of_too_many_snapshots(&self) -> bool {
        self.snapshots > SNAPSHOT_SPOOLS
    }

    /// Of "server stopped" to a call that began then.
    pub fn of_stop(&self, since_us: u64) -> bool {
        self.stopping_until_us >= since_us
    }

    /// Of "timed out" to a call that began then.
    pub fn of_timeout(&self, since_us: u64) -> bool {
        self.held_up_until_us.max(self.awaited_until_us) >= since_us
    }
}
