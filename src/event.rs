//! Everything the library tells while it works. The library never prints: the command line renders these.

use std::sync::Arc;

/// A long-running piece of work, as a user would name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Task {
    /// Listing the source.
    List,
    /// Fetching bodies into the snapshot.
    Fetch,
    /// Running a snapshot through the plan.
    Check,
    /// The first load of the mirror.
    Backfill,
    /// Comparing both stores, source against anchors.
    Sweep,
    /// Comparing items against their anchors.
    Scan,
    /// Judging single keys again.
    Judge,
    /// Converging drifted keys.
    Repair,
    /// Saving the control table.
    Archive,
    /// Deleting blobs.
    Delete,
    /// Removing retained bytes.
    Drop,
    /// Removing `_source` from items.
    Strip,
}

impl Task {
    /// What a progress line calls it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Fetch => "fetch",
            Self::Check => "check",
            Self::Backfill => "backfill",
            Self::Sweep => "sweep",
            Self::Scan => "scan items",
            Self::Judge => "judge",
            Self::Repair => "repair",
            Self::Archive => "archive",
            Self::Delete => "delete blobs",
            Self::Drop => "drop bytes",
            Self::Strip => "strip items",
        }
    }
}

/// One thing the library tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Work began; `total` in units of the task, where it is known.
    Started {
        /// What began.
        task: Task,
        /// How many units there are.
        total: Option<u64>,
    },
    /// So many more units are done.
    Advanced {
        /// What goes on.
        task: Task,
        /// How many units since the last event.
        by: u64,
    },
    /// Work ended.
    Finished {
        /// What ended.
        task: Task,
    },
    /// Something a user should know, which does not end the work.
    Note(String),
    /// Something a user should act on, which does not end the work.
    Warning(String),
}

/// Where events go. Implementations must be quick: they are called from the working code.
pub trait Reporter: Send + Sync {
    /// Takes one event.
    fn report(&self, event: Event);
}

/// A reporter that drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}

/// A shared reporter.
pub type Events = Arc<dyn Reporter>;
