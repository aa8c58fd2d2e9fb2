//! Judges of a recorded [`History`](crate::history::History), and of a store at rest. Pure, and near-linear in the
//! length of the history: a million operations are a matter of seconds.
//!
//! - [`linear`]: every answer is right, in one order of revisions that real time agrees with; nothing acknowledged is
//!   lost; refusals have a reason ([`refusals`]). Its [`Timeline`] is what the others compare with.
//! - [`watch`]: the nine rules of watch streams.
//! - [`lease`]: leases live as long as promised and end as a whole.
//! - [`hash`]: equal content has equal hashes.
//! - [`state`]: what a store holds is consistent in itself, and its log holds what it promised.
//!
//! Invariant: a finding is never a matter of luck. Where a history leaves open what happened, every possibility is
//! allowed; [`linear::Summary`] counts what was left open.
//!
//! Must not know how the history came about.

pub mod hash;
pub mod lease;
pub mod linear;
mod matching;
mod model;
mod observed;
mod refusals;
pub mod state;
mod streams;
mod suspects;
mod timeline;
pub mod watch;

use std::fmt::{self, Display, Formatter};

use crate::history::History;
pub use timeline::{Cause, Timeline};

macro_rules! rules {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What was broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $($(#[$doc])+ $name,)+
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$name,)+];
        }
    };
}

rules! {
    /// A write came before something that was answered before it began.
    WriteOrder,
    /// Two writes with the same revision.
    RevisionReused,
    /// A revision of which nothing is known, though later ones are.
    RevisionGap,
    /// A revision whose changes no operation explains.
    Unexplained,
    /// What a write answered does not follow from the state before it.
    WriteAnswer,
    /// A linearizable answer older than one given before it began.
    StaleRead,
    /// A member went back behind its own earlier answer.
    MemberBackwards,
    /// What a read answered is not the state that its header names.
    ReadState,
    /// A refusal for which there was no reason.
    WrongRefusal,
    /// A compaction that was undone, or was accepted twice; a read below it that was served.
    Compaction,
    /// A dump of the history is not what was acknowledged.
    Dump,

    /// Watch 1: events come in the order of revisions and, within one, of changes.
    WatchOrdered,
    /// Watch 2: no event comes twice.
    WatchUnique,
    /// Watch 3: the events of a revision come in one response, or in one train of fragments.
    WatchAtomic,
    /// Watch 4: between two events of a watcher none is left out.
    WatchReliable,
    /// Watch 5: whoever starts at a revision gets everything from there on, and nothing older.
    WatchResumable,
    /// Watch 6: progress at R comes after all events up to R, and is no older than what it answers.
    WatchBookmarkable,
    /// Watch 7: the previous pair is given where it was asked for and exists, and is right.
    WatchPrevKv,
    /// Watch 8: create revision and version tell a creation from a change.
    WatchIsCreate,
    /// Watch 9: only events of the watched keys, of the kinds asked for.
    WatchFilter,
    /// What an event carries is what was written.
    WatchContent,
    /// A watcher has one created answer, first of all.
    WatchCreated,
    /// A watcher is canceled for a reason, and silent afterwards.
    WatchCanceled,

    /// A lease ended before its time.
    LeaseEarly,
    /// The keys of a lease did not all go together.
    LeaseKeys,
    /// A lease that was gone is used or renewed.
    LeaseGone,
    /// An id was granted while it was in use.
    LeaseTwice,
    /// Less time is left than was promised.
    LeaseShortened,
    /// More time is left than anything gave it.
    LeaseProlonged,
    /// A TTL that is not the one asked for or granted.
    LeaseTtl,
    /// A lease outlived its time by far.
    LeaseLate,

    /// Two hashes of the same content differ.
    HashDiffers,
    /// The pages of a store are not a closed graph with right counts, or a page is in use twice.
    Pages,
    /// The trees of a store contradict each other.
    Rows,
    /// The log promised more than it holds.
    Durable,
}

/// The first thing that was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: Rule,
    /// The step of the history at which it shows; 0 where there is none.
    pub step: u64,
    pub text: String,
}

impl Finding {
    pub fn new(rule: Rule, step: u64, text: impl Into<String>) -> Finding {
        Finding { rule, step, text: text.into() }
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at step {}: {}", self.rule, self.step, self.text)
    }
}

impl std::error::Error for Finding {}

/// `Err(Finding)`, formatted.
macro_rules! found {
    ($rule:ident, $step:expr, $($text:tt)*) => {
        Err($crate::check::Finding::new($crate::check::Rule::$rule, $step, format!($($text)*)))
    };
}
pub(crate) use found;

/// What [`history`] looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub linear: linear::Summary,
    pub watch: watch::Summary,
    pub lease: lease::Summary,
    pub hash: hash::Summary,
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Summary { linear, watch, lease, hash } = self;
        write!(
            f,
            "{} revisions: {} writes, {} of lost calls, {} expiries; {} reads; {} watchers, {} events, {} bookmarks; \
             {} leases, {} lease answers; {} hashes, {} of them compared",
            linear.revisions,
            linear.writes,
            linear.resolved,
            linear.expired,
            linear.reads,
            watch.watchers,
            watch.events,
            watch.bookmarks,
            lease.leases,
            lease.answers,
            hash.samples,
            hash.compared,
        )
    }
}

/// Everything that can be said about a history.
pub fn history(history: &History, clocks: &lease::Clocks) -> Result<Summary, Finding> {
    let (timeline, linear) = linear::check(history)?;
    Ok(Summary {
        linear,
        watch: watch::check(history, &timeline)?,
        lease: lease::check(history, &timeline, clocks)?,
        hash: hash::check(&history.hashes)?,
    })
}
