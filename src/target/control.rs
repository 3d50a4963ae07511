//! The control table's rows.
