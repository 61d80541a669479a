//! Where each answer says how long a quota holds its client back (KIP-219).

use kafka_protocol::messages::*;

/// An answer with room for a throttle time. Versions without the field leave it out.
pub(crate) trait Throttle {
    fn set_throttle_time_ms(&mut self, ms: i32);
}

macro_rules! throttle {
    ($($response:ty),* $(,)?) => {
        $(impl Throttle for $response {
            fn set_throttle_time_ms(&mut self, ms: i32) {
                self.throttle_time_ms = ms;
            }
        })*
    };
}

throttle!(
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnResponse,
    ApiVersionsResponse,
    ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatResponse,
    CreatePartitionsResponse,
    CreateTopicsResponse,
    DeleteGroupsResponse,
    DeleteRecordsResponse,
    DeleteTopicsResponse,
    DescribeClusterResponse,
    DescribeConfigsResponse,
    DescribeGroupsResponse,
    EndTxnResponse,
    FetchResponse,
    FindCoordinatorResponse,
    HeartbeatResponse,
    IncrementalAlterConfigsResponse,
    InitProducerIdResponse,
    JoinGroupResponse,
    LeaveGroupResponse,
    ListGroupsResponse,
    ListOffsetsResponse,
    MetadataResponse,
    OffsetCommitResponse,
    OffsetDeleteResponse,
    OffsetFetchResponse,
    OffsetForLeaderEpochResponse,
    ProduceResponse,
    SyncGroupResponse,
    TxnOffsetCommitResponse,
);

/// SASL has none.
macro_rules! no_throttle {
    ($($response:ty),* $(,)?) => {
        $(impl Throttle for $response {
            fn set_throttle_time_ms(&mut self, _: i32) {}
        })*
    };
}

no_throttle!(SaslAuthenticateResponse, SaslHandshakeResponse);
