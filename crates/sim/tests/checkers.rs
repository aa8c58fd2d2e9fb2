//! The checkers are held to two promises: a right history passes every one of them, and a wrong one is rejected, by
//! the rule that it breaks.
//!
//! CHECKER_SEEDS (60): histories a kind of mutation and flaw is tried on. SEED: which one `show` prints.

#[path = "checkers/generator.rs"]
mod generator;
#[path = "checkers/large.rs"]
mod large;
#[path = "checkers/mutations/mod.rs"]
mod mutations;
#[path = "checkers/real.rs"]
mod real;
#[path = "checkers/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::Random;
use generator::{Options, Run};
use server::{FLAWS, Flaw};
use sim::check::{self, Rule};
use sim::history::Passage;

fn seeds() -> u64 {
    std::env::var("CHECKER_SEEDS").map_or(60, |seeds| seeds.parse().expect("a number"))
}

#[test]
fn right_histories_pass() {
    for seed in 0..seeds() * 10 {
        let run = generator::run(Options::of_seed(seed));
        match check::history(&run.history, &run.clocks) {
            Ok(summary) => {
                if seed < 10 {
                    println!("{seed}: {summary}");
                }
            }
            Err(finding) => panic!("seed {seed}: {finding}"),
        }
    }
}

/// By which rules a flaw of the server may be found: where it shows first is a matter of what clients did.
fn rules_of(flaw: Flaw) -> &'static [Rule] {
    use Rule::*;
    match flaw {
        Flaw::LostAtCrash => &[
            RevisionReused,
            StaleRead,
            MemberBackwards,
            WriteOrder,
            ReadState,
            WriteAnswer,
            Dump,
            Unexplained,
            LeaseKeys,
        ],
        Flaw::CompactionUndone => &[Compaction],
        Flaw::AppliedTwice => &[Unexplained],
        Flaw::SplitExpiry | Flaw::ExpiryLeavesKey | Flaw::RevokeLeavesKey => &[LeaseKeys],
        Flaw::EarlyExpiry | Flaw::LeaseForgotten => &[LeaseEarly],
        // It also shows in the time that is left.
        Flaw::NotExtended | Flaw::RenewalIgnored => &[LeaseEarly, LeaseShortened],
        Flaw::CompareLate => &[WriteAnswer],
        Flaw::DeleteLeavesLast | Flaw::VersionGoesOn | Flaw::LeaseNotKept | Flaw::CompactionTakesLive => {
            &[ReadState, WriteAnswer, Dump, LeaseKeys, Unexplained]
        }
    }
}

#[test]
fn flawed_servers_are_found() {
    let mut table: BTreeMap<Flaw, BTreeMap<Rule, u64>> = BTreeMap::new();
    for flaw in FLAWS {
        for seed in 0..seeds() {
            let run = generator::run(Options::of_flaw(seed, flaw));
            match check::history(&run.history, &run.clocks) {
                Err(finding) if rules_of(flaw).contains(&finding.rule) => {
                    *table.entry(flaw).or_default().entry(finding.rule).or_default() += 1;
                }
                Ok(_) if !run.struck => {}
                Ok(_) => panic!("{flaw:?}, seed {seed}: nothing was found"),
                Err(finding) => panic!("{flaw:?}, seed {seed}, struck {}: {finding}", run.struck),
            }
        }
    }
    for (flaw, rules) in &table {
        println!("{flaw:?}: {rules:?}");
        let found: u64 = rules.values().sum();
        assert!(found * 20 > seeds(), "{flaw:?} strikes often enough: {found} of {}", seeds());
    }
    assert_eq!(table.len(), FLAWS.len(), "every flaw strikes");
}

/// Every rule of the checkers is what some mutation is rejected by: without it, that one would pass.
#[test]
fn every_mutation_is_rejected_and_every_rule_rejects_some() {
    let mutations = mutations::all();
    assert!(mutations.len() > 100, "there are many kinds");
    let mut found: Vec<BTreeMap<Rule, u64>> = vec![BTreeMap::new(); mutations.len()];
    for seed in 0..seeds() {
        let mut runs: HashMap<String, Run> = HashMap::new();
        for (number, mutation) in mutations.iter().enumerate() {
            let options = (mutation.of)(seed);
            let run = runs.entry(format!("{options:?}")).or_insert_with(|| generator::run(options));
            let mut run = run.clone();
            let mut random = Random::new(seed ^ (number as u64) << 32);
            if (mutation.apply)(&mut run, &mut random).is_none() {
                continue;
            }
            let name = mutation.name;
            match check::history(&run.history, &run.clocks) {
                Err(finding) if mutation.rules.contains(&finding.rule) => {
                    *found[number].entry(finding.rule).or_default() += 1;
                }
                Err(finding) => panic!("{name}, seed {seed}: another rule, {finding}"),
                Ok(_) => panic!("{name}, seed {seed}: nothing was found"),
            }
        }
    }
    for (mutation, rules) in mutations.iter().zip(&found) {
        let count: u64 = rules.values().sum();
        println!("{count:5} {}: {rules:?}", mutation.name);
        assert!(
            count * 20 > seeds(),
            "{}: {count} of {} histories have a place for it",
            mutation.name,
            seeds()
        );
    }
    let mut demanded: BTreeSet<Rule> = found.iter().flat_map(BTreeMap::keys).copied().collect();
    // Of stores at rest, and of logs: `real` breaks those.
    demanded.extend(real::DEMANDED);
    let idle: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !demanded.contains(rule)).collect();
    assert!(idle.is_empty(), "no mutation is rejected by {idle:?}");
    let rejected: u64 = found.iter().flat_map(BTreeMap::values).sum();
    println!("{rejected} mutants of {} kinds, all rejected", mutations.len());
}

/// Refusals for which there was a reason.
#[test]
fn refusals_with_a_reason_pass() {
    use proto::errors;
    use sim::history::*;
    let key = |text: &str| Bytes::from(text.as_bytes());
    let put = |put: Put| Request::Put(Put { key: key("k"), ..put });
    let txn = |then: Vec<TxnOp>| Request::Txn(Txn { then, ..Txn::default() });
    let put_op = || TxnOp::Put(Put { key: key("k"), ..Put::default() });
    let delete = DeleteRange { key: key("a"), range_end: key("z"), prev_kv: false };
    let keeps = |name: &str| Put { key: key(name), ignore_value: true, ..Put::default() };
    let other = |error: &errors::Error| Refusal::Other(error.message.as_ref().into());
    let absent = Range { key: key("k"), revision: 1000, ..Range::default() };
    let right = [
        (Request::Put(Put::default()), other(&errors::EMPTY_KEY)),
        (put(Put { ignore_value: true, value: key("v"), ..Put::default() }), other(&errors::VALUE_PROVIDED)),
        (put(Put { ignore_lease: true, lease: 7, ..Put::default() }), other(&errors::LEASE_PROVIDED)),
        (txn(vec![put_op(), put_op()]), other(&errors::DUPLICATE_KEY)),
        (txn(vec![TxnOp::DeleteRange(delete.clone()), put_op()]), other(&errors::DUPLICATE_KEY)),
        (txn(vec![TxnOp::Range(absent.clone()); 129]), other(&errors::TOO_MANY_OPS)),
        (put(Put { value: vec![0; 2 << 20].into(), ..Put::default() }), other(&errors::REQUEST_TOO_LARGE)),
        (Request::LeaseGrant { id: 0, ttl_s: 9_000_000_001 }, other(&errors::LEASE_TTL_TOO_LARGE)),
        (Request::Put(keeps("nowhere")), Refusal::KeyNotFound),
        (txn(vec![TxnOp::Put(keeps("nowhere"))]), Refusal::KeyNotFound),
        (txn(vec![TxnOp::DeleteRange(delete), TxnOp::Put(keeps("k"))]), Refusal::KeyNotFound),
        (put(Put { lease: 7, ..Put::default() }), Refusal::LeaseNotFound),
        (Request::LeaseRevoke { id: 7 }, Refusal::LeaseNotFound),
        (Request::Range(absent), Refusal::FutureRevision),
        (Request::Compact { revision: 1000 }, Refusal::FutureRevision),
        (put(Put::default()), other(&errors::REQUEST_TOO_MANY_REQUESTS)),
    ];
    for (request, refusal) in right {
        let mut history = History::new();
        let op = history.call(1, 0, 0, put(Put::default()));
        history.answered(op, 0, Answer::Put(PutAnswer { revision: 2, prev: None }));
        history.note(0, Note::Strained);
        let op = history.call(1, 0, 1, request);
        history.refused(op, 2, refusal);
        history.note(2, Note::Relieved);
        if let Err(finding) = check::history(&history, &check::lease::Clocks::default()) {
            panic!("{finding}");
        }
    }
}

/// Without the dump and whoever saw everything, it may be impossible to tell what lost calls did. That is said, and
/// nothing else.
#[test]
fn what_nobody_saw_is_no_other_finding() {
    let (mut told, mut untold, mut resolved) = (0, 0, 0);
    for seed in 0..seeds() * 10 {
        let mut run = generator::run(Options { actions: 150, ..Options::of_seed(seed) });
        run.history.dumps.clear();
        let sees_all = |passage: &Passage| match passage {
            Passage::Create(create) => matches!(&*create.key, [] | [0]) && *create.range_end == [0],
            _ => false,
        };
        run.history.streams.retain(|stream| !stream.passages.iter().any(|(_, passage)| sees_all(passage)));
        match check::history(&run.history, &run.clocks) {
            Ok(summary) => {
                told += 1;
                resolved += summary.linear.resolved;
            }
            Err(finding) if finding.rule == Rule::RevisionGap => untold += 1,
            Err(finding) => panic!("seed {seed}: {finding}"),
        }
    }
    println!("{told} told, with {resolved} lost calls; {untold} not");
    assert!(told > 0 && untold > 0 && resolved > 0, "{told} {untold} {resolved}");
}

/// The same seed gives the same trace, and another one another.
#[test]
fn traces_are_stable() {
    for seed in 0..20 {
        let hash = |seed: u64| generator::run(Options::of_seed(seed)).history.trace_hash();
        assert_eq!(hash(seed), hash(seed));
        assert_ne!(hash(seed), hash(seed + 1));
    }
}

#[test]
#[ignore = "prints a history"]
fn show() {
    let seed = std::env::var("SEED").expect("SEED").parse().expect("a number");
    let flaw =
        std::env::var("FLAW").ok().and_then(|name| FLAWS.into_iter().find(|f| format!("{f:?}") == name));
    let options = flaw.map_or(Options::of_seed(seed), |flaw| Options::of_flaw(seed, flaw));
    let run = generator::run(options);
    print!("{}", run.history.trace());
    println!("{:?}", check::history(&run.history, &run.clocks).map_err(|finding| finding.to_string()));
}
