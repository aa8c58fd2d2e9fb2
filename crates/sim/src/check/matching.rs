//! Gives each revision that needs one a lost operation of its own.
//!
//! Augmenting paths (Kuhn): values are unique as a rule, so that most revisions have one candidate and the paths are
//! short.

use std::collections::HashMap;

/// For each of `wanted`, one of its candidates, no candidate twice; or the position of one that can get none.
pub fn assign(wanted: &[&[u32]]) -> Result<Vec<u32>, usize> {
    let mut taken: HashMap<u32, usize> = HashMap::new();
    let mut held: Vec<Option<u32>> = vec![None; wanted.len()];
    for start in 0..wanted.len() {
        // Breadth first over those who would have to give theirs away; remembers by whom each was reached.
        let mut reached: HashMap<u32, usize> = HashMap::new();
        let mut queue = vec![start];
        let (mut next, mut free) = (0, None);
        'search: while let Some(&who) = queue.get(next) {
            next += 1;
            for &candidate in wanted[who] {
                if reached.contains_key(&candidate) {
                    continue;
                }
                reached.insert(candidate, who);
                match taken.get(&candidate) {
                    None => {
                        free = Some(candidate);
                        break 'search;
                    }
                    Some(&holder) => queue.push(holder),
                }
            }
        }
        let mut candidate = free.ok_or(start)?;
        loop {
            let who = reached[&candidate];
            taken.insert(candidate, who);
            match held[who].replace(candidate) {
                Some(given_up) => candidate = given_up,
                None => break,
            }
        }
    }
    let assigned: Vec<u32> = held.into_iter().flatten().collect();
    assert_eq!(assigned.len(), wanted.len(), "everybody got one");
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    #[test]
    fn everybody_gets_one_where_that_is_possible() {
        let mut random = Random::new(5);
        let (mut possible, mut impossible) = (0, 0);
        for _ in 0..2000 {
            let count = 1 + random.below(6) as usize;
            let wanted: Vec<Vec<u32>> =
                (0..count).map(|_| (0..7).filter(|_| random.one_in(4)).collect()).collect();
            let slices: Vec<&[u32]> = wanted.iter().map(Vec::as_slice).collect();
            // Hall: every group of them has as many candidates among them as it has members.
            let fits = (1_u32..1 << count).all(|group| {
                let members = (0..count).filter(|i| group >> i & 1 == 1);
                let union = members.flat_map(|i| &wanted[i]).fold(0_u32, |union, &c| union | 1 << c);
                union.count_ones() >= group.count_ones()
            });
            match assign(&slices) {
                Ok(assigned) => {
                    assert!(fits);
                    possible += 1;
                    for (i, candidate) in assigned.iter().enumerate() {
                        assert!(wanted[i].contains(candidate));
                        assert!(!assigned[..i].contains(candidate), "nobody shares");
                    }
                }
                Err(who) => {
                    assert!(!fits && who < count);
                    impossible += 1;
                }
            }
        }
        assert!(possible > 200 && impossible > 200, "both happen: {possible}, {impossible}");
    }
}
