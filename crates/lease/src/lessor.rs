//! The leases of one member and the rules about them.

use std::collections::HashMap;

use base::limits::{LEASE_CHECKPOINT_BATCH, LEASE_REVOKES_PER_SECOND, LEASE_SCAN_ENTRIES, LEASE_TTL_MAX_S};
use base::{LeaseId, Millis};

use crate::promotion::spread;
use crate::queue::{NEVER, Queue};
use crate::{REVOKE_RETRY_MS, SCAN_INTERVAL_MS};

#[derive(Clone, Debug)]
pub struct Options {
    /// The smallest TTL that is granted, seconds: see [`crate::min_ttl_s`].
    pub min_ttl_s: i64,
    /// `Some`: the primary writes down remaining TTLs this often ([`crate::CHECKPOINT_INTERVAL_S`]). Off by default,
    /// as in etcd.
    pub checkpoint_interval_s: Option<i64>,
}

/// What is stored of a lease. `remaining_ttl_s` 0 means that the whole TTL remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl_s: i64,
    pub remaining_ttl_s: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// ID 0 is "no lease": the caller must have chosen one. etcd words it "requested lease not found".
    NoId,
    /// Above [`LEASE_TTL_MAX_S`].
    TtlTooLarge,
    Exists,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Alive for another `ttl_s`, the granted TTL.
    Renewed { ttl_s: i64 },
    /// Unknown: a keep-alive answers TTL 0.
    NotFound,
    /// Ask the leader.
    NotPrimary,
    /// Expired and not yet revoked: wait until it is revoked (then it is `NotFound`) or this member is demoted
    /// (then `NotPrimary`).
    Expired,
    /// A checkpoint with remaining TTL 0 must be applied first; then renew again.
    ClearCheckpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// `ttl_s` is whole seconds towards zero, and negative for a lease that expired over a second ago.
    Alive { ttl_s: i64, granted_ttl_s: i64 },
    /// The answer has TTL -1.
    NotFound,
    /// This member has no expiries: ask the leader ("leader changed" where it was thought to be this one).
    NotPrimary,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    ttl_s: i64,
    remaining_ttl_s: i64,
    /// [`NEVER`] on a member that is not the primary.
    expiry: Millis,
    /// Its entry in the expiry queue: not after `expiry`, unless the lease was reported as expired.
    queued: Millis,
    checkpoint: Millis,
}

impl Record {
    fn remaining_s(&self) -> i64 {
        if self.remaining_ttl_s > 0 { self.remaining_ttl_s } else { self.ttl_s }
    }

    fn fresh_expiry(&self, now: Millis, extend_ms: Millis) -> Millis {
        let ttl_ms = self.remaining_s().max(0) as u64 * 1000;
        // NEVER itself has a meaning.
        now.saturating_add(extend_ms).saturating_add(ttl_ms).min(NEVER - 1)
    }

    fn remaining_ms(&self, now: Millis) -> i64 {
        i64::try_from(i128::from(self.expiry) - i128::from(now)).unwrap_or(i64::MAX)
    }
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Lessor {
    options: Options,
    // Iterated only where the result is sorted afterwards: the map's order shows nowhere.
    leases: HashMap<LeaseId, Record>,
    primary: bool,
    expiries: Queue,
    checkpoints: Queue,
    /// When the next scan begins.
    scan_at: Millis,
    /// How many leases the unfinished scan may still report.
    scanning: Option<usize>,
}

impl Lessor {
    /// The lessor of a member that is not the primary, over the stored leases. Those below the smallest TTL are
    /// raised to it, as etcd does when it recovers.
    pub fn recover(options: Options, stored: impl IntoIterator<Item = Lease>) -> Lessor {
        assert!(options.min_ttl_s > 0, "a TTL of nothing would expire at once");
        assert!(
            options.checkpoint_interval_s.is_none_or(|s| s > 0),
            "checkpoints take some time to come round"
        );
        let min_ttl_s = options.min_ttl_s;
        let leases = stored.into_iter().map(|lease| {
            let ttl_s = lease.ttl_s.max(min_ttl_s);
            (lease.id, Record::forever(ttl_s, lease.remaining_ttl_s))
        });
        Lessor {
            leases: leases.collect(),
            options,
            primary: false,
            expiries: Queue::default(),
            checkpoints: Queue::default(),
            scan_at: 0,
            scanning: None,
        }
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// What is to be stored of a lease.
    pub fn get(&self, id: LeaseId) -> Option<Lease> {
        let record = self.leases.get(&id)?;
        Some(Lease { id, ttl_s: record.ttl_s, remaining_ttl_s: record.remaining_ttl_s })
    }

    /// Whether [`Lessor::grant`] would succeed, and with which TTL, without doing it: for a caller that decides
    /// before it changes anything.
    pub fn check_grant(&self, id: LeaseId, ttl_s: i64) -> Result<i64, GrantError> {
        if id == 0 {
            return Err(GrantError::NoId);
        }
        if ttl_s > LEASE_TTL_MAX_S {
            return Err(GrantError::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(GrantError::Exists);
        }
        Ok(ttl_s.max(self.options.min_ttl_s))
    }

    /// Applies a grant; the TTL that it got. `now` matters to the primary only.
    pub fn grant(&mut self, id: LeaseId, ttl_s: i64, now: Millis) -> Result<i64, GrantError> {
        let ttl_s = self.check_grant(id, ttl_s)?;
        let mut record = Record::forever(ttl_s, 0);
        if self.primary {
            record.expiry = record.fresh_expiry(now, 0);
            self.expiries.set(id, &mut record.queued, record.expiry);
        }
        let before = self.leases.insert(id, record);
        assert!(before.is_none(), "a lease is granted once");
        self.schedule_checkpoint(id, now);
        Ok(ttl_s)
    }

    /// Applies a revocation: true when the lease was there. Its keys are the caller's to delete, sorted.
    pub fn revoke(&mut self, id: LeaseId) -> bool {
        let Some(mut record) = self.leases.remove(&id) else { return false };
        self.expiries.set(id, &mut record.queued, NEVER);
        self.checkpoints.set(id, &mut record.checkpoint, NEVER);
        assert!(self.expiries.len() <= self.leases.len(), "a lease is queued once at most");
        true
    }

    /// Keeps a lease alive. Only the primary can, after it made sure that it still leads.
    pub fn renew(&mut self, id: LeaseId, now: Millis) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(record) = self.leases.get_mut(&id) else { return Renewal::NotFound };
        if record.expiry <= now && !base::bug!(ExpiredLeaseRenewed) {
            return Renewal::Expired;
        }
        if self.options.checkpoint_interval_s.is_some() && record.remaining_ttl_s > 0 {
            return Renewal::ClearCheckpoint;
        }
        record.expiry = record.fresh_expiry(now, 0);
        if record.expiry < record.queued {
            self.expiries.set(id, &mut record.queued, record.expiry);
        }
        Renewal::Renewed { ttl_s: record.ttl_s }
    }

    pub fn time_to_live(&self, id: LeaseId, now: Millis) -> TimeToLive {
        match self.leases.get(&id) {
            // Who does not lead may not know it yet.
            _ if !self.primary => TimeToLive::NotPrimary,
            None => TimeToLive::NotFound,
            Some(record) => {
                TimeToLive::Alive { ttl_s: record.remaining_ms(now) / 1000, granted_ttl_s: record.ttl_s }
            }
        }
    }

    /// All leases, soonest expiry first; where expiries are equal (or there are none), by id.
    pub fn list(&self) -> Vec<LeaseId> {
        self.by_expiry().into_iter().map(|(_, id)| id).collect()
    }

    fn by_expiry(&self) -> Vec<(Millis, LeaseId)> {
        let mut order: Vec<_> = self.leases.iter().map(|(&id, record)| (record.expiry, id)).collect();
        order.sort_unstable();
        order
    }

    /// This member leads and has applied every entry of earlier terms: every lease starts anew, `extend_ms` (one
    /// election timeout) longer than its remaining TTL, for the time in which nobody could renew it. Also on a
    /// second promotion in a row.
    pub fn promote(&mut self, now: Millis, extend_ms: Millis) {
        self.primary = true;
        self.scanning = None;
        self.scan_at = now;
        for record in self.leases.values_mut() {
            record.expiry = record.fresh_expiry(now, extend_ms);
        }
        let order = self.by_expiry();
        if order.len() >= LEASE_REVOKES_PER_SECOND {
            let remaining: Vec<Millis> = order.iter().map(|(expiry, _)| expiry - now).collect();
            let extra = spread(&remaining, LEASE_REVOKES_PER_SECOND);
            for ((_, id), extra) in order.iter().zip(extra) {
                if extra > 0 {
                    let record = self.leases.get_mut(id).expect("listed above");
                    record.expiry = record.fresh_expiry(now, extend_ms.saturating_add(extra));
                }
            }
        }
        for (_, id) in order {
            let record = self.leases.get_mut(&id).expect("listed above");
            self.expiries.set(id, &mut record.queued, record.expiry);
            self.schedule_checkpoint(id, now);
        }
        assert_eq!(self.expiries.len(), self.leases.len(), "a primary will look at every lease");
    }

    /// This member leads no longer: no lease has an expiry here, and waiting renewals must go to the new leader.
    pub fn demote(&mut self) {
        self.primary = false;
        self.scanning = None;
        self.expiries.clear();
        self.checkpoints.clear();
        for record in self.leases.values_mut() {
            *record = Record::forever(record.ttl_s, record.remaining_ttl_s);
        }
    }

    /// When [`Lessor::scan`] has something to do next; `None` on a member that is not the primary.
    pub fn next_scan(&self, now: Millis) -> Option<Millis> {
        match (self.primary, self.scanning) {
            (false, _) => None,
            (true, Some(_)) => Some(now),
            (true, None) => Some(self.scan_at),
        }
    }

    /// Adds expired leases to `expired`, soonest expiry first; each must now be revoked by an entry of its own. One
    /// scan begins every [`SCAN_INTERVAL_MS`] and reports half of [`LEASE_REVOKES_PER_SECOND`] at most; one call
    /// looks at [`LEASE_SCAN_ENTRIES`] at most, and the next call continues. Calls in between do nothing.
    ///
    /// A lease that is still here [`REVOKE_RETRY_MS`] after it was reported is reported again.
    pub fn scan(&mut self, now: Millis, expired: &mut Vec<LeaseId>) {
        if !self.primary {
            return;
        }
        let mut left = match self.scanning.take() {
            Some(left) => left,
            None if now < self.scan_at => return,
            None => {
                self.scan_at = now + SCAN_INTERVAL_MS;
                LEASE_REVOKES_PER_SECOND / 2
            }
        };
        for looked_at in 0.. {
            let Some((due, id)) = self.expiries.first() else { return };
            if due > now || left == 0 {
                return;
            }
            if looked_at == LEASE_SCAN_ENTRIES {
                self.scanning = Some(left);
                return;
            }
            let record = self.leases.get_mut(&id).expect("a revoked lease leaves the queue");
            assert_eq!(record.queued, due, "the record knows its entry");
            // A renewed lease goes back to where it belongs even when that is past by now: the order would suffer.
            let again = if record.expiry > due && !base::bug!(RenewalForgotten) {
                record.expiry
            } else {
                expired.push(id);
                left -= 1;
                now + REVOKE_RETRY_MS
            };
            self.expiries.set(id, &mut record.queued, again);
        }
    }

    /// Applies a checkpoint: the next promotion gives the lease this remaining TTL instead of its whole TTL. False
    /// when the lease is gone.
    pub fn checkpoint(&mut self, id: LeaseId, remaining_ttl_s: i64, now: Millis) -> bool {
        let Some(record) = self.leases.get_mut(&id) else { return false };
        record.remaining_ttl_s = remaining_ttl_s;
        self.schedule_checkpoint(id, now);
        true
    }

    fn schedule_checkpoint(&mut self, id: LeaseId, now: Millis) {
        let Some(interval_s) = self.options.checkpoint_interval_s else { return };
        if !self.primary {
            return;
        }
        let record = self.leases.get_mut(&id).expect("called for a lease that exists");
        if record.remaining_s() > interval_s {
            let at = now.saturating_add(interval_s as u64 * 1000);
            self.checkpoints.set(id, &mut record.checkpoint, at);
        }
    }

    /// Adds the checkpoints that are due, (lease, remaining TTL in seconds), [`LEASE_CHECKPOINT_BATCH`] at most: one
    /// entry of the log. Call it with every scan, again while it gives a full batch.
    pub fn due_checkpoints(&mut self, now: Millis, due: &mut Vec<(LeaseId, i64)>) {
        let full = due.len() + LEASE_CHECKPOINT_BATCH;
        while due.len() < full {
            let Some((at, id)) = self.checkpoints.first() else { return };
            if at > now {
                return;
            }
            let record = self.leases.get_mut(&id).expect("a revoked lease leaves the queue");
            self.checkpoints.set(id, &mut record.checkpoint, NEVER);
            if record.expiry <= now {
                continue;
            }
            let remaining_s = i64::try_from((record.expiry - now).div_ceil(1000)).unwrap_or(i64::MAX);
            if remaining_s < record.ttl_s {
                due.push((id, remaining_s));
            }
        }
    }
}

impl Record {
    fn forever(ttl_s: i64, remaining_ttl_s: i64) -> Record {
        Record { ttl_s, remaining_ttl_s, expiry: NEVER, queued: NEVER, checkpoint: NEVER }
    }
}
