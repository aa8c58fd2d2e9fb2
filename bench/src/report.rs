//! What was measured, and what it is held against: samples, medians, ratios, goals and verdicts.
//!
//! Pure, and the shape of the JSON file. A ratio is always ours divided by etcd's; of a cost, smaller is better.

use serde::{Deserialize, Serialize};

/// One run of one workload on one server, or the medians of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Ended within the window, and its length.
    pub operations: u64,
    pub seconds: f64,
    pub per_second: f64,
    /// The rate of an open loop.
    pub rate: Option<f64>,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// CPU of the server's process per operation, microseconds; and its share of a core, 1 being all of one.
    pub server_cpu_us: Option<f64>,
    pub server_busy: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub resident_anonymous_bytes: Option<f64>,
    pub resident_file_bytes: Option<f64>,
    /// Bytes that the server caused to be written to storage within the window.
    pub written_bytes: Option<f64>,
    /// What the data directory occupies on disk (state only).
    pub disk_bytes: Option<f64>,
    /// From the start of the process to the first linearizable read, after an orderly stop and after a kill.
    pub restart_ms: Option<f64>,
    pub restart_killed_ms: Option<f64>,
    pub client_cpu_us: f64,
    /// The busiest client thread's share of the window; above 0.9 the client may be what was measured.
    pub client_busy: f64,
    pub client_bound: bool,
    /// Cores that neither the server nor the client kept busy, on average.
    pub others_busy: f64,
    /// Failed or wrong answers, lost events. A sample with any proves nothing.
    pub errors: u64,
    pub first_error: Option<String>,
}

/// The middle value; the mean of the two middle ones for an even count.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Sample {
    /// The median of each figure by itself; errors are summed. `None` of no samples.
    pub fn medians(samples: &[Sample]) -> Option<Sample> {
        let first = samples.first()?;
        let of = |figure: fn(&Sample) -> f64| {
            median(samples.iter().map(figure).collect()).expect("there is a sample")
        };
        let of_some =
            |figure: fn(&Sample) -> Option<f64>| median(samples.iter().filter_map(figure).collect());
        Some(Sample {
            operations: of(|sample| sample.operations as f64) as u64,
            seconds: of(|sample| sample.seconds),
            per_second: of(|sample| sample.per_second),
            rate: first.rate,
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            p999_us: of(|sample| sample.p999_us),
            max_us: of(|sample| sample.max_us),
            server_cpu_us: of_some(|sample| sample.server_cpu_us),
            server_busy: of_some(|sample| sample.server_busy),
            resident_bytes: of_some(|sample| sample.resident_bytes),
            resident_anonymous_bytes: of_some(|sample| sample.resident_anonymous_bytes),
            resident_file_bytes: of_some(|sample| sample.resident_file_bytes),
            written_bytes: of_some(|sample| sample.written_bytes),
            disk_bytes: of_some(|sample| sample.disk_bytes),
            restart_ms: of_some(|sample| sample.restart_ms),
            restart_killed_ms: of_some(|sample| sample.restart_killed_ms),
            client_cpu_us: of(|sample| sample.client_cpu_us),
            client_busy: of(|sample| sample.client_busy),
            client_bound: samples.iter().filter(|sample| sample.client_bound).count() * 2 > samples.len(),
            others_busy: of(|sample| sample.others_busy),
            errors: samples.iter().map(|sample| sample.errors).sum(),
            first_error: samples.iter().find_map(|sample| sample.first_error.clone()),
        })
    }

    /// Written bytes per operation.
    pub fn written_per_operation(&self) -> Option<f64> {
        self.written_bytes.filter(|_| self.operations > 0).map(|bytes| bytes / self.operations as f64)
    }
}

/// All samples of one workload on one server, and their medians; or why there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Side {
    pub samples: Vec<Sample>,
    pub median: Option<Sample>,
    pub failure: Option<String>,
}

impl Side {
    pub fn add(&mut self, result: Result<Sample, String>) {
        match result {
            Ok(sample) => {
                self.samples.push(sample);
                self.median = Sample::medians(&self.samples);
            }
            Err(failure) => self.failure = self.failure.take().or(Some(failure)),
        }
    }

    /// The median if it may be compared: it was measured, and nothing went wrong.
    pub fn sound(&self) -> Option<&Sample> {
        self.median.as_ref().filter(|median| median.errors == 0 && self.failure.is_none())
    }
}

/// One workload on both servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub workload: String,
    pub etcd: Side,
    pub ours: Side,
}

/// What the machine and the run were.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct About {
    pub ours: String,
    pub ours_version: String,
    pub etcd: String,
    pub etcd_version: String,
    pub kernel: String,
    pub processor: String,
    pub server_cpus: Vec<usize>,
    pub client_cpus: Vec<usize>,
    pub client_threads: usize,
    pub rounds: usize,
    pub seconds: f64,
    pub warmup_seconds: f64,
    pub key_bytes: usize,
    pub seed: u64,
    pub data_dir: String,
}

/// The whole comparison.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub about: About,
    pub rows: Vec<Row>,
    pub verdicts: Vec<Verdict>,
}

impl Report {
    pub fn row(&mut self, workload: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.workload == workload).unwrap_or_else(|| {
            let (etcd, ours) = Default::default();
            self.rows.push(Row { workload: workload.to_owned(), etcd, ours });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Holds the medians against those of [`GOALS`] whose workloads ran.
    pub fn judge(&mut self) {
        let judged = |goal: &Goal| {
            let row = self.rows.iter().find(|row| row.workload == goal.workload)?;
            Some(goal.judge(row))
        };
        self.verdicts = GOALS.iter().filter_map(judged).collect();
    }
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cost {
    ServerCpu,
    P99,
    Resident,
    Restart,
}

impl Cost {
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Cost::ServerCpu => sample.server_cpu_us,
            Cost::P99 => Some(sample.p99_us),
            Cost::Resident => sample.resident_bytes,
            Cost::Restart => sample.restart_ms,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Cost::ServerCpu => "server CPU per operation",
            Cost::P99 => "p99 latency",
            Cost::Resident => "resident memory",
            Cost::Restart => "restart to first read",
        }
    }
}

/// A share of etcd's cost that is accepted, and the one that is aimed at; both as "one n-th".
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub workload: &'static str,
    pub cost: Cost,
    pub accepted: f64,
    pub aimed: f64,
}

const fn goal(workload: &'static str, cost: Cost, accepted: f64, aimed: f64) -> Goal {
    Goal { workload, cost, accepted, aimed }
}

/// The acceptance bars of the project, and its real goals.
pub const GOALS: [Goal; 10] = [
    goal("put", Cost::ServerCpu, 6.0, 10.0),
    goal("txn", Cost::ServerCpu, 6.0, 10.0),
    goal("keep-alive", Cost::ServerCpu, 6.0, 10.0),
    goal("range", Cost::ServerCpu, 6.0, 10.0),
    goal("serializable", Cost::ServerCpu, 6.0, 10.0),
    goal("range-500", Cost::ServerCpu, 8.0, 20.0),
    goal("watch-fanout", Cost::ServerCpu, 8.0, 20.0),
    goal("put-paced", Cost::P99, 2.0, 4.0),
    goal("state", Cost::Resident, 2.0, 4.0),
    goal("state", Cost::Restart, 5.0, 10.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// At or below what is aimed at.
    Reached,
    /// At or below what is accepted.
    Met,
    Missed,
    NotMeasured,
}

impl Outcome {
    pub fn text(self) -> &'static str {
        match self {
            Outcome::Reached => "goal reached",
            Outcome::Met => "bar met",
            Outcome::Missed => "MISSED",
            Outcome::NotMeasured => "not measured",
        }
    }
}

/// A goal and what was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub workload: String,
    pub cost: Cost,
    pub accepted: f64,
    pub aimed: f64,
    pub ratio: Option<f64>,
    pub outcome: Outcome,
}

impl Goal {
    fn judge(&self, row: &Row) -> Verdict {
        let sound = row.ours.sound().zip(row.etcd.sound());
        let ratio = sound.and_then(|(ours, etcd)| ratio(self.cost.of(ours), self.cost.of(etcd)));
        let (accepted, aimed) = (1.0 / self.accepted, 1.0 / self.aimed);
        let outcome = match ratio {
            None => Outcome::NotMeasured,
            Some(ratio) if ratio <= aimed => Outcome::Reached,
            Some(ratio) if ratio <= accepted => Outcome::Met,
            Some(_) => Outcome::Missed,
        };
        Verdict { workload: self.workload.to_owned(), cost: self.cost, accepted, aimed, ratio, outcome }
    }
}

/// Ours to theirs, if both are there and theirs is something.
pub fn ratio(ours: Option<f64>, etcd: Option<f64>) -> Option<f64> {
    ours.zip(etcd).filter(|&(_, etcd)| etcd > 0.0).map(|(ours, etcd)| ours / etcd)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A row whose CPU per operation, p99, memory and restart are the given ones.
    pub fn row(workload: &str, ours: f64, etcd: f64) -> Row {
        let side = |cost: f64| {
            let mut side = Side::default();
            side.add(Ok(Sample {
                operations: 1000,
                seconds: 1.0,
                per_second: 1000.0 / cost,
                p50_us: cost,
                p99_us: cost,
                server_cpu_us: Some(cost),
                resident_bytes: Some(cost * 1e6),
                restart_ms: Some(cost),
                ..Sample::default()
            }));
            side
        };
        Row { workload: workload.to_owned(), etcd: side(etcd), ours: side(ours) }
    }

    #[test]
    fn medians_stand_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn each_figure_has_its_own_median_and_errors_add_up() {
        let sample = |p50_us, p99_us, cpu, errors| Sample {
            p50_us,
            p99_us,
            server_cpu_us: cpu,
            errors,
            first_error: (errors > 0).then(|| "bad".to_owned()),
            client_bound: errors > 0,
            ..Sample::default()
        };
        let samples =
            [sample(1.0, 30.0, Some(5.0), 0), sample(2.0, 10.0, None, 2), sample(3.0, 20.0, Some(7.0), 1)];
        let median = Sample::medians(&samples).unwrap();
        assert_eq!((median.p50_us, median.p99_us, median.server_cpu_us), (2.0, 20.0, Some(6.0)));
        assert_eq!((median.errors, median.first_error.as_deref()), (3, Some("bad")));
        assert!(median.client_bound, "two of three were");
        assert_eq!(Sample::medians(&[]), None);
    }

    #[test]
    fn verdicts_follow_bar_and_goal() {
        let mut report = Report::default();
        for (workload, ours) in [("put", 10.0), ("txn", 10.1), ("range", 17.0), ("put-paced", 25.0)] {
            report.rows.push(row(workload, ours, 100.0));
        }
        report.rows.push(row("state", 15.0, 100.0));
        report.rows.push(row("keep-alive", 1.0, 0.0));
        let mut wrong = row("serializable", 1.0, 100.0);
        wrong.ours.add(Ok(Sample { errors: 1, ..Sample::default() }));
        report.rows.push(wrong);
        report.judge();
        let outcome = |workload: &str, cost| {
            let found =
                report.verdicts.iter().find(|verdict| verdict.workload == workload && verdict.cost == cost);
            found.unwrap().outcome
        };
        assert_eq!(report.verdicts.len(), 8, "one of each that ran, and both of the state");
        assert_eq!(outcome("put", Cost::ServerCpu), Outcome::Reached);
        assert_eq!(outcome("txn", Cost::ServerCpu), Outcome::Met);
        assert_eq!(outcome("range", Cost::ServerCpu), Outcome::Missed);
        assert_eq!(outcome("put-paced", Cost::P99), Outcome::Reached);
        assert_eq!(outcome("state", Cost::Resident), Outcome::Reached);
        assert_eq!(outcome("state", Cost::Restart), Outcome::Met);
        assert_eq!(outcome("keep-alive", Cost::ServerCpu), Outcome::NotMeasured, "nothing to divide by");
        assert_eq!(
            outcome("serializable", Cost::ServerCpu),
            Outcome::NotMeasured,
            "wrong answers prove nothing"
        );
    }

    #[test]
    fn a_report_survives_json() {
        let mut report = Report::default();
        report.rows.push(row("put", 1.0, 2.0));
        report.judge();
        let text = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(back.rows[0].ours.median, report.rows[0].ours.median);
        assert_eq!(back.verdicts[0].outcome, report.verdicts[0].outcome);
    }
}
