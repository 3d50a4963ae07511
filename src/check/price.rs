//! What writing to DynamoDB takes and costs: the one table of its rates and prices.

use serde::Serialize;

/// Prices of an on-demand table, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// A million write units.
    pub write_units_per_million: f64,
    /// A GB that is stored for a month.
    pub storage_per_gb_month: f64,
    /// Where these prices come from.
    pub source: &'static str,
    /// The day from which they hold.
    pub date: &'static str,
}

/// On-demand prices in the region us-east-1; others cost up to twice as much.
pub const PRICES: Prices = Prices {
    write_units_per_million: 0.625,
    storage_per_gb_month: 0.25,
    source: "AWS, \"Amazon DynamoDB pricing for on-demand capacity\", region us-east-1",
    date: "2024-11-01",
};

/// How many bytes one write unit writes (AWS, "DynamoDB read and write operations").
pub const UNIT_BYTES: u64 = 1024;
/// How many units of a table a write in a transaction takes for each of its own (same page).
pub const TRANSACTION_FACTOR: u64 = 2;
/// How many write units a second one partition takes (AWS, "Best practices for designing and using partition
/// keys effectively in DynamoDB"). All items of one partition key of an index are in one partition.
pub const PARTITION_UNITS_PER_SECOND: u64 = 1_000;
/// How many write units a second a new on-demand table takes (AWS, "DynamoDB on-demand capacity mode").
pub const TABLE_UNITS_PER_SECOND: u64 = 4_000;

/// The units of one write of an item.
#[must_use]
pub const fn units(item_bytes: u64) -> u64 {
    let units = item_bytes.div_ceil(UNIT_BYTES);
    if units == 0 { 1 } else { units }
}

/// What so many units cost, in US dollars.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
pub fn cost_usd(units: u64) -> f64 {
    units as f64 * PRICES.write_units_per_million / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_begun_kilobyte_is_a_unit() {
        for (bytes, expected) in [(0, 1), (1, 1), (1024, 1), (1025, 2), (409_600, 400)] {
            assert_eq!(units(bytes), expected, "{bytes}");
        }
        assert!((cost_usd(2_000_000) - 1.25).abs() < 1e-9);
    }
}
