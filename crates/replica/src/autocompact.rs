//! When to compact by itself: etcd's periodic and revision modes, as a pure function of time and revision.

use std::collections::VecDeque;

use base::Millis;

/// `--auto-compaction-mode` and `--auto-compaction-retention`, after parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    /// Keep the history of the last `retention_ms`.
    Periodic {
        retention_ms: Millis,
    },
    /// Keep the last `revisions` revisions.
    Revision {
        revisions: i64,
    },
}

/// Revision mode looks every five minutes.
const REVISION_INTERVAL_MS: Millis = 5 * 60 * 1000;
const HOUR_MS: Millis = 60 * 60 * 1000;

/// Decides which revision to compact at, and when.
pub struct Compactor {
    mode: AutoCompaction,
    /// (when, revision) samples, oldest first; periodic mode.
    samples: VecDeque<(Millis, i64)>,
    last_attempt: Option<Millis>,
    last_compacted: i64,
}

impl Compactor {
    pub fn new(mode: AutoCompaction) -> Compactor {
        Compactor { mode, samples: VecDeque::new(), last_attempt: None, last_compacted: 0 }
    }

    /// Called at every tick of a leader; `revision` is the store's. `Some(r)`: propose a compaction at `r`.
    pub fn tick(&mut self, now: Millis, revision: i64) -> Option<i64> {
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision { revisions } => {
                let start = *self.last_attempt.get_or_insert(now);
                if now - start < REVISION_INTERVAL_MS {
                    return None;
                }
                self.last_attempt = Some(now);
                revision - revisions
            }
            AutoCompaction::Periodic { retention_ms } => self.periodic(now, revision, retention_ms)?,
        };
        if target <= 0 || target == self.last_compacted {
            return None;
        }
        assert!(target <= revision, "no compaction beyond the store's revision");
        self.last_compacted = target;
        Some(target)
    }

    /// etcd samples ten times a period (a period is the retention, an hour at most), and once it has a whole
    /// retention of samples compacts each period at the oldest.
    fn periodic(&mut self, now: Millis, revision: i64, retention_ms: Millis) -> Option<i64> {
        let period = retention_ms.min(HOUR_MS);
        let sample_interval = (period / 10).max(1);
        if self.samples.back().is_none_or(|&(at, _)| now - at >= sample_interval) {
            self.samples.push_back((now, revision));
        }
        while self.samples.len() > 1 && now - self.samples[1].0 >= retention_ms {
            self.samples.pop_front();
        }
        let &(oldest, at_revision) = self.samples.front()?;
        let start = *self.last_attempt.get_or_insert(now);
        if now - oldest < retention_ms || now - start < period {
            return None;
        }
        self.last_attempt = Some(now);
        Some(at_revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_mode_keeps_the_newest() {
        let mut compactor = Compactor::new(AutoCompaction::Revision { revisions: 100 });
        assert_eq!(compactor.tick(0, 500), None);
        assert_eq!(compactor.tick(REVISION_INTERVAL_MS, 500), Some(400));
        assert_eq!(compactor.tick(2 * REVISION_INTERVAL_MS, 500), None, "nothing new to compact");
        assert_eq!(compactor.tick(3 * REVISION_INTERVAL_MS, 50), None, "fewer revisions than are kept");
    }

    #[test]
    fn periodic_mode_compacts_what_is_older_than_the_retention() {
        let retention_ms = 10_000;
        let mut compactor = Compactor::new(AutoCompaction::Periodic { retention_ms });
        let mut compactions = Vec::new();
        for second in 0..60u64 {
            if let Some(revision) = compactor.tick(second * 1000, second as i64 + 1) {
                compactions.push((second, revision));
            }
        }
        assert!(!compactions.is_empty());
        for (second, revision) in compactions {
            assert!(second as i64 + 1 - revision >= 10, "at {second} s revision {revision} was too young");
        }
    }

    #[test]
    fn off_is_off() {
        let mut compactor = Compactor::new(AutoCompaction::Off);
        assert_eq!(compactor.tick(u64::MAX / 2, 1 << 40), None);
    }
}
