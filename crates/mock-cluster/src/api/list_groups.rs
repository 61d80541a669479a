//! ListGroups: the groups that this broker coordinates; all are of type `classic`.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};

use super::shape::{Field, TEXTS};
use super::{Api, Call, Outcome, Range, text};
use crate::ApiKey;
use crate::group::Group;

pub(super) struct ListGroups;

impl Api for ListGroups {
    const KEY: ApiKey = ApiKey::ListGroups;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXTS.from(4), TEXTS.from(5)];
    type Request = ListGroupsRequest;
    type Response = ListGroupsResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(ListGroupsResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let data = call.shared.data();
        let wanted_type = |kind: &str| {
            let mut wanted = request.types_filter.iter();
            wanted.len() == 0 || wanted.any(|wanted| wanted.eq_ignore_ascii_case(kind))
        };
        let groups = data
            .coordinators
            .of_broker(call.broker)
            .filter(|(_, group)| {
                let states = &request.states_filter;
                let state = group.state().name();
                wanted_type(kind(group))
                    && (states.is_empty() || states.iter().any(|s| s.eq_ignore_ascii_case(state)))
            });
        let listed = groups.map(|(name, group)| {
            let listed = ListedGroup::default()
                .with_group_id(text(name).into())
                .with_protocol_type(text(group.protocol_type().unwrap_or_default()));
            let listed = if call.version >= 4 {
                listed.with_group_state(text(group.state().name()))
            } else {
                listed
            };
            if call.version >= 5 {
                listed.with_group_type(text(kind(group)))
            } else {
                listed
            }
        });
        Outcome::Answer(ListGroupsResponse::default().with_groups(listed.collect()))
    }
}

/// KIP-848's names of the protocols.
fn kind(group: &Group) -> &'static str {
    if group.is_consumer() {
        "consumer"
    } else {
        "classic"
    }
}
