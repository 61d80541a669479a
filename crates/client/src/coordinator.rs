//! The calls to a group's coordinator.

use crate::Error;
use crate::ErrorKind;
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use std::sync::Arc;

/// One group's coordinator calls. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct GroupClient {
    group_id: Arc<str>,
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async)]
impl GroupClient {
    pub(crate) fn stub(group_id: Arc<str>) -> Self {
        Self { group_id }
    }
    pub fn group_id(&self) -> &Arc<str> {
        &self.group_id
    }
    pub async fn join(&self, _request: JoinGroupRequest) -> Result<JoinGroupResponse, Error> {
        Err(Error::new(ErrorKind::Unsupported, "JoinGroup"))
    }
    pub async fn sync(&self, _request: SyncGroupRequest) -> Result<SyncGroupResponse, Error> {
        Err(Error::new(ErrorKind::Unsupported, "SyncGroup"))
    }
    pub async fn heartbeat(&self, _request: HeartbeatRequest) -> Result<ErrorCode, Error> {
        Err(Error::new(ErrorKind::Unsupported, "Heartbeat"))
    }
    pub async fn leave(&self, _request: LeaveGroupRequest) -> Result<ErrorCode, Error> {
        Err(Error::new(ErrorKind::Unsupported, "LeaveGroup"))
    }
    pub async fn commit(&self, _: OffsetCommitRequest) -> Result<OffsetCommitResponse, Error> {
        Err(Error::new(ErrorKind::Unsupported, "OffsetCommit"))
    }
    pub async fn fetch_offsets(&self, _: OffsetFetchRequest) -> Result<OffsetFetchResponse, Error> {
        Err(Error::new(ErrorKind::Unsupported, "OffsetFetch"))
    }
}
