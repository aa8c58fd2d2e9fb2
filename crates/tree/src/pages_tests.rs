//! What the rules of reuse say, and which free page is handed out.

use super::*;

fn holders(oldest_pin: u64, older_meta: u64) -> Holders {
    Holders { oldest_pin, older_meta, dropping: false }
}

#[test]
fn fleeting_pages_wait_for_pins_and_durable_ones_for_both_metas() {
    let mut pages = Pages::new(2, 64, 16);
    let (a, b) = (pages.allocate(1).unwrap(), pages.allocate(1).unwrap());
    pages.seal(1);
    pages.dirty.remove(b); // a cut at publication 1 took it, but not `a`
    pages.supersede(Extent { page: a, pages: 1 }, false);
    pages.supersede(Extent { page: b, pages: 1 }, false);
    pages.seal(2);
    pages.release(holders(1, 1));
    assert_eq!(pages.waiting_pages(), 2, "publication 1 is pinned");
    pages.release(holders(2, 1));
    assert!(pages.is_free(a) && !pages.is_free(b), "the meta of publication 1 holds b");
    pages.release(Holders { oldest_pin: 2, older_meta: 2, dropping: true });
    assert!(!pages.is_free(b), "a drop under way may be reading b");
    pages.release(holders(2, 2));
    assert!(pages.is_free(b));
    assert_eq!(pages.allocate(1), Some(a), "the hot page comes first");
    assert_eq!(pages.allocate(1), Some(b), "then the lowest");
}

#[test]
fn runs_do_not_cross_chunks_and_skipped_pages_stay_free() {
    let mut pages = Pages::new(2, 48, 16);
    assert_eq!(pages.allocate(10), Some(2));
    assert_eq!(pages.allocate(10), Some(16), "12..22 would cross 16");
    assert_eq!(pages.allocate(4), Some(12), "the skipped pages");
    assert_eq!(pages.allocate(16), Some(32));
    assert_eq!(pages.allocate(7), None);
    assert_eq!(pages.allocate(6), Some(26));
    assert_eq!(pages.free_pages(), 0);
    pages.supersede(Extent { page: 32, pages: 16 }, true);
    assert_eq!(pages.allocate(16), Some(32), "born in this batch: free at once");
}

#[test]
fn hot_runs_serve_single_pages_before_the_file_grows() {
    let mut pages = Pages::new(2, 16, 16);
    assert_eq!(pages.allocate(14), Some(2));
    pages.supersede(Extent { page: 2, pages: 14 }, true);
    assert_eq!(pages.free_pages(), 14);
    for _ in 0..14 {
        assert!(pages.allocate(1).is_some(), "what counts as free can be allocated");
    }
    assert_eq!(pages.allocate(1), None);
}

/// A file of four chunks of 16 pages, the last page never used. Free are 16..32, 32..34, and five single pages.
fn in_pieces() -> Pages {
    let mut pages = Pages::new(2, 64, 16);
    let all: Vec<u32> = (2..63).map(|_| pages.allocate(1).unwrap()).collect();
    let is_free = |no: u32| (16..34).contains(&no) || (36..46).contains(&no) && no.is_multiple_of(2);
    for no in all.into_iter().filter(|no| is_free(*no)) {
        pages.supersede(Extent { page: no, pages: 1 }, true);
    }
    pages.cool();
    pages
}

#[test]
fn where_pages_are_scarce_the_shortest_holes_are_used_first() {
    let mut pages = Pages { scarce_pages: 64, ..in_pieces() };
    let pair = Extent { page: 32, pages: 2 };
    assert_eq!(pages.allocate(2), Some(pair.page));
    let edge = pages.allocate_at_edge();
    assert_eq!((edge, pages.allocate(1)), (None, Some(36)), "no window is set aside");
    pages.supersede(Extent { page: 36, pages: 1 }, true);
    for single in [36, 38, 40, 42, 44] {
        assert_eq!(pages.allocate(1), Some(single));
    }
    assert_eq!(pages.allocate(1), Some(16), "there are no others");
    assert_eq!(pages.allocate(15), Some(17));
    pages.supersede(pair, true);
    assert_eq!(
        (pages.allocate(1), pages.allocate(1)),
        (Some(32), Some(33)),
        "also hot ones of another length"
    );
    assert_eq!((pages.allocate(1), pages.free_pages()), (Some(63), 0), "what was never used comes last");
}

#[test]
fn while_the_file_shrinks_the_lowest_hole_is_taken_however_scarce_pages_are() {
    let mut pages = Pages { scarce_pages: 64, ceiling: Some(48), ..in_pieces() };
    assert_eq!((pages.allocate_held(2), pages.allocate(1)), (Some(16), Some(18)));
}

#[test]
fn pages_are_scarce_only_until_the_file_grows() {
    for (scarce_pages, mapped) in [(64, 80), (22, 64)] {
        let mut pages = Pages { scarce_pages, ..in_pieces() };
        assert_eq!(pages.free_pages(), 24);
        pages.set_mapped(mapped);
        let taken = (pages.allocate_at_edge(), pages.allocate(1));
        assert_eq!(taken, (Some(16), Some(32)), "a window, and the lowest");
    }
}

#[test]
fn the_frontier_retracts_over_free_pages_only() {
    let mut pages = Pages::new(2, 64, 16);
    let all: Vec<u32> = (0..20).map(|_| pages.allocate(1).unwrap()).collect();
    for no in &all[10..] {
        pages.supersede(Extent { page: *no, pages: 1 }, true);
    }
    pages.cool();
    assert_eq!(pages.retract(), 12);
    assert_eq!(pages.free_pages(), 52);
}

#[test]
fn a_bitmap_takes_what_it_needs_and_comes_below_the_line_where_there_is_a_hole() {
    let mut pages = Pages::new(2, 64, 16);
    assert_eq!(pages.allocate(14), Some(2));
    let free = pages.free_pages();
    pages.hold_bitmaps(1, 3);
    assert_eq!(pages.free_pages(), free - 3);
    let bitmap = pages.take_bitmap(2).expect("three are held");
    assert_eq!((bitmap.pages, pages.free_pages()), (2, free - 2), "the third is free again");
    assert_eq!(pages.holds.iter().count(), 0);
    pages.free_held(bitmap);

    pages.hold_bitmaps(1, 2);
    let held = |pages: &Pages| pages.holds.iter().map(|extent| extent.page).collect::<Vec<_>>();
    assert_eq!(held(&pages), [16]);
    pages.supersede(Extent { page: 4, pages: 4 }, true);
    pages.cool();
    pages.ceiling = Some(18);
    pages.hold_bitmaps(1, 2);
    assert_eq!(held(&pages), [16], "it is below the line");
    pages.ceiling = Some(17);
    pages.hold_bitmaps(1, 2);
    assert!(held(&pages)[0] < 16, "it was across the line: {:?}", held(&pages));
    assert_eq!(pages.free_pages(), free + 2, "four came free, and two are held");
}
