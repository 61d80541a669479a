//! The consumer against the mock cluster, one file a scenario.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod batches;
mod bed;
mod callbacks;
mod closing;
mod commits;
mod delivery;
mod exactly_once;
mod faults;
mod gaps;
mod health;
mod parallel;
mod plain;
mod plain_commits;
mod plain_groups;
mod plain_missing;
mod plain_model;
mod resubscribe;
mod sharing;
mod start;
mod topic_pattern;
mod truncated;
