//! What a reviewer would otherwise have to look for: layers, lengths, headers, names, `unsafe`, limits, paths.
//!
//! Each rule is a function of text, with a test beside it that breaks the rule. Its tables are the only place to name an
//! exception, and an exception that nobody needs any more is a violation too. Must not judge what rustfmt and clippy
//! judge.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use base::bug::ALL;

/// docs/ARCHITECTURE.md, "Layers": a layer and those below it that it may import; a `dev` one for its tests alone.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    ("base", &[], &[]),
    ("proto", &["base"], &[]),
    ("disk", &["base"], &[]),
    ("wal", &["base", "disk"], &[]),
    ("tree", &["base", "disk"], &[]),
    ("mvcc", &["base", "proto", "tree"], &["disk"]),
    ("lease", &["base"], &[]),
    ("watch", &["base", "proto"], &[]),
    ("bbolt", &["base", "proto"], &[]),
    ("replica", &["base", "bbolt", "disk", "lease", "mvcc", "proto", "tree", "wal"], &[]),
    ("net", &["base"], &[]),
    (
        "api",
        &["base", "bbolt", "lease", "mvcc", "net", "proto", "replica", "tree", "watch"],
        &["disk", "wal"],
    ),
    ("edge", &["base"], &[]),
    ("server", &BELOW_SERVER, &[]),
];
const BELOW_SERVER: [&str; 13] = [
    "base", "proto", "disk", "wal", "tree", "mvcc", "lease", "watch", "bbolt", "replica", "net", "api",
    "edge",
];
/// Crates that judge the product and are no part of it: they may import every layer, and no layer imports them.
const JUDGES: &[&str] = &["hostile", "sim"];

/// Layers whose files contain no clock, no thread, no system call and no `async`, and what that is in words of code.
const PURE: &[&str] = &["wal", "tree", "mvcc", "lease", "watch", "replica", "net", "api"];
const IMPURE: &[&str] =
    &["Instant", "SystemTime", "async", "await", "libc", "thread", "TcpStream", "UnixStream"];
/// Files of theirs that may say one of these words, and why.
const IMPURE_ALLOWED: &[(&str, &str)] = &[
    // Paces the writes of a checkpoint; runs on the helper pool.
    ("crates/tree/src/checkpoint.rs", "Instant"),
    ("crates/tree/src/checkpoint.rs", "thread"),
    // A reader that comes while its gate is closed, for a moment, gives the processor away.
    ("crates/tree/src/pins.rs", "thread"),
    // The models of threads, which only loom runs.
    ("crates/tree/src/pins_models.rs", "thread"),
];

/// Lines of one file.
const LINES_MAX: usize = 1000;

/// The files with `unsafe` code: each a small seam to the kernel, to memory that is mapped, or between threads.
const UNSAFE: &[&str] = &[
    "bench/src/sys.rs",
    "crates/base/src/ring.rs",
    "crates/disk/src/buffer.rs",
    "crates/base/src/sync.rs",
    "crates/disk/src/chunk.rs",
    "crates/disk/src/error.rs",
    "crates/disk/src/mapping.rs",
    "crates/disk/src/os.rs",
    "crates/disk/src/sim/chunk.rs",
    "crates/disk/src/uring.rs",
    "crates/disk/tests/files.rs",
    "crates/edge/src/executor.rs",
    "crates/hostile/src/meter.rs",
    "crates/net/examples/echo_cost.rs",
    "crates/net/tests/allocations.rs",
    "crates/replica/examples/put_cost.rs",
    "crates/tree/src/pins_models.rs",
    "crates/server/src/core/doorbell.rs",
    "crates/server/src/core/fixed.rs",
    "crates/server/src/core/logcore.rs",
    "crates/server/src/core/pages.rs",
    "crates/server/src/core/run.rs",
    "crates/server/src/core/sends.rs",
    "crates/server/src/core/shard.rs",
    "crates/server/src/core/uring.rs",
    "crates/server/src/limits_check.rs",
    "crates/server/src/listen.rs",
    "crates/server/src/log/sink.rs",
    "crates/server/src/metrics/process.rs",
    "crates/server/src/signals.rs",
    "crates/tree/src/pins.rs",
    "crates/tree/src/space.rs",
    "tests/common/server.rs",
    "tests/common/small_disk.rs",
];

/// Names that say nothing of what is in there.
const EMPTY_NAMES: &[&str] = &["manager", "helper", "util", "handler", "misc"];

/// Top folders of somebody's machine.
const MACHINE_FOLDERS: &[&str] = &["home", "opt", "work", "root", "Users"];

/// What is not the project's: what builds, fuzzers and benchmarks leave.
const NOT_OURS: &[&str] =
    &[".git", "target", "bench-results", "fuzz/artifacts", "fuzz/corpus", "fuzz/coverage", "fuzz/work"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A text file: its path from the root, and what it says.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

fn sources() -> Vec<Source> {
    let mut all = Vec::new();
    gather(&root(), "", &mut all);
    assert!(all.iter().filter(|source| source.is_rust()).count() > 100, "the walk finds the sources");
    all
}

fn gather(folder: &Path, below: &str, all: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let ours = !NOT_OURS.iter().any(|other| path == *other || path.ends_with(&format!("/{other}")));
        if !ours || path.ends_with(".etcd") {
            continue;
        }
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() {
            gather(&entry.path(), &path, all);
        } else if let (true, Ok(text)) = (kind.is_file(), fs::read_to_string(entry.path())) {
            all.push(Source { path, text });
        }
    }
}

/// Fails with every violation, one a line.
fn assert_none(mut violations: Vec<String>) {
    violations.sort();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// The text with comments, strings and characters blanked; lines stay where they are.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = match rest[0] {
            b'/' if rest.starts_with(b"//") => until(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'"' => quoted(rest, b'"'),
            b'r' if !word_before => raw(rest),
            b'b' if !word_before && rest.get(1) == Some(&b'r') => {
                let length = raw(&rest[1..]);
                if length > 0 { length + 1 } else { 0 }
            }
            b'\'' if is_character(rest) => quoted(rest, b'\''),
            _ => 0,
        };
        out[at..at + length].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at += length.max(1);
    }
    String::from_utf8(out).expect("blanks are text")
}

/// Bytes before `end`, or all.
fn until(bytes: &[u8], end: &[u8]) -> usize {
    bytes.windows(end.len()).position(|window| window == end).unwrap_or(bytes.len())
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        let step = match &bytes[at..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        at += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Length of a raw string that begins with its `r`; 0 when there is none.
fn raw(bytes: &[u8]) -> usize {
    let hashes = bytes[1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    (2 + hashes + until(&bytes[2 + hashes..], &end) + end.len()).min(bytes.len())
}

/// A character, and not a lifetime.
fn is_character(bytes: &[u8]) -> bool {
    match std::str::from_utf8(&bytes[1..bytes.len().min(6)]).map_err(|error| error.valid_up_to()) {
        Err(0) => false,
        Ok(text) => character(text),
        Err(valid) => character(std::str::from_utf8(&bytes[1..1 + valid]).expect("so far it is text")),
    }
}

fn character(text: &str) -> bool {
    let mut chars = text.chars();
    matches!((chars.next(), chars.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

/// The words of code with the number of their line, from 0.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .enumerate()
        .flat_map(move |(at, line)| line.split(move |c| !word(c)).map(move |word| (at, word)))
        .filter(|(_, word)| !word.is_empty())
}

/// Tests stand at the end of their file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod ").next().expect("the first part is always there")
}

/// The names under a table of a manifest, such as `dependencies`.
fn table<'a>(manifest: &'a str, table: &str) -> Vec<&'a str> {
    let header = format!("[{table}]");
    let lines = manifest.lines().skip_while(|line| line.trim() != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

fn layering(layer: &str, manifest: &str) -> Vec<String> {
    if JUDGES.contains(&layer) {
        return Vec::new();
    }
    let Some((_, below, dev)) = LAYERS.iter().find(|(name, ..)| *name == layer) else {
        return vec![format!("crates/{layer} is no layer of docs/ARCHITECTURE.md")];
    };
    let ours = |name: &&str| JUDGES.contains(name) || LAYERS.iter().any(|(layer, ..)| layer == name);
    let used: BTreeSet<&str> = table(manifest, "dependencies").into_iter().filter(ours).collect();
    let of_tests = table(manifest, "dev-dependencies");
    let mut wrong = Vec::new();
    for name in used.iter().filter(|name| !below.contains(*name)) {
        wrong.push(format!("{layer} imports {name}"));
    }
    for name in below.iter().filter(|name| !used.contains(*name)) {
        wrong.push(format!("{layer} may import {name} and does not: take it out of the table"));
    }
    for name in of_tests.into_iter().filter(ours).filter(|name| !below.contains(name) && !dev.contains(name))
    {
        wrong.push(format!("the tests of {layer} import {name}"));
    }
    // Models of threads bring their own checker, and nothing else.
    let seen = |line: &str| line.contains("cfg(loom)");
    if manifest
        .lines()
        .any(|line| line.starts_with("[target.") && line.contains("dependencies") && !seen(line))
    {
        wrong.push(format!("{layer} has dependencies that this test does not see"));
    }
    wrong
}

fn impurities(path: &str, code: &str) -> Vec<String> {
    let Some(layer) = path.strip_prefix("crates/").and_then(|path| path.split_once("/src/")) else {
        return Vec::new();
    };
    if !PURE.contains(&layer.0) {
        return Vec::new();
    }
    words(without_tests(code))
        .filter(|(_, word)| IMPURE.contains(word) && !IMPURE_ALLOWED.contains(&(path, *word)))
        .map(|(at, word)| {
            format!("{path}:{}: `{word}` in a layer without clock, threads and system calls", at + 1)
        })
        .collect()
}

fn header(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! ")).then(|| format!("{path}: a module begins with //! and says what it is"))
}

fn length(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LINES_MAX).then(|| format!("{path}: {lines} lines, more than {LINES_MAX}"))
}

/// Each `unsafe` has a comment that says why it is sound: at its statement, or (a function) in its documentation. What an
/// `unsafe impl` defines is explained with it.
fn undocumented_unsafe(path: &str, text: &str, code: &str) -> Vec<String> {
    let (lines, code): (Vec<&str>, Vec<&str>) = (text.lines().collect(), code.lines().collect());
    let explained = |from: usize| {
        let mut at = from;
        loop {
            let comment = lines[at].find("//").map_or("", |start| &lines[at][start..]);
            if comment.contains("SAFETY:") || comment.contains("# Safety") {
                return true;
            }
            if at == 0 {
                return false;
            }
            at -= 1;
            // What ends here is another statement; attributes and comments belong to ours.
            let before = code[at].trim();
            let attribute = before.starts_with("#[");
            let ended = before.ends_with([';', '{', '}', ',']) && !attribute;
            if lines[at].trim().is_empty() || (ended && !lines[at].contains("SAFETY:")) {
                return false;
            }
        }
    };
    let indent = |at: usize| code[at].len() - code[at].trim_start().len();
    let of_unsafe_impl = |at: usize| {
        let outer = (0..at).rev().find(|&outer| !code[outer].trim().is_empty() && indent(outer) < indent(at));
        code[at].trim_start().starts_with("unsafe fn")
            && outer.is_some_and(|outer| code[outer].contains("unsafe impl"))
    };
    code.iter()
        .enumerate()
        .filter(|(_, line)| words(line).any(|(_, word)| word == "unsafe"))
        .filter(|(at, _)| !explained(*at) && !of_unsafe_impl(*at))
        .map(|(at, _)| format!("{path}:{}: `unsafe` without a SAFETY comment", at + 1))
        .collect()
}

fn has_unsafe(code: &str) -> bool {
    words(code).any(|(_, word)| word == "unsafe")
}

/// Modules, types and files whose name, or a part of it, says nothing.
fn empty_names(path: &str, code: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for part in path.split(['/', '.']).filter(|part| is_empty_name(part)) {
        wrong.push(format!("{path}: {part:?} says nothing"));
    }
    let all: Vec<(usize, &str)> = words(code).collect();
    for pair in all.windows(2) {
        let ((_, kind), (at, name)) = (pair[0], pair[1]);
        if ["mod", "struct", "enum", "union", "trait", "type"].contains(&kind) && is_empty_name(name) {
            wrong.push(format!("{path}:{}: {kind} {name:?} says nothing", at + 1));
        }
    }
    wrong
}

/// One of the parts of `a_name` or `AName` is an empty one.
fn is_empty_name(name: &str) -> bool {
    let mut parts = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c == '-' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c.is_alphanumeric() {
            parts.last_mut().expect("there is one").extend(c.to_lowercase());
        }
    }
    parts.iter().any(|part| EMPTY_NAMES.contains(&part.strip_suffix('s').unwrap_or(part)))
}

/// Bounds that stand somewhere else than among the limits, by their names: what a format or protocol prescribes, or how an
/// algorithm is tuned, or how deep a reader follows. (A bound whose name does not say so cannot be told from text.)
const BOUNDS_ELSEWHERE: &[(&str, &str)] = &[
    ("crates/bbolt/src/format.rs", "KEY_BYTES_MAX"),
    ("crates/bbolt/src/format.rs", "VALUE_BYTES_MAX"),
    ("crates/bbolt/src/format.rs", "DEPTH_MAX"),
    ("crates/bbolt/src/format.rs", "NESTING_MAX"),
    ("crates/bbolt/src/format.rs", "PAGE_BYTES_MAX"),
    ("crates/bbolt/src/tree.rs", "INLINE_BYTES_MAX"),
    ("crates/mvcc/src/sort.rs", "INSERTION_MAX"),
    ("crates/mvcc/src/sort.rs", "SHIFTS_MAX"),
    ("crates/mvcc/src/sort.rs", "SWAPS_MAX"),
    ("crates/net/src/frame.rs", "MAX_31_BITS"),
    ("crates/net/src/hpack/integer.rs", "MAX"),
    ("crates/net/src/settings.rs", "MAX_CONCURRENT_STREAMS"),
    ("crates/net/src/settings.rs", "MAX_FRAME_SIZE"),
    ("crates/net/src/settings.rs", "MAX_HEADER_LIST_SIZE"),
    ("crates/net/src/settings.rs", "MAX_FRAME_BYTES"),
    ("crates/server/src/config/rules.rs", "ELECTION_MAX_MS"),
    ("crates/tree/src/edit.rs", "SLOTS_MAX"),
    ("crates/tree/src/meta.rs", "TREES_MAX"),
    ("crates/tree/src/node.rs", "CELL_BYTES_MAX"),
    ("crates/tree/src/node.rs", "KEY_INLINE_MAX"),
    ("crates/tree/src/shape.rs", "MERGED_BYTES_MAX"),
    ("crates/tree/src/view.rs", "LEVELS_MAX"),
    ("crates/wal/src/segment.rs", "NUMBER_MAX"),
];

/// Constants of a file that by their names are bounds.
fn bounds<'c>(path: &str, code: &'c str) -> Vec<&'c str> {
    let of_product = path.starts_with("src/")
        || path.starts_with("crates/")
            && path.contains("/src/")
            && !JUDGES.iter().any(|judge| path.starts_with(&format!("crates/{judge}/")));
    if !of_product || path == "crates/base/src/limits.rs" {
        return Vec::new();
    }
    let all: Vec<&str> = words(without_tests(code)).map(|(_, word)| word).collect();
    let named = all.windows(2).filter(|pair| pair[0] == "const" && pair[1] != "fn").map(|pair| pair[1]);
    named.filter(|name| name.split('_').any(|part| ["MAX", "MOST", "LIMIT"].contains(&part))).collect()
}

/// Bugs of the zoo that two places make together.
const BUGS_OF_TWO_PLACES: &[&str] = &[
    // No room is made; and the assertion that there is some, where it is used, is left out.
    "RoomNotReserved",
    // Readers and whoever waits for the start are told by two words.
    "ReadBeforeReplay",
];

/// Where the real code asks for each bug of the zoo.
fn bug_places<'c>(path: &str, code: &'c str) -> Vec<&'c str> {
    let judge = |judge: &&str| path.starts_with(&format!("crates/{judge}/"));
    if !path.starts_with("crates/") || path == "crates/base/src/bug.rs" || JUDGES.iter().any(judge) {
        return Vec::new();
    }
    let all: Vec<&str> = words(without_tests(code)).map(|(_, word)| word).collect();
    let asked = all.windows(2).filter(|pair| pair[0] == "bug" && pair[1].starts_with(char::is_uppercase));
    asked.map(|pair| pair[1]).collect()
}

/// Bugs that are not asked for where they should be, and exceptions that are none.
fn misplaced_bugs(known: &[&str], asked: &[&str], at_two: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in known {
        let places = asked.iter().filter(|asked| *asked == name).count();
        if places != if at_two.contains(name) { 2 } else { 1 } {
            wrong.push(format!("{name} is asked for at {places} places"));
        }
    }
    for name in at_two.iter().filter(|name| !known.contains(name)) {
        wrong.push(format!("{name} is no bug any more: take it out of the table"));
    }
    wrong
}

/// Each limit says why it is what it is, in one place, and somebody keeps it.
fn idle_limits(limits: &str, used: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = limits.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) else {
            continue;
        };
        if at == 0 || !lines[at - 1].starts_with("/// ") {
            wrong.push(format!("limits: {name} does not say why"));
        }
        if !used.contains(name) {
            wrong.push(format!("limits: nobody keeps {name}"));
        }
    }
    wrong
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let folders: Vec<String> = MACHINE_FOLDERS.iter().map(|name| format!("/{name}/")).collect();
    let mut wrong = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for folder in &folders {
            let absolute = |start: usize| {
                let before = line[..start].chars().next_back();
                before.is_none_or(|c| !(c.is_alphanumeric() || "_-.}>*/".contains(c)))
            };
            if line.match_indices(folder.as_str()).any(|(start, _)| absolute(start)) {
                wrong.push(format!("{path}:{}: a path of one machine, {folder}", at + 1));
            }
        }
    }
    wrong
}

#[test]
fn layers_import_only_from_below() {
    let mut wrong = Vec::new();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).expect("the crates") {
        let entry = entry.expect("a readable folder");
        let layer = entry.file_name().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).expect("a crate has a manifest");
        wrong.extend(layering(&layer, &manifest));
        there.insert(layer);
    }
    let named = LAYERS.iter().map(|(layer, ..)| *layer).chain(JUDGES.iter().copied());
    assert_eq!(
        there.iter().map(String::as_str).collect::<Vec<_>>(),
        named.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    // The table itself: every import is of a line above.
    for (at, (layer, below, dev)) in LAYERS.iter().enumerate() {
        for name in below.iter().chain(*dev) {
            if !LAYERS[..at].iter().any(|(above, ..)| above == name) {
                wrong.push(format!("{layer} imports {name}, which is not below it"));
            }
        }
    }
    // The table of the page has the same lines, in the same order.
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the map");
    let layers = page.split("\n## ").find(|part| part.starts_with("Layers")).expect("a part on layers");
    let lines = layers.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(lines.collect::<Vec<_>>(), LAYERS.iter().map(|(layer, ..)| *layer).collect::<Vec<_>>());
    assert_none(wrong);
}

#[test]
fn pure_layers_have_no_clock_no_threads_and_no_system_calls() {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let code = code_of(&source.text);
        wrong.extend(impurities(&source.path, &code));
        met.extend(words(&code).map(|(_, word)| (source.path.clone(), word.to_owned())));
    }
    for (path, word) in IMPURE_ALLOWED {
        if !met.contains(&((*path).to_owned(), (*word).to_owned())) {
            wrong.push(format!("{path} does not say {word} any more: take it out of the table"));
        }
    }
    assert_none(wrong);
}

#[test]
fn modules_begin_with_their_purpose_and_are_not_long() {
    let sources = sources();
    let rust = sources.iter().filter(|source| source.is_rust());
    let both = rust.flat_map(|Source { path, text }| [header(path, text), length(path, text)]);
    assert_none(both.flatten().collect());
}

#[test]
fn unsafe_code_is_rare_and_explained() {
    let mut wrong = Vec::new();
    let mut there = BTreeSet::new();
    for Source { path, text } in sources().iter().filter(|source| source.is_rust()) {
        let code = code_of(text);
        if has_unsafe(&code) {
            there.insert(path.clone());
        }
        wrong.extend(undocumented_unsafe(path, text, &code));
    }
    for path in there.iter().filter(|path| !UNSAFE.contains(&path.as_str())) {
        wrong.push(format!("{path}: `unsafe` in a file that is not listed for it"));
    }
    for path in UNSAFE.iter().filter(|path| !there.contains(**path)) {
        wrong.push(format!("{path} has no `unsafe` any more: take it out of the table"));
    }
    assert_none(wrong);
}

#[test]
fn names_say_something() {
    let sources = sources();
    let rust = sources.iter().filter(|source| source.is_rust());
    assert_none(rust.flat_map(|source| empty_names(&source.path, &code_of(&source.text))).collect());
}

#[test]
fn limits_have_a_reason_and_are_kept() {
    const LIMITS: &str = "crates/base/src/limits.rs";
    let sources = sources();
    let mut used = BTreeSet::new();
    for source in sources.iter().filter(|source| source.is_rust() && source.path != LIMITS) {
        used.extend(words(&code_of(&source.text)).map(|(_, word)| word.to_owned()));
    }
    let limits = sources.iter().find(|source| source.path == LIMITS).expect("the limits");
    assert_none(idle_limits(&limits.text, &used));
}

#[test]
fn a_bug_of_the_zoo_is_made_at_one_place() {
    let sources: Vec<(String, String)> = sources()
        .into_iter()
        .filter(Source::is_rust)
        .map(|source| (source.path, code_of(&source.text)))
        .collect();
    let asked: Vec<&str> = sources.iter().flat_map(|(path, code)| bug_places(path, code)).collect();
    let known: Vec<&str> = ALL.iter().map(|bug| bug.name()).collect();
    assert_none(misplaced_bugs(&known, &asked, BUGS_OF_TWO_PLACES));
}

#[test]
fn bounds_stand_among_the_limits() {
    let mut wrong = Vec::new();
    let mut there = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for name in bounds(&source.path, &code_of(&source.text)) {
            there.insert((source.path.clone(), name.to_owned()));
            if !BOUNDS_ELSEWHERE.contains(&(source.path.as_str(), name)) {
                wrong.push(format!("{}: {name} is a bound, and not among the limits", source.path));
            }
        }
    }
    for (path, name) in BOUNDS_ELSEWHERE {
        if !there.contains(&((*path).to_owned(), (*name).to_owned())) {
            wrong.push(format!("{path} has no {name} any more: take it out of the table"));
        }
    }
    assert_none(wrong);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_none(sources().iter().flat_map(|source| machine_paths(&source.path, &source.text)).collect());
}

/// The rules, broken one by one.
mod broken {
    use super::*;

    #[test]
    fn imports() {
        let lease = "[dependencies]\nbase.workspace = true\n\n[lints]\n";
        assert_eq!(layering("lease", lease), Vec::<String>::new());
        for (layer, manifest) in [
            ("lease", "[dependencies]\nbase.workspace = true\nmvcc.workspace = true\n"),
            ("lease", "[dependencies]\nbase.workspace = true\nsim = { workspace = true }\n"),
            ("lease", "[dependencies]\nbase.workspace = true\n[dev-dependencies]\nserver.workspace = true\n"),
            ("lease", "[dependencies]\n"),
            ("lease", &format!("{lease}[target.'cfg(unix)'.dependencies]\n")),
            ("orphan", lease),
        ] {
            assert_eq!(layering(layer, manifest).len(), 1, "{manifest}");
        }
    }

    #[test]
    fn purity() {
        let found = |path, text| impurities(path, &code_of(text)).len();
        assert_eq!(found("crates/wal/src/log.rs", "//! A thread.\nfn f() { \"async\" }\n"), 0);
        assert_eq!(found("crates/wal/src/log.rs", "use std::time::Instant;\n"), 1);
        assert_eq!(found("crates/api/src/kv.rs", "async fn f() { g().await }\n"), 2);
        assert_eq!(
            found("crates/api/src/kv.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::thread; }\n"),
            0
        );
        assert_eq!(found("crates/server/src/start.rs", "use std::time::Instant;\n"), 0);
    }

    #[test]
    fn bugs_at_one_place() {
        let code = "if base::bug!(A) || base::bug!(B) { base::bug!(B) }\n#[cfg(test)]\nmod tests { base::bug!(A) }\n";
        let asked = bug_places("crates/wal/src/log.rs", code);
        assert_eq!(asked, ["A", "B", "B"]);
        assert!(bug_places("crates/sim/src/zoo.rs", code).is_empty());
        assert_eq!(misplaced_bugs(&["A", "B"], &asked, &["B"]).len(), 0);
        assert_eq!(misplaced_bugs(&["A", "B", "C"], &asked, &["A", "D"]).len(), 4, "A, B, C and D");
    }

    #[test]
    fn bounds_elsewhere() {
        let found = |path, text| bounds(path, &code_of(text)).len();
        assert_eq!(found("crates/net/src/output.rs", "const MOST_SLICES: usize = 1;\n"), 1);
        assert_eq!(found("crates/api/src/watch.rs", "pub(crate) const QUEUE_MAX: usize = 1;\n"), 1);
        assert_eq!(found("crates/api/src/watch.rs", "const fn QUEUE_MAX() {}\nconst MAXIMAL: u8 = 1;\n"), 0);
        assert_eq!(found("crates/base/src/limits.rs", "pub const SHARDS_MAX: usize = 1;\n"), 0);
        assert_eq!(found("crates/sim/src/world.rs", "const SEEDS_MAX: usize = 1;\n"), 0);
        assert_eq!(found("crates/api/src/kv.rs", "#[cfg(test)]\nmod tests { const MAX: usize = 1; }\n"), 0);
    }

    #[test]
    fn headers_and_lengths() {
        assert!(header("a.rs", "//! A module.\n").is_none());
        assert!(header("a.rs", "// A module.\n").is_some() && header("a.rs", "use std::fs;\n").is_some());
        assert!(length("a.rs", &"\n".repeat(LINES_MAX)).is_none());
        assert!(length("a.rs", &"\n".repeat(LINES_MAX + 1)).is_some());
    }

    #[test]
    fn unsafe_code() {
        let found = |text: &str| undocumented_unsafe("a.rs", text, &code_of(text)).len();
        for sound in [
            "// SAFETY: it lives.\nunsafe { f() };\n",
            "// SAFETY: it lives.\n#[allow(x)]\nlet a =\n    unsafe { f() };\n",
            "/// # Safety\n/// It lives.\npub unsafe fn f() {}\n",
            "// SAFETY: it counts.\nunsafe impl A for B {\n    unsafe fn f() {}\n}\n",
            "let a = b; // unsafe\nlet c = \"unsafe\";\nlet d = r#\"\"unsafe\"#;\nlet e = '\"'; let f = \"unsafe\";\n",
        ] {
            assert_eq!(found(sound), 0, "{sound}");
        }
        for bare in [
            "unsafe { f() };\n",
            "// SAFETY: it lives.\ng();\nunsafe { f() };\n",
            "// SAFETY: it lives.\n\nunsafe impl Send for A {}\n",
            "/// Does it.\npub unsafe fn f() {}\n",
            "impl B {\n    unsafe fn f() {}\n}\n",
            "let a: &'static str = \"x\"; unsafe { f() };\n",
        ] {
            assert_eq!(found(bare), 1, "{bare}");
        }
    }

    #[test]
    fn names() {
        let found = |path, text: &str| empty_names(path, &code_of(text)).len();
        assert_eq!(found("crates/a/src/handle.rs", "struct Handle; mod utility;\n"), 0);
        assert_eq!(found("crates/a/src/lib.rs", "// mod util\nfn handler() {}\n"), 0);
        for text in [
            "mod util;",
            "struct LeaseManager;",
            "enum HandlerKind {}",
            "type Misc = u8;",
            "mod test_helpers {}",
        ] {
            assert_eq!(found("crates/a/src/lib.rs", text), 1, "{text}");
        }
        assert_eq!(found("crates/a/src/utils/lib.rs", ""), 1);
    }

    #[test]
    fn limits() {
        let used = BTreeSet::from(["A_BYTES".to_owned()]);
        assert!(idle_limits("/// Why.\npub const A_BYTES: usize = 1;\n", &used).is_empty());
        assert_eq!(idle_limits("pub const A_BYTES: usize = 1;\n", &used).len(), 1);
        assert_eq!(idle_limits("/// Why.\npub const B_BYTES: usize = 1;\n", &used).len(), 1);
    }

    #[test]
    fn paths() {
        let folder = MACHINE_FOLDERS[0];
        assert_eq!(machine_paths("a", &format!("see /{folder}/me/x")).len(), 1);
        assert_eq!(machine_paths("a", &format!("\"/{folder}/me\"")).len(), 1);
        assert_eq!(machine_paths("a", &format!("docs/{folder}/me, /var/lib, {folder}/")).len(), 0);
    }
}
