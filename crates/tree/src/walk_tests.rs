//! Pages and roots are made wrong in every way that the walk speaks of, and it must say so. No checksum helps it: what
//! is changed here would be stamped by the next checkpoint as it is.

use disk::SimFiles;

use super::*;
use crate::edit;
use crate::verify::verify_view;
use crate::{KeyOrder, Options, Store, TreeSpec};

static SPECS: &[TreeSpec] = &[
    TreeSpec { name: "numbers", order: KeyOrder::Bytes },
    TreeSpec { name: "long", order: KeyOrder::Bytes },
];
const NUMBERS: usize = 0;
const LONG: usize = 1;

/// One tree of a branch and a dozen leaves, one of a leaf with a long key and two values of one length, each in a run of
/// its own.
fn store() -> Store {
    let options = Options { chunk_bytes: 1 << 20, max_chunks: 64, reserve_bytes: 2 << 20 };
    let mut store = Store::open(&SimFiles::new(), "data", SPECS, options).expect("a new file opens");
    for key in 0..400u32 {
        store.insert(NUMBERS, &key.to_be_bytes(), &[7; 100]);
    }
    store.insert(LONG, &[b'a'; 1500], b"its key is in a run");
    store.insert(LONG, b"b", &[1; 5000]);
    store.insert(LONG, b"c", &[2; 5000]);
    store.publish();
    let report = verify_view(store.view()).expect("nothing is wrong yet");
    assert_eq!((report.levels, report.run_pages), (2, 1 + 2 + 2));
    assert!(store.writer.space().mapping().pages() > 257, "there is a second chunk");
    assert!(report.pages > 12 && branch(&store).count() > 8, "{report:?}");
    store
}

fn root(store: &Store, tree: usize) -> u32 {
    store.working.trees[tree].page
}

fn node(store: &Store, no: u32) -> Node<'_> {
    store.writer.space().node(no)
}

fn branch(store: &Store) -> Node<'_> {
    node(store, root(store, NUMBERS))
}

/// Changes a page where it stands.
fn edit(store: &mut Store, no: u32, change: impl FnOnce(&mut Body)) {
    let born = node(store, no).born();
    change(store.writer.body(no, born));
}

fn edit_branch(store: &mut Store, change: impl FnOnce(&mut Body)) {
    let no = root(store, NUMBERS);
    edit(store, no, change);
}

/// A leaf in the midst of the numbers.
fn edit_leaf(store: &mut Store, change: impl FnOnce(&mut Body)) {
    let no = branch(store).child(4);
    edit(store, no, change);
}

/// The leaf of runs; `change` gets where its cell `i` begins, too.
fn edit_cell(store: &mut Store, i: usize, change: impl FnOnce(&mut Body, usize)) {
    let no = root(store, LONG);
    let at = node(store, no).offset(i);
    edit(store, no, |body| change(body, at));
}

fn put_u16(body: &mut Body, at: usize, value: usize) {
    body[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

fn add_u16(body: &mut Body, at: usize, more: isize) {
    let value = usize::from(u16_at(body, at)).checked_add_signed(more).expect("a small change");
    put_u16(body, at, value);
}

fn slot(i: usize) -> usize {
    HEADER_BYTES + i * SLOT_BYTES
}

fn swap_slots(body: &mut Body, i: usize) {
    let (a, b) = (slot(i), slot(i + 1));
    for byte in 0..SLOT_BYTES {
        body.swap(a + byte, b + byte);
    }
}

/// Where the offset of a slot stands.
fn offset(i: usize) -> usize {
    slot(i) + 4
}

/// Where the run of a cell's value stands, behind a key of one byte.
fn value_run(cell: usize) -> usize {
    cell + LEAF_CELL_BYTES + 1
}

type Tampering = (&'static str, fn(&mut Store));

const ROOTS: &[Tampering] = &[
    ("an empty tree counts entries", |store| {
        store.working.trees[NUMBERS] = TreeRoot { entries: 1, ..TreeRoot::default() };
    }),
    ("the tree is higher than any tree", |store| store.working.trees[NUMBERS].level = LEVELS_MAX as u8),
    ("the root counts 401 entries, the tree has 400", |store| store.working.trees[NUMBERS].entries += 1),
    ("the root counts 399 entries, the tree has 400", |store| store.working.trees[NUMBERS].entries -= 1),
    ("kind 2 level 1 where 1 at 0 belongs", |store| store.working.trees[NUMBERS].level = 0),
    ("kind 2 level 1 where 2 at 2 belongs", |store| store.working.trees[NUMBERS].level = 2),
    ("is outside of the pages", |store| store.working.trees[NUMBERS].page = SLOTS - 1),
    ("is outside of the pages", |store| {
        store.working.trees[NUMBERS].page = store.writer.space().mapping().pages();
    }),
    ("is reached twice", |store| store.working.trees[LONG] = store.working.trees[NUMBERS]),
];

const BRANCHES: &[Tampering] = &[
    ("is reached twice", |store| {
        let sibling = branch(store).child(3);
        edit_branch(store, |body| edit::set_child(body, 4, sibling));
    }),
    ("is reached twice", |store| {
        let itself = root(store, NUMBERS);
        edit_branch(store, |body| edit::set_child(body, 4, itself));
    }),
    ("is outside of the pages", |store| edit_branch(store, |body| edit::set_child(body, 4, u32::MAX))),
    ("child 4 counts", |store| {
        let one_more = branch(store).entries(4) + 1;
        edit_branch(store, |body| edit::set_entries(body, 4, one_more));
    }),
    ("child 0 counts", |store| edit_branch(store, |body| edit::set_entries(body, 0, 0))),
    ("the first child has a key", |store| edit_branch(store, |body| swap_slots(body, 0))),
    // Out of order: what is below it shows that first.
    ("key 0 is outside of the range of its page", |store| edit_branch(store, |body| swap_slots(body, 4))),
    // Above its range: a child and its next sibling have changed places.
    ("key 0 is outside of the range of its page", |store| {
        let (a, b) = (branch(store).child(3), branch(store).child(4));
        edit_branch(store, |body| {
            edit::set_child(body, 3, b);
            edit::set_child(body, 4, a);
        });
    }),
    // Below it: the last separator is one above the first key behind it.
    ("key 0 is outside of the range of its page", |store| {
        let last = branch(store).count() - 1;
        let Payload::Inline(key) = branch(store).key(last) else { panic!("a number is short") };
        let first = branch(store).child(last);
        let first = node(store, first).key(0).bytes(store.writer.space());
        let above = u32::from_be_bytes(first.try_into().expect("a number")) + 1;
        assert_eq!(key.len(), 4, "the separator is whole");
        let at = branch(store).offset(last) + BRANCH_CELL_BYTES;
        let head = head_of(&above.to_be_bytes(), branch(store).prefix());
        edit_branch(store, |body| {
            body[at..at + 4].copy_from_slice(&above.to_be_bytes());
            body[slot(last)..slot(last) + 4].copy_from_slice(&head.to_le_bytes());
        });
    }),
];

const LEAVES: &[Tampering] = &[
    ("kind 2 level 0 where 1 at 0 belongs", |store| edit_leaf(store, |body| body[0] = BRANCH)),
    ("kind 1 level 1 where 1 at 0 belongs", |store| edit_leaf(store, |body| body[1] = 1)),
    ("holds nothing", |store| edit_leaf(store, |body| edit::format(body, LEAF, 0, 1))),
    ("key 3 is not above the one before", |store| edit_leaf(store, |body| swap_slots(body, 2))),
    // The same key again.
    ("key 3 is not above the one before", |store| {
        edit_leaf(store, |body| {
            let (from, to) = (Node { body }.offset(2), Node { body }.offset(3));
            body.copy_within(from..from + LEAF_CELL_BYTES + 4, to);
            body.copy_within(slot(2)..offset(2), slot(3));
        });
    }),
    ("the head of key 3 is not that of the key", |store| edit_leaf(store, |body| body[slot(3)] ^= 1)),
    ("the head of key 0 is not that of the key", |store| edit_leaf(store, |body| add_u16(body, 8, 1))),
    // More than the keys have.
    ("the head of key 0 is not that of the key", |store| edit_leaf(store, |body| put_u16(body, 8, 5))),
    ("slots and cells from 0 overlap", |store| edit_leaf(store, |body| put_u16(body, 4, 0))),
    ("overlap", |store| edit_leaf(store, |body| put_u16(body, 2, 700))),
    ("cell 3 at 4079 leaves the page", |store| edit_leaf(store, |body| put_u16(body, offset(3), 4079))),
    ("cell 3 at 24 leaves the page", |store| edit_leaf(store, |body| put_u16(body, offset(3), HEADER_BYTES))),
    ("leaves the page", |store| {
        edit_leaf(store, |body| {
            let at = Node { body }.offset(3);
            put_u16(body, at + 2, BODY_BYTES);
        });
    }),
    ("cells overlap", |store| {
        edit_leaf(store, |body| {
            let at = Node { body }.offset(2);
            put_u16(body, offset(3), at);
        });
    }),
    ("do not add up", |store| edit_leaf(store, |body| add_u16(body, 6, 1))),
    ("do not add up", |store| {
        edit_leaf(store, |body| {
            let at = Node { body }.offset(3);
            add_u16(body, at + 2, -1);
        });
    }),
];

const RUNS: &[Tampering] = &[
    ("a run of 2 pages does not lie in the file and one chunk", |store| {
        edit_cell(store, 1, |body, at| body[value_run(at)..][..4].fill(0));
    }),
    ("a run of 2 pages does not lie in the file and one chunk", |store| {
        edit_cell(store, 1, |body, at| body[value_run(at)..][..4].fill(0xff));
    }),
    // Behind the last.
    ("a run of 2 pages does not lie in the file and one chunk", |store| {
        let end = store.writer.space().mapping().pages();
        edit_cell(store, 1, |body, at| body[value_run(at)..][..4].copy_from_slice(&end.to_le_bytes()));
    }),
    // 256 pages of a chunk: the last of the first, the first of the second.
    ("a run of 2 pages does not lie in the file and one chunk", |store| {
        edit_cell(store, 1, |body, at| body[value_run(at)..][..4].copy_from_slice(&255u32.to_le_bytes()));
    }),
    ("the header is not that of a run of 4999 bytes", |store| {
        edit_cell(store, 1, |body, at| add_u16(body, value_run(at) + 4, -1));
    }),
    ("the header is not that of a run of 5000 bytes", |store| {
        let leaf = branch(store).child(1);
        edit_cell(store, 1, |body, at| body[value_run(at)..][..4].copy_from_slice(&leaf.to_le_bytes()));
    }),
    ("the header is not that of a run of 1501 bytes", |store| {
        edit_cell(store, 0, |body, at| add_u16(body, at + LEAF_CELL_BYTES + 4, 1));
    }),
    ("is reached twice", |store| {
        edit_cell(store, 1, |body, at| {
            let other = value_run(Node { body }.offset(2));
            body.copy_within(other..other + RunRef::BYTES, value_run(at));
        });
    }),
];

#[test]
fn what_is_wrong_with_pages_is_said() {
    for (what, tamper) in [ROOTS, BRANCHES, LEAVES, RUNS].concat() {
        let mut store = store();
        tamper(&mut store);
        match verify_view(store.view()) {
            Err(error) => assert!(error.to_string().contains(what), "{what}: {error}"),
            Ok(report) => panic!("{what}: nothing was found, {report:?}"),
        }
    }
}
