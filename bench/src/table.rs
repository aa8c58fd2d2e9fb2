//! Results as text: the table of medians, and the verdicts.
//!
//! Pure. Columns are as wide as their widest cell; figures are rounded to what their noise allows.

use crate::report::{Report, Row, Sample, Verdict, ratio};

/// Lines of cells, the first being the header; the first two columns are flushed left.
pub struct Table {
    lines: Vec<Vec<String>>,
}

const HEADER: [&str; 12] = [
    "workload",
    "server",
    "op/s",
    "p50",
    "p99",
    "p99.9",
    "CPU us/op",
    "resident",
    "written/op",
    "client us/op",
    "server",
    "client",
];

/// Other processes that keep more cores busy than this get a note. Kernel threads that write for the server count
/// among them, so some is normal.
const OTHERS_NOTED: f64 = 0.25;

impl Table {
    pub fn new(header: &[&str]) -> Table {
        Table { lines: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.lines[0].len(), "as many cells as the header has");
        self.lines.push(cells);
    }

    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.lines[0].len())
            .map(|column| self.lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, line) in self.lines.iter().enumerate() {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 | 1 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
            if number == 0 {
                let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                text.push_str(&rule.join("  "));
                text.push('\n');
            }
        }
        text
    }
}

/// The table of a comparison: for each workload etcd, ours, and the ratio.
pub fn comparison(report: &Report) -> String {
    let mut table = Table::new(&HEADER);
    let mut notes = Vec::new();
    for row in &report.rows {
        for (server, side) in [("etcd", &row.etcd), ("ours", &row.ours)] {
            let workload = if server == "etcd" { &row.workload[..] } else { "" };
            match &side.median {
                Some(median) => {
                    table.push(sample_cells(workload, server, median));
                    note_sample(&mut notes, &row.workload, server, median);
                }
                None => table.push(empty_cells(workload, server)),
            }
            if let Some(failure) = &side.failure {
                notes.push(format!("{} on {server} failed: {failure}", row.workload));
            }
        }
        table.push(ratio_cells(row));
    }
    let mut text = table.render();
    for row in &report.rows {
        for (server, side) in [("etcd", &row.etcd), ("ours", &row.ours)] {
            if let Some(line) =
                side.median.as_ref().and_then(|median| state_line(&row.workload, server, median))
            {
                text.push_str(&line);
            }
        }
    }
    for note in notes {
        text.push_str(&format!("! {note}\n"));
    }
    text
}

/// The table of one run.
pub fn single(workload: &str, sample: &Sample) -> String {
    let mut table = Table::new(&HEADER);
    table.push(sample_cells(workload, "", sample));
    let mut text = table.render();
    text.extend(state_line(workload, "server", sample));
    let mut notes = Vec::new();
    note_sample(&mut notes, workload, "the server", sample);
    for note in notes {
        text.push_str(&format!("! {note}\n"));
    }
    text
}

fn note_sample(notes: &mut Vec<String>, workload: &str, server: &str, sample: &Sample) {
    if sample.client_bound {
        notes.push(format!(
            "{workload} on {server} was client-bound (the client thread ran {} of the time): its throughput and \
             latency say more about the client",
            percent(sample.client_busy)
        ));
    }
    // An operation of a watch is an event, its rate is one of puts.
    if let Some(rate) = sample.rate
        && sample.per_second < 0.97 * rate
        && !workload.starts_with("watch")
    {
        notes.push(format!("{workload} on {server} did not keep up with {rate:.0} op/s"));
    }
    if sample.others_busy > OTHERS_NOTED {
        notes.push(format!(
            "during {workload} on {server} other processes kept {:.1} cores busy: repeat it on a quiet machine",
            sample.others_busy
        ));
    }
    if sample.errors > 0 {
        let text = sample.first_error.as_deref().unwrap_or("");
        notes.push(format!("{workload} on {server} had {} errors, the first: {text}", sample.errors));
    }
}

fn state_line(workload: &str, server: &str, sample: &Sample) -> Option<String> {
    let disk = sample.disk_bytes?;
    let some = |value: Option<f64>, text: fn(f64) -> String| value.map_or("-".to_owned(), text);
    Some(format!(
        "{workload} on {server}: anonymous {}, file {}, on disk {}, written {}, restart {}, after a kill {}\n",
        some(sample.resident_anonymous_bytes, bytes),
        some(sample.resident_file_bytes, bytes),
        bytes(disk),
        some(sample.written_bytes, bytes),
        some(sample.restart_ms, milliseconds),
        some(sample.restart_killed_ms, milliseconds),
    ))
}

fn sample_cells(workload: &str, server: &str, sample: &Sample) -> Vec<String> {
    let some = |value: Option<f64>, text: fn(f64) -> String| value.map_or("-".to_owned(), text);
    vec![
        workload.to_owned(),
        server.to_owned(),
        count(sample.per_second),
        duration(sample.p50_us),
        duration(sample.p99_us),
        duration(sample.p999_us),
        some(sample.server_cpu_us, figure),
        some(sample.resident_bytes, bytes),
        some(sample.written_per_operation(), bytes),
        figure(sample.client_cpu_us),
        some(sample.server_busy, percent),
        percent(sample.client_busy),
    ]
}

fn empty_cells(workload: &str, server: &str) -> Vec<String> {
    let mut cells = vec!["-".to_owned(); HEADER.len()];
    workload.clone_into(&mut cells[0]);
    server.clone_into(&mut cells[1]);
    cells
}

fn ratio_cells(row: &Row) -> Vec<String> {
    let mut cells = vec![String::new(); HEADER.len()];
    "ratio".clone_into(&mut cells[1]);
    if let (Some(ours), Some(etcd)) = (&row.ours.median, &row.etcd.median) {
        let figures = |sample: &Sample| {
            [
                Some(sample.per_second),
                Some(sample.p50_us),
                Some(sample.p99_us),
                Some(sample.p999_us),
                sample.server_cpu_us,
                sample.resident_bytes,
                sample.written_per_operation(),
            ]
        };
        for (cell, (ours, etcd)) in cells[2..].iter_mut().zip(figures(ours).into_iter().zip(figures(etcd))) {
            *cell = ratio(ours, etcd).map_or("-".to_owned(), share);
        }
    }
    cells
}

/// The verdicts against bars and goals.
pub fn verdicts(verdicts: &[Verdict]) -> String {
    let mut table = Table::new(&["workload", "of etcd's", "measured", "accepted", "goal", "verdict"]);
    for verdict in verdicts {
        table.push(vec![
            verdict.workload.clone(),
            verdict.cost.name().to_owned(),
            verdict.ratio.map_or("-".to_owned(), share),
            share(verdict.accepted),
            share(verdict.aimed),
            verdict.outcome.text().to_owned(),
        ]);
    }
    table.render()
}

/// A ratio: "1/8.3" where ours is clearly smaller, "2.40x" otherwise.
pub fn share(ratio: f64) -> String {
    let rounded = |value: f64| {
        let text = format!("{value:.1}");
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    match ratio {
        ratio if ratio <= 0.0 => "0".to_owned(),
        ratio if ratio < 0.9 => format!("1/{}", rounded(1.0 / ratio)),
        ratio => format!("{ratio:.2}x"),
    }
}

/// Microseconds in the unit that suits them.
pub fn duration(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{} ms", figure(us / 1000.0)),
        us => format!("{} s", figure(us / 1_000_000.0)),
    }
}

fn milliseconds(ms: f64) -> String {
    duration(ms * 1000.0)
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn bytes(bytes: f64) -> String {
    let (value, unit) = match bytes {
        bytes if bytes < 1024.0 => return format!("{bytes:.0} B"),
        bytes if bytes < 1024.0 * 1024.0 => (bytes / 1024.0, "KiB"),
        bytes if bytes < 1024.0 * 1024.0 * 1024.0 => (bytes / 1024.0 / 1024.0, "MiB"),
        bytes => (bytes / 1024.0 / 1024.0 / 1024.0, "GiB"),
    };
    format!("{} {unit}", figure(value))
}

/// A whole number, in groups of three digits.
fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;
    use crate::report::{Outcome, Side};

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [share(0.1), share(1.0 / 8.34), share(1.0), share(2.5), share(0.0)],
            ["1/10", "1/8.3", "1.00x", "2.50x", "0"]
        );
        assert_eq!(
            [duration(12.3), duration(1234.0), duration(45_678.0), duration(2e6)],
            ["12 us", "1.23 ms", "45.7 ms", "2.00 s"]
        );
        assert_eq!(
            [bytes(12.0), bytes(2048.0), bytes(700.0 * 1024.0 * 1024.0)],
            ["12 B", "2.00 KiB", "700 MiB"]
        );
        assert_eq!([count(7.0), count(1234.4), count(1_234_567.0)], ["7", "1 234", "1 234 567"]);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["a", "b", "c"]);
        table.push(vec!["long name".into(), "x".into(), "1".into()]);
        table.push(vec!["s".into(), "yy".into(), "234".into()]);
        let expected = "a          b     c\n---------  --  ---\nlong name  x     1\ns          yy  234\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn a_comparison_shows_both_servers_the_ratio_and_what_went_wrong() {
        let mut report = Report::default();
        report.rows.push(row("put", 5.0, 50.0));
        let mut bad = row("txn", 5.0, 50.0);
        bad.ours.add(Ok(Sample { errors: 3, first_error: Some("lost".into()), ..Sample::default() }));
        bad.etcd = Side { failure: Some("it died".into()), ..Side::default() };
        report.rows.push(bad);
        let mut bound = row("range", 5.0, 50.0);
        bound.ours.median.as_mut().unwrap().client_bound = true;
        report.rows.push(bound);
        report.judge();
        let text = comparison(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("put") && lines[2].contains("50.0"));
        assert!(lines[4].contains("ratio") && lines[4].contains("1/10") && lines[4].contains("10.00x"));
        assert!(text.contains("! txn on ours had 3 errors, the first: lost"));
        assert!(text.contains("! txn on etcd failed: it died"));
        assert!(text.contains("! range on ours was client-bound"));
        let judged = verdicts(&report.verdicts);
        assert!(
            judged.lines().any(|line| line.starts_with("put ") && line.ends_with(Outcome::Reached.text()))
        );
        assert!(judged.lines().any(|line| line.starts_with("txn") && line.ends_with("not measured")));
    }
}
