//! What a plan says. Field names are the keys of the `toml migrate` blocks; unknown keys are errors.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::blob::fetch::Etags;
use crate::blob::store::Access;
use crate::endpoint::Endpoint;

use super::entity::EntityPlan;

/// A whole plan, with defaults filled in and overrides applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where the data is.
    pub source: SourcePlan,
    /// Where it goes.
    pub target: TargetPlan,
    /// What becomes of the blobs, in the order of the document.
    #[serde(default, rename = "entity")]
    pub entities: Vec<EntityPlan>,
    /// Blobs that are listed, never fetched, never deleted.
    #[serde(default, rename = "ignore")]
    pub ignored: Vec<PatternPlan>,
    /// Blobs that are known to be unmappable: counted, kept in Blob, served from there.
    #[serde(default, rename = "accept")]
    pub accepted: Vec<PatternPlan>,
    /// How a running dual write learns of changes. Part of the hash only where it is not the default.
    #[serde(default, skip_serializing_if = "CapturePlan::is_default")]
    pub capture: CapturePlan,
    /// What a canary may cost. Part of the hash only where it is not the default.
    #[serde(default, skip_serializing_if = "CanaryPlan::is_default")]
    pub canary: CanaryPlan,
    /// Who is told of each flip. It decides nothing, so it is no part of the hash.
    #[serde(default, skip_serializing)]
    pub hook: Option<HookPlan>,
    /// Windows and intervals.
    #[serde(default)]
    pub timing: TimingPlan,
    /// Bounds of the gates.
    #[serde(default)]
    pub gates: GatesPlan,
    /// Bounds and choices of validation.
    #[serde(default)]
    pub validation: ValidationPlan,
}

/// `[source]`: the Vercel Blob store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePlan {
    /// A name for the store in files and messages.
    pub store: String,
    /// Only blobs whose pathnames begin so belong to the migration.
    #[serde(default)]
    pub prefix: String,
    /// Public or private.
    #[serde(default)]
    pub access: Access,
    /// The Vercel plan, which sets the rate limits and the monthly allowance.
    #[serde(default)]
    pub plan: VercelPlan,
    /// The share of each rate that this program's own requests may take, above 0 and at most 1.
    #[serde(default = "background_share")]
    pub background_share: f64,
    /// What the store's ETags are.
    #[serde(default, skip_serializing_if = "Etags::is_default")]
    pub etags: Etags,
    /// The base URL of the API, where it is not the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Endpoint>,
}

fn background_share() -> f64 {
    0.5
}

/// Vercel's plans, with their rate limits for Blob operations (Vercel, "Vercel Blob usage and pricing",
/// marked as updated March 4, 2026).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VercelPlan {
    /// 20 simple and 15 advanced operations per second; 10,000 and 2,000 a month, then blocked for 30 days.
    Hobby,
    /// 120 simple and 75 advanced operations per second.
    #[default]
    Pro,
    /// 150 simple and 125 advanced operations per second.
    Enterprise,
}

/// `[target]`: the DynamoDB table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetPlan {
    /// The data table.
    pub table: String,
    /// The AWS region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The data table's partition key, a string.
    pub partition_key: String,
    /// The data table's sort key, a string.
    pub sort_key: String,
    /// The TTL attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// The stream's view type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamView>,
    /// Whether point-in-time recovery is to be on.
    #[serde(default = "yes")]
    pub point_in_time_recovery: bool,
    /// Whether deletion protection is to be on.
    #[serde(default = "yes")]
    pub deletion_protection: bool,
    /// Global secondary indexes; each projects all attributes.
    #[serde(default, rename = "index")]
    pub indexes: Vec<IndexPlan>,
}

fn yes() -> bool {
    true
}

impl TargetPlan {
    /// The control table's name.
    #[must_use]
    pub fn control_table(&self) -> String {
        format!("{}-migration", self.table)
    }
}

/// What a stream record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StreamView {
    /// The item before and after.
    NewAndOldImages,
    /// The item after.
    NewImage,
    /// The item before.
    OldImage,
    /// Only the key.
    KeysOnly,
}

impl StreamView {
    /// Its name in a plan, and in DynamoDB.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::KeysOnly => "KEYS_ONLY",
        }
    }
}

/// `[[target.index]]`: a global secondary index with string keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexPlan {
    /// Its name.
    pub name: String,
    /// The attribute that is its partition key.
    pub partition_key: String,
    /// The attribute that is its sort key.
    pub sort_key: String,
}

/// `[[ignore]]` and `[[accept]]`: blobs, and why they are not migrated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternPlan {
    /// A pathname pattern, as in an entity.
    pub blobs: String,
    /// Why, for those who read the plan and the reports.
    pub reason: String,
}

/// `[capture]`: how a running dual write learns of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapturePlan {
    /// By a gateway, or by looking.
    pub mode: CaptureMode,
    /// When a write through the gateway is answered.
    pub mirror: MirrorMode,
}

impl CapturePlan {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[canary]`: when reads come from Blob again by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CanaryPlan {
    /// At most this many answers of a gateway that were not what Blob holds.
    pub max_mismatches: u64,
    /// At most so many of a hundred reads of a gateway that DynamoDB does not answer, or not in time.
    pub max_errors_percent: u8,
    /// So many of a hundred bodies that DynamoDB answered are compared with Blob's.
    pub sample: u8,
}

impl Default for CanaryPlan {
    fn default() -> Self {
        Self { max_mismatches: 0, max_errors_percent: 1, sample: 10 }
    }
}

impl CanaryPlan {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[hook]`: a command that is run after each flip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookPlan {
    /// The program and its arguments; no shell is in between.
    pub command: Vec<String>,
    /// How long it may take before it is killed.
    #[serde(default = "HookPlan::timeout")]
    pub timeout: Span,
}

impl HookPlan {
    const fn timeout() -> Span {
        Span(Duration::from_secs(30))
    }
}

/// How a running dual write learns of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// The application writes through a gateway, which sees each change before it is made.
    #[default]
    Gateway,
    /// Sweeps alone find what changed, for writers that can't be pointed at a gateway.
    Follow,
}

/// When a write through the gateway is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorMode {
    /// Once Blob has it; DynamoDB follows at once.
    #[default]
    Async,
    /// Once DynamoDB has followed, or could not.
    Strict,
}

/// `[timing]`: every window and interval of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingPlan {
    /// How long a session lives without renewal.
    pub lease: Span,
    /// How often a session is renewed.
    pub renew: Span,
    /// How often the mode item is read.
    pub mode_poll: Span,
    /// How long a hold may last.
    pub hold_limit: Span,
    /// How often a running dual write sweeps.
    pub sweep_interval: Span,
    /// How late a Blob write whose reply was lost may still land.
    pub late_write_max: Span,
    /// How long a write of the mirror to Blob may land after it was sent, where the store refuses it later.
    /// Part of the hash only where it is not the default.
    #[serde(skip_serializing_if = "is_mirror_late_max_default")]
    pub mirror_late_max: Span,
    /// Evidence sweeps begin this long after an unclean end; at least `late_write_max`.
    pub settle: Span,
    /// Evidence older than this is stale.
    pub evidence_age_max: Span,
    /// How long no foreign write may have been seen.
    pub no_foreign: Span,
    /// How long tombstones are kept.
    pub tombstone_keep: Span,
    /// How long a CDN may serve an old body after an overwrite.
    pub cdn_stale: Span,
}

/// Long enough for a body of 4 MiB over a slow line; short enough that a way back need not be planned.
const MIRROR_LATE_MAX: Span = Span(Duration::from_secs(30));

fn is_mirror_late_max_default(span: &Span) -> bool {
    *span == MIRROR_LATE_MAX
}

impl Default for TimingPlan {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Self {
            lease: seconds(10),
            renew: seconds(2),
            mode_poll: Span(Duration::from_millis(100)),
            hold_limit: seconds(2),
            sweep_interval: seconds(600),
            late_write_max: seconds(900),
            mirror_late_max: MIRROR_LATE_MAX,
            settle: seconds(900),
            evidence_age_max: seconds(24 * 3600),
            no_foreign: seconds(24 * 3600),
            tombstone_keep: seconds(30 * 24 * 3600),
            cdn_stale: seconds(60),
        }
    }
}

/// A duration as a plan writes it: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let error = || format!("`{text}` is not a duration such as `100ms`, `10s`, `15m`, `24h` or `30d`");
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| error())?;
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        number.checked_mul(milliseconds).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(error)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
            if ms >= unit && ms.is_multiple_of(unit) {
                return write!(f, "{}{name}", ms / unit);
            }
        }
        write!(f, "{ms}ms")
    }
}

/// `[gates]`: bounds of the gates that have any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GatesPlan {
    /// `[gates.shadow-reads]`.
    pub shadow_reads: ShadowReadsPlan,
    /// `[gates.rollback-drilled]`. Part of the hash only where it is not the default.
    #[serde(skip_serializing_if = "RollbackDrilledPlan::is_default")]
    pub rollback_drilled: RollbackDrilledPlan,
}

/// `[gates.rollback-drilled]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackDrilledPlan {
    /// Whether the way back must have been exercised before the cutover.
    pub required: bool,
}

impl Default for RollbackDrilledPlan {
    fn default() -> Self {
        Self { required: true }
    }
}

impl RollbackDrilledPlan {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Bounds of the gate `shadow-reads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShadowReadsPlan {
    /// At least this many compared reads.
    pub min_reads: u64,
    /// At most this many mismatches.
    pub max_mismatches: u64,
    /// So many of a hundred reads are compared. Part of the hash only where it is not the default.
    #[serde(skip_serializing_if = "is_all")]
    pub sample: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_all(percent: &u8) -> bool {
    *percent == 100
}

impl Default for ShadowReadsPlan {
    fn default() -> Self {
        Self { min_reads: 1000, max_mismatches: 0, sample: 100 }
    }
}

/// `[validation]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationPlan {
    /// Whether a store in which nothing is listed may pass.
    pub allow_empty: bool,
}
