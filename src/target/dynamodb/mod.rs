//! The target in DynamoDB, through the AWS SDK.
