//! Random histories against a model that keeps a plain list and looks at all of it every time.

use std::collections::BTreeMap;

use base::Random;
use base::limits::LEASE_REVOKES_PER_SECOND;
use mainstay_lease::{Lease, Lessor, Options, REVOKE_RETRY_MS, Renewal, SCAN_INTERVAL_MS, TimeToLive};

#[derive(Clone, Copy)]
struct Plain {
    ttl_s: i64,
    remaining_ttl_s: i64,
    expiry: Option<u64>,
    due: u64,
}

#[derive(Default)]
struct Model {
    leases: BTreeMap<i64, Plain>,
    primary: bool,
    scan_at: u64,
}

impl Model {
    fn refresh(lease: &mut Plain, now: u64, extend: u64) {
        let ttl = if lease.remaining_ttl_s > 0 { lease.remaining_ttl_s } else { lease.ttl_s };
        lease.expiry = Some(now + extend + ttl as u64 * 1000);
        lease.due = lease.expiry.unwrap();
    }

    fn scan(&mut self, now: u64) -> Vec<i64> {
        if !self.primary || now < self.scan_at {
            return Vec::new();
        }
        self.scan_at = now + SCAN_INTERVAL_MS;
        let mut due: Vec<(u64, i64)> = self.leases.iter().map(|(&id, lease)| (lease.due, id)).collect();
        due.sort_unstable();
        due.retain(|&(due, _)| due <= now);
        due.truncate(LEASE_REVOKES_PER_SECOND / 2);
        let expired: Vec<i64> = due.into_iter().map(|(_, id)| id).collect();
        for id in &expired {
            self.leases.get_mut(id).unwrap().due = now + REVOKE_RETRY_MS;
        }
        expired
    }
}

#[test]
fn random_histories_match_the_model() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let ids = if seed % 10 == 0 { 3 * LEASE_REVOKES_PER_SECOND as u64 } else { 40 };
        let mut now = random.below(1_000_000);
        let options = Options { min_ttl_s: 2, checkpoint_interval_s: None };
        let mut lessor = Lessor::recover(options.clone(), []);
        let mut model = Model::default();
        for _ in 0..4000 {
            now += random.below(200);
            let id = 1 + random.below(ids) as i64;
            match random.below(100) {
                0..25 => {
                    let ttl = random.below(12) as i64;
                    let granted = lessor.grant(id, ttl, now);
                    if let std::collections::btree_map::Entry::Vacant(slot) = model.leases.entry(id) {
                        assert_eq!(granted, Ok(ttl.max(2)));
                        let mut lease =
                            Plain { ttl_s: ttl.max(2), remaining_ttl_s: 0, expiry: None, due: u64::MAX };
                        if model.primary {
                            Model::refresh(&mut lease, now, 0);
                        }
                        slot.insert(lease);
                    } else {
                        assert!(granted.is_err());
                    }
                }
                25..65 => {
                    let expected = match (model.primary, model.leases.get_mut(&id)) {
                        (false, _) => Renewal::NotPrimary,
                        (true, None) => Renewal::NotFound,
                        (true, Some(lease)) if lease.expiry.unwrap() <= now => Renewal::Expired,
                        (true, Some(lease)) => {
                            Model::refresh(lease, now, 0);
                            Renewal::Renewed { ttl_s: lease.ttl_s }
                        }
                    };
                    assert_eq!(lessor.renew(id, now), expected);
                }
                65..72 => assert_eq!(lessor.revoke(id), model.leases.remove(&id).is_some()),
                72..76 => {
                    let remaining = random.below(5) as i64;
                    assert_eq!(lessor.checkpoint(id, remaining, now), model.leases.contains_key(&id));
                    if let Some(lease) = model.leases.get_mut(&id) {
                        lease.remaining_ttl_s = remaining;
                    }
                }
                76..92 => {
                    let mut got = Vec::new();
                    lessor.scan(now, &mut got);
                    assert_eq!(got, model.scan(now), "seed {seed} at {now}");
                    // Most of what is reported is revoked; some revocations get lost.
                    got.retain(|_| !random.one_in(4));
                    for id in got {
                        assert!(lessor.revoke(id));
                        model.leases.remove(&id);
                    }
                }
                92..94 => {
                    lessor.demote();
                    model.primary = false;
                    for lease in model.leases.values_mut() {
                        (lease.expiry, lease.due) = (None, u64::MAX);
                    }
                }
                94..97 if model.leases.len() < LEASE_REVOKES_PER_SECOND => {
                    lessor.promote(now, 1000);
                    (model.primary, model.scan_at) = (true, now);
                    for lease in model.leases.values_mut() {
                        Model::refresh(lease, now, 1000);
                    }
                }
                97 => {
                    let stored: Vec<Lease> =
                        lessor.list().iter().map(|&id| lessor.get(id).unwrap()).collect();
                    lessor = Lessor::recover(options.clone(), stored);
                    model.primary = false;
                    for lease in model.leases.values_mut() {
                        (lease.expiry, lease.due) = (None, u64::MAX);
                    }
                }
                _ => {
                    let mut listed: Vec<(u64, i64)> =
                        model.leases.iter().map(|(&id, l)| (l.expiry.unwrap_or(u64::MAX), id)).collect();
                    listed.sort_unstable();
                    assert_eq!(lessor.list(), listed.iter().map(|&(_, id)| id).collect::<Vec<_>>());
                    let expected = match model.leases.get(&id) {
                        _ if !model.primary => TimeToLive::NotPrimary,
                        None => TimeToLive::NotFound,
                        Some(Plain { expiry: None, .. }) => TimeToLive::NotPrimary,
                        Some(Plain { expiry: Some(expiry), ttl_s, .. }) => {
                            let ttl = (*expiry as i64 - now as i64) / 1000;
                            TimeToLive::Alive { ttl_s: ttl, granted_ttl_s: *ttl_s }
                        }
                    };
                    assert_eq!(lessor.time_to_live(id, now), expected);
                }
            }
            assert_eq!(lessor.len(), model.leases.len());
            assert_eq!(lessor.is_primary(), model.primary);
        }
    }
}
