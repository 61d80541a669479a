//! CreatePartitions: raises the number of a topic's partitions, at any broker. A manual assignment
//! must be for as many as are new; the mock places them itself.

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::shape::{BOOL, Field, I32, I32S, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::{ApiKey, codes};

pub(super) struct CreatePartitions;

impl Api for CreatePartitions {
    const KEY: ApiKey = ApiKey::CreatePartitions;
    const VERSIONS: Range = Range { min: 0, max: 3 };
    const FLEXIBLE: i16 = 2;
    const SHAPE: &'static [Field] = &[structs(&[TEXT, I32, structs(&[I32S])]), I32, BOOL];
    type Request = CreatePartitionsRequest;
    type Response = CreatePartitionsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer_each(&request, |topic| {
            let alike = request.topics.iter().filter(|t| t.name == topic.name);
            if alike.count() > 1 {
                return Err(codes::INVALID_REQUEST);
            }
            let assigned = topic.assignments.as_ref().map(Vec::len);
            let name = topic.name.as_str();
            let topics = &mut data.topics;
            topics.add_partitions(name, topic.count, assigned, request.validate_only)
        });
        Outcome::Answer(response)
    }
}

fn answer_each(
    request: &CreatePartitionsRequest,
    mut create: impl FnMut(&CreatePartitionsTopic) -> Result<(), i16>,
) -> CreatePartitionsResponse {
    let results = request.topics.iter().map(|topic| {
        let code = create(topic).err().unwrap_or(codes::NONE);
        let message = match code {
            codes::INVALID_PARTITIONS => Some(text("the number of partitions can only grow")),
            _ => None,
        };
        CreatePartitionsTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(code)
            .with_error_message(message)
    });
    CreatePartitionsResponse::default().with_results(results.collect())
}
