//! The verdicts as a picture: for each goal a bar as long as our share of etcd's cost.
//!
//! Pure. Colours follow the reader's light or dark scheme. etcd is the full width; ticks stand where the accepted
//! share and the goal are.

use std::fmt::Write;

use crate::report::{Outcome, Report};
use crate::table::share;

const WIDTH: u32 = 890;
const LABELS: u32 = 300;
/// The length of etcd's bar.
const SCALE: f64 = 440.0;
const TOP: u32 = 74;
const STEP: u32 = 34;
const BAR: u32 = 16;
/// Bars are cut here, times etcd's length.
const LONGEST: f64 = 1.08;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:17px;font-weight:600}\
.small{font-size:11px;fill:#59636e}\
.ground{fill:#ffffff}\
.etcd{fill:#e4e8ec}\
.reached{fill:#1a7f37}.met{fill:#2f6fd0}.missed{fill:#c93c37}\
.tick{stroke:#1f2328;stroke-width:1.5}\
.goal{stroke-dasharray:2 2}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}.etcd{fill:#2a313a}\
.reached{fill:#3fb950}.met{fill:#4f8ff7}.missed{fill:#f85149}.tick{stroke:#e6edf3}}";

/// The picture of a judged report.
pub fn chart(report: &Report) -> String {
    let height = TOP + STEP * report.verdicts.len() as u32 + 40;
    let mut svg = String::new();
    let out = &mut svg;
    put(
        out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Cost as a share of etcd's\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"20\" y=\"30\">Cost as a share of etcd's: shorter is better</text>\n\
         <text class=\"small\" x=\"20\" y=\"50\">Mainstay against {}; medians of {} rounds; grey is etcd, \
         the line is what is accepted, the dashed line the goal</text>\n",
            escaped(&report.about.etcd_version),
            report.about.rounds,
        ),
    );
    for (number, verdict) in report.verdicts.iter().enumerate() {
        let y = TOP + STEP * number as u32;
        let baseline = y + BAR - 3;
        put(
            out,
            format_args!(
                "<text x=\"20\" y=\"{baseline}\">{}</text>\n<text class=\"small\" x=\"130\" y=\"{baseline}\">{}</text>\n\
             <rect class=\"etcd\" x=\"{LABELS}\" y=\"{y}\" width=\"{SCALE:.0}\" height=\"{BAR}\"/>\n",
                escaped(&verdict.workload),
                escaped(verdict.cost.name()),
            ),
        );
        let class = match verdict.outcome {
            Outcome::Reached => "reached",
            Outcome::Met => "met",
            Outcome::Missed => "missed",
            Outcome::NotMeasured => "",
        };
        if let Some(ratio) = verdict.ratio {
            let width = (ratio.min(LONGEST) * SCALE).max(1.0);
            put(
                out,
                format_args!(
                    "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>\n"
                ),
            );
        }
        for (class, at) in [("tick", verdict.accepted), ("tick goal", verdict.aimed)] {
            let x = f64::from(LABELS) + at * SCALE;
            let (from, to) = (y - 3, y + BAR + 3);
            put(
                out,
                format_args!(
                    "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\"/>\n"
                ),
            );
        }
        let label = verdict.ratio.map_or("not measured".to_owned(), share);
        let x = f64::from(LABELS) + LONGEST * SCALE + 8.0;
        put(out, format_args!("<text x=\"{x:.0}\" y=\"{baseline}\">{label}</text>\n"));
    }
    let y = height - 16;
    put(
        out,
        format_args!(
            "<text class=\"small\" x=\"20\" y=\"{y}\">{}, Linux {}</text>\n</svg>\n",
            escaped(&report.about.processor),
            escaped(&report.about.kernel),
        ),
    );
    svg
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes all");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;

    #[test]
    fn bars_are_as_long_as_the_ratios_and_tags_are_closed() {
        let mut report = Report::default();
        report.about.etcd_version = "a < b & c".into();
        report.rows.push(row("put", 50.0, 100.0));
        report.rows.push(row("txn", 500.0, 100.0));
        report.judge();
        let svg = chart(&report);
        assert!(svg.contains("class=\"missed\" x=\"300\" y=\"74\" width=\"220.0\""), "half of etcd's");
        assert!(svg.contains("width=\"475.2\""), "longer than etcd's is cut");
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("a < b"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(svg.matches("class=\"etcd\"").count(), report.verdicts.len());
        assert!(svg.contains("prefers-color-scheme:dark") && svg.trim_end().ends_with("</svg>"));
    }
}
