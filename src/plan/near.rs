//! "Did you mean": the known name that is nearest to a wrong one.

/// `; did you mean …?` with the nearest of the known names, or nothing if none is near.
pub(super) fn suggest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    let simple = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let wrong_simple = simple(wrong);
    // One mistake in three letters is near.
    let distance_max = (wrong_simple.chars().count() / 3).max(1);
    known
        .map(|name| (strsim::damerau_levenshtein(&simple(name), &wrong_simple), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["partition_key", "sort_key", "table"];
        assert_eq!(suggest("partitionKey", known.into_iter()), "; did you mean `partition_key`?");
        assert_eq!(suggest("tabel", known.into_iter()), "; did you mean `table`?");
        assert_eq!(suggest("colour", known.into_iter()), "");
    }
}
