//! Equal content has equal hashes: over time, over restarts, on every member.

use std::collections::HashMap;

use super::{Finding, found};
use crate::history::{HashOf, HashSample};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub samples: u64,
    /// Samples of something of which there was one already.
    pub compared: u64,
}

pub fn check(samples: &[HashSample]) -> Result<Summary, Finding> {
    let mut first: HashMap<HashOf, &HashSample> = HashMap::new();
    let mut summary = Summary::default();
    for sample in samples {
        summary.samples += 1;
        let earlier = *first.entry(sample.of).or_insert(sample);
        if earlier.hash != sample.hash {
            return found!(
                HashDiffers,
                sample.at.step,
                "{sample}, but {earlier} at step {}",
                earlier.at.step
            );
        }
        summary.compared += u64::from(!std::ptr::eq(earlier, sample));
    }
    Ok(summary)
}
