//! What --version and --help print, and the usage after a wrong flag.

use super::table::{FLAGS, Kind, Section};

/// The lines of --version. Harnesses look for `etcd Version: `; the rest keeps etcd's shape and says the truth.
pub fn version(reported: &str) -> String {
    format!(
        "etcd Version: {reported}\nGit SHA: {}\nGo Version: none (Rust {})\nGo OS/Arch: {}/{}\nMainstay Version: {}\n",
        option_env!("MAINSTAY_GIT_SHA").unwrap_or("Not provided"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        go_arch(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Go's name of this machine's architecture.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Printed to stderr after a wrong flag, and before --help.
pub fn usage() -> String {
    "Usage:\n\n  \
     etcd [flags]\n    Start the server.\n\n  \
     etcd --version\n    Print the version.\n\n  \
     etcd -h | --help\n    Print all flags.\n\n  \
     etcd --config-file\n    Start with a YAML file; other flags and the environment are then ignored.\n"
        .to_string()
}

/// The flags by section, with defaults.
pub fn help() -> String {
    let mut out = String::new();
    for (section, title) in [
        (Section::Member, "Member"),
        (Section::Clustering, "Clustering"),
        (Section::Security, "Security"),
        (Section::Auth, "Auth"),
        (Section::Compaction, "Compaction"),
        (Section::Logging, "Logging"),
        (Section::Observability, "Observability"),
        (Section::Features, "Features"),
        (Section::Unsafe, "Unsafe"),
        (Section::Mainstay, "Mainstay's own"),
    ] {
        out.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.section == section) {
            let default = match flag.name {
                "data-dir" => "${name}.etcd",
                _ => flag.default,
            };
            out.push_str(&format!("  --{} '{default}'\n    {}", flag.name, flag.help));
            if let Kind::Choice(words) | Kind::Choices(words) = flag.kind {
                out.push_str(&format!(" One of: {}.", words.join(", ")));
            }
            out.push('\n');
        }
    }
    out.push_str("\nOptions of feature gates:\n");
    for gate in super::gates::GATES {
        let (name, stage, default) = (gate.name, gate.stage.name(), gate.default);
        out.push_str(&format!("  {name}=true|false ({stage} - default={default})\n"));
    }
    out
}
