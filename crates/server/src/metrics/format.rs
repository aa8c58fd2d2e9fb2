//! Prometheus' text format, version 0.0.4, as Go's client writes it. Pure.

use std::fmt::Write;

use super::table::{Kind, Row};

/// The samples of one family, collected before they are sorted and written.
#[derive(Default)]
pub struct Samples {
    /// Label text without braces, and what it has.
    lines: Vec<(String, Sample)>,
}

enum Sample {
    Number(f64),
    Histogram { counts: Vec<u64>, sum: f64 },
}

impl Samples {
    /// A sample without labels.
    pub fn number(&mut self, value: f64) {
        self.labelled(&[], value);
    }

    /// Labels in the order of the table's row.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: f64) {
        self.lines.push((label_text(labels), Sample::Number(value)));
    }

    /// Counts by bucket (not cumulative, one more than bounds) and their sum. Equal labels are added up, so that each
    /// thread's may be given.
    pub fn histogram(&mut self, labels: &[(&str, &str)], (counts, sum): (Vec<u64>, f64)) {
        let text = label_text(labels);
        for (seen, sample) in &mut self.lines {
            if let Sample::Histogram { counts: all, sum: total } = sample
                && *seen == text
            {
                all.iter_mut().zip(&counts).for_each(|(all, count)| *all += count);
                *total += sum;
                return;
            }
        }
        self.lines.push((text, Sample::Histogram { counts, sum }));
    }

    /// Writes the family; nothing when there is no sample, as Go's client does.
    pub fn write(mut self, row: &Row, out: &mut String) {
        if self.lines.is_empty() {
            return;
        }
        self.lines.sort_by(|a, b| a.0.cmp(&b.0));
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let name = row.name;
        let _ = writeln!(out, "# HELP {name} {}", row.help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(out, "# TYPE {name} {kind}");
        let bounds: Vec<String> = row.buckets.bounds().iter().map(|bound| float(*bound)).collect();
        for (labels, sample) in &self.lines {
            match sample {
                Sample::Number(value) if labels.is_empty() => {
                    let _ = writeln!(out, "{name} {}", float(*value));
                }
                Sample::Number(value) => {
                    let _ = writeln!(out, "{name}{{{labels}}} {}", float(*value));
                }
                Sample::Histogram { counts, sum } => {
                    write_histogram(out, name, labels, &bounds, counts, *sum);
                }
            }
        }
    }
}

fn write_histogram(out: &mut String, name: &str, labels: &str, bounds: &[String], counts: &[u64], sum: f64) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (at, count) in counts.iter().enumerate() {
        total += count;
        let le = bounds.get(at).map_or("+Inf", String::as_str);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}");
    }
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}_sum{braces} {}", float(sum));
    let _ = writeln!(out, "{name}_count{braces} {total}");
}

fn label_text(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (at, (name, value)) in labels.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{comma}{name}=\"{value}\"");
    }
    out
}

/// A float as Go's shortest `g` writes it: an exponent below 1e-4 and from 1e+06 on, of at least two digits.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table::find;

    #[test]
    fn floats_as_go_writes_them() {
        for (value, want) in [
            (0.0, "0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.19721652, "0.19721652"),
            (20000.0, "20000"),
            (123_456.0, "123456"),
            (999_999.5, "999999.5"),
            (1_000_000.0, "1e+06"),
            (1_048_576.0, "1.048576e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1.795_229_202_74e9, "1.79522920274e+09"),
            (u64::MAX as f64, "1.8446744073709552e+19"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(float(value), want);
        }
        assert_eq!(float(f64::NAN), "NaN");
    }

    #[test]
    fn families() {
        let mut samples = Samples::default();
        samples.labelled(&[("name", "b\"\\"), ("stage", "X")], 1.0);
        samples.labelled(&[("name", "a"), ("stage", "X")], 0.0);
        let mut out = String::new();
        samples.write(find("etcd_server_feature_enabled"), &mut out);
        assert_eq!(
            out,
            "# HELP etcd_server_feature_enabled 1 for each feature gate that is on.\n\
             # TYPE etcd_server_feature_enabled gauge\n\
             etcd_server_feature_enabled{name=\"a\",stage=\"X\"} 0\n\
             etcd_server_feature_enabled{name=\"b\\\"\\\\\",stage=\"X\"} 1\n"
        );
        let mut out = String::new();
        Samples::default().write(find("etcd_server_feature_enabled"), &mut out);
        assert_eq!(out, "");
    }

    #[test]
    fn histograms_add_up() {
        let row = find("etcd_debugging_lease_ttl_total");
        let mut samples = Samples::default();
        let mut counts = vec![0; 25];
        counts[0] = 1;
        counts[24] = 2;
        samples.histogram(&[], (counts.clone(), 1.5));
        samples.histogram(&[], (counts, 2.0));
        let mut out = String::new();
        samples.write(row, &mut out);
        let lines: Vec<&str> = out.lines().skip(2).collect();
        assert_eq!(lines[0], "etcd_debugging_lease_ttl_total_bucket{le=\"1\"} 2");
        assert_eq!(lines[20], "etcd_debugging_lease_ttl_total_bucket{le=\"1.048576e+06\"} 2");
        assert_eq!(lines[24], "etcd_debugging_lease_ttl_total_bucket{le=\"+Inf\"} 6");
        assert_eq!(
            lines[25..],
            ["etcd_debugging_lease_ttl_total_sum 3.5", "etcd_debugging_lease_ttl_total_count 6"]
        );
    }
}
