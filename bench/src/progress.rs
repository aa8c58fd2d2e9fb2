//! What is shown while the bench runs: on a terminal one line that changes, otherwise only lines that stay.

use std::io::{IsTerminal, Write};

/// Writes to standard error, so that results on standard output stay clean.
pub struct Progress {
    is_terminal: bool,
    /// What is running: server, workload, place in the plan.
    label: String,
    phase: String,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), label: String::new(), phase: String::new() }
    }

    pub fn begin(&mut self, label: String) {
        self.label = label;
        self.phase.clear();
        self.line("...");
    }

    pub fn phase(&mut self, phase: &str) {
        phase.clone_into(&mut self.phase);
        self.line("...");
    }

    /// So many operations in so long, of a window if the end is known.
    pub fn show(&self, operations: u64, elapsed_ns: u64, window_ns: Option<u64>) {
        let seconds = elapsed_ns as f64 / 1e9;
        let rate = operations as f64 / seconds.max(1e-9);
        let of = window_ns.map(|window| format!(" of {:.0}", window as f64 / 1e9)).unwrap_or_default();
        self.line(&format!("{seconds:.1}{of} s, {operations} done, {rate:.0}/s"));
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            let (label, space) = (&self.label, if self.phase.is_empty() { "" } else { ": " });
            // A terminal that went away is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K{label}{space}{} {text}", self.phase);
        }
    }

    pub fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        self.clear();
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
