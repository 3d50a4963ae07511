//! Groups: several blobs, one item. Of all members the one that ranks highest has it.
//!
//! A member joins, leaves or changes in the transaction that writes its own anchor; the same transaction
//! is conditioned on the group's rev, under which the members were read. So two members that change at
//! once can't both believe that they have won: one of the two transactions fails and looks again.

/// Whose item a group gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Winner<M> {
    /// The one that has it already: the item stays as it is.
    Keep(M),
    /// One of those that join in this transaction, whose item is at hand.
    Joining(M),
    /// A member whose item is not there and has to be made again from its retained body.
    Restored(M),
    /// Nobody: the item goes.
    Nobody,
}

/// Judges a group of which these are known: who has the item, the highest member that does not change in
/// this transaction, and the highest of those that join in it. `M` is ordered by rank.
#[must_use]
pub fn winner<M: Ord + Copy>(holder: Option<M>, other: Option<M>, joining: Option<M>) -> Winner<M> {
    match (other, joining) {
        (Some(other), joining) if joining.is_none_or(|joining| other > joining) => {
            if holder == Some(other) {
                Winner::Keep(other)
            } else {
                Winner::Restored(other)
            }
        }
        (_, Some(joining)) => Winner::Joining(joining),
        (_, None) => Winner::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_member_has_the_item() {
        let table = [
            // holder, other, joining
            ((None, None, Some(1)), Winner::Joining(1)),
            ((Some(1), Some(1), Some(2)), Winner::Joining(2)),
            ((Some(3), Some(3), Some(2)), Winner::Keep(3)),
            // The holder itself changed, or left.
            ((Some(3), Some(1), Some(3)), Winner::Joining(3)),
            ((Some(3), Some(1), None), Winner::Restored(1)),
            ((Some(3), Some(2), Some(1)), Winner::Restored(2)),
            ((Some(3), None, None), Winner::Nobody),
            ((Some(2), Some(2), None), Winner::Keep(2)),
        ];
        for ((holder, other, joining), expected) in table {
            assert_eq!(winner(holder, other, joining), expected, "{holder:?} {other:?} {joining:?}");
        }
    }
}
