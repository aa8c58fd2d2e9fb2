//! What a new primary adds to the expiries, so that leases which all restarted at the same moment do not all end at
//! the same moment.

use base::Millis;

/// Extra time for each lease, in the order of `remaining`, which is each lease's remaining time just after its
/// refresh, ascending, milliseconds. `rate` is how many leases are revoked a second.
///
/// etcd's rule: three quarters of the rate may expire in a window of one second; every lease above that is pushed
/// out, and pushes the window's end. A lease that is not in the window opens the next one.
pub fn spread(remaining: &[Millis], rate: usize) -> Vec<Millis> {
    assert!(rate >= 2, "the rate leaves room for a target");
    let mut extra = vec![0; remaining.len()];
    let Some(&first) = remaining.first() else { return extra };
    let target = (3 * rate / 4) as u64;
    let (mut base, mut end) = (first, first.saturating_add(1000));
    let mut expires = 0u64;
    for (extra, &remaining) in extra.iter_mut().zip(remaining) {
        assert!(remaining >= base, "leases come in the order of their expiry");
        if remaining > end {
            (base, end) = (remaining, remaining.saturating_add(1000));
            expires = 1;
            continue;
        }
        expires += 1;
        if expires <= target {
            continue;
        }
        // Whoever is further into the window already needs less.
        let delay = (1000 * expires / target).saturating_sub(remaining - base);
        end = base.saturating_add(delay);
        *extra = delay;
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pile_is_spread_below_the_rate() {
        let extra = spread(&[60_000; 10_000], 1000);
        assert_eq!(extra.iter().filter(|&&e| e == 0).count(), 750);
        let mut ends: Vec<Millis> = extra.iter().map(|e| 60_000 + e).collect();
        ends.sort_unstable();
        for (i, end) in ends.iter().enumerate() {
            let within = ends[i..].iter().take_while(|&&e| e < end + 1000).count();
            assert!(within <= 751, "{within} leases end within a second from {end}");
        }
    }

    #[test]
    fn leases_that_are_spread_already_get_nothing() {
        let remaining: Vec<Millis> = (0..5_000).map(|i| 10_000 + i * 2).collect();
        assert!(spread(&remaining, 1000).iter().all(|&e| e == 0));
        assert_eq!(spread(&[], 1000), Vec::<Millis>::new());
        assert_eq!(spread(&[5], 1000), vec![0]);
    }
}
