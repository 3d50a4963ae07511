//! The IAM policy that each command needs: actions of this program on the plan's two tables, no more.

use serde_json::{Value, json};

use crate::plan::TargetPlan;

/// A command that speaks to DynamoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `migrate provision`.
    Provision,
    /// `migrate dual-write`, with its backfill, gateway and sweeps.
    DualWrite,
    /// `migrate validate`, with `--repair`.
    Validate,
    /// `migrate cutover`.
    Cutover,
    /// `migrate status` and `migrate check`, which only read.
    Status,
}

impl Command {
    /// All of them, in the order in which they are used.
    pub const ALL: [Self; 5] =
        [Self::Provision, Self::DualWrite, Self::Validate, Self::Cutover, Self::Status];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::DualWrite => "dual-write",
            Self::Validate => "validate",
            Self::Cutover => "cutover",
            Self::Status => "status",
        }
    }

    /// The actions on the tables, without `dynamodb:`.
    const fn table_actions(self) -> &'static [&'static str] {
        match self {
            Self::Provision => &[
                "CreateTable",
                "DescribeContinuousBackups",
                "DescribeTable",
                "DescribeTimeToLive",
                "UpdateContinuousBackups",
                "UpdateTable",
                "UpdateTimeToLive",
            ],
            Self::DualWrite => &[
                "BatchGetItem",
                "ConditionCheckItem",
                "DeleteItem",
                "DescribeContinuousBackups",
                "DescribeTable",
                "DescribeTimeToLive",
                "GetItem",
                "PartiQLInsert",
                "PutItem",
                "Query",
                "Scan",
            ],
            Self::Validate | Self::Cutover => &[
                "BatchGetItem",
                "ConditionCheckItem",
                "DeleteItem",
                "DescribeContinuousBackups",
                "DescribeTable",
                "DescribeTimeToLive",
                "GetItem",
                "PutItem",
                "Query",
                "Scan",
            ],
            Self::Status => &[
                "BatchGetItem",
                "DescribeContinuousBackups",
                "DescribeTable",
                "DescribeTimeToLive",
                "GetItem",
                "Query",
            ],
        }
    }
}

/// The least policy with which a command works, as an IAM policy document.
///
/// `account` is the AWS account's number; any account's tables of these names where it is not known. `direct`: the
/// application writes items itself, which are taken over, and found in the table's stream.
#[must_use]
pub fn policy(plan: &TargetPlan, account: Option<&str>, direct: bool, command: Command) -> Value {
    let region = plan.region.as_deref().unwrap_or("*");
    let account = account.unwrap_or("*");
    let tables = [plan.table.clone(), plan.control_table()];
    let arns = tables.map(|table| format!("arn:aws:dynamodb:{region}:{account}:table/{table}"));
    let takes_over = direct && matches!(command, Command::DualWrite | Command::Validate);
    // The last step can take `_source` from the items.
    let updates = (takes_over || command == Command::Cutover).then_some("UpdateItem");
    let actions = command.table_actions().iter().copied().chain(updates);
    let actions: Vec<String> = actions.map(|action| format!("dynamodb:{action}")).collect();
    let mut statements = vec![json!({
        "Sid": "MigrateTables",
        "Effect": "Allow",
        "Action": actions,
        "Resource": arns,
    })];
    if command == Command::Validate && !plan.indexes.is_empty() {
        statements.push(json!({
            "Sid": "MigrateIndexes",
            "Effect": "Allow",
            "Action": ["dynamodb:Query", "dynamodb:Scan"],
            "Resource": [format!("{}/index/*", arns[0])],
        }));
    }
    if direct && command == Command::DualWrite && plan.stream.is_some() {
        statements.push(json!({
            "Sid": "MigrateStream",
            "Effect": "Allow",
            "Action": ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
            "Resource": [format!("{}/stream/*", arns[0])],
        }));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StreamView;

    #[test]
    fn a_policy_names_both_tables_and_nothing_wider() {
        let plan = "table = 'fuse'\nregion = 'eu-west-2'\npartition_key = 'PK'\nsort_key = 'SK'\n\
                    [[index]]\nname = 'GSI1'\npartition_key = 'a'\nsort_key = 'b'";
        let plan: TargetPlan = toml::from_str(plan).expect("a plan");
        for command in Command::ALL {
            let policy = policy(&plan, Some("123456789012"), false, command);
            let first = &policy["Statement"][0];
            assert_eq!(
                first["Resource"],
                json!([
                    "arn:aws:dynamodb:eu-west-2:123456789012:table/fuse",
                    "arn:aws:dynamodb:eu-west-2:123456789012:table/fuse-migration"
                ])
            );
            let actions = first["Action"].to_string();
            assert!(!actions.contains('*') && !actions.contains("DeleteTable"), "{actions}");
            let writes = actions.contains("PutItem");
            assert_eq!(writes, !matches!(command, Command::Provision | Command::Status), "{command:?}");
        }
        let streamed = TargetPlan { stream: Some(StreamView::KeysOnly), ..plan.clone() };
        let direct = policy(&streamed, None, true, Command::DualWrite);
        assert!(direct["Statement"][0]["Action"].to_string().contains("UpdateItem"));
        assert_eq!(direct["Statement"][1]["Resource"][0], "arn:aws:dynamodb:eu-west-2:*:table/fuse/stream/*");
        let index = &policy(&plan, None, false, Command::Validate)["Statement"][1]["Resource"][0];
        assert_eq!(index, "arn:aws:dynamodb:eu-west-2:*:table/fuse/index/*");
    }
}
