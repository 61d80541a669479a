//! DeleteGroups: groups without members, with their offsets.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::shape::{Field, TEXTS};
use super::{Api, Call, Names, Outcome, Range};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) struct DeleteGroups;

impl Api for DeleteGroups {
    const KEY: ApiKey = ApiKey::DeleteGroups;
    const VERSIONS: Range = Range { min: 0, max: 2 };
    const FLEXIBLE: i16 = 2;
    const SHAPE: &'static [Field] = &[TEXTS];
    type Request = DeleteGroupsRequest;
    type Response = DeleteGroupsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::groups(request.groups_names.iter().map(|group| group.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let Data {
            topics,
            coordinators,
            ..
        } = &mut *data;
        let response = answer_each(&request, |group| {
            coordinators.delete(call.broker, group, topics)
        });
        Outcome::Answer(response)
    }
}

fn answer_each(
    request: &DeleteGroupsRequest,
    mut delete: impl FnMut(&str) -> Result<(), i16>,
) -> DeleteGroupsResponse {
    let results = request.groups_names.iter().map(|group| {
        DeletableGroupResult::default()
            .with_group_id(group.clone())
            .with_error_code(delete(group).err().unwrap_or(codes::NONE))
    });
    DeleteGroupsResponse::default().with_results(results.collect())
}
