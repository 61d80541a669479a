//! The scenarios on a broker that runs already, which is the judge of how we speak.
//!
//! ```text
//! OTTLA_TEST_BOOTSTRAP=localhost:9092 cargo test -p ottla-client --test external -- --ignored
//! ```

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod scenarios;

use ottla_client::Client;

async fn client() -> Client {
    let bootstrap = std::env::var("OTTLA_TEST_BOOTSTRAP").expect("OTTLA_TEST_BOOTSTRAP=host:port");
    scenarios::connect(&bootstrap).await
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn topics_are_created_listed_and_deleted() {
    scenarios::topics_are_created_listed_and_deleted(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn a_member_joins_commits_and_leaves() {
    scenarios::a_member_joins_commits_and_leaves(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn joins_and_heartbeats_do_not_wait_for_each_other() {
    scenarios::joins_and_heartbeats_do_not_wait_for_each_other(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn a_static_member_comes_back() {
    scenarios::a_static_member_comes_back(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn every_producer_gets_an_id_of_its_own() {
    scenarios::every_producer_gets_an_id_of_its_own(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn offsets_are_committed_aborted_and_fenced() {
    let client = client().await;
    let version = client.transactions("any").version().await.unwrap();
    scenarios::transactions::offsets_are_committed_aborted_and_fenced(&client, version).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn a_closed_client_refuses_everything() {
    scenarios::a_closed_client_refuses_everything(client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn topics_and_cluster_are_described() {
    scenarios::admin::topics_and_cluster_are_described(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn settings_are_altered_and_read_back() {
    scenarios::admin::settings_are_altered_and_read_back(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn settings_of_each_broker_are_told() {
    scenarios::admin::settings_of_each_broker_are_told(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn partitions_are_added() {
    scenarios::admin::partitions_are_added(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn records_are_deleted() {
    scenarios::admin::records_are_deleted(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn a_group_is_described_listed_and_deleted() {
    scenarios::admin::a_group_is_described_listed_and_deleted(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn a_group_of_kip_848_is_described() {
    scenarios::admin::a_group_of_kip_848_is_described(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn offsets_of_a_group_are_read_altered_and_deleted() {
    scenarios::admin::offsets_of_a_group_are_read_altered_and_deleted(&client().await).await;
}
