//! The rules of the lessor, one by one.

use base::LeaseId;
use base::limits::{LEASE_REVOKES_PER_SECOND, LEASE_SCAN_ENTRIES, LEASE_TTL_MAX_S};
use mainstay_lease::{
    CHECKPOINT_INTERVAL_S, GrantError, Lease, Lessor, Options, REVOKE_RETRY_MS, Renewal, SCAN_INTERVAL_MS,
    TimeToLive, min_ttl_s,
};

const OPTIONS: Options = Options { min_ttl_s: 2, checkpoint_interval_s: None };
const ELECTION_MS: u64 = 1000;

fn primary(now: u64) -> Lessor {
    let mut lessor = Lessor::recover(OPTIONS, []);
    lessor.promote(now, ELECTION_MS);
    lessor
}

fn scan(lessor: &mut Lessor, now: u64) -> Vec<LeaseId> {
    let mut expired = Vec::new();
    lessor.scan(now, &mut expired);
    expired
}

#[test]
fn the_smallest_ttl_is_one_and_a_half_elections() {
    assert_eq!(min_ttl_s(10, 100), 2);
    assert_eq!(min_ttl_s(5000 / 500, 500), 8);
    assert_eq!(min_ttl_s(3, 1000), 4, "half a tick is dropped");
    assert_eq!(min_ttl_s(2, 1000), 3);
}

#[test]
fn grants_are_checked_in_order_and_raised_to_the_smallest_ttl() {
    let mut lessor = primary(0);
    assert_eq!(lessor.grant(0, LEASE_TTL_MAX_S + 1, 0), Err(GrantError::NoId));
    assert_eq!(lessor.grant(7, 60, 0), Ok(60));
    assert_eq!(lessor.grant(7, LEASE_TTL_MAX_S + 1, 0), Err(GrantError::TtlTooLarge));
    assert_eq!(lessor.grant(7, 60, 0), Err(GrantError::Exists));
    assert_eq!(lessor.grant(8, -5, 0), Ok(2));
    assert_eq!(lessor.grant(-9, LEASE_TTL_MAX_S, 0), Ok(LEASE_TTL_MAX_S));
    assert_eq!(lessor.check_grant(10, 1), Ok(2));
    assert_eq!(lessor.get(10), None, "a check grants nothing");
    assert_eq!(lessor.get(8), Some(Lease { id: 8, ttl_s: 2, remaining_ttl_s: 0 }));
    assert_eq!(lessor.list(), vec![8, 7, -9]);
    assert!(lessor.revoke(7) && !lessor.revoke(7));
    assert_eq!(lessor.grant(7, 5, 0), Ok(5), "a revoked id is free again");
}

#[test]
fn stored_leases_last_forever_until_a_promotion() {
    let stored = [(1, 1, 0), (2, 100, 40), (3, 50, 0)];
    let stored = stored.map(|(id, ttl_s, remaining_ttl_s)| Lease { id, ttl_s, remaining_ttl_s });
    let mut lessor = Lessor::recover(OPTIONS, stored);
    assert_eq!(lessor.time_to_live(2, 0), TimeToLive::NotPrimary);
    assert_eq!(lessor.renew(2, 0), Renewal::NotPrimary);
    assert_eq!(lessor.next_scan(0), None);
    assert_eq!(scan(&mut lessor, u64::MAX / 2), vec![]);
    assert_eq!(lessor.list(), vec![1, 2, 3]);

    lessor.promote(10_000, ELECTION_MS);
    let alive = |ttl_s, granted_ttl_s| TimeToLive::Alive { ttl_s, granted_ttl_s };
    assert_eq!(lessor.time_to_live(1, 10_000), alive(3, 2));
    assert_eq!(lessor.time_to_live(2, 10_000), alive(41, 100));
    assert_eq!(lessor.list(), vec![1, 2, 3]);
    assert_eq!(lessor.renew(3, 10_000), Renewal::Renewed { ttl_s: 50 });
    assert_eq!(lessor.time_to_live(3, 10_000), alive(50, 50), "a renewal is not extended");

    lessor.demote();
    assert_eq!(lessor.time_to_live(3, 10_000), TimeToLive::NotPrimary);
    assert_eq!(lessor.grant(4, 9, 10_000), Ok(9));
    assert_eq!(lessor.time_to_live(4, 10_000), TimeToLive::NotPrimary);
    assert_eq!(scan(&mut lessor, u64::MAX / 2), vec![]);
    lessor.promote(20_000, ELECTION_MS);
    assert_eq!(lessor.time_to_live(4, 20_000), alive(10, 9));
    assert_eq!(lessor.time_to_live(5, 20_000), TimeToLive::NotFound);
}

#[test]
fn an_expired_lease_waits_for_its_revocation() {
    let mut lessor = primary(0);
    lessor.grant(1, 2, 0).unwrap();
    assert_eq!(lessor.renew(1, 1999), Renewal::Renewed { ttl_s: 2 });
    assert_eq!(lessor.renew(1, 3999), Renewal::Expired);
    assert_eq!(lessor.time_to_live(1, 4500), TimeToLive::Alive { ttl_s: 0, granted_ttl_s: 2 });
    assert_eq!(lessor.time_to_live(1, 5000), TimeToLive::Alive { ttl_s: -1, granted_ttl_s: 2 });
    assert_eq!(scan(&mut lessor, 3998), vec![]);
    assert_eq!(scan(&mut lessor, 3999), vec![], "the next scan is not due");
    let at = 3998 + SCAN_INTERVAL_MS;
    assert_eq!(lessor.next_scan(4000), Some(at));
    assert_eq!(scan(&mut lessor, at), vec![1]);
    assert_eq!(lessor.renew(1, at), Renewal::Expired, "reported or not");
    assert_eq!(scan(&mut lessor, at + REVOKE_RETRY_MS - 1), vec![]);
    assert_eq!(
        scan(&mut lessor, at + REVOKE_RETRY_MS - 1 + SCAN_INTERVAL_MS),
        vec![1],
        "again, until revoked"
    );
    assert!(lessor.revoke(1));
    assert_eq!(lessor.renew(1, at), Renewal::NotFound);
    assert_eq!(scan(&mut lessor, at + 10 * REVOKE_RETRY_MS), vec![]);
}

#[test]
fn a_new_leader_gives_an_expired_lease_another_life() {
    let mut lessor = primary(0);
    lessor.grant(1, 2, 0).unwrap();
    assert_eq!(scan(&mut lessor, 2000), vec![1]);
    lessor.demote();
    lessor.promote(2100, ELECTION_MS);
    assert_eq!(lessor.renew(1, 2100), Renewal::Renewed { ttl_s: 2 });
    assert_eq!(scan(&mut lessor, 4099), vec![]);
    assert_eq!(scan(&mut lessor, 4600), vec![1]);
}

#[test]
fn a_scan_is_limited_and_in_order_of_expiry() {
    let mut lessor = primary(0);
    let count = LEASE_REVOKES_PER_SECOND as i64;
    for id in 1..=count {
        lessor.grant(id, 2, (count - id) as u64).unwrap();
    }
    let half = LEASE_REVOKES_PER_SECOND / 2;
    let mut got = scan(&mut lessor, 10_000);
    assert_eq!(got.len(), half);
    assert_eq!(scan(&mut lessor, 10_001), vec![]);
    got.extend(scan(&mut lessor, 10_000 + SCAN_INTERVAL_MS));
    assert_eq!(got, (1..=count).rev().collect::<Vec<_>>());
    assert_eq!(scan(&mut lessor, 10_000 + 2 * SCAN_INTERVAL_MS), vec![]);
}

#[test]
fn renewed_leases_do_not_use_up_a_scan() {
    let mut lessor = primary(0);
    let count = (LEASE_SCAN_ENTRIES + LEASE_SCAN_ENTRIES / 2) as i64;
    for id in 1..=count {
        lessor.grant(id, 10, 0).unwrap();
        if id < count {
            assert_eq!(lessor.renew(id, 5_000), Renewal::Renewed { ttl_s: 10 });
        }
    }
    assert_eq!(scan(&mut lessor, 10_000), vec![], "one call is bounded");
    assert_eq!(lessor.next_scan(10_000), Some(10_000), "and the scan goes on");
    assert_eq!(scan(&mut lessor, 10_000), vec![count]);
    assert_eq!(lessor.next_scan(10_000), Some(10_000 + SCAN_INTERVAL_MS));
}

#[test]
fn a_promotion_spreads_the_pile() {
    let stored = |count| (1..=count).map(|id| Lease { id, ttl_s: 60, remaining_ttl_s: 0 });
    for (count, spreads) in [(LEASE_REVOKES_PER_SECOND - 1, false), (5 * LEASE_REVOKES_PER_SECOND, true)] {
        let mut lessor = Lessor::recover(OPTIONS, stored(count as i64));
        lessor.promote(0, ELECTION_MS);
        let mut per_second = std::collections::BTreeMap::<i64, usize>::new();
        for id in 1..=count as i64 {
            let TimeToLive::Alive { ttl_s, .. } = lessor.time_to_live(id, 0) else { panic!("primary") };
            assert!(ttl_s >= 61);
            *per_second.entry(ttl_s).or_default() += 1;
        }
        assert_eq!(per_second.len() > 1, spreads);
        assert!(!spreads || per_second.values().all(|&n| n <= LEASE_REVOKES_PER_SECOND), "{per_second:?}");
    }
}

#[test]
fn checkpoints_carry_the_remaining_ttl_over_a_promotion() {
    let options = Options { checkpoint_interval_s: Some(CHECKPOINT_INTERVAL_S), ..OPTIONS };
    let interval_ms = CHECKPOINT_INTERVAL_S as u64 * 1000;
    let mut lessor = Lessor::recover(options.clone(), []);
    lessor.promote(0, ELECTION_MS);
    lessor.grant(1, 1000, 0).unwrap();
    lessor.grant(2, CHECKPOINT_INTERVAL_S, 0).unwrap();
    let mut due = Vec::new();
    lessor.due_checkpoints(interval_ms - 1, &mut due);
    assert_eq!(due, vec![], "not yet");
    lessor.due_checkpoints(interval_ms, &mut due);
    assert_eq!(due, vec![(1, 700)], "a lease that is shorter than the interval needs none");
    assert!(lessor.checkpoint(1, 700, interval_ms));
    assert!(!lessor.checkpoint(3, 700, interval_ms));
    assert_eq!(
        lessor.time_to_live(1, interval_ms),
        TimeToLive::Alive { ttl_s: 700, granted_ttl_s: 1000 },
        "a checkpoint itself changes no expiry"
    );
    let mut other = Lessor::recover(options, [lessor.get(1).unwrap()]);
    other.promote(0, ELECTION_MS);
    assert_eq!(other.time_to_live(1, 0), TimeToLive::Alive { ttl_s: 701, granted_ttl_s: 1000 });

    assert_eq!(lessor.renew(1, interval_ms), Renewal::ClearCheckpoint);
    assert!(lessor.checkpoint(1, 0, interval_ms));
    assert_eq!(lessor.renew(1, interval_ms), Renewal::Renewed { ttl_s: 1000 });
    due.clear();
    lessor.due_checkpoints(2 * interval_ms, &mut due);
    assert_eq!(due, vec![(1, 700)]);
    assert!(lessor.revoke(1));
    due.clear();
    lessor.due_checkpoints(10 * interval_ms, &mut due);
    assert_eq!(due, vec![]);
}
