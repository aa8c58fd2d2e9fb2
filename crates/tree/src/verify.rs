//! Proof that a store is what its laws say: the page graph is closed, counts are recounts, keys are ordered, and every
//! page is either reachable, free, waiting or held, never two of them.
//!
//! Reads everything. [`verify`] looks at the writer's books too; [`verify_view`] at one root, beside a running writer.

use crate::node::{Node, PAGE_BYTES};
use crate::order::Order;
use crate::store::Store;
use crate::view::View;
pub use crate::walk::VerifyError;
use crate::walk::Walk;

/// What was found to be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Reachable pages, those of runs included.
    pub pages: u64,
    pub run_pages: u64,
    /// Entries by tree.
    pub entries: Vec<u64>,
    /// Levels of the highest tree.
    pub levels: u8,
    /// Pages and runs whose checksum was compared.
    pub stamps: u64,
    /// Pages free below the last one in use, waiting for pins or metas, and held for bitmaps and runs.
    pub free: u64,
    pub waiting: u64,
    pub held: u64,
    /// Mean use of leaf and branch pages, percent.
    pub fill_percent: u64,
}

/// Walks one root.
pub fn verify_view(view: View) -> Result<VerifyReport, VerifyError> {
    walk(view, view.space().mapping().pages()).map(|(report, _)| report)
}

fn walk<'a>(view: View<'a>, limit: u32) -> Result<(VerifyReport, Walk<'a>), VerifyError> {
    let mut walk = Walk::new(view.space(), limit);
    for (tree, spec) in view.specs().iter().enumerate() {
        walk.tree(spec.name, Order::from(spec.order), view.tree(tree))?;
    }
    let entries = (0..view.trees()).map(|tree| view.len(tree)).collect();
    let report = VerifyReport {
        pages: walk.seen.count(),
        run_pages: walk.run_pages,
        entries,
        levels: walk.deepest,
        ..VerifyReport::default()
    };
    Ok((report, walk))
}

/// Walks the open batch and compares it with the writer's books, and every page that a completed checkpoint wrote
/// with its checksum.
pub fn verify(store: &Store) -> Result<VerifyReport, VerifyError> {
    let view = store.view();
    let frontier = store.pages.frontier();
    let (mut report, walk) = walk(view, frontier)?;
    let wrong = |page: u32, what: &str| Err(VerifyError { tree: "", page, what: what.to_owned() });

    let (free, waiting) = (store.pages.free_bits(), store.pages.waiting_bits());
    for no in walk.seen.iter() {
        if !store.pages.live.contains(no) {
            return wrong(no, "is reachable and the writer thinks it is not in use");
        }
        if free.contains(no) || waiting.contains(no) {
            return wrong(no, "is reachable and waits to be reused");
        }
    }
    if let Some(no) = store.pages.live.iter().find(|no| !walk.seen.contains(*no)) {
        return wrong(no, "is not reachable and the writer thinks it is in use");
    }
    if let Some(no) = waiting.iter().find(|no| free.contains(*no)) {
        return wrong(no, "is free and waits");
    }
    for held in store.checkpoints.held().chain(store.pages.holds.iter()) {
        for no in held.page..held.page + held.pages {
            if walk.seen.contains(no) || free.contains(no) || waiting.contains(no) {
                return wrong(no, "is held, for a bitmap or a run, and something else");
            }
            report.held += 1;
        }
    }
    report.free = free.count();
    report.waiting = waiting.count();
    if report.waiting != store.pages.waiting_pages() {
        let what = format!("{} pages wait, {} are counted", report.waiting, store.pages.waiting_pages());
        return Err(VerifyError { tree: "", page: frontier, what });
    }
    let known = report.pages + report.free + report.waiting + report.held + u64::from(crate::meta::SLOTS);
    if !store.dropping && known != u64::from(frontier) {
        let what = format!("{known} pages are accounted for, {frontier} were ever used");
        return Err(VerifyError { tree: "", page: frontier, what });
    }
    check_stamps(store, &walk, &mut report)?;
    Ok(report)
}

fn check_stamps(store: &Store, walk: &Walk, report: &mut VerifyReport) -> Result<(), VerifyError> {
    let space = store.space();
    let mut next = walk.seen.next_from(0);
    let (mut used, mut nodes) = (0, 0);
    while let Some(no) = next {
        let (_, pages) = space.kind_and_pages(no);
        if !store.pages.dirty.contains(no) && !store.checkpoints.is_being_written(no) {
            if !space.stamp_holds(no) {
                let what = "the checksum is not that of the page".to_owned();
                return Err(VerifyError { tree: "", page: no, what });
            }
            report.stamps += 1;
        }
        if space.is_node(no) {
            let node: Node = space.node(no);
            used += node.used() as u64;
            nodes += 1;
        }
        next = walk.seen.next_from(no + pages);
    }
    if nodes > 0 {
        report.fill_percent = used * 100 / (nodes * PAGE_BYTES as u64);
    }
    Ok(())
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
