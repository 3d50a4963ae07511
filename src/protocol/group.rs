//! Groups: several blobs, one item. Of all members the one that ranks highest has it.
//!
//! A member joins, leaves or changes in the transaction that writes its own anchor; the same transaction
//! is conditioned on the group's rev, under which the members were read. So two members that change at
//! once can't both believe that they have won: one of the two transactions fails and looks again.
//!
//! [`Contest`] finds out, for one transaction and one group, whose the item is then. Its driver does what
//! [`Contest::next`] asks, and decides nothing.

use super::Rules;

/// A member of a group, ordered by rank.
pub trait Ranked: Ord + Clone {
    /// What stays the same when its rank changes.
    type Name: Eq + ?Sized;

    /// Its name.
    fn name(&self) -> &Self::Name;
}

/// Whose item a group gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Winner<M> {
    /// The one that has it already: the item stays as it is.
    Keep(M),
    /// One of those that join in this transaction, whose item is at hand.
    Joining(M),
    /// A member whose item is not there and has to be made again from its body.
    Restored(M),
    /// Nobody: the item goes.
    Nobody,
}

impl<M> Winner<M> {
    /// The member, if there is one.
    pub const fn member(&self) -> Option<&M> {
        match self {
            Self::Keep(member) | Self::Joining(member) | Self::Restored(member) => Some(member),
            Self::Nobody => None,
        }
    }
}

impl<M: Clone> Winner<&M> {
    fn cloned(self) -> Winner<M> {
        match self {
            Self::Keep(member) => Winner::Keep(member.clone()),
            Self::Joining(member) => Winner::Joining(member.clone()),
            Self::Restored(member) => Winner::Restored(member.clone()),
            Self::Nobody => Winner::Nobody,
        }
    }
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

/// Whether a transaction must take away the member that an anchor names, where the blob joins its group as
/// `joining` (none: as nothing).
#[must_use]
pub fn leaves<M: Eq>(named: &M, joining: Option<&M>) -> bool {
    joining != Some(named)
}

/// What the absence of a group's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// That there never was a member. True unless somebody damaged the control table.
    NoRowNoMembers,
    /// Nothing: members are looked for.
    Nothing,
}

/// A group's row, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row<M, R> {
    /// Its rev.
    pub rev: R,
    /// Who has the item.
    pub winner: Option<M>,
}

/// What a transaction makes of a group; besides, it adds those that join and takes away those that leave,
/// and gives the row a new rev.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settlement<M, R> {
    /// The rev that the row must still have (the inner none: that there is no row). None only where
    /// unsound rules do not ask for it.
    pub expected: Option<Option<R>>,
    /// Who had the item: it may be replaced or removed where it is theirs.
    pub holder: Option<M>,
    /// Whose the item is then.
    pub winner: Winner<M>,
}

/// What the driver is to do next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next<M, R> {
    /// Read the group's row, consistently; answer with [`Contest::row`].
    ReadRow,
    /// Read the members, or their next page, the highest first; answer with [`Contest::members`].
    ReadMembers,
    /// Make this member's item again from the body that its anchor retains, if that is live and of this
    /// rank; answer with [`Contest::made`].
    Restore(M),
    /// Make it from the source's body, if what the source holds is of this rank; answer with
    /// [`Contest::made`].
    Fetch(M),
    /// All is known.
    Settled(Settlement<M, R>),
}

/// Finds out whose the item of one group is after one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Contest<M, R> {
    rules: Rules,
    trust: Trust,
    /// Those that join, leave or change in the transaction: what their rows say does not count.
    changing: Vec<M>,
    /// The highest of those that join.
    joining: Option<M>,
    row: Option<Option<Row<M, R>>>,
    /// Those of the present page that are still in question; none as long as none was read.
    members: Option<Vec<M>>,
    more_members: bool,
    item: Made,
}

/// How far the item of the highest member in question is, where it has to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    NotYet,
    /// Its anchor does not have it.
    NotByAnchor,
    Yes,
}

impl<M: Ranked, R: Clone> Contest<M, R> {
    /// Begins, for a transaction in which these members leave the group and these join it.
    #[must_use]
    pub fn new(rules: Rules, trust: Trust, leave: Vec<M>, join: Vec<M>) -> Self {
        let joining = join.iter().max().cloned();
        let changing = [leave, join].concat();
        let item = Made::NotYet;
        Self { rules, trust, changing, joining, row: None, members: None, more_members: false, item }
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next<M, R> {
        let (row, members) = match (&self.row, &self.members) {
            (None, None) if !self.rules.members_under_rev => return Next::ReadMembers,
            (None, _) => return Next::ReadRow,
            (Some(None), _) if self.trust == Trust::NoRowNoMembers => (None, &[][..]),
            (Some(_), None) => return Next::ReadMembers,
            (Some(row), Some(members)) => (row.as_ref(), &members[..]),
        };
        let holder = row.and_then(|row| row.winner.as_ref());
        match winner(holder, members.first(), self.joining.as_ref()) {
            Winner::Restored(member) if self.item == Made::NotYet => Next::Restore(member.clone()),
            Winner::Restored(member) if self.item == Made::NotByAnchor => Next::Fetch(member.clone()),
            Winner::Joining(_) | Winner::Nobody if members.is_empty() && self.more_members => {
                Next::ReadMembers
            }
            winner => Next::Settled(Settlement {
                expected: self.rules.group_rev.then(|| row.map(|row| row.rev.clone())),
                holder: holder.cloned(),
                winner: winner.cloned(),
            }),
        }
    }

    /// The row was read.
    pub fn row(&mut self, seen: Option<Row<M, R>>) {
        self.row = Some(seen);
    }

    /// A page of members was read; `more` says whether there is another one.
    pub fn members(&mut self, mut page: Vec<M>, more: bool) {
        page.retain(|member| !self.changing.iter().any(|changing| changing.name() == member.name()));
        self.members = Some(page);
        self.more_members = more;
    }

    /// The item that was asked for was made, or could not be.
    pub fn made(&mut self, made: bool) {
        self.item = match self.item {
            _ if made => Made::Yes,
            Made::NotYet if self.rules.fetch_pending => Made::NotByAnchor,
            // It is not what its row says: its own converge is due, and settles that.
            Made::NotYet | Made::NotByAnchor | Made::Yes => {
                self.members.iter_mut().for_each(|members| drop(members.remove(0)));
                Made::NotYet
            }
        };
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

    /// Rank and name.
    type Member = (u8, &'static str);

    impl Ranked for Member {
        type Name = str;

        fn name(&self) -> &str {
            self.1
        }
    }

    type Machine = Contest<Member, u32>;

    fn contest(trust: Trust, leave: &[Member], join: &[Member]) -> Machine {
        Contest::new(Rules::SOUND, trust, leave.to_vec(), join.to_vec())
    }

    const fn row(winner: Option<Member>) -> Option<Row<Member, u32>> {
        Some(Row { rev: 7, winner })
    }

    fn settled(contest: &Machine) -> (Option<u32>, Winner<Member>) {
        match contest.next() {
            Next::Settled(Settlement { expected: Some(expected), winner, .. }) => (expected, winner),
            other => panic!("not settled under a rev: {other:?}"),
        }
    }

    #[test]
    fn the_next_highest_comes_back_under_the_rev_that_was_seen_before_the_members() {
        let mut contest = contest(Trust::Nothing, &[(3, "c")], &[]);
        assert_eq!(contest.next(), Next::ReadRow);
        contest.row(row(Some((3, "c"))));
        assert_eq!(contest.next(), Next::ReadMembers);
        // What leaves does not count, though its row is there.
        contest.members(vec![(3, "c"), (2, "b"), (1, "a")], false);
        assert_eq!(contest.next(), Next::Restore((2, "b")));
        contest.made(true);
        assert_eq!(settled(&contest), (Some(7), Winner::Restored((2, "b"))));
    }

    #[test]
    fn a_member_that_moved_on_is_passed_over_only_where_the_source_says_so() {
        let mut contest = contest(Trust::Nothing, &[(9, "z")], &[(1, "z")]);
        contest.row(row(Some((9, "z"))));
        contest.members(vec![(3, "c"), (2, "b")], true);
        for member in [(3, "c"), (2, "b")] {
            assert_eq!(contest.next(), Next::Restore(member));
            contest.made(false);
            assert_eq!(contest.next(), Next::Fetch(member));
            contest.made(false);
        }
        assert_eq!(contest.next(), Next::ReadMembers);
        contest.members(vec![(0, "a")], false);
        assert_eq!(settled(&contest), (Some(7), Winner::Joining((1, "z"))));
    }

    #[test]
    fn a_page_of_those_that_change_is_not_the_end() {
        let mut contest = contest(Trust::Nothing, &[(3, "c")], &[]);
        contest.row(row(Some((2, "b"))));
        contest.members(vec![(3, "c")], true);
        assert_eq!(contest.next(), Next::ReadMembers);
        contest.members(vec![(2, "b")], false);
        assert_eq!(settled(&contest), (Some(7), Winner::Keep((2, "b"))));
    }

    #[test]
    fn without_a_row_members_are_looked_for_unless_it_is_trusted() {
        let mut trusting = contest(Trust::NoRowNoMembers, &[], &[(1, "a"), (2, "b")]);
        trusting.row(None);
        assert_eq!(settled(&trusting), (None, Winner::Joining((2, "b"))));
        let mut careful = contest(Trust::Nothing, &[], &[(1, "a")]);
        careful.row(None);
        assert_eq!(careful.next(), Next::ReadMembers);
        careful.members(vec![(2, "b")], false);
        assert_eq!(careful.next(), Next::Restore((2, "b")));
    }

    #[test]
    fn a_blob_leaves_as_what_it_was_where_it_joins_as_something_else() {
        assert!(leaves(&(1, "a"), None));
        assert!(leaves(&(1, "a"), Some(&(2, "a"))));
        assert!(!leaves(&(1, "a"), Some(&(1, "a"))));
    }
}
