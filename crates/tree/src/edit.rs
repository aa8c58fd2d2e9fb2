//! The bytes of a page behind its stamp, write side. Only pages of the open batch come here: [`crate::pages`] sees
//! to that.
//!
//! Invariant after every function: slots and cells do not overlap, `garbage` counts the bytes of dead cells, and
//! `free` = gap + garbage. Heads and prefix are right after [`rehead`], and kept right by insertion.

use crate::node::*;
use crate::order::{Order, head_of, shared};
use crate::space::Space;

/// Slots that a page can hold at most: empty keys and values.
const SLOTS_MAX: usize = USABLE_BYTES / (SLOT_BYTES + LEAF_CELL_BYTES) + 1;

fn put_u16(body: &mut Body, at: usize, value: usize) {
    assert!(value <= usize::from(u16::MAX), "{value} does not fit a page's header");
    body[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

fn slot(i: usize) -> usize {
    HEADER_BYTES + i * SLOT_BYTES
}

fn put_slot(body: &mut Body, i: usize, head: u32, offset: usize) {
    body[slot(i)..slot(i) + 4].copy_from_slice(&head.to_le_bytes());
    put_u16(body, slot(i) + 4, offset);
}

pub(crate) fn format(body: &mut Body, kind: u8, level: u8, born: u64) {
    body[..HEADER_BYTES].fill(0);
    body[0] = kind;
    body[1] = level;
    put_u16(body, 4, BODY_BYTES);
    body[16..24].copy_from_slice(&born.to_le_bytes());
}

pub(crate) fn set_born(body: &mut Body, born: u64) {
    body[16..24].copy_from_slice(&born.to_le_bytes());
}

pub(crate) fn set_streak(body: &mut Body, last: usize, streak: u8) {
    put_u16(body, 10, last);
    body[12] = streak;
}

pub(crate) fn set_child(body: &mut Body, i: usize, child: u32) {
    let at = Node { body }.offset(i) + 2;
    body[at..at + 4].copy_from_slice(&child.to_le_bytes());
}

pub(crate) fn set_entries(body: &mut Body, i: usize, entries: u64) {
    assert!(entries < 1 << 48, "{entries} entries do not fit a branch");
    let at = Node { body }.offset(i) + 6;
    body[at..at + 6].copy_from_slice(&entries.to_le_bytes()[..6]);
}

/// Moves all cells to the end, in slot order, so that the gap holds all free bytes.
fn compact(body: &mut Body) {
    let old = *body;
    let node = Node { body: &old };
    let mut cells = BODY_BYTES;
    for i in 0..node.count() {
        let cell = node.cell(i);
        cells -= cell.len();
        body[cells..cells + cell.len()].copy_from_slice(cell);
        put_u16(body, slot(i) + 4, cells);
    }
    put_u16(body, 4, cells);
    put_u16(body, 6, 0);
}

/// Takes `len` bytes below the cells; the caller has seen that they are free.
fn take(body: &mut Body, len: usize) -> usize {
    if (Node { body }).gap() < len {
        compact(body);
    }
    let cells = Node { body }.cells() - len;
    put_u16(body, 4, cells);
    cells
}

fn give_back(body: &mut Body, at: usize, len: usize) {
    if at == (Node { body }).cells() {
        put_u16(body, 4, at + len);
    } else {
        let garbage = Node { body }.garbage() + len;
        put_u16(body, 6, garbage);
    }
}

/// Puts `cell` at `position`; false when the page lacks the room. The head is the caller's business.
pub(crate) fn insert_cell(body: &mut Body, position: usize, head: u32, cell: &[u8]) -> bool {
    let node = Node { body };
    let count = node.count();
    assert!(position <= count, "slot {position} of {count}");
    if node.free() < cell.len() + SLOT_BYTES {
        return false;
    }
    if node.gap() < cell.len() + SLOT_BYTES {
        compact(body);
    }
    let at = take(body, cell.len());
    body[at..at + cell.len()].copy_from_slice(cell);
    body.copy_within(slot(position)..slot(count), slot(position + 1));
    put_slot(body, position, head, at);
    put_u16(body, 2, count + 1);
    true
}

pub(crate) fn remove_cell(body: &mut Body, position: usize) {
    let node = Node { body };
    let count = node.count();
    assert!(position < count, "slot {position} of {count}");
    let at = node.offset(position);
    let len = node.cell_len(at);
    give_back(body, at, len);
    body.copy_within(slot(position + 1)..slot(count), slot(position));
    put_u16(body, 2, count - 1);
    if count == 1 {
        put_u16(body, 4, BODY_BYTES);
        put_u16(body, 6, 0);
    }
}

/// Replaces the cell at `position` by one with the same key; false when the page lacks the room.
pub(crate) fn replace_cell(body: &mut Body, position: usize, cell: &[u8]) -> bool {
    let node = Node { body };
    let at = node.offset(position);
    let old = node.cell_len(at);
    if cell.len() <= old {
        body[at..at + cell.len()].copy_from_slice(cell);
        if cell.len() < old {
            let garbage = Node { body }.garbage() + (old - cell.len());
            put_u16(body, 6, garbage);
        }
        return true;
    }
    if node.free() + old < cell.len() {
        return false;
    }
    let head = node.head(position);
    remove_cell(body, position);
    assert!(insert_cell(body, position, head, cell), "the room was counted");
    true
}

/// Empties the key of a branch's entry 0.
pub(crate) fn blank_first_key(body: &mut Body) {
    let node = Node { body };
    assert!(node.kind() == BRANCH && node.count() > 0, "only a branch's first entry has no key");
    let at = node.offset(0);
    let old = node.cell_len(at);
    put_u16(body, at, 0);
    let garbage = Node { body }.garbage() + old - BRANCH_CELL_BYTES;
    put_u16(body, 6, garbage);
    body[slot(0)..slot(0) + 4].fill(0);
}

/// Finds the prefix that all keys share, and sets every head by it.
pub(crate) fn rehead(body: &mut Body, space: &Space, order: Order) {
    let node = Node { body };
    let (count, first) = (node.count(), usize::from(node.kind() == BRANCH));
    if count <= first {
        put_u16(body, 8, 0);
        return;
    }
    let low = order.primary(node.key(first).bytes(space));
    let high = order.primary(node.key(count - 1).bytes(space));
    let prefix = if count - first == 1 { low.len() } else { shared(low, high) };
    set_heads(body, space, order, prefix.min(usize::from(u16::MAX)));
}

fn set_heads(body: &mut Body, space: &Space, order: Order, prefix: usize) {
    let mut heads = [0u32; SLOTS_MAX];
    let node = Node { body };
    let (count, first) = (node.count(), usize::from(node.kind() == BRANCH));
    for (i, head) in heads.iter_mut().enumerate().take(count).skip(first) {
        *head = head_of(order.primary(node.key(i).bytes(space)), prefix);
    }
    for (i, head) in heads.iter().enumerate().take(count) {
        body[slot(i)..slot(i) + 4].copy_from_slice(&head.to_le_bytes());
    }
    put_u16(body, 8, prefix);
}

/// The head for a key that comes to this page; shortens the page's prefix when the key does not share all of it.
pub(crate) fn admit_key(body: &mut Body, space: &Space, order: Order, key: &[u8]) -> u32 {
    let node = Node { body };
    let primary = order.primary(key);
    let first = usize::from(node.kind() == BRANCH);
    if node.count() <= first {
        let prefix = primary.len().min(usize::from(u16::MAX));
        put_u16(body, 8, prefix);
        return head_of(primary, prefix);
    }
    let prefix = node.prefix();
    if prefix > 0 {
        let common = shared(primary, order.primary(node.key(first).bytes(space)));
        if common < prefix {
            set_heads(body, space, order, common);
            return head_of(primary, common);
        }
    }
    head_of(primary, prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Random;

    fn cell(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut cell = Vec::new();
        cell.extend_from_slice(&(key.len() as u16).to_le_bytes());
        cell.extend_from_slice(&(value.len() as u16).to_le_bytes());
        cell.extend_from_slice(key);
        cell.extend_from_slice(value);
        cell
    }

    #[test]
    fn random_edits_keep_every_cell_and_the_free_count() {
        let mut random = Random::new(11);
        let mut body: Body = [0; BODY_BYTES];
        format(&mut body, LEAF, 0, 9);
        let mut model: Vec<Vec<u8>> = Vec::new();
        for _ in 0..50_000 {
            let mut value = vec![0; random.below(300) as usize];
            random.fill(&mut value);
            let new = cell(b"k", &value);
            let free = USABLE_BYTES - model.iter().map(|c| c.len() + SLOT_BYTES).sum::<usize>();
            assert_eq!(Node { body: &body }.free(), free);
            let at = random.below(model.len() as u64 + 1) as usize;
            match random.below(3) {
                0 => {
                    let fits = free >= new.len() + SLOT_BYTES;
                    assert_eq!(insert_cell(&mut body, at, 5, &new), fits);
                    if fits {
                        model.insert(at, new);
                    }
                }
                1 if at < model.len() => {
                    let fits = free + model[at].len() >= new.len();
                    assert_eq!(replace_cell(&mut body, at, &new), fits);
                    if fits {
                        model[at] = new;
                    }
                }
                2 if at < model.len() && model.len() > 8 => {
                    remove_cell(&mut body, at);
                    model.remove(at);
                }
                _ => {}
            }
            let node = Node { body: &body };
            assert_eq!(node.count(), model.len());
            assert!((0..node.count()).all(|i| node.cell(i) == model[i]));
            assert_eq!(node.born(), 9);
        }
    }
}
