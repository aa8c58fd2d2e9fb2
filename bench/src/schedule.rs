//! When operations are due, and how their latencies are counted.
//!
//! Open loop: operations are due at seeded random times (exponential gaps: independent clients), whatever the server
//! does. One that can't begin in time keeps its due time, latency runs from there, and what never ended counts with
//! the time it had waited: a stalled server can't hide by being asked less (coordinated omission). Closed loop:
//! a fixed number in flight, latency runs from the start. Pure: time comes in.

use base::Random;
use hdrhistogram::Histogram;

/// The longest latency that is told from longer ones, nanoseconds.
const LATENCY_MAX_NS: u64 = 120_000_000_000;
/// Digits that latencies keep.
const PRECISION: u8 = 3;

/// Due times of an open loop.
#[derive(Clone, Debug)]
pub struct Arrivals {
    gap_ns: f64,
    random: Random,
    due: f64,
}

impl Arrivals {
    /// `rate` operations a second on average, from time `begin_ns`.
    pub fn new(rate: f64, seed: u64, begin_ns: u64) -> Arrivals {
        assert!(rate > 0.0 && rate.is_finite(), "a rate is positive: {rate}");
        let mut arrivals = Arrivals { gap_ns: 1e9 / rate, random: Random::new(seed), due: begin_ns as f64 };
        arrivals.advance();
        arrivals
    }

    /// When the next operation is due.
    pub fn due(&self) -> u64 {
        self.due as u64
    }

    pub fn advance(&mut self) {
        // Uniform in (0, 1]: the logarithm is finite.
        let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.due += -uniform.ln() * self.gap_ns;
    }

    /// The next due time if it has come and fewer than `cap` operations are in flight. The caller advances when the
    /// operation has begun.
    pub fn ready(&self, now_ns: u64, in_flight: usize, cap: usize) -> Option<u64> {
        let due = self.due();
        (due <= now_ns && in_flight < cap).then_some(due)
    }
}

/// Which latencies count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Of operations that ended within the window (closed loop).
    ByEnd,
    /// Of operations that were due within the window, whenever they ended (open loop).
    ByDue,
}

/// What one client thread counted.
pub struct Board {
    counted: Counted,
    window: (u64, u64),
    latencies: Histogram<u64>,
    /// Operations that ended within the window.
    completed: u64,
    errors: u64,
    first_error: Option<String>,
    in_flight: usize,
    /// Links of which a slot became free since last taken.
    freed: Vec<u32>,
}

impl Board {
    pub fn new(counted: Counted) -> Board {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_NS, PRECISION).expect("valid bounds");
        Board {
            counted,
            window: (0, 0),
            latencies,
            completed: 0,
            errors: 0,
            first_error: None,
            in_flight: 0,
            freed: Vec::new(),
        }
    }

    /// Only what falls into `[from, to)` counts from now on. Before the first call nothing does.
    pub fn set_window(&mut self, from_ns: u64, to_ns: u64) {
        assert!(from_ns <= to_ns, "a window has an end after its beginning");
        self.window = (from_ns, to_ns);
    }

    fn in_window(&self, time_ns: u64) -> bool {
        (self.window.0..self.window.1).contains(&time_ns)
    }

    /// An operation due at `due_ns` ended at `now_ns`.
    pub fn observe(&mut self, due_ns: u64, now_ns: u64) {
        let ended_inside = self.in_window(now_ns);
        let counts = match self.counted {
            Counted::ByEnd => ended_inside,
            Counted::ByDue => self.in_window(due_ns),
        };
        self.completed += u64::from(ended_inside);
        if counts {
            self.latencies.saturating_record(now_ns.saturating_sub(due_ns).max(1));
        }
    }

    /// An operation that was due at `due_ns` and had not ended when everything did, at `end_ns`.
    pub fn abandon(&mut self, due_ns: u64, end_ns: u64) {
        if self.counted == Counted::ByDue && self.in_window(due_ns) {
            self.latencies.saturating_record(end_ns.saturating_sub(due_ns).max(1));
        }
    }

    /// Something went wrong that must not: the text of the first is kept.
    pub fn error(&mut self, text: impl FnOnce() -> String) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(text());
        }
    }

    pub fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// An operation began and takes a slot.
    pub fn began(&mut self) {
        self.in_flight += 1;
    }

    /// An operation on `link` no longer takes a slot.
    pub fn free(&mut self, link: u32) {
        assert!(self.in_flight > 0, "what ends has begun");
        self.in_flight -= 1;
        self.freed.push(link);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn take_freed(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.freed);
    }

    pub fn completed(&self) -> u64 {
        self.completed
    }

    pub fn into_tally(self) -> Tally {
        Tally {
            latencies: self.latencies,
            completed: self.completed,
            errors: self.errors,
            first_error: self.first_error,
            client_cpu_ns: 0,
            busiest: 0.0,
        }
    }
}

/// The sums of all client threads.
pub struct Tally {
    pub latencies: Histogram<u64>,
    pub completed: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub client_cpu_ns: u64,
    /// The share of the window during which the busiest client thread ran, 0 to 1.
    pub busiest: f64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.latencies.add(&other.latencies).expect("the same bounds");
        self.completed += other.completed;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.client_cpu_ns += other.client_cpu_ns;
        self.busiest = self.busiest.max(other.busiest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn arrivals_keep_their_rate_and_replay_by_seed() {
        let times = |seed| {
            let mut arrivals = Arrivals::new(10_000.0, seed, 5 * MS);
            let next = || {
                let due = arrivals.ready(u64::MAX, 0, 1).unwrap();
                arrivals.advance();
                due
            };
            std::iter::repeat_with(next).take(50_000).collect::<Vec<_>>()
        };
        let first = times(1);
        assert_eq!(first, times(1));
        assert_ne!(first, times(2));
        assert!(first.is_sorted() && first[0] >= 5 * MS);
        let mean_ns = (first[49_999] - first[0]) as f64 / 49_999.0;
        assert!((mean_ns - 100_000.0).abs() < 2_000.0, "{mean_ns} ns between arrivals");
        // Independent arrivals: about e^-1 of the gaps are longer than the mean.
        let long = first.windows(2).filter(|pair| pair[1] - pair[0] > 100_000).count();
        assert!((17_000..20_000).contains(&long), "{long} long gaps");
    }

    #[test]
    fn nothing_is_issued_early_or_above_the_cap() {
        let mut arrivals = Arrivals::new(1000.0, 3, 0);
        let due = arrivals.due();
        assert_eq!(arrivals.ready(due - 1, 0, 10), None);
        assert_eq!(arrivals.ready(due, 10, 10), None);
        assert_eq!(arrivals.ready(due, 9, 10), Some(due));
        assert_eq!(arrivals.ready(due, 9, 10), Some(due), "it stays due until it has begun");
        arrivals.advance();
        assert!(arrivals.due() > due);
    }

    /// A server of constant 1 ms latency that stands still from 500 to 1500 ms; at most `cap` in flight.
    fn stalled(counted: Counted, cap: usize) -> Tally {
        let mut board = Board::new(counted);
        board.set_window(0, 2000 * MS);
        let mut arrivals = Arrivals::new(1000.0, 9, 0);
        let mut flying: Vec<(u64, u64)> = Vec::new();
        let end = 2100 * MS;
        for now in (0..end).step_by(MS as usize / 4) {
            let stalls = (500 * MS..1500 * MS).contains(&now);
            flying.retain(|&(due, done)| {
                let ends = !stalls && done <= now;
                if ends {
                    board.observe(due, now);
                    board.free(0);
                }
                !ends
            });
            while arrivals.due() < 2000 * MS {
                let Some(due) = arrivals.ready(now, board.in_flight(), cap) else { break };
                arrivals.advance();
                board.began();
                flying.push((due, now + MS));
            }
        }
        while arrivals.due() < 2000 * MS {
            board.abandon(arrivals.due(), end);
            arrivals.advance();
        }
        flying.iter().for_each(|&(due, _)| board.abandon(due, end));
        board.into_tally()
    }

    #[test]
    fn a_stall_is_seen_by_all_that_were_due_in_it_however_few_may_fly() {
        for cap in [1_000_000, 50, 2] {
            let tally = stalled(Counted::ByDue, cap);
            let counted = tally.latencies.len();
            assert!((1850..2150).contains(&counted), "every due operation counts: {counted} with cap {cap}");
            // Half of all fell due during the stall, spread over its second.
            let above = |ms: u64| counted - tally.latencies.count_between(0, ms * MS);
            assert!(above(400) > counted / 5, "{} above 400 ms with cap {cap}", above(400));
            assert!(tally.latencies.value_at_quantile(0.99) > 900 * MS);
        }
        let closed = stalled(Counted::ByEnd, 2);
        assert!(!closed.latencies.is_empty() && closed.completed == closed.latencies.len());
    }

    #[test]
    fn only_the_window_counts() {
        for (counted, expected) in [(Counted::ByEnd, 2), (Counted::ByDue, 2)] {
            let mut board = Board::new(counted);
            board.observe(1, 2);
            board.set_window(100, 200);
            for (due, end) in [(90, 99), (90, 110), (110, 120), (150, 250), (200, 210)] {
                board.observe(due, end);
            }
            let tally = board.into_tally();
            assert_eq!((tally.completed, tally.latencies.len()), (2, expected));
            let longest = if counted == Counted::ByEnd { 20 } else { 100 };
            assert_eq!(tally.latencies.max(), longest);
        }
    }

    #[test]
    fn tallies_add_up() {
        let tally = |latency, cpu, busiest, error: Option<&str>| {
            let mut board = Board::new(Counted::ByEnd);
            board.set_window(0, 1000);
            board.observe(0, latency);
            if let Some(text) = error {
                board.error(|| text.to_owned());
                board.error(|| unreachable!("only the first text is asked for"));
            }
            Tally { client_cpu_ns: cpu, busiest, ..board.into_tally() }
        };
        let mut sum = tally(10, 5, 0.5, None);
        sum.add(tally(20, 7, 0.25, Some("bad")));
        assert_eq!((sum.completed, sum.errors, sum.client_cpu_ns), (2, 2, 12));
        assert_eq!((sum.busiest, sum.first_error.as_deref()), (0.5, Some("bad")));
        assert_eq!((sum.latencies.min(), sum.latencies.max()), (10, 20));
    }
}
