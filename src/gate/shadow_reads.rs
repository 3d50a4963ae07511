//! `shadow-reads`: what was read through gateways was compared with DynamoDB, often enough, and was equal.

use jiff::Timestamp;

use super::{Facts, Gate, short};
use crate::error::Result;
use crate::plan::{CaptureMode, Plan, ShadowReadsPlan};
use crate::target::control::{Control, Evidence, Mode, Offender, Reads, ReadsRow};

/// So many pathnames are named.
const NAMED_MAX: usize = 5;

/// Adds what all gateways compared since phase `shadow` was entered last to the facts.
///
/// # Errors
/// What the store reports.
pub(crate) async fn gather(control: &Control, plan: &Plan, mode: &Mode, facts: &mut Facts) -> Result<()> {
    let rows = control.reads(mode.epoch, mode.round).await?;
    let found = match plan.capture.mode {
        CaptureMode::Gateway => found(&rows, &plan.gates.shadow_reads, facts),
        CaptureMode::Follow => Found {
            at: facts.now,
            passed: true,
            summary: "waived: without a gateway nobody sees what is read (`[capture] mode = \"follow\"`)"
                .to_owned(),
            obstacles: Vec::new(),
        },
    };
    let evidence = Evidence {
        gate: Gate::ShadowReads.to_string(),
        at: found.at,
        plan_hash: facts.plan_hash.clone(),
        epoch: mode.epoch,
        passed: found.passed,
        summary: found.summary,
        obstacles: found.obstacles,
    };
    facts.evidence.insert(evidence.gate.clone(), evidence);
    Ok(())
}

struct Found {
    at: Timestamp,
    passed: bool,
    summary: String,
    obstacles: Vec<String>,
}

fn found(rows: &[ReadsRow], bounds: &ShadowReadsPlan, facts: &Facts) -> Found {
    let (ours, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.plan_hash == facts.plan_hash);
    let reads = ours.iter().fold(Reads::default(), |sum, row| sum.and(row.reads));
    let Reads { compared, mismatches, stale, moving, errors, dropped, source_us, target_us } = reads;
    let mean_ms = |us: u64| us as f64 / 1_000.0 / compared.max(1) as f64;
    let mut summary = format!(
        "{compared} reads compared, {mismatches} mismatches; {} could not be judged, {errors} failed, {dropped} dropped; \
         mean {:.1} ms from Blob, {:.1} ms from DynamoDB",
        stale + moving,
        mean_ms(source_us),
        mean_ms(target_us),
    );
    let mut obstacles = Vec::new();
    if compared < bounds.min_reads {
        obstacles.push(format!("{compared} of {} reads", bounds.min_reads));
        if let Some(other) = others.first().filter(|_| ours.is_empty()) {
            let (then, now) = (short(&other.plan_hash), short(&facts.plan_hash));
            summary = format!("its evidence was made under another plan ({then}, now {now})");
        }
    }
    if mismatches > bounds.max_mismatches {
        obstacles.push(format!("{mismatches} mismatches, more than {}", bounds.max_mismatches));
        let mut worst: Vec<&Offender> = ours.iter().flat_map(|row| &row.worst).collect();
        worst.sort_by_key(|offender| std::cmp::Reverse(offender.mismatches));
        let named = |offender: &&Offender| {
            format!("{} × {}: {}", offender.mismatches, offender.pathname, offender.what)
        };
        obstacles.extend(worst.iter().take(NAMED_MAX).map(named));
    }
    // What was counted first is as old as the round; gateways that are at work store anew.
    let at = ours.iter().map(|row| row.at).max().unwrap_or(facts.now);
    Found { at, passed: obstacles.is_empty(), summary, obstacles }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::phase::Epoch;

    fn facts() -> Facts {
        crate::gate::drift_free::tests::facts(Vec::new())
    }

    fn row(plan_hash: &str, compared: u64, mismatches: u64) -> ReadsRow {
        let now = facts().now;
        let offender = |pathname: &str, mismatches| Offender {
            pathname: pathname.into(),
            mismatches,
            what: "another size".to_owned(),
        };
        ReadsRow {
            id: "id".to_owned(),
            name: "blue".to_owned(),
            plan_hash: plan_hash.to_owned(),
            epoch: Epoch(1),
            round: 1,
            began: now,
            at: now,
            reads: Reads { compared, mismatches, ..Reads::default() },
            worst: (1..=mismatches).map(|number| offender(&format!("r/{number}.json"), number)).collect(),
        }
    }

    #[test]
    fn gateways_are_counted_together_and_those_of_another_plan_not_at_all() {
        let bounds = ShadowReadsPlan { min_reads: 100, max_mismatches: 1, ..ShadowReadsPlan::default() };
        for (rows, passed, obstacle) in [
            (vec![], false, "0 of 100 reads"),
            (vec![row("plan", 99, 0)], false, "99 of 100 reads"),
            (vec![row("plan", 60, 1), row("plan", 40, 0)], true, ""),
            (vec![row("plan", 60, 1), row("plan", 40, 1)], false, "2 mismatches, more than 1"),
            (vec![row("plan", 60, 0), row("other", 40, 0)], false, "60 of 100 reads"),
        ] {
            let found = found(&rows, &bounds, &facts());
            assert_eq!(found.passed, passed, "{rows:?}");
            assert_eq!(found.obstacles.first().map_or("", String::as_str), obstacle);
        }
        assert!(
            found(&[row("other", 100, 0)], &bounds, &facts())
                .summary
                .contains("another plan (other, now plan)")
        );
        let worst = found(&[row("plan", 100, 3)], &bounds, &facts()).obstacles;
        assert_eq!(worst[1], "3 × r/3.json: another size");
    }
}
