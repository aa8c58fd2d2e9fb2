//! The monotonic clock of a machine, as a function of true time: it may run fast or slow, stand still, and jump
//! forward. It never goes back.

/// Parts per thousand at which a clock keeps time.
pub(super) const TRUE_RATE: u64 = 1000;

#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// What it showed when its rate last changed, microseconds, and when that was.
    shown_us: u64,
    since_us: u64,
    /// Of its microseconds, how many pass in a thousand true ones.
    rate: u64,
}

impl Clock {
    pub fn new(shown_us: u64) -> Clock {
        Clock { shown_us, since_us: 0, rate: TRUE_RATE }
    }

    /// What it shows at a true time.
    pub fn at(&self, true_us: u64) -> u64 {
        assert!(true_us >= self.since_us, "time does not run backwards");
        self.shown_us + (true_us - self.since_us) * self.rate / TRUE_RATE
    }

    pub fn set_rate(&mut self, true_us: u64, rate: u64) {
        self.shown_us = self.at(true_us);
        self.since_us = true_us;
        self.rate = rate;
    }

    pub fn jump(&mut self, true_us: u64, by_us: u64) {
        self.shown_us = self.at(true_us) + by_us;
        self.since_us = true_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let mut clock = Clock::new(1_000);
        assert_eq!(clock.at(500), 1_500);
        clock.set_rate(500, 0);
        assert_eq!(clock.at(9_000), 1_500, "it stands still");
        clock.set_rate(9_000, 2 * TRUE_RATE);
        assert_eq!(clock.at(9_100), 1_700);
        clock.jump(9_100, 40);
        assert_eq!((clock.at(9_100), clock.at(9_101)), (1_740, 1_742));
    }
}
